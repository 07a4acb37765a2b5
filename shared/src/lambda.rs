//! Runtime shared by the three functions: telemetry, init, and the answers to AWS Lambda's
//! Runtime API.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt as _;
use lambda_runtime::{Diagnostic, LambdaEvent, Runtime, service_fn};
use serde::Serialize;
use serde_json::{Value, json};
use tracing::Instrument as _;

use crate::error::{Error, ErrorKind, Result};
use crate::function::FunctionArn;
use crate::log;
use crate::metrics::{HasMetrics, Metric, MetricValues};
use crate::settings::Settings;

/// Failure of an invocation: the errors of its items, at least one.
///
/// [`run`] logs and counts each of the errors once.
#[derive(Debug)]
pub struct InvocationError {
    kind: ErrorKind,
    message: String,
    errors: Vec<Error>,
}

impl From<Error> for InvocationError {
    fn from(error: Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.report(),
            errors: vec![error],
        }
    }
}

impl InvocationError {
    /// Returns the kind that `errorType` names.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the text of `errorMessage`.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the errors, in order; at least one.
    pub fn errors(&self) -> &[Error] {
        &self.errors
    }

    fn log(&self) {
        for error in &self.errors {
            tracing::error!(
                error.kind = %error.kind(),
                error.aws_code = error.aws_code(),
                error.aws_request_id = error.request_id(),
                "{}", error.report()
            );
        }
    }

    fn count(&self, values: &mut MetricValues) {
        for error in &self.errors {
            values.add(Metric::Failures, 1);
            values.add(Metric::FailuresOf(error.kind()), 1);
        }
    }
}

/// Splits results: all successes, or one failure that summarises the errors.
pub fn collect_results<T>(results: Vec<Result<T>>) -> Result<Vec<T>, InvocationError> {
    /// Maximum number of reports in a message; the log has all of them.
    const SHOWN_REPORTS: usize = 10;
    let total = results.len();
    let mut items = Vec::new();
    let mut errors = Vec::new();
    for result in results {
        match result {
            Ok(item) => items.push(item),
            Err(error) => errors.push(error),
        }
    }
    // Lambda has one error type, which is that of the first error.
    let Some(kind) = errors.first().map(Error::kind) else {
        return Ok(items);
    };
    let mut reports: Vec<String> = errors
        .iter()
        .take(SHOWN_REPORTS)
        .map(Error::report)
        .collect();
    if errors.len() > SHOWN_REPORTS {
        reports.push(format!("and {} more", errors.len() - SHOWN_REPORTS));
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
    Err(InvocationError {
        kind,
        message,
        errors,
    })
}

impl From<InvocationError> for Diagnostic {
    fn from(failure: InvocationError) -> Self {
        Self {
            error_type: format!("branchline.{}", failure.kind),
            error_message: failure.message,
        }
    }
}

/// Context of a function, shared by all invocations of an execution environment.
pub trait FunctionContext: HasMetrics + Send + Sync + 'static {
    /// Records the function's own ARN, before each invocation is handled.
    fn record_function(&self, _function: &FunctionArn) {}
}

