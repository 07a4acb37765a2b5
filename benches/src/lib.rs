//! Parts of all measurements: repositories of a known shape, and runs of the migration
//! function with the cost of each.

pub mod repositories;
pub mod run;
pub mod throttled_proxy;
