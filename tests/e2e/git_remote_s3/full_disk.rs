//! A full disk where the pack cache, temporary files and clones are.

use anyhow::Result;
use branchline_test_support::git;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::environment::{Outcome, Terminal, url};

/// Exit status of the script where a file system cannot be mounted.
const CANNOT_MOUNT: i32 = 77;

/// Runs git while a file system of 256 KiB is mounted on a directory, whose files are then listed
/// on standard output; `None` for a user who may not mount.
async fn git_with_full(
    terminal: &Terminal,
    directory: &str,
    arguments: &[&str],
) -> Result<Option<Outcome>> {
    std::fs::create_dir_all(terminal.path(directory))?;
    let script = format!(
        "mount -t tmpfs -o size=256k,mode=700 tmpfs \"$1\" || exit {CANNOT_MOUNT}; shift; \
         git \"$@\" >&2; status=$?; find \"$TMPDIR\" \"$XDG_CACHE_HOME\" -type f; exit $status"
    );
    let path = terminal.path(directory).display().to_string();
    let mut all = vec!["--mount", "sh", "-c", &script, "sh", &path];
    all.extend(arguments);
    let outcome = terminal.run("unshare", &all).await?;
    if outcome.status == Some(CANNOT_MOUNT) || outcome.stderr.contains("unshare failed") {
        eprintln!("skipped: this user may not mount a file system");
        return Ok(None);
    }
    Ok(Some(outcome))
}

/// "A full disk costs the cached pack, and nothing else."
#[tokio::test]
async fn a_full_disk_of_the_cache_and_of_temporary_files_fails_no_push_and_no_clone() -> Result<()>
{
    let mut terminal = Terminal::start().await?;
    for (name, path) in [("TMPDIR", "temporary"), ("XDG_CACHE_HOME", "cache")] {
        let path = terminal.path(path);
        std::fs::create_dir(&path)?;
        terminal.set(name, path.to_str());
    }
    terminal.repository("work", 6)?;
    let mut large = vec![0; 8 << 20];
    StdRng::seed_from_u64(1).fill(&mut large[..]);
    std::fs::write(terminal.path("work/large"), large)?;
    git::commit(&terminal.path("work"), &[], "large")?;
    for layout in ["bundle", "dumb"] {
        let url = url(layout);
        terminal.init_remote(layout, &url).await?;
        for full in ["cache", "temporary"] {
            git::commit(&terminal.path("work"), &[("file", full)], layout)?;
            let push = ["-C", "work", "push", "--quiet", &url, "main"];
            let Some(pushed) = git_with_full(&terminal, full, &push).await? else {
                return Ok(());
            };
            assert!(!pushed.stderr.contains("error"), "{layout}: {pushed:?}");
            pushed.done();
            let to = format!("{layout}-{full}");
            let clone = ["clone", "--quiet", &url, &to];
            let Some(cloned) = git_with_full(&terminal, full, &clone).await? else {
                return Ok(());
            };
            let left = cloned.done();
            assert!(!left.contains("temporary/"), "{layout}: {left}");
            let is_left = left.contains(".new") || left.contains("temporary");
            assert!(!is_left, "{layout}, a full {full}: {left}");
            git::git(&terminal.path(&to), ["fsck", "--strict"])?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_clone_onto_a_full_disk_fails_in_gits_words_and_is_removed() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    for name in ["TMPDIR", "XDG_CACHE_HOME"] {
        let path = terminal.path(name);
        std::fs::create_dir(&path)?;
        terminal.set(name, path.to_str());
    }
    terminal.repository("work", 6)?;
    let mut large = vec![0; 2 << 20];
    StdRng::seed_from_u64(1).fill(&mut large[..]);
    std::fs::write(terminal.path("work/large"), large)?;
    git::commit(&terminal.path("work"), &[], "large")?;
    for layout in ["bundle", "dumb"] {
        let url = url(layout);
        terminal.init_remote(layout, &url).await?;
        terminal.push(&url, &["main"]).await?.done();
        let clone = ["clone", "--quiet", &url, "full/clone"];
        let Some(cloned) = git_with_full(&terminal, "full", &clone).await? else {
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
