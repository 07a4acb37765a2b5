//! awslabs' client and ours on one bucket, in both directions.

use std::process::Command;

use anyhow::Result;
use branchline_test_support::git;

use super::environment::{Outcome, Terminal, url};

/// Git that finds the Python client; `None` without the Python environment.
pub(super) struct Python<'a> {
    terminal: &'a Terminal,
    path: String,
}

impl<'a> Python<'a> {
    pub(super) fn of(terminal: &'a Terminal) -> Option<Self> {
        let Ok(environment) = std::env::var("BRANCHLINE_VENV") else {
            eprintln!(
                "skipped: BRANCHLINE_VENV is not set; `cargo xtask test` makes that environment"
            );
            return None;
        };
        let path = git::search_path().to_string_lossy().into_owned();
        Some(Self {
            terminal,
            path: format!("{environment}/bin:{path}"),
        })
    }

    pub(super) async fn git(&self, arguments: &[&str]) -> Result<Outcome> {
        self.run(self.terminal.command("git", arguments)).await
    }

    async fn run(&self, mut command: Command) -> Result<Outcome> {
        command
            .env("PATH", &self.path)
            .env("AWS_DEFAULT_REGION", "us-east-1");
        self.terminal.wait_for(command).await
    }
}

const REFS: [&str; 2] = ["for-each-ref", "--format=%(refname) %(objectname)"];

/// Both clients clone what `work` has, and the same branch is checked out.
async fn both_clone(terminal: &Terminal, python: &Python<'_>, url: &str, step: &str) -> Result<()> {
    let expected = git::git(&terminal.path("work"), REFS)?;
    for who in ["ours", "theirs"] {
        let to = format!("{step}-{who}");
        let arguments = ["clone", "--quiet", "--mirror", url, &to];
        let cloned = match who {
            "ours" => terminal.git(&arguments).await?,
            _ => python.git(&arguments).await?,
        };
        cloned.done();
        let path = terminal.path(&to);
        git::git(&path, ["fsck", "--strict", "--no-dangling"])?;
        assert_eq!(git::git(&path, REFS)?, expected, "{step}: {who}");
        let head = git::git(&path, ["symbolic-ref", "HEAD"])?;
        assert_eq!(head, "refs/heads/main", "{step}: {who}");
    }
    Ok(())
}

/// "The Python client and the command line push to and clone from one repository."
#[tokio::test]
async fn the_python_client_and_ours_push_to_and_clone_from_one_repository() -> Result<()> {
    let terminal = Terminal::start().await?;
    let Some(python) = Python::of(&terminal) else {
        return Ok(());
    };
    both_directions(&terminal, &python).await
}

#[tokio::test]
async fn the_same_holds_on_moto() -> Result<()> {
    let Some(terminal) = Terminal::on_moto()? else {
        return Ok(());
    };
    let Some(python) = Python::of(&terminal) else {
        return Ok(());
    };
    both_directions(&terminal, &python).await
}

async fn both_directions(terminal: &Terminal, python: &Python<'_>) -> Result<()> {
    terminal.repository("work", 10)?;
    let work = terminal.path("work");
    let url = url("shared");
    let push = |refspecs: &[&'static str]| {
        let mut arguments = vec!["-C", "work", "push", url.as_str()];
        arguments.extend(refspecs);
        arguments
    };
    terminal
        .git(&push(&["main", "side", "--tags", "refs/notes/commits"]))
        .await?
        .done();
    both_clone(terminal, python, &url, "ours-first").await?;
    git::commit(&work, &[("a", "theirs")], "theirs")?;
    python.git(&push(&["main"])).await?.done();
    both_clone(terminal, python, &url, "then-theirs").await?;
    git::commit(&work, &[("a", "ours")], "ours")?;
    terminal.git(&push(&["main"])).await?.done();
    both_clone(terminal, python, &url, "then-ours").await?;
    // Each deletes and forces what the other pushed.
    git::git(&work, ["update-ref", "-d", "refs/heads/side"])?;
    python.git(&push(&[":side"])).await?.done();
    git::git(&work, ["commit", "--amend", "--message=forced"])?;
    terminal.git(&push(&["+main"])).await?.done();
    git::git(&work, ["tag", "--delete", "light"])?;
    terminal.git(&push(&[":refs/tags/light"])).await?.done();
    both_clone(terminal, python, &url, "forced").await?;
    // A repository that the Python client began.
    let theirs = super::environment::url("theirs");
    python
        .git(&["-C", "work", "push", &theirs, "main"])
        .await?
        .done();
    git::commit(&work, &[("b", "b")], "b")?;
    terminal
        .push(&theirs, &["main", "v1", "refs/notes/commits"])
        .await?
        .done();
    both_clone(terminal, python, &theirs, "theirs-first").await
}

#[tokio::test]
async fn what_the_python_client_leaves_is_fixed_for_both() -> Result<()> {
    let terminal = Terminal::start().await?;
    let Some(python) = Python::of(&terminal) else {
        return Ok(());
    };
    terminal.repository("work", 6)?;
    let url = format!("s3+zip://{}/team/theirs", super::environment::BUCKET);
    let git = async |arguments: &[&str]| -> Result<Outcome> {
        python.git(&[&["-C", "work"], arguments].concat()).await
    };
    git(&["remote", "add", "origin", &url]).await?.done();
    git(&["push", "origin", "main", "side", "v1"]).await?.done();
    // A first path segment that is damage to their doctor, and not to ours.
    let doctor = ["-C", "work", "s3", "doctor", "origin", "--json"];
    let report: serde_json::Value = serde_json::from_str(&terminal.git(&doctor).await?.done())?;
    assert_eq!(report["problems"], serde_json::json!([]), "{report}");
    // They protect, and we respect it; then the other way round.
    let theirs = |words: &[&str]| {
        let program = format!(
            "{}/bin/git-s3",
            std::env::var("BRANCHLINE_VENV").expect("it is set")
        );
        let mut command = terminal.command(&program, words);
        command.current_dir(terminal.path("work"));
        command
    };
    python
        .run(theirs(&["protect", "origin", "side"]))
        .await?
        .done();
    let deleted = ["remote", "delete-branch", &url, "side"];
    let said = terminal.run("branchline", &deleted).await?.failed(1);
    assert!(said.contains("protected"), "{said}");
    let unprotect = ["-C", "work", "s3", "unprotect", "origin", "side"];
    terminal.git(&unprotect).await?.done();
    git(&["push", "origin", ":side"]).await?.done();
    // Their push deletes the branch that `HEAD` names.
    git(&["push", "origin", "main:trunk"]).await?.done();
    git(&["push", "origin", ":main"]).await?.done();
    let report: serde_json::Value = serde_json::from_str(&terminal.git(&doctor).await?.done())?;
    assert_eq!(report["problems"][0]["kind"], "head", "{report}");
    let fix = ["remote", "doctor", "--fix", &url];
    terminal.run("branchline", &fix).await?.done();
    for who in ["ours", "theirs"] {
        let arguments = ["clone", "--quiet", &url, who];
        let cloned = match who {
            "ours" => terminal.git(&arguments).await?,
            _ => python.git(&arguments).await?,
        };
        cloned.done();
        let head = git::git(&terminal.path(who), ["symbolic-ref", "HEAD"])?;
        assert_eq!(head, "refs/heads/trunk", "{who}");
    }
    Ok(())
}
