//! The bootstrap of the `update` function.

use std::process::ExitCode;

use branchline_core::lambda;
use branchline_update::{Config, Context, handle};

#[tokio::main]
async fn main() -> ExitCode {
    lambda::reexec_with_mmap_threshold();
    let settings = std::env::vars().collect();
    let init = async |settings: &_| Context::connect(Config::read(settings)?).await;
    lambda::run(settings, init, handle).await
}
