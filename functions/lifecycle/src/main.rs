//! The bootstrap of the `lifecycle` function.

use std::process::ExitCode;

use branchline_core::lambda;
use branchline_lifecycle::{Config, Context, handle};

#[tokio::main]
async fn main() -> ExitCode {
    let settings = std::env::vars().collect();
    let init = async |settings: &_| Context::connect(Config::read(settings)?).await;
    lambda::run(settings, init, handle).await
}
