//! `branchline migrate` and `incremental-repo-migration`, with the temporary tags of AWS's script.

use std::path::Path;

use anyhow::Result;
use branchline_test_support::git;
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::Repo;

use super::super::batches_environment::{TEMPORARY, linear, merged};
use super::super::batches_peer::tags_of;
use super::super::git_remote_s3::environment::Terminal;
use super::mirror::refs;

/// A terminal, and a clone of `source` in `work` whose remote `codecommit` is the empty repository
/// `demo`.
async fn clone_of(source: &Repo) -> Result<Terminal> {
    let mut terminal = Terminal::start().await?;
    let region = terminal.server().account().region.clone();
    terminal.set("AWS_REGION", Some(&region));
    git::init(&terminal.path("none"))?;
    let make = ["mirror", "none", "codecommit://demo", "--create"];
    terminal.run("branchline", &make).await?.done();
    let from = source.path.display().to_string();
    git::git(
        terminal.home(),
        ["clone", "--quiet", "--mirror", &from, "work"],
    )?;
    let url = format!("codecommit::{region}://demo");
    git::git(
        &terminal.path("work"),
        ["remote", "add", "codecommit", &url],
    )?;
    Ok(terminal)
}

/// Directory of the repository `demo` at the server.
fn demo(terminal: &Terminal) -> std::path::PathBuf {
    let codecommit = terminal.server().codecommit();
    codecommit.repository_dir("demo").expect("it was created")
}

fn temporary_tags(repository: &Path) -> Result<Vec<String>> {
    let pattern = format!("{TEMPORARY}*");
    let tags = git::git(
        repository,
        [
            "for-each-ref",
            "--format=%(objectname) %(refname)",
            &pattern,
        ],
    )?;
    Ok(tags.lines().map(str::to_owned).collect())
}

/// Makes the temporary tags in a repository, as a run of the script before it pushes them.
fn make_tags(repository: &Path, tags: &[String]) -> Result<()> {
    for tag in tags {
        let (commit, name) = tag.split_once(' ').expect("an id and a name");
        git::git(repository, ["update-ref", name, commit])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_that_the_script_leaves_is_completed() -> Result<()> {
    for (source, batch) in [(linear(25), 10), (merged(), 4)] {
        let tags = tags_of(&source.path, batch)?;
        for pushed in 0..=tags.len() {
            let terminal = clone_of(&source).await?;
            let (work, demo) = (terminal.path("work"), demo(&terminal));
            make_tags(&work, &tags)?;
            for tag in &tags[..pushed] {
                let name = tag.split_once(' ').map_or("", |(_, name)| name);
                let path = demo.display().to_string();
                git::git(&work, ["push", "--quiet", &path, name])?;
            }
            let batch = format!("--batch={batch}");
            let run = ["migrate", "--local", "work", &batch, "--verify"];
            let done = terminal.run("branchline", &run).await?;
            assert_eq!(done.stderr, "", "nothing else is printed into a pipe");
            assert!(done.done().contains("verified"), "{pushed} of {tags:?}");
            assert_eq!(temporary_tags(&demo)?, Vec::<String>::new());
            assert_eq!(refs(&demo)?, refs(&source.path)?);
            git::git(&demo, ["fsck", "--full", "--strict"])?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_options_and_statuses_of_the_script_are_supported() -> Result<()> {
    let source = linear(12);
    let terminal = clone_of(&source).await?;
    let (work, demo) = (terminal.path("work"), demo(&terminal));
    let script = |arguments: &[&str]| terminal.command("incremental-repo-migration", arguments);
    // Nothing to clean is not a failure.
    let clean = terminal.wait_for(script(&["-l", "work", "-c"])).await?;
    clean.done();
    let tags = tags_of(&source.path, 5)?;
    make_tags(&work, &tags)?;
    let path = demo.display().to_string();
    let pattern = format!("{TEMPORARY}*:{TEMPORARY}*");
    git::git(&work, ["push", "--quiet", &path, &pattern])?;
    assert_eq!(temporary_tags(&demo)?, tags);
    terminal
        .wait_for(script(&["-l", "work", "--clean"]))
        .await?
        .done();
    assert_eq!(temporary_tags(&demo)?, Vec::<String>::new());
    assert_eq!(temporary_tags(&work)?, Vec::<String>::new());
    let mut here = script(&["-b", "5", "-r", "codecommit"]);
    here.current_dir(&work);
    let done = terminal.wait_for(here).await?.done();
    assert!(done.starts_with("Analyzing repository\n"), "{done}");
    for number in 1..tags.len() {
        let line = format!("\nPushed tag codecommit_migration_{number}: ");
        assert!(done.contains(&line), "{done}");
    }
    assert!(done.contains("\nPushed 1 branches and 1 tags: "), "{done}");
    assert!(
        done.ends_with("Migration to CodeCommit was successful\n"),
        "{done}"
    );
    assert_eq!(refs(&demo)?, refs(&source.path)?);

    let unknown = terminal
        .wait_for(script(&["-l", "work", "-r", "other"]))
        .await?;
    assert_eq!(unknown.status, Some(1), "{unknown:?}");
    assert!(
        unknown.stdout.contains("remote add other codecommit::"),
        "{unknown:?}"
    );
    for arguments in [&["-b", "x"][..], &["-b", "0"], &["--what"]] {
        terminal.wait_for(script(arguments)).await?.failed(2);
    }
    let help = terminal.wait_for(script(&["--help"])).await?.done();
    assert!(help.contains("--clean"), "{help}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_needs_no_clone_and_a_refusal_names_the_command_to_see_the_cause() -> Result<()> {
    let source = linear(12);
    let terminal = clone_of(&source).await?;
    let demo = demo(&terminal);
    let server = GitServer::new(&source);
    let url = server.url();
    let run = [
        "migrate",
        "--local",
        &url,
        "--remote",
        "codecommit://demo",
        "-b",
        "5",
    ];
    let done = terminal.run("branchline", &run).await?.done();
    assert!(done.contains("refs 2 created"), "{done}");
    assert_eq!(refs(&demo)?, refs(&source.path)?);
    let run = ["migrate", "--local", &url];
    let message = terminal.run("branchline", &run).await?.failed(1);
    assert!(message.contains("`codecommit` is not a URL"), "{message}");

    let work = terminal.path("work");
    git::git(&work, ["update-ref", "refs/heads/main", "main~3"])?;
    let rejected = terminal
        .run("branchline", &["migrate", "-l", "work"])
        .await?;
    let message = rejected.clone().failed(1);
    assert!(message.contains("refs/heads/main"), "{message}");
    assert!(
        message.contains("run `git -C work push --all codecommit`"),
        "{message}"
    );
    assert_eq!(refs(&demo)?, refs(&source.path)?, "nothing is forced");
    Ok(())
}
