//! The differences between two commits, by git.

use std::path::Path;

use branchline_core::codecommit::{Difference, DifferenceSide};
use branchline_core::git::ObjectId;
use branchline_core::git::object::EntryMode;
use branchline_core::name::CommitId;

use super::git::{git, run};

/// Returns the differences between two commits, in git's order.
pub(crate) fn differences(folder: &Path, before: CommitId, after: CommitId) -> Vec<Difference> {
    let output = run(
        git(folder)
            .args([
                "diff-tree",
                "-r",
                "-z",
                "--raw",
                "--no-renames",
                "--no-abbrev",
            ])
            .args([before.to_string(), after.to_string()]),
        b"",
    );
    let output = String::from_utf8_lossy(&output).into_owned();
    let mut records = output.split_terminator('\0');
    let mut differences = Vec::new();
    while let (Some(head), Some(path)) = (records.next(), records.next()) {
        let words: Vec<&str> = head.trim_start_matches(':').split(' ').collect();
        let side = |mode: &str, id: &str| {
            let mode = match mode {
                "000000" => return None,
                "100755" => EntryMode::BlobExecutable,
                "120000" => EntryMode::Link,
                "160000" => EntryMode::Commit,
                _ => EntryMode::Blob,
            };
            Some(DifferenceSide {
                path: path.to_owned(),
                mode,
                id: ObjectId::from_hex(id.as_bytes()).unwrap(),
            })
        };
        differences.push(Difference {
            before: side(words[0], words[2]),
            after: side(words[1], words[3]),
        });
    }
    differences
}
