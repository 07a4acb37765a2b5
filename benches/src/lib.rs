//! Parts of all measurements: repositories of a known shape, runs of the migration function with
//! the cost of each, and the document of all results.

pub mod document;
pub mod repositories;
pub mod results;
pub mod run;
pub mod throttled_proxy;
