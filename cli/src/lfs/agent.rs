//! The transfer agent: answers the events of git-lfs on standard input, one transfer at a time.
//! git-lfs starts several agents at once.

use std::fs::OpenOptions;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use branchline_core::git::escaped_excerpt;
use branchline_core::lfs::agent::{AgentAnswer, AgentEvent, TransferDirection, TransferEvent};
use branchline_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, BufReader, stdin};
use tokio::sync::mpsc;

use super::location::OpenStore;
use super::needed_by::needed_by;
use super::transfers::{answer, transfer};
use crate::exit::ExitStatus;
use crate::failure::{explain, one_line};
use crate::invocation::Invocation;

/// Maximum length of an event in bytes.
const MAX_LINE_BYTES: u64 = 64 * 1024;
/// Code of a failed `init`: git-lfs only shows it.
const INIT_FAILED: u16 = 1;
/// Number of missing objects of which an agent searches the commits.
const MAX_SEARCHES: u32 = 3;

/// Runs the agent over standard input and output.
pub(super) async fn run(invocation: &Invocation, debug: bool) -> ExitStatus {
    if std::io::stdin().is_terminal() {
        eprintln!(
            "error: git-lfs starts this program, to transfer objects; hint: `git-lfs-s3 install` \
             sets it up for the remotes in S3 of a repository"
        );
        return ExitStatus::Usage;
    }
    let mut agent = Agent {
        invocation,
        debug,
        open: None,
        searches: 0,
    };
    match Box::pin(agent.serve(events())).await {
        Ok(()) => ExitStatus::Done,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitStatus::Failed
        }
    }
}

/// Receives the events, up to `terminate`, the end of the input, or an error.
fn events() -> mpsc::Receiver<Result<AgentEvent>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut input = BufReader::new(stdin());
        while let Some(event) = next_event(&mut input).await.transpose() {
            let is_last = !matches!(event, Ok(AgentEvent::Init { .. } | AgentEvent::Transfer(_)));
            if sender.send(event).await.is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

/// Reads an event; `None` at the end of the input.
async fn next_event(input: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<AgentEvent>> {
    let mut line = Vec::new();
    let mut limited = input.take(MAX_LINE_BYTES);
    limited
        .read_until(b'\n', &mut line)
        .await
        .map_err(|error| {
            Error::new(ErrorKind::Transport, "reading from git-lfs").with_source(error)
        })?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_none() {
        let shown = escaped_excerpt(&line);
        let message = format!("the line `{shown}` of git-lfs does not end");
        return Err(Error::new(ErrorKind::Config, message));
    }
    AgentEvent::parse(&line).map(Some)
}

struct Agent<'a> {
    invocation: &'a Invocation,
    debug: bool,
    open: Option<OpenStore>,
    /// Number of searches for the commit that needs a missing object.
    searches: u32,
}

impl Agent<'_> {
    /// Answers events until the last one.
    async fn serve(&mut self, mut events: mpsc::Receiver<Result<AgentEvent>>) -> Result<()> {
        while let Some(event) = events.recv().await.transpose()? {
            match event {
                AgentEvent::Terminate => break,
                AgentEvent::Init { direction, remote } => self.init(direction, &remote).await?,
                AgentEvent::Transfer(event) => {
                    // Dropped, and so cleaned up, if git-lfs ends first.
                    let work = self.transfer(&event);
                    tokio::select! {
                        done = work => done?,
                        next = events.recv() => return Err(ended_early(&event, next)),
                    }
                }
            }
        }
        Ok(())
    }

    async fn init(&mut self, direction: TransferDirection, remote: &str) -> Result<()> {
        let opened = OpenStore::open(self.invocation, direction, remote).await;
        match opened {
            Ok(open) => {
                self.log(
                    &open.directory,
                    &format!("{direction:?} {} by `{remote}`", open.store),
                );
                self.open = Some(open);
                answer(&AgentAnswer::Ready)
            }
            Err(error) => {
                answer(&AgentAnswer::NotReady(INIT_FAILED, &one_line(&error)))?;
                Err(error)
            }
        }
    }

    /// Transfers an object, and answers.
    async fn transfer(&mut self, event: &TransferEvent) -> Result<()> {
        let Some(open) = &self.open else {
            let message = "git-lfs sent a transfer before `init`";
            return Err(Error::new(ErrorKind::Config, message));
        };
        let begin = Instant::now();
        let oid = &event.oid;
        let error = match transfer(open, event).await {
            Ok(path) => {
                let text = format!("{oid} is complete ({} ms)", begin.elapsed().as_millis());
                self.log(&open.directory, &text);
                return answer(&match &path {
                    Some(path) => AgentAnswer::Downloaded(oid, path),
                    None => AgentAnswer::Uploaded(oid),
                });
            }
            Err(error) => explain(error, open.profile.as_deref()).await,
        };
        // S3 answers that access is denied for a missing object, if its reader may not list the
        // bucket.
        let is_missing = event.direction == TransferDirection::Download
            && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AccessDenied)
            && error.aws_code() != Some("NoSuchBucket");
        let error = if is_missing {
            let search = self.searches < MAX_SEARCHES;
            self.searches += 1;
            missing(open, event, error, search).await
        } else {
            error
        };
        let text = one_line(&error);
        self.log(&open.directory, &format!("{oid}: {text}"));
        answer(&AgentAnswer::Failed(oid, &text))
    }

    /// Appends a line to the log, if it is on.
    fn log(&self, directory: &Path, text: &str) {
        if !self.debug {
            return;
        }
        let directory = directory.join("tmp");
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = since.unwrap_or(Duration::ZERO).as_millis();
        let line = format!("{time} {}: {text}\n", std::process::id());
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        let written = std::fs::create_dir_all(&directory)
            .and_then(|()| options.open(directory.join("git-lfs-s3.log")))
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            tracing::warn!(%error, "the log cannot be written");
        }
    }
}

