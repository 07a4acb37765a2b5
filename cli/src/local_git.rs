//! Git commands in the user's repository, which `GIT_DIR` or the current directory names.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Output, Stdio};

use branchline_core::git::{HashKind, ObjectId};
use branchline_core::{Error, ErrorKind, Result};
use bstr::{BStr, BString, ByteSlice as _};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

/// Values of git's configuration, by key; of several values the last.
#[derive(Debug, Default)]
pub(crate) struct GitConfig(Vec<(String, String)>);

impl GitConfig {
    /// Reads the keys of branchline and those of git-lfs, with `git -c` and included files.
    pub(crate) async fn read() -> Result<Self> {
        let keys = r"^(remote\..*\.(s3-.*|lfs(push)?url)|branchline\..*|protocol\.version|lfs\..*|filter\.lfs\..*)$";
        let output = run(["config", "--null", "--get-regexp", keys], b"").await?;
        // Status 1 means that there is no such key.
        Ok(match output.status.code() {
            Some(0) => Self::parse(&output.stdout),
            Some(1) => Self::default(),
            _ => return Err(failed("config", &output)),
        })
    }

    /// Parses the output of `git config --null --get-regexp`; values that are not UTF-8 are
    /// ignored.
    pub(crate) fn parse(output: &[u8]) -> Self {
        let entry = |entry: &[u8]| {
            let (key, value) = entry.split_once_str("\n").unwrap_or((entry, b""));
            let text = |bytes: &[u8]| bytes.to_str().ok().map(str::to_owned);
            Some((text(key)?, text(value)?))
        };
        Self(output.split_str("\0").filter_map(entry).collect())
    }

    /// Returns the value of a key, whose section and last part are in lower case.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let mut entries = self.0.iter().rev();
        entries
            .find(|(found, _)| found == key)
            .map(|(_, value)| value.as_str())
    }
}

/// Returns the seconds since 1970 of a date, in any form that git accepts.
///
/// # Errors
/// `Config` for a text that is not a date.
pub(crate) async fn seconds_of_date(text: &str) -> Result<i64> {
    // git's own parser, which needs no repository here.
    let default = format!("--default={text}");
    let arguments = [
        "config",
        "--file",
        "/dev/null",
        "--type=expiry-date",
        &default,
        "--get",
        "a.b",
    ];
    let output = run(arguments, b"").await?;
    let printed = output.stdout.to_str().unwrap_or_default().trim();
    printed.parse().map_err(|_| failed("config", &output))
}

/// Makes a git command whose messages go to the user.
fn command<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("git");
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    command
}

fn start(command: &mut Command) -> Result<Child> {
    command.spawn().map_err(|error| {
        Error::new(ErrorKind::Config, "`git` cannot be started")
            .with_source(error)
            .with_hint("install git, or put its directory into PATH")
    })
}

/// Runs git with `input`, whose messages are captured.
async fn run<S: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = S>,
    input: &[u8],
) -> Result<Output> {
    let mut command = command(arguments);
    command.stderr(Stdio::piped());
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = start(&mut command)?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // Git may end before it has read everything.
            let _ = stdin.write_all(input).await;
        }
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), feed);
    output.map_err(|error| {
        Error::new(ErrorKind::Internal, "the output of `git` cannot be read").with_source(error)
    })
}

fn failed(name: &str, output: &Output) -> Error {
    let said = output.stderr.to_str_lossy();
    let said = said.trim();
    let said = said.strip_prefix("fatal: ").unwrap_or(said);
    Error::new(ErrorKind::Config, format!("`git {name}` failed: {said}"))
}

/// Runs git, which must succeed, and returns its output.
pub(crate) async fn output<S: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = S>,
    input: &[u8],
) -> Result<BString> {
    let arguments: Vec<S> = arguments.into_iter().collect();
    let name = arguments
        .first()
        .map(|name| name.as_ref().to_string_lossy().into_owned());
    let output = run(arguments, input).await?;
    if output.status.success() {
        Ok(output.stdout.into())
    } else {
        Err(failed(&name.unwrap_or_default(), &output))
    }
}

