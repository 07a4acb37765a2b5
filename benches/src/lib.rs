//! What the measurements share: repositories of a known shape, and runs of the migration
//! function with what each cost.

pub mod repositories;
pub mod run;
pub mod throttled_proxy;