/// Makes the error for a transfer that git-lfs did not wait for.
fn ended_early(event: &TransferEvent, next: Option<Result<AgentEvent>>) -> Error {
    let oid = escaped_excerpt(event.oid.as_bytes());
    let message = match next {
        Some(Err(error)) => return error,
        Some(Ok(AgentEvent::Init { .. } | AgentEvent::Transfer(_))) => {
            format!("git-lfs sent an event before the answer for LFS object {oid}")
        }
        Some(Ok(AgentEvent::Terminate)) | None => {
            format!("git-lfs ended before LFS object {oid} was transferred")
        }
    };
    Error::new(ErrorKind::Transport, message).with_hint("the next run transfers it")
}

/// Makes the error for an object that the store does not have, which names the commit and the path
/// that need it.
async fn missing(open: &OpenStore, event: &TransferEvent, cause: Error, search: bool) -> Error {
    let needed = match event.pointer() {
        Ok(pointer) if search => needed_by(&pointer).await,
        _ => None,
    };
    let needed = needed.map_or_else(String::new, |(commit, path)| {
        format!("; commit {commit} needs it for `{}`", path.escape_debug())
    });
    let OpenStore { store, .. } = open;
    let oid = &event.oid;
    if cause.kind() == ErrorKind::AccessDenied {
        let hint = cause.hint().map(str::to_owned);
        let message = format!("{store} denies LFS object {oid}, or does not have it{needed}");
        let error = Error::new(ErrorKind::AccessDenied, message).with_source(cause);
        return match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        };
    }
    let message = format!("{store} does not have LFS object {oid}{needed}");
    // The cause repeats the message, unless a service sent it.
    let error = match cause.aws_code() {
        Some(_) => Error::new(ErrorKind::NotFound, message).with_source(cause),
        None => Error::new(ErrorKind::NotFound, message),
    };
    error.with_hint(
        "push it by `git lfs push --all <remote>` from a repository that has it, or copy it by \
         `branchline lfs repair <remote> --from <url>`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(input: &[u8]) -> Vec<Result<AgentEvent>> {
        let mut input = BufReader::new(input);
        let mut events = Vec::new();
        while let Some(event) = next_event(&mut input).await.transpose() {
            let failed = event.is_err();
            events.push(event);
            if failed {
                break;
            }
        }
        events
    }

    #[tokio::test]
    async fn each_line_is_an_event_and_a_cut_one_is_an_error() {
        let events = read(b"{\"event\":\"terminate\"}\n{\"event\":\"terminate\"}\n").await;
        assert_eq!(events.len(), 2);
        assert!(events.iter().all(Result::is_ok), "{events:?}");
        for input in [
            &b"{\"event\":\"terminate\"}"[..],
            b"\n",
            b"x\n",
            &b"x".repeat(70_000),
        ] {
            let events = read(input).await;
            assert!(matches!(events[..], [Err(_)]), "{events:?}");
        }
    }
}
