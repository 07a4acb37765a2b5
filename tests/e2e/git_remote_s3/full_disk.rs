//! A full disk where the pack cache, temporary files and clones are.

use anyhow::Result;
use branchline_test_support::git;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::environment::{Outcome, Terminal, url};

/// Exit status of the script where a file system cannot be mounted.
const CANNOT_MOUNT: i32 = 77;

/// A small file system, mounted on a directory while git runs.
pub(super) struct SmallDisk<'a> {
    /// The directory, below that of the terminal.
    pub(super) mount_point: &'a str,
    /// Size of the file system, as `mount` reads it.
    pub(super) size: &'a str,
    /// Directories whose files are listed on standard output after git has ended.
    pub(super) listed: &'a [&'a str],
}

impl SmallDisk<'_> {
    /// Runs git, whose output is among its messages; `None` for a user who may not mount.
    pub(super) async fn git(
        &self,
        terminal: &Terminal,
        arguments: &[&str],
    ) -> Result<Option<Outcome>> {
        std::fs::create_dir_all(terminal.path(self.mount_point))?;
        let script = format!(
            "mount -t tmpfs -o size={},mode=700 tmpfs \"{}\" || exit {CANNOT_MOUNT}; \
             git \"$@\" >&2; status=$?; find {} -type f 2>/dev/null; exit $status",
            self.size,
            self.mount_point,
            self.listed.join(" "),
        );
        let all = [&["--mount", "sh", "-c", &script, "sh"], arguments].concat();
        let outcome = terminal.run("unshare", &all).await?;
        if outcome.status == Some(CANNOT_MOUNT) || outcome.stderr.contains("unshare failed") {
            eprintln!("skipped: this user may not mount a file system");
            return Ok(None);
        }
        Ok(Some(outcome))
    }
}

/// A disk of 256 KiB.
fn small_disk(mount_point: &str) -> SmallDisk<'_> {
    SmallDisk {
        mount_point,
        size: "256k",
        listed: &["temporary", "cache"],
    }
}

/// Starts a terminal with directories of its own for temporary files and the pack cache, and the
/// repository `work`, whose last commit has a file of `bytes` bytes that does not compress.
async fn terminal_with_large_file(bytes: usize) -> Result<Terminal> {
    let mut terminal = Terminal::start().await?;
    for (name, path) in [("TMPDIR", "temporary"), ("XDG_CACHE_HOME", "cache")] {
        let path = terminal.path(path);
        std::fs::create_dir(&path)?;
        terminal.set(name, path.to_str());
    }
    terminal.repository("work", 6)?;
    let mut large = vec![0; bytes];
    StdRng::seed_from_u64(1).fill(&mut large[..]);
    std::fs::write(terminal.path("work/large"), large)?;
    git::commit(&terminal.path("work"), &[], "large")?;
    Ok(terminal)
}

/// "A full disk costs the cached pack, and nothing else."
#[tokio::test]
async fn a_full_disk_of_the_cache_and_of_temporary_files_fails_no_push_and_no_clone() -> Result<()>
{
    let terminal = terminal_with_large_file(8 << 20).await?;
    for layout in ["bundle", "dumb"] {
        let url = url(layout);
        terminal.init_remote(layout, &url).await?;
        for full in ["cache", "temporary"] {
            git::commit(&terminal.path("work"), &[("file", full)], layout)?;
            let push = ["-C", "work", "push", "--quiet", &url, "main"];
            let Some(pushed) = small_disk(full).git(&terminal, &push).await? else {
                return Ok(());
            };
            assert!(!pushed.stderr.contains("error"), "{layout}: {pushed:?}");
            pushed.done();
            let to = format!("{layout}-{full}");
            let clone = ["clone", "--quiet", &url, &to];
            let Some(cloned) = small_disk(full).git(&terminal, &clone).await? else {
                return Ok(());
            };
            let left = cloned.done();
            let is_left = left.contains(".new") || left.contains("temporary");
            assert!(!is_left, "{layout}, a full {full}: {left}");
            git::git(&terminal.path(&to), ["fsck", "--strict"])?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_clone_onto_a_full_disk_fails_in_gits_words_and_is_removed() -> Result<()> {
    let terminal = terminal_with_large_file(2 << 20).await?;
    for layout in ["bundle", "dumb"] {
        let url = url(layout);
        terminal.init_remote(layout, &url).await?;
        terminal.push(&url, &["main"]).await?.done();
        let clone = ["clone", "--quiet", &url, "full/clone"];
        let Some(cloned) = small_disk("full").git(&terminal, &clone).await? else {
            return Ok(());
        };
        assert_eq!(cloned.status, Some(128), "{layout}: {cloned:?}");
        let said = &cloned.stderr;
        assert!(said.contains("No space left on device"), "{layout}: {said}");
        assert!(!said.contains("panicked"), "{layout}: {said}");
        // The repository in S3 is as it was.
        let listed = terminal.git(&["ls-remote", &url, "main"]).await?.done();
        let id = git::git(&terminal.path("work"), ["rev-parse", "main"])?;
        assert!(listed.starts_with(&id), "{layout}: {listed}");
    }
    Ok(())
}
