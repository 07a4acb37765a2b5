//! The S3 bundle layout beside the client that it is from, git-remote-s3 0.4.2, on one
//! bucket of the development server and on one of moto, when `BRANCHLINE_VENV` names the
//! Python environment that has both.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use branchline_core::git::pack::PackLimits;
use branchline_core::mirror::{self, MirrorOptions, MirrorStats, RefSelection};
use branchline_core::remote::Remote as _;
use branchline_core::remote::local::LocalRepository;
use branchline_dev::faults::Service;
use branchline_test_support::git;

use super::bundle_peers::{On, PREFIX, Peers, input, refs, url};

/// Each test on the development server's S3 and on moto's.
macro_rules! on_both {
    ($($name:ident,)*) => {
        mod on_the_development_server {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() -> super::Result<()> {
                    super::$name(super::On::DevelopmentServer).await
                }
            )*
        }
        mod on_moto {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() -> super::Result<()> {
                    super::$name(super::On::Moto).await
                }
            )*
        }
    };
}

on_both! {
    both_clients_share_one_bucket,
    a_ref_that_the_python_client_cannot_push_to_is_repaired,
    a_composed_bundle_is_read_by_the_python_client,
    five_hundred_refs_go_both_ways,
    a_branch_that_one_client_protects_the_other_one_keeps,
}

/// "Each reads, pushes over, deletes and repairs what the other wrote."
async fn both_clients_share_one_bucket(on: On) -> Result<()> {
    let Some(peers) = Peers::start(on).await? else {
        return Ok(());
    };
    let work = peers.work();
    git::commit(
        &work,
        &[("a.txt", "one\n"), ("dir/größe.txt", "two\n")],
        "First",
    )?;
    peers.git(&["branch", "feature/x"])?;
    git::commit(&work, &[("a.txt", "two\n")], "Zweites: größer")?;
    peers.git(&["tag", "-a", "v1", "-m", "one"])?;
    peers.git(&["notes", "add", "-m", "a note", "main"])?;

    peers
        .python_push(&["main", "feature/x", "v1", "refs/notes/commits"])
        .await?;
    peers.both_agree("python-first").await?;

    // Ours pushes over: forward, a merge, a new ref, a force push, a deletion.
    peers.git(&["checkout", "--quiet", "feature/x"])?;
    git::commit(&work, &[("b.txt", "side\n")], "Side")?;
    peers.git(&["checkout", "--quiet", "main"])?;
    peers.git(&["merge", "--quiet", "--no-edit", "feature/x"])?;
    peers.git(&["branch", "topic"])?;
    peers.git(&["tag", "--delete", "v1"])?;
    peers.git(&["tag", "-a", "v2", "-m", "two"])?;
    let outcome = peers.our_push().await?;
    assert_eq!(
        (outcome.created, outcome.updated, outcome.deleted),
        (2, 2, 1)
    );
    peers.both_agree("ours-over").await?;
    peers.git(&["branch", "--force", "topic", "main~1"])?;
    peers.our_push().await?;
    peers.both_agree("ours-forced").await?;

    // And Python over ours.
    git::commit(&work, &[("c.txt", "more\n")], "Fourth")?;
    peers.git(&["branch", "--force", "topic", "main~2"])?;
    peers.git(&["branch", "--delete", "--force", "feature/x"])?;
    peers.python_push(&["main", "+topic", ":feature/x"]).await?;
    peers.both_agree("python-over").await?;
    let again = peers.our_push().await?;
    assert_eq!(
        (again.created, again.updated, again.deleted),
        (0, 0, 0),
        "nothing is left to do"
    );
    Ok(())
}

/// "A ref left with two bundles is read, and repaired, never stuck."
async fn a_ref_that_the_python_client_cannot_push_to_is_repaired(on: On) -> Result<()> {
    let Some(peers) = Peers::start(on).await? else {
        return Ok(());
    };
    let work = peers.work();
    git::commit(&work, &[("a.txt", "one\n")], "First")?;
    peers.python_push(&["main"]).await?;
    let old = peers.git(&["rev-parse", "main"])?;
    let bundle = input(&work, &["bundle", "create", "--quiet", "-", "main"], b"")?;
    git::commit(&work, &[("a.txt", "two\n")], "Second")?;
    peers.python_push(&["main"]).await?;
    // What a client leaves that is killed after it has published.
    let key = format!("{PREFIX}/refs/heads/main/{old}.bundle");
    peers.put(&key, bundle).await?;

    git::commit(&work, &[("a.txt", "three\n")], "Third")?;
    let (done, said) = peers.python(&work, &["push", &url(PREFIX), "main"]).await?;
    assert!(!done, "the Python client is stuck: {said}");
    let source = peers.remote()?.source(&[]).await?;
    let second = peers.git(&["rev-parse", "main~1"])?;
    let refs = &source.snapshot().refs;
    assert_eq!(refs.len(), 1);
    assert_eq!(
        refs.values().next().map(|at| at.id.to_string()),
        Some(second),
        "the younger one"
    );
    assert_eq!(peers.remote()?.repair().await?, ["refs/heads/main"]);
    peers.python_push(&["main"]).await?;
    peers.both_agree("repaired").await
}

