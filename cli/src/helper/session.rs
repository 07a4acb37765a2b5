//! The loop over the commands of git.

use std::sync::Arc;

use branchline_core::git::server::ProtocolVersion;
use branchline_core::remote::Remote;
use branchline_core::{Error, ErrorKind, Result};
use bstr::{BStr, ByteSlice as _};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
};

use super::connect::Service;
use super::options::Options;
use super::protocol::{Command, MAX_LINE_BYTES, PushSpec};
use super::{fetch, list, push};
use crate::connection::{self, RemoteSettings};
use crate::failure::explain;
use crate::invocation::Invocation;
use crate::lfs;
use crate::local_git::{self, GitConfig};
use crate::log::Verbosity;

/// The first version of git that knows version 2 of its protocol.
const FIRST_WITH_VERSION_2: (u32, u32) = (2, 18);

/// A run of the helper.
pub(super) struct Session<'a> {
    invocation: &'a Invocation,
    verbosity: &'a Verbosity,
    /// Name of the remote, or its URL.
    name: &'a str,
    url: &'a str,
    options: Options,
    /// Profile that signs the requests, if one is named.
    profile: Option<String>,
    opened: Option<Opened>,
}

/// The remote, and the version of git's protocol that the user configured.
#[derive(Clone)]
struct Opened {
    remote: Arc<dyn Remote>,
    version: ProtocolVersion,
}

/// End of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Without a failure.
    Done,
    /// By a failure that git has shown to the user.
    Reported,
}

/// Commands of one kind, which a blank line ends.
enum Batch {
    Fetch(Vec<branchline_core::git::ObjectId>),
    Push(Vec<PushSpec>),
}

impl<'a> Session<'a> {
    pub(super) fn new(
        invocation: &'a Invocation,
        verbosity: &'a Verbosity,
        name: &'a str,
        url: &'a str,
    ) -> Self {
        Self {
            invocation,
            verbosity,
            name,
            url,
            options: Options::default(),
            profile: None,
            opened: None,
        }
    }

    /// Answers commands like [`answer`](Self::answer), and explains failures.
    pub(super) async fn run(
        mut self,
        input: impl AsyncBufRead + Unpin + Send + 'static,
        output: impl AsyncWrite + Unpin + Send,
    ) -> Result<Ended> {
        match self.answer(input, output).await {
            Ok(ended) => Ok(ended),
            Err(error) => Err(explain(error, self.profile.as_deref()).await),
        }
    }

    /// Answers commands until a blank line, the end of `input`, or the end of a connection.
    async fn answer(
        &mut self,
        mut input: impl AsyncBufRead + Unpin + Send + 'static,
        mut output: impl AsyncWrite + Unpin + Send,
    ) -> Result<Ended> {
        let mut batch: Option<Batch> = None;
        while let Some(line) = read_line(&mut input).await? {
            match (Command::parse(&line)?, batch.take()) {
                (Command::Fetch(id), Some(Batch::Fetch(mut ids))) => {
                    ids.push(id);
                    batch = Some(Batch::Fetch(ids));
                }
                (Command::Fetch(id), None) => batch = Some(Batch::Fetch(vec![id])),
                (Command::Push(spec), Some(Batch::Push(mut specs))) => {
                    specs.push(spec);
                    batch = Some(Batch::Push(specs));
                }
                (Command::Push(spec), None) => batch = Some(Batch::Push(vec![spec])),
                (Command::Blank, Some(Batch::Fetch(ids))) => {
                    let remote = self.remote().await?;
                    fetch::fetch(&*remote, ids, self.options).await?;
                    write(&mut output, b"\n").await?;
                }
                (Command::Blank, Some(Batch::Push(specs))) => {
                    let remote = self.remote().await?;
                    let lines = push::push(&*remote, specs, self.options).await?;
                    write(&mut output, &lines).await?;
                }
                (_, Some(_)) => {
                    let message = "git sent another command within a batch";
                    return Err(Error::new(ErrorKind::Config, message));
                }
                (Command::Blank, None) => return Ok(Ended::Done),
                (Command::Capabilities, None) => {
                    write(
                        &mut output,
                        b"connect\nfetch\npush\noption\nobject-format\n\n",
                    )
                    .await?;
                }
                (Command::Option { name, value }, None) => {
                    let answer = self.set(name.as_bstr(), value.as_bstr());
                    write(&mut output, answer).await?;
                }
                (Command::List { for_push }, None) => {
                    let remote = self.remote().await?;
                    let lines = list::list(&*remote, for_push, self.options).await?;
                    write(&mut output, &lines).await?;
                }
                (Command::Connect(name), None) => {
                    let Some(service) = Service::named(name.as_bstr()) else {
                        write(&mut output, b"fallback\n").await?;
                        continue;
                    };
                    let (opened, client) = tokio::join!(self.open(), service.client());
                    let Opened { remote, version } = opened?;
                    write(&mut output, b"\n").await?;
                    let served = service.serve(remote, client, version, input, output).await;
                    return match served {
                        Ok(()) => Ok(Ended::Done),
                        Err(error) => {
                            tracing::info!(error = %Error::from(error).report(), "served");
                            Ok(Ended::Reported)
                        }
                    };
                }
            }
        }
        Ok(Ended::Done)
    }

