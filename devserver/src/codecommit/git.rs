//! Starts git, and reads its stderr; no other module of `codecommit` runs processes.
//!
//! Every process runs hermetically: no system or user configuration, no prompt, no
//! replacement objects, English messages.

use std::path::Path;
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Builds a git command on the bare repository `dir`, with stdin closed and both outputs piped.
///
/// The process is killed when its handle is dropped.
pub fn command(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("HOME", dir)
        .env("LC_ALL", "C")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("GIT_DIR", dir)
        // The folder may belong to another user than the server's (a mounted volume).
        .args(["-c", "safe.directory=*"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// A failure of a git process.
#[derive(Debug)]
pub struct GitError {
    /// The command.
    pub what: &'static str,
    /// Stderr of the process, or why it could not start.
    pub message: String,
}

impl std::fmt::Display for GitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "git {}: {}", self.what, self.message)
    }
}

impl std::error::Error for GitError {}

impl GitError {
    pub(crate) fn new(what: &'static str, message: impl std::fmt::Display) -> Self {
        Self {
            what,
            message: message.to_string(),
        }
    }
}

impl From<GitError> for crate::aws_json::ApiError {
    fn from(error: GitError) -> Self {
        Self::internal(error)
    }
}

/// Runs `command` to its end and returns its stdout.
pub async fn run(what: &'static str, command: &mut Command) -> Result<Vec<u8>, GitError> {
    let output = command
        .output()
        .await
        .map_err(|error| GitError::new(what, error))?;
    succeeded(what, output)
}

/// Runs `command` with `input` on its stdin and returns its stdout.
///
/// For commands that read all of their input before they write.
pub async fn run_with_input(
    what: &'static str,
    command: &mut Command,
    input: &[u8],
) -> Result<Vec<u8>, GitError> {
    let failed = |error: std::io::Error| GitError::new(what, error);
    let mut child = command.stdin(Stdio::piped()).spawn().map_err(failed)?;
    let mut stdin = child.stdin.take().expect("because stdin is piped above");
    let written = stdin.write_all(input).await;
    drop(stdin);
    let output = child.wait_with_output().await.map_err(failed)?;
    let stdout = succeeded(what, output)?;
    // Git's own message, above, is more precise than a broken pipe.
    written.map_err(failed)?;
    Ok(stdout)
}

fn succeeded(what: &'static str, output: Output) -> Result<Vec<u8>, GitError> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let message = error_lines(&output.stderr);
    Err(GitError::new(
        what,
        if message.is_empty() {
            output.status.to_string()
        } else {
            message
        },
    ))
}

/// Returns the lines of `stderr` that report errors, on one line and without their prefixes.
pub fn error_lines(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let strip = |line: &str| -> String {
        let line = line.trim();
        for prefix in ["fatal: ", "error: "] {
            if let Some(rest) = line.strip_prefix(prefix) {
                return rest.to_owned();
            }
        }
        line.to_owned()
    };
    let lines: Vec<String> = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with("hint: "))
        .map(strip)
        .collect();
    lines.join("; ")
}

/// Returns true if `git update-ref` refused because a ref of that name exists, or one whose
/// path conflicts (`a` and `a/b`).
pub fn is_name_taken(error_lines: &str) -> bool {
    error_lines.contains("reference already exists")
        || error_lines.contains(" exists; cannot create ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_lose_their_prefixes_and_hints() {
        assert_eq!(
            error_lines(b"hint: do this\nerror: one\n\nfatal: two\n"),
            "one; two"
        );
        assert_eq!(error_lines(b"\n"), "");
    }

    #[test]
    fn a_conflicting_ref_is_distinguished_from_other_errors() {
        for stderr in [
            "cannot lock ref 'refs/heads/a': reference already exists",
            "cannot lock ref 'refs/heads/a/b': 'refs/heads/a' exists; cannot create 'refs/heads/a/b'",
        ] {
            assert!(is_name_taken(stderr), "git says so: {stderr}");
        }
        assert!(!is_name_taken(
            "cannot lock ref 'refs/heads/a': Unable to create lock"
        ));
    }
}
