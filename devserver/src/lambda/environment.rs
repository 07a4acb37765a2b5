//! One execution environment: a process and its Runtime API, from cold start to end.

use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::process::Command;
use tokio::time::timeout_at;

use super::process::Process;
use super::runtime_api::{PendingInvocation, ProcessEvent, RuntimeApi};
use super::{Failure, Invoked, Outcome};

/// How long a process may take until it first asks for work (Lambda's init phase).
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// An execution environment that waits for work.
pub(super) struct Environment {
    process: Process,
    api: RuntimeApi,
    /// What `/tmp` is at AWS: it goes with the environment.
    _temporary: tempfile::TempDir,
    /// How long the cold start took; told with the first invocation.
    init: Option<Duration>,
}

/// What one invocation needs to know.
pub(super) struct Call {
    pub(super) request_id: String,
    pub(super) payload: Bytes,
    pub(super) function_arn: String,
    pub(super) timeout: Duration,
    pub(super) memory_mb: u32,
}

impl Environment {
    /// Starts a process and waits until it asks for work. `prepare` makes the command for
    /// a given `AWS_LAMBDA_RUNTIME_API` and a folder for temporary files, which is made in
    /// `temporary`.
    pub(super) async fn start(
        prepare: impl FnOnce(&str, &Path) -> Command,
        function: &str,
        log: &Path,
        temporary: &Path,
        request_id: &str,
    ) -> Result<Self, (Failure, Vec<u8>)> {
        let started = Instant::now();
        let entry_failed = |error: std::io::Error| {
            let message = format!("RequestId: {request_id} Error: fork/exec bootstrap: {error}");
            (Failure::new("Runtime.InvalidEntrypoint", message), vec![])
        };
        let mut api = RuntimeApi::start().await.map_err(entry_failed)?;
        let temporary = tempfile::tempdir_in(temporary).map_err(entry_failed)?;
        let command = prepare(&api.address.to_string(), temporary.path());
        let mut process = Process::spawn(command, function, log).map_err(entry_failed)?;
        let failure = tokio::select! {
            biased;
            happening = api.happenings.recv() => match happening {
                Some(ProcessEvent::InitFailed(failure)) => failure,
                _ => {
                    return Ok(Self {
                        process,
                        api,
                        _temporary: temporary,
                        init: Some(started.elapsed()),
                    });
                }
            },
            status = process.exited() => match api.happenings.try_recv() {
                Ok(ProcessEvent::InitFailed(failure)) => failure,
                _ => exit_error(request_id, status),
            },
            () = tokio::time::sleep(INIT_TIMEOUT) => Failure::new(
                "Sandbox.Timedout",
                format!(
                    "RequestId: {request_id} Error: Init timed out after {:.2} seconds",
                    INIT_TIMEOUT.as_secs_f64()
                ),
            ),
        };
        process.kill().await;
        process.drain();
        Err((failure, process.tail.take()))
    }

    /// Whether the process still runs.
    pub(super) fn is_alive(&mut self) -> bool {
        self.process.is_running()
    }

    /// Ends the process.
    pub(super) async fn stop(mut self) {
        self.process.stop().await;
    }

