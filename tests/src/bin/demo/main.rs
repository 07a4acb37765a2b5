//! The product's main jobs on real input: a branch is pushed, and a pipeline runs on
//! exactly that tree; the repository is mirrored into S3, and stock git clones it there; and git
//! pushes to a bucket and clones from it by itself.

mod command_line;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use branchline_dev::faults::Service;
use branchline_dev::pipeline::{Execution, Status};
use branchline_test_support::git;
use branchline_tests::compare;
use branchline_tests::environment::{BUCKET, MIGRATION, PIPELINE, Setup, TestEnvironment};
use clap::Parser;
use serde_json::json;

/// Pushes a repository to the development server and follows the branch to its pipeline.
#[derive(Debug, Parser)]
struct Arguments {
    /// The git repository whose HEAD is pushed.
    #[arg(long, default_value = ".")]
    repo: PathBuf,
    /// Keeps everything in this folder, so that it can be looked at afterwards.
    #[arg(long, default_value = "target/demo")]
    data: PathBuf,
}

/// The repository on the server.
const NAME: &str = "demo";
/// Names of the files that a demo leaves in its folder.
const LEFT_BEHIND: [&str; 4] = ["server", "work", "artifact.zip", "mirror.git"];
/// The bucket that everyone may read.
const MIRRORS: &str = "mirrors";
/// The branch that moves.
const BRANCH: &str = "feature/hello";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let source = arguments
        .repo
        .canonicalize()
        .context("the folder given by --repo")?;
    let source = PathBuf::from(git::git(&source, ["rev-parse", "--absolute-git-dir"])?);
    let format = git::git(&source, ["rev-parse", "--show-object-format"])?;
    if format != "sha1" {
        bail!(
            "{} uses {format} for its ids, and CodeCommit takes only SHA-1; give another \
             repository by --repo",
            source.display()
        );
    }
    clear(&arguments.data)?;
    let demo = Demo {
        paint: std::io::stdout().is_terminal(),
    };

    demo.step("A development server stands in for AWS, with branchline's functions on it");
    let data = arguments.data.join("server");
    let stage = TestEnvironment::start(Setup {
        update: vec![("PIPELINE_VARIABLES", "true".to_owned())],
        migration: Some(Vec::new()),
        data: Some(data),
        ..Setup::default()
    })
    .await?;
    say(&format!("endpoint    {}", stage.server.endpoint()));
    say(&format!("bucket      s3://{BUCKET} (versioned)"));
    say(&format!(
        "pipeline    {PIPELINE} (its source action reads that bucket)"
    ));
    stage.create_repository(NAME).await?;
    say(&format!(
        "repository  {}, without any trigger yet",
        stage.clone_url(NAME)
    ));

    demo.step("A new branch is pushed: `lifecycle` gives it a trigger and has it archived");
    let work = arguments.data.join("work");
    let commits = two_commits(&source, &work)?;
    demo.push(&stage, &work, &commits[0]).await?;
    let triggers = stage.triggers(NAME);
    let [trigger] = triggers.as_slice() else {
        bail!("the branch should have one trigger: {triggers:?}");
    };
    say(&format!(
        "trigger     {} watches {}",
        trigger.name,
        trigger.branches.join(", ")
    ));

    demo.step("The branch moves: its trigger calls `update`");
    demo.push(&stage, &work, &commits[1]).await?;

    demo.step("The artifact beside `git archive` of the same commit");
    let executions = stage.executions();
    let last = executions.last().context("there is an execution")?;
    let artifact = stage.source_of(last)?;
    let kept = arguments.data.join("artifact.zip");
    std::fs::write(&kept, &artifact)?;
    let agreement = compare::with_git_archive(&artifact, &work, &commits[1])?;
    say(&format!(
        "{} entries and {} bytes of content: the same names, order, modes, times and bytes",
        agreement.entries, agreement.bytes
    ));
    say(&format!(
        "unpacked, `diff -r` finds no difference; the artifact is {}",
        kept.display()
    ));

    demo.step(
        "`migration` mirrors the repository into S3, and stock git clones it over plain HTTP",
    );
    mirror(&stage, &arguments.data).await?;

    demo.step(
        "`branchline` makes a bucket a git server: stock git pushes to it and clones from it",
    );
    command_line::show(&stage, &arguments.data, &work).await?;

    demo.delete_branch(&stage, &work, &commits[0]).await?;
    stage.server.shutdown().await;
    demo.next(&arguments.data);
    Ok(())
}

