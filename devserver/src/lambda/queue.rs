//! Asynchronous invocations: a queue with Lambda's rules (developer guide, "How Lambda
//! handles errors and retries with asynchronous invocation").
//!
//! A function error is retried after one and after two more minutes; a throttled event goes
//! back into the queue with growing pauses until it is six hours old. Events that failed for
//! good are added to the list of dead letters. Events are stored in the data folder, so that
//! they survive a restart, and are delivered at least once.

use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::function::FunctionRef;
use super::host::{InvokeError, LambdaHost};
use super::{FunctionError, Outcome};

/// Settings of the queue.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// The data folder.
    pub data: PathBuf,
    /// Factor of all delays: 1 is Lambda's own, 0.001 turns minutes into 60 ms.
    pub delay_scale: f64,
}

const RETRY_DELAYS: [Duration; 2] = [Duration::from_mins(1), Duration::from_mins(2)];
const MAX_EVENT_AGE: Duration = Duration::from_hours(6);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_mins(5);

/// An event that failed for good.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The request id of the invocation.
    pub request_id: String,
    /// Name of the function, as the invocation named it.
    pub function: String,
    /// Reason: `RetriesExhausted`, `EventAgeExceeded` or `FunctionNotFound`.
    pub condition: String,
    /// Number of attempts.
    pub attempts: u32,
    /// The last `errorType`.
    pub error_type: String,
    /// The last `errorMessage`.
    pub error_message: String,
    /// Time of the failure, in seconds since the epoch.
    pub time: u64,
    /// The event.
    pub payload: Box<RawValue>,
}

/// An event of the queue, as stored in the data folder.
#[derive(Serialize, Deserialize)]
struct Queued {
    request_id: String,
    function: String,
    accepted_ms: u64,
    payload: Box<RawValue>,
}

struct Inner {
    host: LambdaHost,
    options: QueueOptions,
    events: TaskTracker,
    stop: CancellationToken,
    dead: Mutex<Vec<DeadLetter>>,
}

/// The queue of `Event` invocations.
#[derive(Clone)]
pub struct AsyncInvocations(Arc<Inner>);

impl AsyncInvocations {
    /// Opens the queue of the data folder; stored events are delivered by
    /// [`resume`](Self::resume).
    pub fn open(host: LambdaHost, options: QueueOptions) -> std::io::Result<Self> {
        std::fs::create_dir_all(options.data.join("queue"))?;
        let dead = read_dead_letters(&dead_letter_file(&options.data))?;
        Ok(Self(Arc::new(Inner {
            host,
            options,
            events: TaskTracker::new(),
            stop: CancellationToken::new(),
            dead: Mutex::new(dead),
        })))
    }

    /// Resumes the events of an earlier run; returns their number.
    pub fn resume(&self) -> std::io::Result<usize> {
        let mut events = Vec::new();
        for entry in std::fs::read_dir(self.0.options.data.join("queue"))? {
            let path = entry?.path();
            // A half-written event was never acknowledged: its name is still temporary.
            if path.extension().is_some_and(|ext| ext == "json") {
                let queued: Queued = serde_json::from_slice(&std::fs::read(&path)?)?;
                events.push(queued);
            }
        }
        events.sort_by_key(|event| event.accepted_ms);
        let count = events.len();
        for event in events {
            self.start(event);
        }
        Ok(count)
    }