    /// Gives the process one invocation and waits until it is done with it: it answered
    /// and asked for the next, exited, or was killed at its deadline. Returns the
    /// environment if it can serve again.
    pub(super) async fn invoke(mut self, call: Call) -> (Invoked, Option<Self>) {
        let started = Instant::now();
        let init = self.init.take();
        if init.is_none() {
            self.process.drain();
            self.process.tail.take();
        }
        let line = format!("START RequestId: {} Version: $LATEST\n", call.request_id);
        self.process.tail.push(line.as_bytes());
        let deadline = tokio::time::Instant::now() + call.timeout;
        let deadline_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .saturating_add(call.timeout)
            .as_millis();
        let work = PendingInvocation {
            request_id: call.request_id.clone(),
            payload: call.payload,
            deadline_ms,
            function_arn: call.function_arn,
            trace_id: trace_id(),
        };
        // The process is either waiting for this or about to be seen dead.
        let _ = self.api.work.try_send(work);
        let (outcome, reusable) = self.wait(&call.request_id, call.timeout, deadline).await;
        let duration = started.elapsed();
        let max_memory_bytes = self.process.peak_memory();
        let max_memory_used = max_memory_bytes
            .map(|bytes| format!("\tMax Memory Used: {} MB", bytes.div_ceil(1024 * 1024)))
            .unwrap_or_default();
        let report = format!(
            "END RequestId: {id}\nREPORT RequestId: {id}\tDuration: {:.2} ms\tBilled Duration: \
             {} ms\tMemory Size: {} MB{max_memory_used}\n",
            duration.as_secs_f64() * 1000.0,
            duration.as_millis() + 1,
            call.memory_mb,
            id = call.request_id,
        );
        // It asked for more or ended: what it printed is in the pipes by now.
        self.process.drain();
        self.process.tail.push(report.as_bytes());
        let invoked = Invoked {
            request_id: call.request_id,
            outcome,
            log_tail: self.process.tail.take(),
            duration,
            init,
            max_memory_bytes,
        };
        (invoked, reusable.then_some(self))
    }

    async fn wait(
        &mut self,
        request_id: &str,
        timeout: Duration,
        deadline: tokio::time::Instant,
    ) -> (Outcome, bool) {
        let mut finished: Option<Outcome> = None;
        loop {
            let next = timeout_at(deadline, async {
                tokio::select! {
                    biased;
                    happening = self.api.happenings.recv() => Ok(happening),
                    status = self.process.exited() => Err(status),
                }
            });
            match next.await {
                Ok(Ok(Some(ProcessEvent::Finished(outcome)))) => finished = Some(outcome),
                // A poll while it still has work (a client that lost the answer to its
                // first one) changes nothing.
                Ok(Ok(Some(ProcessEvent::Polled))) => {
                    if let Some(outcome) = finished.take() {
                        return (outcome, true);
                    }
                }
                Ok(Ok(Some(ProcessEvent::InitFailed(failure)))) => {
                    self.process.kill().await;
                    return (Outcome::Failed(failure), false);
                }
                Ok(Ok(None) | Err(_)) if finished.is_some() => {
                    return (finished.expect("because the guard saw it"), false);
                }
                Ok(Ok(None)) => {
                    self.process.kill().await;
                    let failure = Failure::new("Runtime.ExitError", "the Runtime API is gone");
                    return (Outcome::Failed(failure), false);
                }
                Ok(Err(status)) => {
                    // Its last answer may have arrived together with its end.
                    while let Ok(happening) = self.api.happenings.try_recv() {
                        if let ProcessEvent::Finished(outcome) = happening {
                            return (outcome, false);
                        }
                    }
                    return (Outcome::Failed(exit_error(request_id, status)), false);
                }
                Err(_elapsed) => {
                    self.process.kill().await;
                    let outcome = finished.unwrap_or_else(|| {
                        Outcome::Failed(Failure::new(
                            "Sandbox.Timedout",
                            format!(
                                "RequestId: {request_id} Error: Task timed out after {:.2} seconds",
                                timeout.as_secs_f64()
                            ),
                        ))
                    });
                    return (outcome, false);
                }
            }
        }
    }
}

fn exit_error(request_id: &str, status: std::io::Result<ExitStatus>) -> Failure {
    use std::os::unix::process::ExitStatusExt as _;
    let how = match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(0), _) => "Runtime exited without providing a reason".to_owned(),
            (Some(code), _) => format!("Runtime exited with error: exit status {code}"),
            (None, Some(signal)) => format!("Runtime exited with error: signal: {signal}"),
            (None, None) => "Runtime exited".to_owned(),
        },
        Err(error) => format!("Runtime exited: {error}"),
    };
    Failure::new(
        "Runtime.ExitError",
        format!("RequestId: {request_id} Error: {how}"),
    )
}

fn trace_id() -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    format!(
        "Root=1-{seconds:08x}-{};Parent={};Sampled=0",
        &id[..24],
        &id[16..]
    )
}
