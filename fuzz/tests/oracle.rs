//! Comparison with git: legal ref names, and accepted packs.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use branchline_core::name::RefName;
use branchline_fuzz::mutate::{damage, odd_name};
use branchline_fuzz::pack::accepted;
use branchline_fuzz::seeds::Seeds;
use branchline_fuzz::{TARGETS, Target};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

fn git(folder: &Path, args: &[&str]) -> Command {
    let mut command = branchline_test_support::git::command(folder);
    command.args(args).stdout(Stdio::null());
    command
}

#[test]
fn a_ref_name_is_legal_if_and_only_if_git_accepts_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let mut legal = 0;
    for _ in 0..300 {
        let name = format!("refs/heads/{}", odd_name(&mut random));
        let gits = git(folder.path(), &["check-ref-format", &name])
            .status()
            .unwrap();
        legal += u32::from(gits.success());
        assert_eq!(RefName::new(&name).is_ok(), gits.success(), "{name:?}");
    }
    assert!((20..280).contains(&legal), "both kinds were asked: {legal}");
}

#[test]
fn git_accepts_every_pack_that_is_accepted_here() {
    let folder = tempfile::tempdir().unwrap();
    let init = git(folder.path(), &["init", "-q", "--bare", "."])
        .status()
        .unwrap();
    assert!(init.success());
    let target: &Target = TARGETS.iter().find(|t| t.name == "pack_entries").unwrap();
    let seeds = (target.seeds)(&Seeds::new());
    let mut random = StdRng::seed_from_u64(8);
    let mut asked = 0;
    let damaged = (0..3000).map(|n| {
        let mut bytes = seeds[n % seeds.len()].clone();
        damage(&mut bytes, &mut random);
        bytes
    });
    for bytes in seeds.iter().cloned().chain(damaged) {
        let Some(pack) = accepted(&bytes) else {
            continue;
        };
        let mut command = git(folder.path(), &["index-pack", "--stdin"]);
        let mut git = command.stdin(Stdio::piped()).spawn().unwrap();
        // A refusal is seen in the exit status.
        let _ = git.stdin.take().unwrap().write_all(&pack);
        let ended = git.wait().unwrap();
        assert!(
            ended.success(),
            "git refuses what is made of {}",
            bytes.escape_ascii()
        );
        asked += 1;
        if asked == 60 {
            return;
        }
    }
    assert!(asked >= seeds.len(), "git was asked: {asked}");
}
