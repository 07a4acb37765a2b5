//! Selection of packs to merge: those that break the geometric progression of sizes, as in
//! `git repack --geometric=2`. So a repository of n objects has about log n packs, and each
//! object is rewritten about log n times.

/// A pack is not merged if it is this many times larger than all smaller packs together.
const FACTOR: u64 = 2;

/// Returns the number of packs to merge, from the smallest one on: 0, or at least 2.
/// `objects` are the packs' numbers of objects, in ascending order.
pub(super) fn merge_count(objects: &[u64]) -> usize {
    let large_enough = |large: u64, small: u64| large >= small.saturating_mul(FACTOR);
    let mut split = objects.len().saturating_sub(1);
    while split > 0 && large_enough(objects[split], objects[split - 1]) {
        split -= 1;
    }
    if split == 0 {
        return 0;
    }
    split += 1;
    let mut total: u64 = objects[..split].iter().sum();
    for next in &objects[split..] {
        if large_enough(*next, total) {
            break;
        }
        total += next;
        split += 1;
    }
    split
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    fn git(folder: &Path, words: &[&str], input: &str) -> String {
        let mut git = Command::new("git")
            .args(words)
            .current_dir(folder)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("HOME", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        git.stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = git.wait_with_output().unwrap();
        assert!(output.status.success(), "git {words:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns the sizes of the packs after `git repack --geometric=2` of packs of these sizes.
    fn as_git_repacks(objects: &[u64]) -> Vec<u64> {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        git(folder, &["init", "-q", "--bare", "."], "");
        let mut blob = 0;
        for count in objects {
            let mut stream = String::new();
            for _ in 0..*count {
                blob += 1;
                write!(stream, "blob\ndata 8\n{blob:08}\n").unwrap();
            }
            // Makes a pack of each stream instead of loose objects.
            let unpack = "fastimport.unpackLimit=0";
            let words = ["-c", unpack, "fast-import", "--quiet"];
            git(folder, &words, &stream);
        }
        git(folder, &["repack", "-q", "-d", "--geometric=2"], "");
        let mut sizes = Vec::new();
        for entry in std::fs::read_dir(folder.join("objects/pack")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "idx") {
                let words = ["verify-pack", "-v", path.to_str().unwrap()];
                let listed = git(folder, &words, "");
                sizes.push(
                    listed
                        .lines()
                        .filter(|line| line.contains(" blob "))
                        .count() as u64,
                );
            }
        }
        sizes.sort_unstable();
        sizes
    }

    #[test]
    fn git_merges_the_same_packs() {
        for objects in [
            &[5, 10, 20][..],
            &[5, 5],
            &[1, 100],
            &[3, 3, 100],
            &[3, 3, 11, 100],
            &[3, 3, 12, 100],
            &[1, 2, 4, 8, 15],
            &[2, 7, 9, 40, 41],
        ] {
            let merged = merge_count(objects);
            let mut ours = objects[merged..].to_vec();
            ours.extend((merged > 0).then(|| objects[..merged].iter().sum::<u64>()));
            ours.sort_unstable();
            assert_eq!(ours, as_git_repacks(objects), "{objects:?}");
        }
    }

    #[test]
    fn only_packs_that_break_the_progression_are_merged() {
        for (objects, merged) in [
            (&[][..], 0),
            (&[5], 0),
            (&[5, 10, 20], 0),
            (&[5, 5], 2),
            (&[1, 100], 0),
            (&[3, 3, 100], 2),
            (&[3, 3, 11, 100], 3),
            (&[3, 3, 12, 100], 2),
            (&[1, 2, 4, 8, 15], 5),
        ] {
            assert_eq!(merge_count(objects), merged, "{objects:?}");
        }
    }

    proptest! {
        #[test]
        fn packs_after_a_merge_form_a_progression(mut objects in prop::collection::vec(1..1000_u64, 0..20)) {
            objects.sort_unstable();
            let merged = merge_count(&objects);
            prop_assert_ne!(merged, 1);
            let mut left = objects.split_off(merged);
            if merged > 0 {
                left.insert(0, objects.iter().sum());
            }
            prop_assert!(left.is_sorted_by(|small, large| *large >= small * FACTOR));
        }
    }
}
