//! The program `branchline`, under all of its names.

use std::process::ExitCode;
use std::time::Duration;

use branchline::{Invocation, run};

/// Maximum wait for requests that release locks and abort uploads.
const CLEANUP_LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let invocation = Invocation::of_this_process();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("because the system can start threads");
    let status = runtime.block_on(run(invocation, CLEANUP_LIMIT));
    // A read of standard input may still be blocked.
    runtime.shutdown_background();
    status.into()
}
