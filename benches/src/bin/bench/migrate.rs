//! A history into CodeCommit: the migration function and `branchline migrate` in batches beside
//! one plain `git push`, in one run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use branchline_benches::repositories;
use branchline_benches::results::{Output, start_section};
use branchline_benches::run::{self, Measurement};
use branchline_dev::faults::{Fault, Rule, Service, When};
use branchline_test_support::git;
use branchline_test_support::http_backend::HttpBackend;
use branchline_tests::environment::{Setup, TestEnvironment};
use clap::Args;
use serde_json::{Value, json};

/// Measures migrations to CodeCommit.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder with the bootstraps, and with the program `branchline`.
    #[arg(long)]
    bootstraps: PathBuf,
    /// CodeCommit's latency per request, in milliseconds.
    #[arg(long, default_value_t = 20)]
    latency_ms: u64,
    /// Number of commits of the history.
    #[arg(long, default_value_t = 3000)]
    commits: usize,
    /// The script that AWS documents for incremental migrations, to be measured, too.
    #[arg(long, requires = "python")]
    script: Option<PathBuf>,
    /// A Python that has `GitPython`, for the script.
    #[arg(long)]
    python: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Number of branches other than `main`, and of tags.
const BRANCHES: usize = 69;
const TAGS: usize = 69;

/// Measures, and prints the results.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let stage = TestEnvironment::start(Setup {
        migration: Some(Vec::new()),
        // No trigger: nothing else is at work.
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        bootstraps: arguments.bootstraps.clone(),
        timeout: Duration::from_mins(15),
        ..Setup::default()
    })
    .await?;
    let folder = tempfile::tempdir()?;
    let history = folder.path().join("history.git");
    repositories::repository(&history, |out| {
        repositories::commits(out, arguments.commits)?;
        repositories::refs(out, arguments.commits, BRANCHES, TAGS)
    })?;
    // As the large git servers have it; CodeCommit has not.
    git::git(&history, ["config", "uploadpack.allowFilter", "true"])?;
    let small = folder.path().join("warm.git");
    repositories::repository(&small, |out| repositories::commits(out, 1))?;
    // The first call starts the function.
    migrate(&stage, &small, "warm").await?;
    for service in [Service::Git, Service::CodeCommit] {
        stage.server.faults().add(Rule {
            service: Some(service),
            operation: None,
            fault: Fault::Latency(arguments.latency_ms),
            when: When::Always,
        });
    }
    println!(
        "{} commits, {} refs; CodeCommit answers after {} ms",
        arguments.commits,
        1 + BRANCHES + TAGS,
        arguments.latency_ms
    );
    let title = format!(
        "Migration of {} commits with {} refs, {} ms away",
        arguments.commits,
        1 + BRANCHES + TAGS,
        arguments.latency_ms
    );
    start_section(title, "git push");
    Measurement::heads();
    let (mut ours, mut plain, mut script) = (None, None, None);
    let (mut from_url, mut from_clone) = (None, None);
    let programs = &arguments.bootstraps;
    // The better of three each: others use this machine, too.
    for turn in 0..3 {
        let name = format!("ours-{turn}");
        ours = Some(migrate(&stage, &history, &name).await?.better(ours));
        compare(&stage, &history, &name)?;
        let name = format!("terminal-{turn}");
        let server = HttpBackend::start(&history)?;
        let run = at_terminal(&stage, programs, &server.url(), &name).await?;
        from_url = Some(run.better(from_url));
        compare(&stage, &history, &name)?;
        let name = format!("clone-{turn}");
        let run = at_terminal(&stage, programs, &history.display().to_string(), &name).await?;
        from_clone = Some(run.better(from_clone));
        compare(&stage, &history, &name)?;
        let name = format!("git-{turn}");
        plain = Some(push(&stage, &history, &name).await?.better(plain));
        compare(&stage, &history, &name)?;
        if let Some((path, python)) = arguments.script.as_ref().zip(arguments.python.as_ref()) {
            let name = format!("script-{turn}");
            let run = incrementally(&stage, &history, &name, path, python).await?;
            script = Some(run.better(script));
            compare(&stage, &history, &name)?;
        }
    }
    let (ours, plain) = ours.zip(plain).context("there are three turns")?;
    let (from_url, from_clone) = from_url.zip(from_clone).context("there are three turns")?;
    ours.print("migration, in batches");
    from_url.print("branchline migrate, from a server");
    from_clone.print("branchline migrate, from a clone");
    plain.print("git push, at once");
    for (name, one, other) in [
        ("migration / git push", &ours, &plain),
        ("migrate from a server / migration", &from_url, &ours),
        ("migrate from a clone / git push", &from_clone, &plain),
    ] {
        println!("{name:<44}{:>10.2} x", one.ratio(other));
    }
    if let Some(script) = script {
        script.print("the script, in batches");
        println!(
            "faster than the script              {:.1} x",
            script.ratio(&ours)
        );
    }
    stage.server.shutdown().await;
    arguments.output.save()
}

async fn migrate(stage: &TestEnvironment, repository: &Path, name: &str) -> Result<Measurement> {
    stage.create_repository(name).await?;
    let server = HttpBackend::start(repository)?;
    let event: Value = json!({ "mappings": [{
        "source": server.url(), "target": format!("codecommit://{name}"),
    }]});
    run::migrate(stage, &event, Service::Git).await
}

/// Migrates by `branchline migrate` from a URL or a clone.
async fn at_terminal(
    stage: &TestEnvironment,
    programs: &Path,
    from: &str,
    name: &str,
) -> Result<Measurement> {
    stage.create_repository(name).await?;
    let to = format!("codecommit://{name}");
    let words = ["migrate", "--local", from, "--remote", &to];
    run::command_line(stage, programs, &words, Service::Git).await
}

async fn push(stage: &TestEnvironment, repository: &Path, name: &str) -> Result<Measurement> {
    stage.create_repository(name).await?;
    let mut command = stage.git(repository);
    command
        .args(["push", "--quiet", &stage.clone_url(name)])
        .args(["refs/heads/*:refs/heads/*", "refs/tags/*:refs/tags/*"]);
    run::program(stage, command, Service::Git).await
}

/// Runs the script in a clone that has all branches, as it wants it.
async fn incrementally(
    stage: &TestEnvironment,
    repository: &Path,
    name: &str,
    script: &Path,
    python: &Path,
) -> Result<Measurement> {
    stage.create_repository(name).await?;
    let clone = repository.with_extension(name);
    let mut command = stage.git(repository);
    command
        .args(["clone", "--quiet", "--mirror", "."])
        .arg(&clone);
    run::program(stage, command, Service::Git).await?;
    let url = stage.clone_url(name);
    git::git(&clone, ["remote", "add", "codecommit", &url])?;
    let mut command = std::process::Command::new(python);
    command
        .arg(script)
        .arg("-l")
        .arg(&clone)
        .args(["-r", "codecommit"]);
    run::program(stage, command, Service::Git).await
}

fn compare(stage: &TestEnvironment, repository: &Path, name: &str) -> Result<()> {
    let there = stage.server.codecommit().repository_dir(name);
    run::same(&[repository, &there.context("it was created")?])
}