/// Mirrors the repository twice, and clones the mirror in between.
async fn mirror(stage: &TestEnvironment, data: &Path) -> Result<()> {
    stage.create_public_bucket(MIRRORS)?;
    let event = json!({ "mappings": [{
        "source": format!("codecommit://{NAME}"),
        "target": format!("s3://{MIRRORS}/{NAME}.git"),
        "layout": "dumb",
        "refs": ["refs/*"],
        "prune": true,
    }]});
    say(&format!("event       {event}"));
    run_migration(stage, &event).await?;
    let url = format!("{}/{MIRRORS}/{NAME}.git", stage.server.endpoint());
    let data = data.canonicalize().context("the demo's folder")?;
    let mut clone = git::command(&data);
    clone.args(["clone", "--quiet", "--mirror", &url, "mirror.git"]);
    say(&format!("git clone   {url}"));
    // The server runs on this very runtime.
    tokio::task::spawn_blocking(move || git::run(&mut clone)).await??;
    let folder = data.join("mirror.git");
    git::git(&folder, ["fsck", "--full", "--strict", "--no-dangling"])?;
    let list = ["for-each-ref", "--format=%(objectname) %(refname)"];
    let (theirs, ours) = (git::git(&folder, list)?, stage.refs(NAME)?);
    if theirs != ours {
        bail!("the clone has {theirs}\nand the repository {ours}");
    }
    let objects = git::git(&folder, ["rev-list", "--objects", "--all"])?;
    say(&format!(
        "            {} refs and {} objects, the same as in CodeCommit; `git fsck` is content",
        ours.lines().count(),
        objects.lines().count()
    ));
    say("again       with nothing new");
    run_migration(stage, &event).await
}

/// Calls the migration function and prints its result.
async fn run_migration(stage: &TestEnvironment, event: &serde_json::Value) -> Result<()> {
    let before = stage.requests_of(MIGRATION, Service::S3);
    let answer = stage.call(MIGRATION, event).await;
    let answer = answer.map_err(|error| anyhow::anyhow!("migration failed: {error}"))?;
    if answer["status"] != "complete" {
        bail!("the mirror should be complete: {answer}");
    }
    let did = &answer["mappings"][0];
    say(&format!(
        "            {}: {} refs created, {} unchanged; {} objects in {} bytes, {} requests to S3",
        did["status"].as_str().unwrap_or_default(),
        did["refs"]["created"],
        did["refs"]["unchanged"],
        did["objects"],
        did["bytes"],
        stage.requests_of(MIGRATION, Service::S3) - before,
    ));
    Ok(())
}

/// Removes what an earlier demo left in `data`, and nothing that is someone else's.
fn clear(data: &Path) -> Result<()> {
    if !data.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(data).context("the folder given by --data")? {
        let name = entry?.file_name();
        let mut left = LEFT_BEHIND.iter().chain(&command_line::LEFT_BEHIND);
        if !left.any(|left| *left == name) {
            bail!(
                "{} holds `{}`, which a demo does not make; give a folder that is new or empty",
                data.display(),
                name.display()
            );
        }
    }
    std::fs::remove_dir_all(data).context("the folder of an earlier demo")
}

/// A clone of the repository at `source` with one commit on top of its HEAD.
fn two_commits(source: &Path, work: &Path) -> Result<[String; 2]> {
    let parent = work.parent().context("the demo's folder")?;
    std::fs::create_dir_all(parent)?;
    let mut clone = git::command(parent);
    clone
        .args(["clone", "--quiet", "--no-hardlinks"])
        .arg(source)
        .arg("work");
    git::run(&mut clone)?;
    let head = git::git(work, ["rev-parse", "--verify", "--quiet", "HEAD"])
        .context("the repository has no commit at HEAD yet; commit something first")?;
    let head = if git::git(work, ["rev-parse", "--is-shallow-repository"])? == "true" {
        say("the clone is shallow, and CodeCommit takes none: its HEAD is pushed without history");
        without_history(work, &head)?
    } else {
        head
    };
    let hello = [(
        "hello-from-branchline.txt",
        "Hello from a feature branch.\n",
    )];
    let next = git::commit(work, &hello, "Say hello from a feature branch")?;
    Ok([head, next])
}

