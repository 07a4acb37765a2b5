//! Clones and fetches: the request into `git upload-pack`, what it says out again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStdin, ChildStdout};
use tokio_util::io::ReaderStream;

use super::advertisement::Service;
use super::body::{BoxError, RequestBody};
use super::pkt_line::{self, BadLength, Packet};
use super::process::GitProcess;
use crate::codecommit::Repository;

/// The longest list of wants; a want takes 50 bytes.
const MAX_WANTS_BYTES: usize = 32 * 1024 * 1024;

/// What the client asks for, checked.
pub(super) enum Wants {
    /// The request as far as it was read.
    Accepted(BytesMut),
    /// Why it is refused.
    Refused(String),
}

/// Reads a request's first section and checks that it keeps to what was offered.
pub(super) async fn read_wants(body: &mut RequestBody) -> Result<Wants, BoxError> {
    let mut buffer = BytesMut::new();
    let mut at = 0;
    loop {
        match pkt_line::take(buffer.get(at..).unwrap_or_default()) {
            Err(BadLength) => {
                return Ok(Wants::Refused("protocol error: bad line length".into()));
            }
            Ok(Some((Packet::Flush, _))) => return Ok(Wants::Accepted(buffer)),
            Ok(Some((Packet::Line(line), used))) => {
                if let Some(why) = refuse_line(line) {
                    return Ok(Wants::Refused(why));
                }
                at += used;
            }
            Ok(None) => {
                if buffer.len() > MAX_WANTS_BYTES {
                    return Ok(Wants::Refused("too many wants".into()));
                }
                match body.next().await? {
                    Some(piece) => buffer.extend_from_slice(&piece),
                    // Git says itself what is wrong with a request that is cut off.
                    None => return Ok(Wants::Accepted(buffer)),
                }
            }
        }
    }
}

fn refuse_line(line: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(line);
    let mut words = text.trim_end_matches('\n').split(' ');
    match words.next().unwrap_or_default() {
        // Git takes capabilities from every want, not from the first alone.
        "want" => {
            let unoffered = Service::UploadPack.unoffered(words.skip(1));
            unoffered.map(|name| format!("the capability {name} is not offered"))
        }
        "shallow" | "deepen" => None,
        other => Some(format!("{other} is not offered")),
    }
}

/// Starts `git upload-pack` on the rest of the request; returns what it answers, as it
/// comes. When the answer is dropped, git ends.
pub(super) fn serve(
    repository: &Repository,
    read: BytesMut,
    body: RequestBody,
) -> io::Result<Answer> {
    let (process, stdin, stdout) = GitProcess::start(Service::UploadPack, &repository.dir, false)?;
    let name = repository.name.clone();
    tokio::spawn(async move {
        if let Err(error) = feed(stdin, read.freeze(), body).await {
            tracing::debug!(
                repository.name = name,
                error,
                "the request of a fetch ended early"
            );
        }
    });
    Ok(Answer {
        stdout: ReaderStream::with_capacity(stdout, 64 * 1024),
        process: Some(process),
        repository: repository.name.clone(),
    })
}

async fn feed(mut stdin: ChildStdin, read: Bytes, mut body: RequestBody) -> Result<(), BoxError> {
    stdin.write_all(&read).await?;
    while let Some(piece) = body.next().await? {
        // Git may have all that it needs.
        if stdin.write_all(&piece).await.is_err() {
            return body.drain().await;
        }
    }
    Ok(())
}

/// What `git upload-pack` says.
pub(super) struct Answer {
    stdout: ReaderStream<ChildStdout>,
    process: Option<GitProcess>,
    repository: String,
}

impl Stream for Answer {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.stdout.poll_next_unpin(context));
        if next.is_none()
            && let Some(process) = self.process.take()
        {
            let repository = std::mem::take(&mut self.repository);
            tokio::spawn(async move {
                match process.finish().await {
                    Ok((status, complaint)) if !status.success() => {
                        // Git has told the client too.
                        tracing::info!(repository.name = repository, "fetch refused: {complaint}");
                    }
                    _ => {}
                }
            });
        }
        Poll::Ready(next)
    }
}
