//! The frame that the three functions share: telemetry, init, and answers of AWS Lambda's
//! Runtime API in branchline's own terms.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde::Serialize;
use serde_json::{Value, json};
use tracing_subscriber::filter::LevelFilter;

use crate::error::{Error, ErrorKind, Result};
use crate::setting::Settings;

/// What makes an invocation fail: at least one item did.
#[derive(Debug)]
pub struct Failure {
    kind: ErrorKind,
    message: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.report(),
        }
    }
}

impl Failure {
    /// The kind that `errorType` names.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What `errorMessage` says.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// Ends a run: the items that succeeded, or the failure that sums up those that did not,
/// each of which is logged here and nowhere else.
pub fn settle<T>(results: Vec<Result<T>>) -> Result<Vec<T>, Failure> {
    /// A message for people: the log has all of them.
    const SHOWN: usize = 10;
    let total = results.len();
    let mut items = Vec::new();
    let mut errors = Vec::new();
    for result in results {
        match result {
            Ok(item) => items.push(item),
            Err(error) => {
                tracing::error!(
                    error.kind = %error.kind(),
                    error.aws_code = error.aws_code(),
                    "{}", error.report()
                );
                errors.push(error);
            }
        }
    }
    // Lambda shows one type: that of the first.
    let Some(kind) = errors.first().map(Error::kind) else {
        return Ok(items);
    };
    let mut reports: Vec<String> = errors.iter().take(SHOWN).map(Error::report).collect();
    if errors.len() > SHOWN {
        reports.push(format!("and {} more", errors.len() - SHOWN));
    }
    let message = if total == 1 {
        reports.remove(0)
    } else {
        format!(
            "{} of {total} failed: {}",
            errors.len(),
            reports.join(" | ")
        )
    };
    Err(Failure { kind, message })
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        Self {
            error_type: format!("branchline.{}", failure.kind),
            error_message: failure.message,
        }
    }
}

/// Runs a function until Lambda stops it.
///
/// `init` makes what all invocations share; when it fails, Lambda is told so at once, and
/// no event is taken. `handle` gets the event and the moment by which it must be done.
pub async fn run<C, I, H, F, R>(settings: Settings, init: I, handle: H) -> Result<()>
where
    C: Send + Sync + 'static,
    I: AsyncFnOnce(&Settings) -> Result<C>,
    H: Fn(Arc<C>, Value, Instant) -> F,
    F: Future<Output = Result<R, Failure>>,
    R: Serialize,
{
    start_log(&settings);
    let context = match init(&settings).await {
        Ok(context) => Arc::new(context),
        Err(error) => {
            tracing::error!(error.kind = %error.kind(), "{}", error.report());
            report_init_error(&settings, &error).await;
            return Err(error);
        }
    };
    let handler = service_fn(|event: LambdaEvent<Value>| {
        let left = event
            .context
            .deadline()
            .duration_since(SystemTime::now())
            .unwrap_or(Duration::ZERO);
        let future = handle(Arc::clone(&context), event.payload, Instant::now() + left);
        async move { future.await.map_err(Diagnostic::from) }
    });
    lambda_runtime::run(handler).await.map_err(|error| {
        Error::new(ErrorKind::Internal, "the Lambda runtime stopped").with_source(error)
    })
}

/// The setting of glibc's allocator from how many bytes on memory goes back to the system
/// as soon as it is free.
const MMAP_THRESHOLD: &str = "MALLOC_MMAP_THRESHOLD_";

/// Starts the program again with an allocator that gives the buffers of large files back;
/// to be called first of all.
///
/// glibc raises its threshold with the first large buffer that is freed. From then on
/// buffers of megabytes lie in the heaps of the threads that asked for them, and the
/// process keeps two to three times what it uses. A program can change that only before
/// it starts; where the variable is set already, or on a failure, it goes on as it is.
pub fn give_memory_back() {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt as _;
        if std::env::var_os(MMAP_THRESHOLD).is_some() {
            return;
        }
        let Ok(program) = std::env::current_exe() else {
            return;
        };
        let mut command = std::process::Command::new(program);
        let mut arguments = std::env::args_os();
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        // Only a failure returns, and nothing is lost by it but memory.
        let _ = command.args(arguments).env(MMAP_THRESHOLD, "131072").exec();
    }
}

/// Logs to standard output as Lambda's advanced logging controls say:
/// `AWS_LAMBDA_LOG_FORMAT` and `AWS_LAMBDA_LOG_LEVEL`. Lambda adds the time by itself.
fn start_log(settings: &Settings) {
    let level = match settings.get("AWS_LAMBDA_LOG_LEVEL") {
        Some("FATAL") => LevelFilter::ERROR,
        Some(level) => level.parse().unwrap_or(LevelFilter::INFO),
        None => LevelFilter::INFO,
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .without_time();
    let format = settings.get("AWS_LAMBDA_LOG_FORMAT").unwrap_or_default();
    // A second subscriber is refused; the first one goes on.
    let _ = if format.eq_ignore_ascii_case("json") {
        log.json().flatten_event(true).try_init()
    } else {
        log.with_ansi(false).try_init()
    };
}

/// Tells Lambda why the function cannot start, so that the invoker reads the reason
/// instead of `Runtime.ExitError`.
async fn report_init_error(settings: &Settings, error: &Error) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let Some(api) = settings.get("AWS_LAMBDA_RUNTIME_API") else {
        return;
    };
    let kind = format!("branchline.{}", error.kind());
    let body = json!({ "errorType": kind, "errorMessage": error.report() }).to_string();
    let request = format!(
        "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nLambda-Runtime-Function-Error-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let send = async {
        let mut stream = tokio::net::TcpStream::connect(api).await?;
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_end(&mut Vec::new()).await
    };
    // The process ends with an error either way; this is for the reader's sake.
    let _ = tokio::time::timeout(Duration::from_secs(2), send).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_first_kind_and_every_message() {
        let results = vec![
            Err(Error::new(ErrorKind::NotFound, "branch `a`")),
            Ok("branch `c`"),
            Err(Error::new(ErrorKind::Throttled, "branch `b`")),
        ];
        let failure = settle(results).expect_err("two items failed");
        let diagnostic = Diagnostic::from(failure);
        assert_eq!(diagnostic.error_type, "branchline.NotFound");
        assert_eq!(
            diagnostic.error_message,
            "2 of 3 failed: branch `a` | branch `b`"
        );
        assert_eq!(settle(vec![Ok(1), Ok(2)]).expect("none failed"), [1, 2]);
    }
}
