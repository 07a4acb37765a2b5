//! The bootstrap of the `update` function.

use branchline_core::lambda;
use branchline_update::{Config, Context, handle};

#[tokio::main]
async fn main() -> branchline_core::Result<()> {
    lambda::give_memory_back();
    let settings = std::env::vars().collect();
    let init = async |settings: &_| Context::connect(Config::read(settings)?).await;
    lambda::run(settings, init, handle).await
}