/// Runs a function until Lambda stops it.
///
/// `init` makes the context that all invocations share; its failure is reported to Lambda at
/// once. `handle` gets the event and the deadline.
///
/// At its start, the function logs the settings that are in force, and warns of variables whose
/// names are close to a setting's.
///
/// Every line logged during an invocation has the request's id as `request.id`, and the
/// X-Ray trace's as `trace.id`. At the end of each invocation, failed or not, one line
/// reports the context's counts (see [`crate::metrics`]).
///
/// Fatal errors are logged here; `main` prints nothing.
pub async fn run<C, I, H, F, R>(settings: Settings, init: I, handle: H) -> ExitCode
where
    C: FunctionContext,
    I: AsyncFnOnce(&Settings) -> Result<C>,
    H: Fn(Arc<C>, Value, Instant) -> F,
    F: Future<Output = Result<R, InvocationError>>,
    R: Serialize,
{
    log::start(&settings);
    let initialized = init(&settings).await;
    for (name, known) in settings.misspelled() {
        tracing::warn!(
            setting.name = name,
            "`{name}` is not a setting of this function and has no effect; is `{known}` meant?"
        );
    }
    let context = match initialized {
        Ok(context) => Arc::new(context),
        Err(error) => {
            tracing::error!(error.kind = %error.kind(), "{}", error.report());
            report_init_error(&settings, &error).await;
            return ExitCode::FAILURE;
        }
    };
    tracing::info!(
        settings = json!(settings.in_force()).to_string(),
        "started with these settings"
    );
    let (context, settings, handle) = (&context, &settings, &handle);
    let handler = service_fn(|event: LambdaEvent<Value>| async move {
        let left = event
            .context
            .deadline()
            .duration_since(SystemTime::now())
            .unwrap_or(Duration::ZERO);
        let deadline = Instant::now() + left;
        // The runtime does not check the ARN's form.
        if let Ok(function) = FunctionArn::new(&event.context.invoked_function_arn) {
            context.record_function(&function);
        }
        let call = async { handle(Arc::clone(context), event.payload, deadline).await };
        let trace = trace_id(event.context.xray_trace_id.as_deref());
        let request = event.context.request_id;
        let span = tracing::error_span!(
            log::INVOCATION,
            request.id = request,
            trace.id = trace.as_deref()
        );
        let (answer, values) = run_and_measure(&**context, call).instrument(span).await;
        let mut properties = vec![("request.id", request.as_str())];
        properties.extend(trace.as_deref().map(|id| ("trace.id", id)));
        print_metrics(settings, &values, &properties);
        answer
    });
    // Without the runtime's own span, whose fields have other names.
    match Runtime::new(handler).run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let kind = ErrorKind::Internal;
            let error = Error::new(kind, "the Lambda runtime stopped").with_source(error);
            tracing::error!(error.kind = %kind, "{}", error.report());
            ExitCode::FAILURE
        }
    }
}

/// Runs one invocation; logs its failure or panic, and returns its metrics.
async fn run_and_measure<R>(
    context: &impl HasMetrics,
    call: impl Future<Output = Result<R, InvocationError>>,
) -> (Result<R, Diagnostic>, MetricValues) {
    let begin = Instant::now();
    let outcome = AssertUnwindSafe(call).catch_unwind().await;
    let result = match outcome {
        Ok(result) => result.inspect_err(InvocationError::log),
        // The panic hook has logged the message and location.
        Err(_panic) => Err(InvocationError::from(
            Error::new(ErrorKind::Internal, "the function panicked")
                .with_hint("the log has the location; report this as a defect"),
        )),
    };
    let mut values = context.metrics().take();
    values.set(Metric::Duration, whole_ms(begin.elapsed()));
    if let Err(failure) = &result {
        failure.count(&mut values);
    }
    (result.map_err(Diagnostic::from), values)
}

/// Prints the metrics line of an invocation.
fn print_metrics(settings: &Settings, values: &MetricValues, properties: &[(&str, &str)]) {
    let function = settings
        .get("AWS_LAMBDA_FUNCTION_NAME")
        .unwrap_or("unknown");
    let now = log::now();
    let (time, level) = (log::rfc3339(now), log::passing_level(settings));
    let mut members = vec![("timestamp", time.as_str()), ("level", level.as_str())];
    members.extend_from_slice(properties);
    log::write_line(&values.to_emf(function, now.as_millisecond(), &members));
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the id of the trace in a header `Root=1-..;Parent=..;Sampled=..`.
fn trace_id(header: Option<&str>) -> Option<String> {
    let mut parts = header?.split(';');
    let root = parts.find_map(|part| part.trim().strip_prefix("Root="))?;
    Some(root.to_owned())
}

/// Variable of glibc's allocator: allocations of at least this size, in bytes, are returned
/// to the system as soon as they are freed.
const MMAP_THRESHOLD: &str = "MALLOC_MMAP_THRESHOLD_";

/// Restarts the program with `MALLOC_MMAP_THRESHOLD_` set, so that the buffers of large files are
/// returned to the system; to be called before anything else.
///
/// glibc raises its threshold with the first large buffer that is freed. From then on
/// buffers of megabytes stay in the heaps of the threads that allocated them, and the
/// process holds two to three times the memory that it uses. The variable is read only at
/// the start of a program. Where it is set already, or on a failure, this returns.
pub fn reexec_with_mmap_threshold() {
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
        // `exec` returns only on a failure, whose only effect is more memory.
        let _ = command.args(arguments).env(MMAP_THRESHOLD, "131072").exec();
    }
}

