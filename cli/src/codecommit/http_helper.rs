//! Git's own HTTP helper, `git remote-https`, with passwords from our credential helper.
//!
//! It writes to git's own pipe: fetched packs do not pass through this program. Git's commands do,
//! because a request for an archive is answered here. Such a request is `stateless-connect
//! git-upload-archive`, and `connect` in git before 2.44 and with older versions of git's protocol.
//! The HTTP helper does not offer `connect`. Where this program offers it, the HTTP helper must not
//! use version 2 of the protocol, whose `list` has no refs.

use std::ffi::OsStr;
use std::process::Stdio;

use branchline_core::git::date::LocalTime;
use branchline_core::git::server::serve_archive;
use branchline_core::{Error, ErrorKind, Result};
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Stdin, copy, stdin,
    stdout,
};
use tokio::process::{Child, ChildStdin, Command};

use super::location::Location;
use super::{archive, credential};
use crate::exit::ExitStatus;
use crate::invocation::Invocation;
use crate::local_git;

/// Maximum length of a command of git in bytes.
const MAX_LINE_BYTES: u64 = 64 * 1024;
/// The first version of git that requests archives by `stateless-connect`.
const STATELESS_ARCHIVE: (u32, u32) = (2, 44);

/// The running helper.
pub(super) struct HttpHelper {
    child: Child,
    to_child: ChildStdin,
    /// `connect` is offered for archives.
    offers_connect: bool,
}

/// Reason why commands are not passed on any more.
enum Passed {
    /// Git has closed the pipe.
    End,
    /// Git requests an archive.
    Archive,
}

impl HttpHelper {
    /// Starts the helper.
    pub(super) async fn start(
        invocation: &Invocation,
        remote: &OsStr,
        location: &Location,
    ) -> Result<Self> {
        let (version, protocol) = tokio::join!(local_git::version(), local_git::protocol_version());
        let is_stateless = protocol == 2 && version.is_none_or(|found| found >= STATELESS_ARCHIVE);
        let scheme = location.server.scheme();
        let mut command = Command::new("git");
        command
            .arg(format!("remote-{scheme}"))
            .arg(remote)
            .arg(location.server.to_string())
            .env(
                "GIT_CONFIG_PARAMETERS",
                configuration(invocation, location, !is_stateless && protocol == 2)?,
            )
            .stdin(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| {
            Error::new(ErrorKind::Config, "`git` cannot be started")
                .with_source(error)
                .with_hint("install git, or put its directory into PATH")
        })?;
        let to_child = child.stdin.take();
        Ok(Self {
            child,
            to_child: to_child.expect("because the command was started with a pipe"),
            offers_connect: !is_stateless,
        })
    }

    /// Passes on the commands of git until the helper ends, and returns its exit status; answers
    /// archives instead of the helper.
    pub(super) async fn serve(
        self,
        invocation: &Invocation,
        location: &Location,
    ) -> Result<ExitStatus> {
        let Self {
            mut child,
            to_child,
            offers_connect,
        } = self;
        let mut input = BufReader::new(stdin());
        let passed = tokio::select! {
            status = child.wait() => return exit_status(status),
            passed = forward(&mut input, to_child, offers_connect) => passed?,
        };
        match passed {
            Passed::End => exit_status(child.wait().await),
            Passed::Archive => {
                let archives = archive::open(invocation, location, LocalTime::now()).await?;
                drop(child);
                let mut output = stdout();
                write(&mut output, b"\n").await?;
                // A failure was shown by git.
                let served = serve_archive(&archives, input, output).await;
                Ok(match served {
                    Ok(()) => ExitStatus::Done,
                    Err(_) => ExitStatus::Failed,
                })
            }
        }
    }
}

/// Forwards commands, and all that follows `stateless-connect`.
async fn forward(
    input: &mut BufReader<Stdin>,
    mut to_child: ChildStdin,
    offers_connect: bool,
) -> Result<Passed> {
    let mut output = stdout();
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut *input).take(MAX_LINE_BYTES);
        let read = limited.read_until(b'\n', &mut line).await;
        read.map_err(|error| {
            Error::new(ErrorKind::Transport, "reading from git").with_source(error)
        })?;
        let command = line.strip_suffix(b"\n").unwrap_or(&line);
        match command {
            b"" if line.is_empty() => return Ok(Passed::End),
            b"stateless-connect git-upload-archive" => return Ok(Passed::Archive),
            b"connect git-upload-archive" if offers_connect => return Ok(Passed::Archive),
            b"capabilities" if offers_connect => write(&mut output, b"connect\n").await?,
            _ if offers_connect && command.starts_with(b"connect ") => {
                write(&mut output, b"fallback\n").await?;
                continue;
            }
            _ => {}
        }
        // A failure means that the helper has ended, whose status then counts.
        if to_child.write_all(&line).await.is_err() {
            return std::future::pending().await;
        }
        // The rest is not lines.
        if command.starts_with(b"stateless-connect ") {
            let copied = copy(input, &mut to_child).await;
            return match copied {
                Ok(_) => Ok(Passed::End),
                Err(_) => std::future::pending().await,
            };
        }
    }
}

async fn write(output: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8]) -> Result<()> {
    let written = async {
        output.write_all(bytes).await?;
        output.flush().await
    };
    written
        .await
        .map_err(|error| Error::new(ErrorKind::Transport, "writing to git").with_source(error))
}

fn exit_status(status: std::io::Result<std::process::ExitStatus>) -> Result<ExitStatus> {
    let status = status
        .map_err(|error| Error::new(ErrorKind::Internal, "git's HTTP helper").with_source(error))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitStatus::of_child(code.unwrap_or(1)))
}

/// Returns the configuration of the helper's git: that of `git -c`, followed by our credential
/// helper in place of all others for the server.
///
/// # Errors
/// `Config` when the path of this program is not known.
fn configuration(
    invocation: &Invocation,
    location: &Location,
    old_protocol: bool,
) -> Result<String> {
    let program = invocation.program.as_deref().and_then(|path| path.to_str());
    let program = program
        .ok_or_else(|| Error::new(ErrorKind::Config, "the path of this program is not known"))?;
    let server = &location.server;
    let section = format!("credential.{}://{}", server.scheme(), server.authority());
    let helper = format!(
        "!{} --as {} {}",
        quoted(program),
        credential::NAME,
        quoted(&location.full_url())
    );
    let mut settings = vec![
        format!("{section}.helper="),
        format!("{section}.helper={helper}"),
        format!("{section}.useHttpPath=true"),
    ];
    if old_protocol {
        settings.push("protocol.version=0".to_owned());
    }
    let earlier = invocation.text("GIT_CONFIG_PARAMETERS").map(str::to_owned);
    let settings = settings.iter().map(|setting| quoted(setting));
    let all: Vec<String> = earlier.into_iter().chain(settings).collect();
    Ok(all.join(" "))
}

/// Quotes a word for a shell, and for git.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_as_shells_and_git_read_it() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