/// Returns the URL of a remote of the repository, after `url.<base>.insteadOf`.
pub(crate) async fn remote_url(name: &str) -> Result<String> {
    let url = output(["remote", "get-url", "--", name], b"").await?;
    Ok(url.trim().to_str_lossy().into_owned())
}

/// Returns the first two numbers of git's version; `None` if it has another form.
pub(crate) async fn version() -> Option<(u32, u32)> {
    let printed = output(["version"], b"").await.ok()?;
    let printed = printed.to_str().ok()?;
    let mut numbers = printed.split(' ').nth(2)?.split('.');
    Some((
        numbers.next()?.parse().ok()?,
        numbers.next()?.trim().parse().ok()?,
    ))
}

/// Returns the version of git's protocol that `protocol.version` asks for.
pub(crate) async fn protocol_version() -> u8 {
    let value = output(["config", "--get", "protocol.version"], b"").await;
    match value.unwrap_or_default().trim() {
        b"0" => 0,
        b"1" => 1,
        _ => 2,
    }
}

/// Runs `git credential fill`, `approve` or `reject` with a description of the credential; git may
/// ask at the terminal.
pub(crate) async fn credential(verb: &str, description: &[u8]) -> Result<BString> {
    output(["credential", verb], description).await
}

/// Returns the hash function of the repository.
pub(crate) async fn object_format() -> Result<HashKind> {
    let format = output(["rev-parse", "--show-object-format"], b"").await?;
    match format.trim() {
        b"sha256" => Ok(HashKind::Sha256),
        _ => Ok(HashKind::Sha1),
    }
}

/// Returns whether the repository has refs.
pub(crate) async fn has_refs() -> Result<bool> {
    let listed = output(["for-each-ref", "--count=1"], b"").await?;
    Ok(!listed.is_empty())
}

/// Returns whether the repository lacks objects that others need: a shallow or partial clone.
pub(crate) async fn is_incomplete() -> Result<bool> {
    if is_shallow().await? {
        return Ok(true);
    }
    let found = run(["config", "--get", "extensions.partialclone"], b"").await?;
    Ok(found.status.success())
}

/// Returns whether the repository is a shallow clone.
pub(crate) async fn is_shallow() -> Result<bool> {
    let answer = output(["rev-parse", "--is-shallow-repository"], b"").await?;
    Ok(answer.trim() == b"true")
}