/// Reports to Lambda why the function cannot start, so that the invoker reads the reason
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
    // A failure is ignored, because the process ends with an error anyway.
    let _ = tokio::time::timeout(Duration::from_secs(2), send).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_failure_names_the_first_kind_and_every_message() {
        let results = vec![
            Err(Error::new(ErrorKind::NotFound, "branch `a`")),
            Ok("branch `c`"),
            Err(Error::new(ErrorKind::Throttled, "branch `b`")),
        ];
        let failure = collect_results(results).expect_err("two items failed");
        let mut values = MetricValues::default();
        failure.count(&mut values);
        assert_eq!(values.get(Metric::Failures), 2);
        assert_eq!(values.get(Metric::FailuresOf(ErrorKind::Throttled)), 1);
        let diagnostic = Diagnostic::from(failure);
        assert_eq!(diagnostic.error_type, "branchline.NotFound");
        assert_eq!(
            diagnostic.error_message,
            "2 of 3 failed: branch `a` | branch `b`"
        );
        assert_eq!(
            collect_results(vec![Ok(1), Ok(2)]).expect("none failed"),
            [1, 2]
        );
    }

    #[test]
    fn the_trace_id_is_the_root_of_the_header() {
        let header = "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=1";
        assert_eq!(
            trace_id(Some(header)).as_deref(),
            Some("1-5bef4de7-ad49b0e87f6ef6c87fc2e700")
        );
        assert_eq!(trace_id(Some("Sampled=0")), None);
        assert_eq!(trace_id(None), None);
    }

    struct Counting(Metrics);

    impl HasMetrics for Counting {
        fn metrics(&self) -> &Metrics {
            &self.0
        }
    }

    #[tokio::test]
    async fn metrics_are_returned_after_success_failure_and_panic() {
        let context = Counting(Metrics::default());
        let context = &context;
        let archived = || context.metrics().add(Metric::Archives, 1);
        let (answer, values) = run_and_measure(context, async {
            archived();
            Ok(7)
        })
        .await;
        assert_eq!(answer.expect("it answers"), 7);
        assert_eq!(values.get(Metric::Archives), 1);
        assert_eq!(values.get(Metric::Failures), 0);

        let (answer, values) = run_and_measure(context, async {
            archived();
            Err::<(), _>(Error::new(ErrorKind::Config, "no").into())
        })
        .await;
        let failed = answer.expect_err("it fails");
        assert_eq!(failed.error_type, "branchline.Config");
        assert_eq!(values.get(Metric::Archives), 1);
        assert_eq!(values.get(Metric::FailuresOf(ErrorKind::Config)), 1);

        let (answer, values) = run_and_measure(context, async {
            archived();
            assert_eq!(1 + 1, 3, "panics");
            Ok(())
        })
        .await;
        let failed = answer.expect_err("it fails");
        assert_eq!(failed.error_type, "branchline.Internal", "{failed:?}");
        assert_eq!(values.get(Metric::Archives), 1);
        assert_eq!(values.get(Metric::FailuresOf(ErrorKind::Internal)), 1);
    }
}