    /// Accepts an event; it is durable when this returns. The payload must be JSON.
    ///
    /// An event for a missing function becomes a dead letter, because the caller does not wait.
    pub fn submit(&self, function: &str, payload: &Bytes) -> std::io::Result<String> {
        let text = std::str::from_utf8(payload)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))?;
        let queued = Queued {
            request_id: Uuid::new_v4().to_string(),
            function: function.to_owned(),
            accepted_ms: now_ms(),
            payload: RawValue::from_string(text.to_owned())?,
        };
        let path = self.file(&queued.request_id);
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, serde_json::to_vec(&queued)?)?;
        std::fs::rename(&temporary, &path)?;
        let request_id = queued.request_id.clone();
        self.start(queued);
        Ok(request_id)
    }

    fn start(&self, event: Queued) {
        let queue = self.clone();
        self.0.events.spawn(async move {
            tokio::select! {
                () = queue.0.stop.cancelled() => {}
                () = queue.deliver(event) => {}
            }
        });
    }

    async fn deliver(&self, event: Queued) {
        let Some(function) = FunctionRef::parse(&event.function, self.0.host.account()) else {
            let failure = not_found(&event.function);
            return self.send_to_dead_letters(event, "FunctionNotFound", 0, failure);
        };
        let payload = Bytes::from(event.payload.get().to_owned());
        let mut attempts: u32 = 0;
        let mut backoff = FIRST_BACKOFF;
        loop {
            let id = event.request_id.clone();
            match self.0.host.invoke(&function, payload.clone(), id).await {
                Ok(invoked) => {
                    attempts += 1;
                    backoff = FIRST_BACKOFF;
                    let Outcome::Failed(failure) = invoked.outcome else {
                        return self.forget(&event.request_id);
                    };
                    let Some(delay) = RETRY_DELAYS.get(attempts as usize - 1) else {
                        return self.send_to_dead_letters(
                            event,
                            "RetriesExhausted",
                            attempts,
                            failure,
                        );
                    };
                    if self.is_too_old(&event, *delay) {
                        return self.send_to_dead_letters(
                            event,
                            "EventAgeExceeded",
                            attempts,
                            failure,
                        );
                    }
                    tracing::info!(
                        function.name = function.name,
                        invocation.request_id = event.request_id,
                        "`{}` is retried in {} s",
                        function.name,
                        self.scaled(*delay).as_secs_f64()
                    );
                    self.pause(*delay).await;
                }
                Err(InvokeError::Throttled(_)) => {
                    if self.is_too_old(&event, backoff) {
                        let failure =
                            FunctionError::new("TooManyRequestsException", "Rate Exceeded.");
                        return self.send_to_dead_letters(
                            event,
                            "EventAgeExceeded",
                            attempts,
                            failure,
                        );
                    }
                    self.pause(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
                Err(InvokeError::NotFound(_)) => {
                    let failure = not_found(&event.function);
                    return self.send_to_dead_letters(event, "FunctionNotFound", attempts, failure);
                }
                // The event stays in the data folder for the next run.
                Err(InvokeError::ShuttingDown) => return,
            }
        }
    }

    fn scaled(&self, delay: Duration) -> Duration {
        delay.mul_f64(self.0.options.delay_scale)
    }

    async fn pause(&self, delay: Duration) {
        // A lower bound, so that a small scale does not make a busy loop.
        let delay = self.scaled(delay).max(Duration::from_millis(1));
        tokio::time::sleep(delay).await;
    }

    fn is_too_old(&self, event: &Queued, wait: Duration) -> bool {
        let age = Duration::from_millis(now_ms().saturating_sub(event.accepted_ms));
        age + self.scaled(wait) > self.scaled(MAX_EVENT_AGE)
    }

    fn send_to_dead_letters(
        &self,
        event: Queued,
        condition: &str,
        attempts: u32,
        failure: FunctionError,
    ) {
        tracing::warn!(
            function.name = event.function,
            invocation.request_id = event.request_id,
            "dead letter for `{}` ({condition}) after {attempts} attempts: {}: {}",
            event.function,
            failure.error_type,
            failure.message
        );
        let letter = DeadLetter {
            request_id: event.request_id,
            function: event.function,
            condition: condition.to_owned(),
            attempts,
            error_type: failure.error_type,
            error_message: failure.message,
            time: now_ms() / 1000,
            payload: event.payload,
        };
        let request_id = letter.request_id.clone();
        let mut dead = self.0.dead.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = append(&dead_letter_file(&self.0.options.data), &letter) {
            tracing::error!("a dead letter could not be stored: {error}");
        }
        dead.push(letter);
        drop(dead);
        self.forget(&request_id);
    }

    fn forget(&self, request_id: &str) {
        let _ = std::fs::remove_file(self.file(request_id));
    }

    fn file(&self, request_id: &str) -> PathBuf {
        let name = format!("{request_id}.json");
        self.0.options.data.join("queue").join(name)
    }

    /// Returns the dead letters, oldest first.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        let dead = self.0.dead.lock().unwrap_or_else(PoisonError::into_inner);
        dead.clone()
    }

    /// Deletes the dead letters.
    pub fn clear_dead_letters(&self) -> std::io::Result<()> {
        let mut dead = self.0.dead.lock().unwrap_or_else(PoisonError::into_inner);
        dead.clear();
        std::fs::write(dead_letter_file(&self.0.options.data), b"")
    }

    /// Returns the number of events that are running or wait for their next attempt.
    pub fn pending(&self) -> usize {
        self.0.events.len()
    }

    /// Stops delivering; undelivered events stay in the data folder.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.events.close();
        self.0.events.wait().await;
    }
}

fn not_found(function: &str) -> FunctionError {
    FunctionError::new(
        "ResourceNotFoundException",
        format!("Function not found: {function}"),
    )
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn dead_letter_file(data: &Path) -> PathBuf {
    data.join("dead-letters.jsonl")
}

fn append(path: &Path, letter: &DeadLetter) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(letter)?;
    line.push(b'\n');
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?;
    file.write_all(&line)
}

fn read_dead_letters(path: &Path) -> std::io::Result<Vec<DeadLetter>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut letters = Vec::new();
    for line in std::io::BufReader::new(file).lines() {
        // A crash may have torn the last line; the event is then still in the queue.
        match serde_json::from_str(&line?) {
            Ok(letter) => letters.push(letter),
            Err(error) => tracing::warn!("a dead letter is not readable: {error}"),
        }
    }
    Ok(letters)
}