/// Makes a commit with the tree and the message of `head` and no parents, checks it out
/// and returns its id.
fn without_history(work: &Path, head: &str) -> Result<String> {
    let message = git::git(work, ["log", "-1", "--format=%B", head])?;
    let tree = format!("{head}^{{tree}}");
    let root = git::git(work, ["commit-tree", &tree, "-m", &message])?;
    git::git(work, ["reset", "--quiet", "--soft", &root])?;
    // Nothing is cut off any more.
    std::fs::remove_file(work.join(".git/shallow")).context("the clone's list of cuts")?;
    Ok(root)
}

fn say(text: &str) {
    println!("  {text}");
}

struct Demo {
    paint: bool,
}

impl Demo {
    fn step(&self, text: &str) {
        if self.paint {
            println!("\n\x1b[1;34m▶ {text}\x1b[0m");
        } else {
            println!("\n> {text}");
        }
    }

    /// Pushes a commit to the branch and prints the execution that it started.
    async fn push(&self, stage: &TestEnvironment, work: &Path, commit: &str) -> Result<()> {
        let before = stage.executions().len();
        let subject = git::git(work, ["log", "-1", "--format=%h %s", commit])?;
        say(&format!("git push    {BRANCH} at {subject}"));
        stage
            .push(work, NAME, &[&format!("{commit}:refs/heads/{BRANCH}")])
            .await?;
        stage.wait_until_idle().await?;
        let executions = stage.executions();
        let [execution] = &executions[before..] else {
            let letters = stage.server.queue().dead_letters();
            let why: Vec<String> = letters
                .iter()
                .map(|letter| format!("{}: {}", letter.error_type, letter.error_message))
                .collect();
            bail!(
                "the push should start one execution, but {} started\n{}",
                executions.len() - before,
                why.join("\n")
            );
        };
        print_execution(execution)?;
        if execution.variables.get("COMMIT_ID").map(String::as_str) != Some(commit) {
            bail!(
                "the execution is of another commit: {:?}",
                execution.variables
            );
        }
        Ok(())
    }

    /// Deletes the branch, which then has no trigger; `first` becomes the default branch.
    async fn delete_branch(&self, stage: &TestEnvironment, work: &Path, first: &str) -> Result<()> {
        self.step("The branch is deleted: its trigger goes");
        // A repository's default branch cannot be deleted.
        stage
            .push(work, NAME, &[&format!("{first}:refs/heads/main")])
            .await?;
        stage.wait_until_idle().await?;
        let input = json!({ "repositoryName": NAME, "defaultBranchName": "main" });
        stage.codecommit("UpdateDefaultBranch", input).await?;
        stage
            .push(work, NAME, &[&format!(":refs/heads/{BRANCH}")])
            .await?;
        stage.wait_until_idle().await?;
        let left = stage.triggers(NAME);
        if left
            .iter()
            .any(|trigger| trigger.branches.iter().any(|branch| branch == BRANCH))
        {
            bail!("the branch is gone, its trigger is not: {left:?}");
        }
        for trigger in &left {
            say(&format!(
                "left        {} watches {}",
                trigger.name,
                trigger.branches.join(", ")
            ));
        }
        Ok(())
    }

    fn next(&self, data: &Path) {
        self.step("What to try next");
        let server = data.join("server");
        for line in [
            "cargo xtask demo --repo PATH      the same with a repository of yours",
            "cargo xtask bench archive         how fast, beside one request at a time and git",
            "cargo xtask bench mirror          how fast, beside mirror-git-to-s3 and git",
            "target/debug/branchline-dev --help",
            &format!(
                "ls {}               all that the server kept",
                server.display()
            ),
        ] {
            say(line);
        }
    }
}

/// Prints an execution, which must have succeeded.
fn print_execution(execution: &Execution) -> Result<()> {
    if execution.status != Status::Succeeded {
        bail!(
            "execution {} failed: {:?}",
            execution.id,
            execution.status_summary
        );
    }
    for source in &execution.sources {
        let version = source.version_id.as_deref().unwrap_or("none");
        say(&format!(
            "artifact    s3://{}/{}",
            source.bucket, source.key
        ));
        say(&format!(
            "            version {version}, {} bytes, {} entries",
            source.size_bytes, source.entries
        ));
    }
    say(&format!(
        "execution   {} of {}, pinned to that version",
        execution.id, execution.pipeline
    ));
    Ok(())
}
