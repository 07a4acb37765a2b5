//! Every target on stable Rust: its findings, its seeds, and damaged seeds.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may fail the test at once"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use branchline_fuzz::mutate::damage;
use branchline_fuzz::seeds::Seeds;
use branchline_fuzz::{TARGETS, Target};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Returns the last part of each path, without its extension.
fn stems(paths: &[PathBuf]) -> BTreeSet<String> {
    let stem = |path: &PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
    paths.iter().map(stem).collect()
}

/// Feeds a target; a panic names the input.
fn feed(target: &Target, input: &[u8], what: &str) {
    let fed = std::panic::catch_unwind(|| (target.run)(input));
    assert!(
        fed.is_ok(),
        "`{}` breaks on {what}: {}",
        target.name,
        input.escape_ascii()
    );
}

#[test]
fn every_target_has_a_program_and_every_finding_has_a_target() {
    let names: BTreeSet<String> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len(), "each name is used once");
    let programs = entries(&here().join("fuzz_targets"));
    assert_eq!(stems(&programs), names, "a program for each target");
    for program in programs {
        let text = std::fs::read_to_string(&program).unwrap();
        let name = program.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(
            text.contains(&format!("::{name}(bytes)")),
            "the program `{name}` calls its target"
        );
    }
    let manifest = std::fs::read_to_string(here().join("Cargo.toml")).unwrap();
    let bins: BTreeSet<String> = manifest
        .split("[[bin]]")
        .skip(1)
        .map(|bin| bin.split('"').nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(bins, names, "`cargo fuzz` knows each target");
    let findings = stems(&entries(&here().join("findings")));
    assert!(
        findings.is_subset(&names),
        "findings have targets: {findings:?}"
    );
}

#[test]
fn findings_break_no_target() {
    for target in TARGETS {
        for path in entries(&here().join("findings").join(target.name)) {
            feed(
                target,
                &std::fs::read(&path).unwrap(),
                &path.to_string_lossy(),
            );
        }
    }
}

#[test]
fn seeds_and_damaged_seeds_break_no_target() {
    let seeds = Seeds::new();
    for target in TARGETS {
        // A fixed seed, so that a failure can be reproduced.
        let mut random = StdRng::seed_from_u64(20_260_101);
        let found = (target.seeds)(&seeds);
        assert!(!found.is_empty(), "`{}` has seeds", target.name);
        for seed in &found {
            feed(target, seed, "a seed");
            for _ in 0..ROUNDS / found.len() {
                let mut bytes = seed.clone();
                damage(&mut bytes, &mut random);
                feed(target, &bytes, "a damaged seed");
            }
        }
        for _ in 0..ROUNDS / 4 {
            let bytes: Vec<u8> = (0..random.random_range(0..80))
                .map(|_| random.random())
                .collect();
            feed(target, &bytes, "noise");
        }
    }
}

/// The number of damaged seeds for each target.
const ROUNDS: usize = 400;
