//! `cargo xtask demo --repo PATH` on repositories that are not as usual.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::Result;
use branchline_test_support::git;

fn demo(repository: &Path, data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.arg("--repo").arg(repository);
    command.arg("--data").arg(data);
    command
}

fn printed(output: &Output) -> String {
    let both = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn repository(folder: &Path) -> Result<()> {
    git::init(folder)?;
    git::commit(folder, &[("README", "one\n")], "First")?;
    git::commit(folder, &[("README", "two\n"), ("src/a", "a\n")], "Second").map(drop)
}

#[test]
fn a_shallow_clone_is_shown_without_its_history() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let whole = folder.path().join("whole");
    repository(&whole)?;
    let url = format!("file://{}", whole.display());
    git::git(
        folder.path(),
        ["clone", "--quiet", "--depth=1", &url, "cut"],
    )?;
    let data = folder.path().join("data");
    let output = demo(&folder.path().join("cut"), &data).output()?;
    let text = printed(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("the clone is shallow"), "{text}");
    assert!(text.contains("4 entries"), "{text}");
    // The feature branch.
    for expected in [
        "1 refs created, 0 unchanged",
        "the same as in CodeCommit",
        "0 refs created, 1 unchanged; 0 objects in 0 bytes",
        "git clone --depth=1 s3://repositories/demo shallow",
        "the archive equals git's",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    // The folder of an earlier demo is used again.
    let output = demo(&whole, &data).output()?;
    assert!(output.status.success(), "{}", printed(&output));
    Ok(())
}

#[test]
fn a_folder_with_foreign_files_is_not_changed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let whole = folder.path().join("whole");
    repository(&whole)?;
    let data = folder.path().join("data");
    std::fs::create_dir(&data)?;
    std::fs::write(data.join("thesis.txt"), "years of work")?;
    let output = demo(&whole, &data).output()?;
    let text = printed(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("thesis.txt"), "{text}");
    assert_eq!(
        std::fs::read_to_string(data.join("thesis.txt"))?,
        "years of work"
    );
    Ok(())
}

#[test]
fn ids_that_codecommit_does_not_take_are_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let other = folder.path().join("other");
    std::fs::create_dir(&other)?;
    git::git(&other, ["init", "--quiet", "--object-format=sha256"])?;
    git::commit(&other, &[("README", "one\n")], "First")?;
    let output = demo(&other, &folder.path().join("data")).output()?;
    let text = printed(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("only SHA-1"), "{text}");
    Ok(())
}

/// git sets these for its hooks: a demo or a test that ran in one would commit there.
#[test]
fn a_hooks_variables_do_not_lead_to_another_repository() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let [shown, users] = ["shown", "users"].map(|name| folder.path().join(name));
    repository(&shown)?;
    repository(&users)?;
    let state = || git::git(&users, ["log", "--all", "--format=%H %D"]);
    let before = state()?;
    let output = demo(&shown, &folder.path().join("data"))
        .env("GIT_DIR", users.join(".git"))
        .env("GIT_INDEX_FILE", users.join(".git/index"))
        .output()?;
    assert_eq!(state()?, before, "the user's repository is as it was");
    assert!(output.status.success(), "{}", printed(&output));
    Ok(())
}