/// "A bundle that was composed in S3 is one to git and to the Python client."
async fn a_composed_bundle_is_read_by_the_python_client(on: On) -> Result<()> {
    let Some(peers) = Peers::start(on).await? else {
        return Ok(());
    };
    let work = peers.work();
    let mut state = 1_u64;
    let mut noise = Vec::new();
    while noise.len() < 16 << 20 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        noise.extend_from_slice(&(state >> 16).to_le_bytes());
    }
    std::fs::write(work.join("noise"), &noise)?;
    git::commit(&work, &[("a.txt", "one\n")], "First")?;
    peers.python_push(&["main"]).await?;
    git::commit(&work, &[("a.txt", "two\n")], "Second")?;
    let outcome = peers.our_push().await?;
    assert!(
        outcome.bytes <= 6 << 20,
        "{} bytes were sent",
        outcome.bytes
    );
    peers.both_agree("composed").await?;
    git::commit(&work, &[("a.txt", "three\n")], "Third")?;
    peers.python_push(&["main"]).await?;
    peers.both_agree("over-composed").await
}

/// "Histories with 500 refs": one list for each thousand keys.
async fn five_hundred_refs_go_both_ways(on: On) -> Result<()> {
    let Some(peers) = Peers::start(on).await? else {
        return Ok(());
    };
    let work = peers.work();
    let mut parent = git::commit(&work, &[("a.txt", "one\n")], "First")?;
    let tree = peers.git(&["rev-parse", "main^{tree}"])?;
    let mut updates = String::new();
    for number in 0..499 {
        let message = format!("commit {number}");
        parent = peers.git(&["commit-tree", &tree, "-p", &parent, "-m", &message])?;
        writeln!(updates, "create refs/heads/f/{number} {parent}")?;
    }
    input(&work, &["update-ref", "--stdin"], updates.as_bytes())?;
    let outcome = peers.our_push().await?;
    assert_eq!(outcome.created, 500);
    peers.both_agree("ours-500").await?;
    if on == On::DevelopmentServer {
        let lists = || {
            let requests = peers.server().requests();
            requests.count(Service::S3, "ListObjectsV2")
        };
        let before = lists();
        let source = peers.remote()?.source(&[]).await?;
        assert_eq!(source.snapshot().refs.len(), 500);
        assert_eq!(lists() - before, 1, "one list");
    }

    // The Python client moves and deletes some of them.
    let mut refspecs = Vec::new();
    for number in 0..10 {
        let (name, forward) = (format!("f/{number}"), format!("f/{}", number + 20));
        peers.git(&["branch", "--force", &name, &forward])?;
        let gone = format!("f/{}", number + 100);
        peers.git(&["branch", "--quiet", "--delete", "--force", &gone])?;
        refspecs.extend([name, format!(":{gone}")]);
    }
    let refspecs: Vec<&str> = refspecs.iter().map(String::as_str).collect();
    peers.python_push(&refspecs).await?;
    let (_, said) = peers
        .python(&work, &["ls-remote", "--refs", &url(PREFIX)])
        .await?;
    let mut listed: Vec<_> = said.lines().map(|line| line.replace('\t', " ")).collect();
    listed.sort_by_key(|line| line.split_once(' ').map(|(_, name)| name.to_owned()));
    assert_eq!(listed.join("\n"), refs(&work)?);
    let again = peers.our_push().await?;
    assert_eq!((again.unchanged, again.updated), (490, 0));
    Ok(())
}

/// Mirrors `main` alone, which may be refused.
async fn push_main(peers: &Peers) -> Result<MirrorStats> {
    let options = MirrorOptions {
        refs: RefSelection::new(["refs/heads/main"])?,
        prune: true,
        prune_all: true,
        ..MirrorOptions::default()
    };
    let local = LocalRepository::new(peers.work(), PackLimits::default());
    Ok(mirror::mirror(&local, &peers.remote()?, &options, None).await?)
}

