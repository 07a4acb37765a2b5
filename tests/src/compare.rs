//! Comparison of an artifact with `git archive` of its commit, entry by entry and as
//! unpacked by Info-ZIP.

use std::io::{Cursor, Read as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use branchline_test_support::git;

/// One entry of a zip, as far as two archives of a commit must agree on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// File name in bytes, because a zip need not be UTF-8.
    pub name: Vec<u8>,
    /// Unix mode; `None` where the archive does not record one.
    pub mode: Option<u32>,
    /// Modification time, to two seconds.
    pub time: Option<zip::DateTime>,
    /// Extra field, which has the exact time.
    pub extra: Vec<u8>,
    /// Uncompressed content.
    pub content: Vec<u8>,
}

/// Size of two archives that agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// Number of entries of each.
    pub entries: usize,
    /// Uncompressed size of each, in bytes.
    pub bytes: u64,
}

/// Compares an artifact with `git archive` of `commit` in `repository`; an error says
/// where they differ.
pub fn with_git_archive(artifact: &[u8], repository: &Path, commit: &str) -> Result<Agreement> {
    let mut archive = git::command(repository);
    archive.args(["archive", "--format=zip", commit]);
    let wanted = git::run_bytes(&mut archive)?;
    let (comment, ours) = read(artifact).context("the artifact")?;
    let (wanted_comment, theirs) = read(&wanted).context("git's archive")?;
    if comment != wanted_comment {
        bail!("the artifact's comment is {comment:?}, that of git's archive {wanted_comment:?}");
    }
    for (ours, theirs) in ours.iter().zip(&theirs) {
        if ours != theirs {
            let name = String::from_utf8_lossy(&theirs.name);
            bail!(
                "entry `{name}` differs from git's: {} and {}",
                show(ours),
                show(theirs)
            );
        }
    }
    if ours.len() != theirs.len() {
        bail!(
            "the artifact has {} entries, git's archive {}",
            ours.len(),
            theirs.len()
        );
    }
    let folder = tempfile::tempdir()?;
    for (name, bytes) in [("artifact", artifact), ("git-archive", &wanted)] {
        let zip = folder.path().join(format!("{name}.zip"));
        std::fs::write(&zip, bytes)?;
        let mut unzip = Command::new("unzip");
        unzip
            .arg("-q")
            .arg(&zip)
            .arg("-d")
            .arg(folder.path().join(name));
        succeed(&mut unzip)?;
    }
    let mut diff = Command::new("diff");
    diff.current_dir(folder.path())
        .args(["-r", "--no-dereference", "artifact", "git-archive"]);
    succeed(&mut diff)?;
    Ok(Agreement {
        entries: ours.len(),
        bytes: ours.iter().map(|entry| entry.content.len() as u64).sum(),
    })
}

fn show(entry: &Entry) -> String {
    let name = String::from_utf8_lossy(&entry.name);
    let mode = entry
        .mode
        .map_or_else(|| "none".to_owned(), |mode| format!("{mode:o}"));
    let bytes = entry.content.len();
    format!("`{name}` (mode {mode}, {bytes} bytes, {:?})", entry.time)
}

fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .with_context(|| format!("`{program}` cannot be started"))?;
    if !output.status.success() {
        bail!(
            "`{program}` failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Reads a zip and returns its comment and its entries in order.
pub fn read(zip: &[u8]) -> Result<(String, Vec<Entry>)> {
    let mut archive = zip::ZipArchive::new(Cursor::new(zip))?;
    let comment = String::from_utf8(archive.comment().to_vec())?;
    let mut entries = Vec::new();
    for at in 0..archive.len() {
        let mut entry = archive.by_index(at)?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        entries.push(Entry {
            name: entry.name_raw().to_vec(),
            mode: entry.unix_mode(),
            time: entry.last_modified(),
            extra: entry.extra_data().unwrap_or_default().clone(),
            content,
        });
    }
    Ok((comment, entries))
}
