//! Commit and path that need an LFS object, for messages about missing ones.

use std::time::Duration;

use branchline_core::lfs::Pointer;
use bstr::ByteSlice as _;

use crate::local_git;

/// Maximum time of the search in a history.
const SEARCH_LIMIT: Duration = Duration::from_secs(5);

/// Finds a commit of the repository that added a pointer to the object; returns its id and
/// the path. `None` if the search takes too long, or if the pointer is not in the form that
/// git-lfs writes.
pub(super) async fn needed_by(pointer: &Pointer) -> Option<(String, String)> {
    let search = tokio::time::timeout(SEARCH_LIMIT, search(pointer)).await;
    search.ok().flatten()
}

async fn search(pointer: &Pointer) -> Option<(String, String)> {
    let blob = pointer.to_blob();
    let blob = local_git::output(["hash-object", "--stdin"], blob.as_bytes()).await;
    let blob = blob.ok()?.trim().to_str().ok()?.to_owned();
    let find = format!("--find-object={blob}");
    let log = [
        "-c",
        "core.quotePath=false",
        "log",
        "--all",
        "HEAD",
        "--raw",
        "--no-abbrev",
        "--no-renames",
        "--format=%H",
        &find,
    ];
    let log = local_git::output(log, b"").await.ok()?;
    parse(&log, &blob)
}

/// Parses the output of `git log --raw --format=%H`, newest commit first; returns the first commit
/// that added `blob`, and its path.
fn parse(log: &[u8], blob: &str) -> Option<(String, String)> {
    let mut commit = None;
    for line in log.lines() {
        if let Some(change) = line.strip_prefix(b":") {
            let (change, path) = change.split_once_str("\t")?;
            // Two modes, the old id, the new one, and the kind of change.
            let new = change.split_str(" ").nth(3);
            if new == Some(blob.as_bytes()) {
                return Some((commit?, path.to_str_lossy().into_owned()));
            }
        } else if !line.is_empty() {
            commit = Some(line.to_str_lossy().into_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_that_added_the_pointer_is_found_not_the_one_that_removed_it() {
        let log = b"ccccccc\n\n:100644 000000 aa 00 D\ta b.bin\n\
                    bbbbbbb\n\n:100644 100644 11 22 M\tother\n:000000 100644 00 aa A\ta b.bin\n";
        let found = parse(log, "aa");
        assert_eq!(found, Some(("bbbbbbb".to_owned(), "a b.bin".to_owned())));
        assert_eq!(parse(log, "33"), None);
        assert_eq!(parse(b"", "aa"), None);
    }
}