/// "`PROTECTED#` included."
async fn a_branch_that_one_client_protects_the_other_one_keeps(on: On) -> Result<()> {
    let Some(peers) = Peers::start(on).await? else {
        return Ok(());
    };
    let work = peers.work();
    git::commit(&work, &[("a.txt", "one\n")], "First")?;
    let tip = git::commit(&work, &[("a.txt", "two\n")], "Second")?;
    peers.our_push().await?;
    peers.git(&["remote", "add", "origin", &url(PREFIX)])?;
    let mut protect = Command::new(peers.program("git-s3"));
    protect
        .args(["protect", "origin", "main"])
        .current_dir(&work);
    peers.sign_in(&mut protect);
    let output = tokio::task::spawn_blocking(move || protect.output()).await??;
    assert!(output.status.success(), "{output:?}");
    let keys = peers.keys(PREFIX).await?;
    let protected = format!("{PREFIX}/refs/heads/main/PROTECTED#");
    assert!(keys.contains(&protected), "{keys:?}");

    // Neither rewinds it.
    peers.git(&["update-ref", "refs/heads/main", "main~1"])?;
    let outcome = push_main(&peers).await?;
    assert_eq!(outcome.rejected.len(), 1, "{outcome:?}");
    let push = ["push", &url(PREFIX), "+main"];
    let (done, said) = peers.python(&work, &push).await?;
    assert!(!done, "the Python client rewinds nothing: {said}");
    // Neither deletes it.
    let (done, said) = peers
        .python(&work, &["push", &url(PREFIX), ":main"])
        .await?;
    assert!(!done, "the Python client deletes nothing: {said}");
    peers.git(&["branch", "other", &tip])?;
    peers.git(&["symbolic-ref", "HEAD", "refs/heads/other"])?;
    peers.git(&["update-ref", "-d", "refs/heads/main"])?;
    let outcome = push_main(&peers).await?;
    assert_eq!(outcome.rejected.len(), 1, "{outcome:?}");
    assert_eq!(peers.keys(PREFIX).await?, keys, "nothing was touched");

    // Both move it forward.
    peers.git(&["update-ref", "refs/heads/main", &tip])?;
    peers.git(&["symbolic-ref", "HEAD", "refs/heads/main"])?;
    git::commit(&work, &[("a.txt", "three\n")], "Third")?;
    let outcome = push_main(&peers).await?;
    assert_eq!((outcome.updated, outcome.rejected.len()), (1, 0));
    git::commit(&work, &[("a.txt", "four\n")], "Fourth")?;
    peers.python_push(&["main"]).await?;
    let keys = peers.keys(PREFIX).await?;
    assert!(keys.contains(&protected), "it still is protected: {keys:?}");
    Ok(())
}

/// "SHA-256 repositories": what the Python client writes and does not show itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_sha_256_repository_that_the_python_client_pushed_is_read_and_pushed_over() -> Result<()>
{
    let Some(peers) = Peers::start(On::DevelopmentServer).await? else {
        return Ok(());
    };
    let other = peers.folder.path().join("sha256");
    std::fs::create_dir(&other)?;
    let init = [
        "init",
        "--quiet",
        "--initial-branch=main",
        "--object-format=sha256",
    ];
    git::git(&other, init)?;
    git::commit(&other, &[("a.txt", "one\n")], "First")?;
    let push = ["push", &url(PREFIX), "main"];
    let (done, said) = peers.python(&other, &push).await?;
    assert!(done, "the Python client pushes: {said}");
    let cloned = peers.our_clone(&peers.remote()?, "sha256-ours").await?;
    assert_eq!(cloned, refs(&other)?);
    git::commit(&other, &[("a.txt", "two\n")], "Second")?;
    let options = MirrorOptions {
        refs: RefSelection::new(["refs/*"])?,
        ..MirrorOptions::default()
    };
    let local = LocalRepository::new(&other, PackLimits::default());
    let outcome = mirror::mirror(&local, &peers.remote()?, &options, None).await?;
    assert_eq!(outcome.updated, 1);
    let cloned = peers.our_clone(&peers.remote()?, "sha256-over").await?;
    assert_eq!(cloned, refs(&other)?);

    // A repository of the other kind is refused before anything is written.
    git::commit(&peers.work(), &[("a.txt", "one\n")], "First")?;
    let keys = peers.keys(PREFIX).await?;
    let sha1 = LocalRepository::new(peers.work(), PackLimits::default());
    let refused = mirror::mirror(&sha1, &peers.remote()?, &options, None).await;
    let error = refused.err().context("it is refused")?.report();
    assert!(
        error.contains("sha256") && error.contains("sha1"),
        "{error}"
    );
    assert_eq!(peers.keys(PREFIX).await?, keys, "nothing was written");
    // The Python client writes it all the same: then neither is shown, and it is said why.
    peers.python_push(&["main:refs/heads/other"]).await?;
    let error = peers.remote()?.source(&[]).await.err();
    let error = error.context("a mixture is refused")?.report();
    assert!(error.contains("another prefix"), "{error}");
    Ok(())
}
