//! Refs that are renamed or in each other's way, with the clients that must read the targets:
//! CodeCommit's default branch, and the Python client on bundles.

use anyhow::Result;
use branchline_core::git::HashKind;
use branchline_core::git::pack::PackLimits;
use branchline_core::mirror::{MirrorOptions, mirror};
use branchline_core::remote::local::LocalRepository;
use branchline_dev::faults::Service;
use branchline_test_support::git;
use branchline_test_support::repo::Repo;

use super::bundle_peers::{On, PREFIX, Peers, url};
use super::mirror::Account;

fn prune() -> MirrorOptions {
    MirrorOptions {
        prune: true,
        ..MirrorOptions::default()
    }
}

fn local(repo: &Repo) -> LocalRepository {
    LocalRepository::new(repo.path.clone(), PackLimits::default())
}

fn source() -> Repo {
    let repo = Repo::with_history(HashKind::Sha1, 8, 3);
    repo.git(&["update-ref", "-d", "refs/notes/commits"]);
    repo
}

fn rename(repo: &Repo, from: &str, to: &str) {
    let id = repo.id(from).to_string();
    repo.git(&["update-ref", "-d", from]);
    repo.git(&["update-ref", to, &id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_branch_of_codecommit_follows_a_renamed_one() -> Result<()> {
    let account = Account::new().await?;
    let repo = source();
    let to = account.remote("demo")?.with_create(true);
    mirror(&local(&repo), &to, &prune(), None).await?;
    // A new name, one that the old one is in the way of, and the way back.
    for (from, name) in [
        ("main", "trunk"),
        ("trunk", "trunk/line"),
        ("trunk/line", "trunk"),
    ] {
        let full = |name: &str| format!("refs/heads/{name}");
        rename(&repo, &full(from), &full(name));
        repo.git(&["symbolic-ref", "HEAD", &full(name)]);
        let stats = mirror(&local(&repo), &to, &prune(), None).await?;
        assert!(stats.rejected.is_empty(), "{:?}", stats.rejected);
        assert_eq!((stats.created, stats.deleted), (1, 1), "{name}");
        assert_eq!(account.refs("demo")?, repo.refs(), "{name}");
        let default = account.default_branch("demo").await?;
        assert_eq!(default.as_deref(), Some(name));
        account.fsck("demo")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_branch_of_codecommit_is_kept_where_it_may_not_be_changed() -> Result<()> {
    let account = Account::new().await?;
    let repo = source();
    let to = account.remote("demo")?.with_create(true);
    mirror(&local(&repo), &to, &prune(), None).await?;
    rename(&repo, "refs/heads/main", "refs/heads/trunk");
    repo.git(&["symbolic-ref", "HEAD", "refs/heads/trunk"]);
    let to = account.remote("demo")?;
    for created in [1, 0] {
        let pushes = account.count(Service::Git, "git-receive-pack");
        let stats = mirror(&local(&repo), &to, &prune(), None).await?;
        assert!(stats.complete);
        assert_eq!((stats.created, stats.deleted), (created, 0));
        let undeleted: Vec<_> = stats.undeleted.iter().map(ToString::to_string).collect();
        assert_eq!(undeleted, ["refs/heads/main"]);
        let reason = &stats.rejected[bstr::BStr::new("refs/heads/main")];
        assert!(
            reason.contains("it is the default branch; hint: "),
            "{reason}"
        );
        let pushes = account.count(Service::Git, "git-receive-pack") - pushes;
        assert_eq!(
            pushes,
            1 + created,
            "a deletion that is refused is not pushed"
        );
    }
    let refs = account.refs("demo")?;
    for branch in ["refs/heads/main", "refs/heads/trunk"] {
        assert!(refs.contains(branch), "{refs}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ref_in_the_way_at_codecommit_rejects_the_new_one_and_no_other() -> Result<()> {
    let account = Account::new().await?;
    let repo = source();
    repo.git(&["update-ref", "refs/heads/a", "main~1"]);
    let to = account.remote("demo")?.with_create(true);
    let options = MirrorOptions::default();
    mirror(&local(&repo), &to, &options, None).await?;
    rename(&repo, "refs/heads/a", "refs/heads/a/b");
    repo.git(&["update-ref", "refs/heads/fine", "side"]);
    let stats = mirror(&local(&repo), &to, &options, None).await?;
    assert_eq!((stats.created, stats.rejected.len()), (1, 1));
    let reason = &stats.rejected[bstr::BStr::new("refs/heads/a/b")];
    assert!(
        reason.contains("`refs/heads/a` of the target is in the way"),
        "{reason}"
    );
    mirror(&local(&repo), &to, &prune(), None).await?;
    assert_eq!(account.refs("demo")?, repo.refs());
    account.fsck("demo")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_clones_what_was_set_aside_and_checks_out_the_default_branch()
-> Result<()> {
    let Some(peers) = Peers::start(On::DevelopmentServer).await? else {
        return Ok(());
    };
    let options = MirrorOptions::default();
    let repo = source();
    let remote = peers.remote()?;
    repo.git(&["update-ref", "refs/heads/a", "side"]);
    repo.git(&["symbolic-ref", "HEAD", "refs/heads/a"]);
    mirror(&local(&repo), &remote, &options, None).await?;
    let stale = repo.id("a").to_string();
    rename(&repo, "refs/heads/a", "refs/heads/a/b");
    let tree = "main^{tree}";
    let next = repo.git(&["commit-tree", tree, "-p", "a/b", "-m", "next"]);
    repo.git(&["update-ref", "refs/heads/a/b", &next]);
    repo.git(&["symbolic-ref", "HEAD", "refs/heads/a/b"]);
    let stats = mirror(&local(&repo), &remote, &options, None).await?;
    assert_eq!(stats.set_aside.len(), 1);
    let cloned = peers.python_clone(PREFIX, "mirror").await?;
    for line in repo.refs().lines() {
        assert!(cloned.contains(line), "{line}: {cloned}");
    }
    assert!(
        cloned.contains(&format!("{stale} refs/stale/heads/a")),
        "{cloned}"
    );
    let folder = peers.folder.path().join("tree");
    let (from, to) = (url(PREFIX), folder.display().to_string());
    let clone = ["clone", "--quiet", &from, &to];
    let (done, said) = peers.python(peers.folder.path(), &clone).await?;
    assert!(done, "the Python client clones: {said}");
    let head = git::git(&folder, ["symbolic-ref", "HEAD"])?;
    assert_eq!(head, "refs/heads/a/b", "the default branch is checked out");
    assert_eq!(git::git(&folder, ["rev-parse", "HEAD"])?, next);
    Ok(())
}
