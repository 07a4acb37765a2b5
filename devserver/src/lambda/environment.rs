//! One execution environment: a process and its Runtime API, from cold start to end.

use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::process::Command;
use tokio::time::timeout_at;

use super::process::Process;
use super::runtime_api::{PendingInvocation, ProcessEvent, RuntimeApi};
use super::{FunctionError, Invoked, Outcome};

/// Time that a process has until it first requests work (Lambda's init phase).
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// An idle execution environment.
pub(super) struct Environment {
    process: Process,
    api: RuntimeApi,
    /// The environment's `/tmp`, deleted with it.
    _temporary: tempfile::TempDir,
    /// Duration of the cold start; reported with the first invocation.
    init: Option<Duration>,
}

/// Data of one invocation.
pub(super) struct Call {
    pub(super) request_id: String,
    pub(super) payload: Bytes,
    pub(super) function_arn: String,
    pub(super) timeout: Duration,
    pub(super) memory_mb: u32,
}

impl Environment {
    /// Starts a process and waits until it requests work. `prepare` builds the command for
    /// a given `AWS_LAMBDA_RUNTIME_API` and a folder for temporary files, which is created in
    /// `temporary`.
    pub(super) async fn start(
        prepare: impl FnOnce(&str, &Path) -> Command,
        function: &str,
        log: &Path,
        temporary: &Path,
        request_id: &str,
    ) -> Result<Self, (FunctionError, Vec<u8>)> {
        let started = Instant::now();
        let entry_failed = |error: std::io::Error| {
            let message = format!("RequestId: {request_id} Error: fork/exec bootstrap: {error}");
            (
                FunctionError::new("Runtime.InvalidEntrypoint", message),
                vec![],
            )
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
            () = tokio::time::sleep(INIT_TIMEOUT) => FunctionError::new(
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

    /// Returns true while the process runs.
    pub(super) fn is_alive(&mut self) -> bool {
        self.process.is_running()
    }

    /// Ends the process.
    pub(super) async fn stop(mut self) {
        self.process.stop().await;
    }

    /// Gives the process one invocation and waits for the result: the process answered
    /// and requested the next one, exited, or was killed at its deadline. Returns the
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
            trace_id: trace_id(&call.request_id),
        };
        // The process either waits for this or is about to be seen dead.
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
        // The process requested work or ended: its output is in the pipes by now.
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
                // A poll during an invocation (a client that lost the answer to its
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
                    let failure =
                        FunctionError::new("Runtime.ExitError", "the Runtime API is gone");
                    return (Outcome::Failed(failure), false);
                }
                Ok(Err(status)) => {
                    // The last answer may have arrived together with the process's end.
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
                        Outcome::Failed(FunctionError::new(
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

fn exit_error(request_id: &str, status: std::io::Result<ExitStatus>) -> FunctionError {
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
    FunctionError::new(
        "Runtime.ExitError",
        format!("RequestId: {request_id} Error: {how}"),
    )
}

/// Returns the part of the trace id that identifies an invocation, 24 hexadecimal digits.
pub(super) fn trace_of(request_id: &str) -> String {
    hex::encode(&Sha256::digest(request_id)[..12])
}

fn trace_id(request_id: &str) -> String {
    let parent = uuid::Uuid::new_v4().simple().to_string();
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    format!(
        "Root=1-{seconds:08x}-{};Parent={};Sampled=0",
        trace_of(request_id),
        &parent[16..]
    )
}