    async fn remote(&mut self) -> Result<Arc<dyn Remote>> {
        Ok(self.open().await?.remote)
    }

    /// Opens the remote, once. Not before git has its answer to `capabilities`, because git adds
    /// a message of its own to failures before that.
    async fn open(&mut self) -> Result<Opened> {
        if let Some(opened) = &self.opened {
            return Ok(opened.clone());
        }
        let url = connection::s3_url(self.url)?;
        let config = GitConfig::read().await?;
        // Git passes the URL in place of a name that the remote does not have.
        let name = (self.name != self.url).then_some(self.name);
        let settings = RemoteSettings::read(&config, name)?;
        self.profile = settings.profile(&url).map(str::to_owned);
        let opening = connection::open(self.invocation, &url, &settings);
        let (remote, git) = tokio::join!(opening, local_git::version());
        let opened = Opened {
            remote: remote?,
            version: protocol_version(&config, git),
        };
        if let Some(name) = name {
            // While git waits, so that a clone's own checkout finds the agent.
            lfs::set_up_remote(&config, name, &url).await;
        }
        self.opened = Some(opened.clone());
        Ok(opened)
    }

    /// Sets an option, and returns the answer. An option that is not supported is said to be, so
    /// that git decides whether it can do without.
    fn set(&mut self, name: &BStr, value: &BStr) -> &'static [u8] {
        let is_true = value == "true";
        match name.as_bytes() {
            b"verbosity" => {
                if value.to_str().ok().and_then(|value| value.parse().ok()) >= Some(2) {
                    self.verbosity.raise();
                }
            }
            b"progress" => self.options.progress = is_true,
            b"dry-run" => self.options.dry_run = is_true,
            b"object-format" if is_true => self.options.object_format = true,
            // Neither changes what is fetched: tags are in `list`, and every pack is complete.
            b"followtags" | b"cloning" => {}
            _ => return b"unsupported\n",
        }
        b"ok\n"
    }
}

/// Returns the version of git's protocol that `protocol.version` asks for; else the latest one that
/// a git of the version `git` knows.
fn protocol_version(config: &GitConfig, git: Option<(u32, u32)>) -> ProtocolVersion {
    match config.get("protocol.version") {
        Some("0") => ProtocolVersion::V0,
        Some("1") => ProtocolVersion::V1,
        _ if git.is_some_and(|git| git < FIRST_WITH_VERSION_2) => ProtocolVersion::V0,
        _ => ProtocolVersion::V2,
    }
}

/// Reads a line without its end; `None` at the end of the input.
async fn read_line(input: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut limited = input.take(MAX_LINE_BYTES);
    limited
        .read_until(b'\n', &mut line)
        .await
        .map_err(|error| io_error("reading from git", error))?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 == MAX_LINE_BYTES {
        let message = "git sent a line of more than 64 KiB";
        return Err(Error::new(ErrorKind::Config, message));
    }
    Ok(Some(line))
}

async fn write(output: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<()> {
    let written = async {
        output.write_all(bytes).await?;
        output.flush().await
    };
    written
        .await
        .map_err(|error| io_error("writing to git", error))
}

fn io_error(what: &str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Transport, what).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_the_protocol_is_one_that_git_knows() {
        let config = |text: &[u8]| GitConfig::parse(text);
        for (text, git, expected) in [
            (&b""[..], Some((2, 17)), ProtocolVersion::V0),
            (b"", Some((2, 18)), ProtocolVersion::V2),
            (b"", Some((3, 0)), ProtocolVersion::V2),
            (b"", None, ProtocolVersion::V2),
            (b"protocol.version\n0\0", Some((2, 50)), ProtocolVersion::V0),
            (b"protocol.version\n1\0", Some((2, 50)), ProtocolVersion::V1),
        ] {
            assert_eq!(protocol_version(&config(text), git), expected, "{git:?}");
        }
    }
}
