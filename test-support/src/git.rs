//! Git in one hermetic environment: that of `PATH`, or that of `BRANCHLINE_GIT`.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use anyhow::{Context as _, Result, bail};

/// The global configuration of each git: a file without settings.
const EMPTY_CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/empty.gitconfig");

/// Author date and committer date of each commit: seconds since the epoch, and the zone.
const DATE: &str = "1700000000 +0000";

/// The variable with a git to test with: its path, or the folder of its programs.
const CHOSEN_GIT: &str = "BRANCHLINE_GIT";

/// Returns whether git has this version or a later one.
pub fn is_at_least(version: (u32, u32)) -> bool {
    *VERSION >= version
}

/// The first two numbers of git's version.
static VERSION: LazyLock<(u32, u32)> = LazyLock::new(|| {
    let printed = git(&std::env::temp_dir(), ["version"]).expect("because the tests need git");
    let numbers = printed.split(' ').nth(2).unwrap_or_default();
    let mut numbers = numbers.split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => panic!("`{printed}` does not name a version"),
    }
});

/// Returns the `PATH` of commands, on which the git of `BRANCHLINE_GIT` comes first.
pub fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let chosen = std::env::var_os(CHOSEN_GIT);
    let Some(chosen) = chosen.as_deref().map(Path::new) else {
        return path;
    };
    let folder = if chosen.is_dir() {
        Some(chosen)
    } else {
        chosen.parent()
    };
    let folder = folder.expect("because a program is in a folder");
    let mut all = folder.as_os_str().to_owned();
    all.push(":");
    all.push(path);
    all
}

/// Clears the environment of `command`, but for `PATH`, and sets what git reads: no
/// configuration but the repository's own, one author, one committer and one date.
pub fn make_hermetic(command: &mut Command, home: &Path) {
    command
        .env_clear()
        .env("PATH", search_path())
        .env("HOME", home)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", EMPTY_CONFIG)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_AUTHOR_NAME", "A U Thor")
        .env("GIT_AUTHOR_EMAIL", "author@example.com")
        .env("GIT_AUTHOR_DATE", DATE)
        .env("GIT_COMMITTER_NAME", "C O Mitter")
        .env("GIT_COMMITTER_EMAIL", "committer@example.com")
        .env("GIT_COMMITTER_DATE", DATE)
        .env("LC_ALL", "C")
        .env("TZ", "UTC");
}

/// Returns a git command in `folder`, in the environment of [`make_hermetic`].
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new("git");
    make_hermetic(&mut command, folder);
    command.current_dir(folder);
    command
}

/// Runs git in `folder` and returns its standard output without the last newline.
///
/// # Errors
/// Git cannot be started, fails, or prints bytes that are not UTF-8.
pub fn git<S: AsRef<OsStr>>(
    folder: &Path,
    arguments: impl IntoIterator<Item = S>,
) -> Result<String> {
    run(command(folder).args(arguments))
}

/// Runs `command` and returns its standard output without the last newline.
///
/// # Errors
/// As of [`git()`].
pub fn run(command: &mut Command) -> Result<String> {
    let text = String::from_utf8(run_bytes(command)?).context("git printed bytes, not text")?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// Runs `command` and returns its standard output as bytes.
///
/// # Errors
/// Git cannot be started or fails.
pub fn run_bytes(command: &mut Command) -> Result<Vec<u8>> {
    run_with_input(command, b"")
}

/// Runs `command` with `input` on its standard input and returns its standard output.
///
/// # Errors
/// Git cannot be started or fails.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let output = output(command, input)?;
    if !output.status.success() {
        let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        bail!(
            "`{} {}` failed ({}): {}",
            command.get_program().display(),
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}

/// Runs `command` with `input` on its standard input, whether it succeeds or not.
///
/// # Errors
/// The command cannot be started.
pub fn output(command: &mut Command, input: &[u8]) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{}` cannot be started", command.get_program().display()))?;
    let mut stdin = child.stdin.take().context("standard input is not piped")?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Git may end before it has read everything.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().context("git cannot be awaited")
    })
}

/// Creates a repository in `folder` with the unborn branch `main` checked out.
///
/// # Errors
/// The folder cannot be created, or git fails.
pub fn init(folder: &Path) -> Result<()> {
    init_with(folder, &[])
}

/// Creates a bare repository in `folder` whose `HEAD` is the unborn branch `main`.
///
/// # Errors
/// The folder cannot be created, or git fails.
pub fn init_bare(folder: &Path) -> Result<()> {
    init_with(folder, &["--bare"])
}

fn init_with(folder: &Path, options: &[&str]) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    git(folder, [&["init", "--quiet"], options].concat())?;
    git(folder, ["symbolic-ref", "HEAD", "refs/heads/main"]).map(drop)
}

/// Writes `files` (paths and texts), commits all changes and returns the commit's id.
///
/// # Errors
/// A file cannot be written, or git fails.
pub fn commit(folder: &Path, files: &[(&str, &str)], message: &str) -> Result<String> {
    for (path, text) in files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)?;
    }
    git(folder, ["add", "--all"])?;
    git(
        folder,
        ["commit", "--quiet", "--allow-empty", "--message", message],
    )?;
    git(folder, ["rev-parse", "HEAD"])
}
