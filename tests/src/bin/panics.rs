//! A Lambda function that panics when its event says so, in the frame of the real ones, so
//! that tests see how a defect is reported.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use branchline_core::lambda::{self, FunctionContext, InvocationError};
use branchline_core::metrics::{HasMetrics, Metrics};
use branchline_core::{Error, ErrorKind};
use serde_json::{Value, json};
use tracing::Instrument as _;

#[derive(Default)]
struct Context {
    metrics: Metrics,
    calls: AtomicU64,
}

impl FunctionContext for Context {}

impl HasMetrics for Context {
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

async fn handle(context: Arc<Context>, event: Value, _: Instant) -> Result<Value, InvocationError> {
    let calls = context.calls.fetch_add(1, Ordering::Relaxed) + 1;
    match event["panic"].as_str() {
        Some("here") => panic!("because the event says so"),
        Some(_) => {
            let task = async { panic!("because the event says so, in a task") };
            let task: tokio::task::JoinHandle<()> = tokio::spawn(task.in_current_span());
            let ended = task.await;
            let error = Error::new(ErrorKind::Internal, "a task panicked");
            ended.map_err(|panic| error.with_source(panic))?;
        }
        None => {}
    }
    Ok(json!({ "calls": calls }))
}

#[tokio::main]
async fn main() -> ExitCode {
    let settings = std::env::vars().collect();
    lambda::run(settings, async |_: &_| Ok(Context::default()), handle).await
}
