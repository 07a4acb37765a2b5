//! Clones and fetches: streams the request into `git upload-pack` and the output back.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStdin, ChildStdout};
use tokio_util::io::ReaderStream;

use super::advertisement::GitService;
use super::body::RequestBody;
use super::pkt_line::{self, BadLength, Packet};
use super::process::GitProcess;
use crate::codecommit::Repository;
use crate::http_body::BoxError;

/// Maximum size of the list of wants; a want takes 50 bytes.
const MAX_WANTS_BYTES: usize = 32 * 1024 * 1024;

/// First section of a fetch request, checked.
pub(super) enum Wants {
    /// Bytes that were read so far.
    Accepted(BytesMut),
    /// Reason to refuse the request.
    Refused(String),
}

/// Reads a request's first section and checks it against the advertised capabilities.
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
                    // Git itself reports what is wrong with a truncated request.
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
            let unoffered = GitService::UploadPack.unoffered(words.skip(1));
            unoffered.map(|name| format!("the capability {name} is not offered"))
        }
        "shallow" | "deepen" => None,
        other => Some(format!("{other} is not offered")),
    }
}

/// Starts `git upload-pack` on the rest of the request; returns its output as a
/// stream. Dropping the stream ends git.
pub(super) fn serve(
    repository: &Repository,
    read: BytesMut,
    body: RequestBody,
) -> io::Result<UploadPackOutput> {
    let (process, stdin, stdout) =
        GitProcess::start(GitService::UploadPack, &repository.dir, false)?;
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
    Ok(UploadPackOutput {
        stdout: ReaderStream::with_capacity(stdout, 64 * 1024),
        process: Some(process),
        repository: repository.name.clone(),
    })
}

async fn feed(mut stdin: ChildStdin, read: Bytes, mut body: RequestBody) -> Result<(), BoxError> {
    stdin.write_all(&read).await?;
    while let Some(piece) = body.next().await? {
        // Git may have stopped reading because it has all that it needs.
        if stdin.write_all(&piece).await.is_err() {
            return body.drain().await;
        }
    }
    Ok(())
}

/// Output of `git upload-pack`.
pub(super) struct UploadPackOutput {
    stdout: ReaderStream<ChildStdout>,
    process: Option<GitProcess>,
    repository: String,
}

impl Stream for UploadPackOutput {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.stdout.poll_next_unpin(context));
        if next.is_none()
            && let Some(process) = self.process.take()
        {
            let repository = std::mem::take(&mut self.repository);
            tokio::spawn(async move {
                match process.finish().await {
                    Ok((status, error_lines)) if !status.success() => {
                        // Git has reported the error to the client, too.
                        tracing::info!(
                            repository.name = repository,
                            "fetch refused: {error_lines}"
                        );
                    }
                    _ => {}
                }
            });
        }
        Poll::Ready(next)
    }
}