/// Returns the ids that refs name.
pub(crate) async fn tips() -> Result<Vec<ObjectId>> {
    let listed = output(["for-each-ref", "--format=%(objectname)"], b"").await?;
    let mut ids: Vec<_> = listed
        .lines()
        .filter_map(|line| ObjectId::from_hex(line).ok())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Returns the branch that is checked out, even if it has no commit.
pub(crate) async fn head() -> Option<BString> {
    let head = output(["symbolic-ref", "--quiet", "HEAD"], b"")
        .await
        .ok()?;
    Some(head.trim().into())
}

/// Resolves a revision to an object id.
pub(crate) async fn resolve(revision: &BStr) -> Result<ObjectId> {
    let revision = revision.to_os_str_lossy();
    let arguments = [
        OsStr::new("rev-parse"),
        "--verify".as_ref(),
        "--end-of-options".as_ref(),
        &revision,
    ];
    let id = output(arguments, b"").await?;
    ObjectId::from_hex(id.trim())
        .map_err(|error| Error::new(ErrorKind::Internal, "`git rev-parse`").with_source(error))
}

/// Resolves a revision in the repository at `path`.
pub(crate) async fn resolve_in(path: &Path, revision: &str) -> Result<ObjectId> {
    let arguments = [
        OsStr::new("-C"),
        path.as_os_str(),
        "rev-parse".as_ref(),
        "--verify".as_ref(),
        "--end-of-options".as_ref(),
        revision.as_ref(),
    ];
    let id = output(arguments, b"").await?;
    ObjectId::from_hex(id.trim())
        .map_err(|error| Error::new(ErrorKind::Internal, "`git rev-parse`").with_source(error))
}

/// Returns the URL that a remote of the repository at `path` is pushed to.
pub(crate) async fn push_url_in(path: &Path, name: &str) -> Result<String> {
    let arguments = [
        OsStr::new("-C"),
        path.as_os_str(),
        "remote".as_ref(),
        "get-url".as_ref(),
        "--push".as_ref(),
        "--".as_ref(),
        name.as_ref(),
    ];
    let url = output(arguments, b"").await?;
    Ok(url.trim().to_str_lossy().into_owned())
}

/// Returns the ids of those objects that the repository has.
pub(crate) async fn existing(ids: &[ObjectId]) -> Result<Vec<ObjectId>> {
    let lines: Vec<String> = ids.iter().map(|id| format!("{id}\n")).collect();
    let input = lines.concat();
    let check = ["cat-file", "--batch-check=%(objectname) %(objecttype)"];
    let listed = output(check, input.as_bytes()).await?;
    let exists = |line: &[u8]| {
        let (id, kind) = line.split_once_str(" ")?;
        (kind != b"missing")
            .then(|| ObjectId::from_hex(id).ok())
            .flatten()
    };
    Ok(listed.lines().filter_map(exists).collect())
}

/// Returns whether a commit is an ancestor of another, or equal to it; `None` if one is missing or
/// not a commit.
pub(crate) async fn is_ancestor(old: ObjectId, new: ObjectId) -> Result<Option<bool>> {
    let (old, new) = (old.to_string(), new.to_string());
    let output = run(["merge-base", "--is-ancestor", &old, &new], b"").await?;
    Ok(match output.status.code() {
        Some(0) => Some(true),
        Some(1) => Some(false),
        _ => None,
    })
}

/// Starts `git index-pack`, which reads a pack from its standard input into the repository.
pub(crate) fn index_pack(progress: bool) -> Result<Child> {
    let mut command = command(["index-pack", "--stdin", "--fix-thin"]);
    if progress {
        command.arg("-v");
    }
    start(command.stdin(Stdio::piped()).stdout(Stdio::null()))
}

/// Starts `git pack-objects`, which writes a pack to its standard output: all that `wants` need
/// and `haves` do not.
pub(crate) async fn pack_objects(
    wants: &[ObjectId],
    haves: &[ObjectId],
    thin: bool,
    progress: bool,
) -> Result<Child> {
    let mut command = command(["pack-objects", "--revs", "--stdout", "--delta-base-offset"]);
    command.arg(if progress { "--progress" } else { "-q" });
    if thin {
        command.arg("--thin");
    }
    let mut child = start(command.stdin(Stdio::piped()))?;
    let wants = wants.iter().map(|id| format!("{id}\n"));
    let haves = haves.iter().map(|id| format!("^{id}\n"));
    let input: String = wants.chain(haves).collect();
    if let Some(mut stdin) = child.stdin.take() {
        // A failure shows in the exit status.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    Ok(child)
}

/// Waits for a command that [`index_pack`] or [`pack_objects`] started.
///
/// # Errors
/// `Internal` when it failed; it has said why.
pub(crate) async fn finish(mut child: Child, name: &str) -> Result<()> {
    let status = child.wait().await.map_err(|error| {
        Error::new(ErrorKind::Internal, format!("`git {name}`")).with_source(error)
    })?;
    if status.success() {
        return Ok(());
    }
    let message = format!("`git {name}` failed ({status})");
    Err(Error::new(ErrorKind::Internal, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_values_the_last_one_counts() {
        let config = GitConfig::parse(b"a.b\n1\0a.B.c\nx\ny\0a.b\n2\0a.flag\0a.bad\n\xff\0");
        assert_eq!(config.get("a.b"), Some("2"));
        assert_eq!(config.get("a.B.c"), Some("x\ny"));
        assert_eq!(config.get("a.flag"), Some(""));
        assert_eq!(config.get("a.bad"), None);
    }
}
