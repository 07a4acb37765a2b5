//! Mirroring between CodeCommit, as the development server speaks it, and a git server:
//! version 0, no offset deltas, 4,000 refs a push, passwords for 15 minutes.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Result;
use async_trait::async_trait;
use branchline_core::ErrorKind;
use branchline_core::aws::{AccessKey, Aws, HttpSettings, git_http};
use branchline_core::codecommit::CodeCommit as _;
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::codecommit::git_credential_source::CodeCommitCredentials;
use branchline_core::git::HashKind;
use branchline_core::git::smart_http::{
    CredentialSource, Credentials, NoCredentials, RepositoryUrl, SmartHttp,
};
use branchline_core::mirror::{MirrorOptions, MirrorStats, RefSelection, mirror};
use branchline_core::name::RepositoryName;
use branchline_core::remote::Remote as _;
use branchline_core::remote::codecommit::{CloneUrlCache, CodeCommitRemote};
use branchline_core::remote::smart_http::HttpRemote;
use branchline_core::remote::url::RemoteUrl;
use branchline_dev::faults::{Rule, Service};
use branchline_dev::server::{Options as ServerOptions, Server};
use branchline_test_support::git;
use jiff::{SignedDuration, Timestamp};

use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::{Repo, history};
use branchline_test_support::wrapped_remote::CountingCredentials;

/// An account whose repositories are reached by the SDK and by git.
pub(super) struct Account {
    server: Server,
    aws: Aws,
}

impl Account {
    pub(super) async fn new() -> Result<Self> {
        let server = Server::start(ServerOptions::default()).await?;
        let credentials = server.credentials();
        let key = AccessKey {
            id: credentials.access_key_id.clone(),
            secret: credentials.secret_access_key.clone(),
            session_token: credentials.session_token.clone(),
        };
        let aws = Aws::fixed(&server.account().region, &server.endpoint(), &key);
        Ok(Self { server, aws })
    }

    fn with(&self, name: &str, credentials: Arc<dyn CredentialSource>) -> Result<CodeCommitRemote> {
        let RemoteUrl::CodeCommit(url) = RemoteUrl::new(&format!("codecommit://{name}"))? else {
            anyhow::bail!("it is CodeCommit's");
        };
        let http = git_http(&HttpSettings::default())?;
        let service = Arc::new(SdkCodeCommit::new(&self.aws));
        Ok(CodeCommitRemote::new(url, service, http, credentials))
    }

    pub(super) fn remote(&self, name: &str) -> Result<CodeCommitRemote> {
        self.with(name, Arc::new(CodeCommitCredentials::new(&self.aws)))
    }

    pub(super) async fn default_branch(&self, name: &str) -> Result<Option<String>> {
        let name = RepositoryName::new(name)?;
        let described = SdkCodeCommit::new(&self.aws).get_repository(&name).await?;
        Ok(described.default_branch)
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.server.codecommit().repository_dir(name);
        folder.expect("the repository is there")
    }

    pub(super) fn refs(&self, name: &str) -> Result<String> {
        let format = "--format=%(objectname) %(refname)";
        git::git(&self.folder(name), ["for-each-ref", format])
    }

    pub(super) fn fsck(&self, name: &str) -> Result<()> {
        let report = git::git(
            &self.folder(name),
            ["fsck", "--full", "--strict", "--no-dangling"],
        )?;
        assert_eq!(report, "", "git fsck finds nothing");
        Ok(())
    }

    pub(super) fn count(&self, service: Service, operation: &str) -> u64 {
        self.server.requests().count(service, operation)
    }

    fn fault(&self, rule: &str) -> Result<()> {
        let rule = Rule::from_str(rule).map_err(|error| anyhow::anyhow!("{error}"))?;
        self.server.faults().add(rule);
        Ok(())
    }
}

fn https(server: &GitServer) -> Result<HttpRemote> {
    let http = git_http(&HttpSettings::default())?;
    let url = RepositoryUrl::new(&server.url())?;
    Ok(HttpRemote::new(SmartHttp::new(
        http,
        url,
        Arc::new(NoCredentials),
    )))
}

/// Everything, deletions too.
fn exactly() -> Result<MirrorOptions> {
    Ok(MirrorOptions {
        refs: RefSelection::new(["refs/*"])?,
        prune: true,
        ..MirrorOptions::default()
    })
}

fn source() -> Repo {
    let source = Repo::with_history(HashKind::Sha1, 30, 10);
    source.git(&["update-ref", "refs/heads/feature/ü", "main~3"]);
    source.git(&["symbolic-ref", "HEAD", "refs/heads/side"]);
    source
}

fn grow(source: &Repo) {
    source.input(&["fast-import", "--quiet", "--force"], &history(30, 10, 10));
    source.git(&["tag", "-d", "light"]);
    source.git(&["update-ref", "refs/heads/feature/new", "main~1"]);
}

/// Counts of the changes by `grow`: `feature/new`; both branches; `light`; the rest.
const GROWN: [u64; 4] = [1, 2, 1, 4];

fn counts(outcome: &MirrorStats) -> [u64; 4] {
    [
        outcome.created,
        outcome.updated,
        outcome.deleted,
        outcome.unchanged,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn https_goes_to_codecommit_from_there_to_another_and_back() -> Result<()> {
    let account = Account::new().await?;
    let source = source();
    let server = GitServer::new(&source);
    let from = https(&server)?;
    let one = account.remote("one")?;
    let error = mirror(&from, &one, &exactly()?, None).await;
    let error = error.expect_err("nobody asked for a repository");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());

    let one = one.with_create(true);
    let first = mirror(&from, &one, &exactly()?, None).await?;
    let refs = source.refs();
    let all = refs.lines().count() as u64;
    assert_eq!(counts(&first), [all, 0, 0, 0]);
    assert_eq!(account.refs("one")?, refs);
    assert_eq!(
        account.default_branch("one").await?.as_deref(),
        Some("side")
    );
    account.fsck("one")?;

    account.server.requests().reset();
    let second = mirror(&from, &one, &exactly()?, None).await?;
    assert_eq!(counts(&second), [0, 0, 0, all]);
    assert_eq!(account.count(Service::Git, "git-receive-pack"), 1);
    assert_eq!(account.count(Service::CodeCommit, "GetRepository"), 1);
    assert_eq!(account.count(Service::CodeCommit, "UpdateDefaultBranch"), 0);

    // CodeCommit's git does not advertise HEAD's target, but its API returns it.
    let two = account.remote("two")?.with_create(true);
    mirror(&one, &two, &exactly()?, None).await?;
    assert_eq!(account.refs("two")?, refs);
    assert_eq!(
        account.default_branch("two").await?.as_deref(),
        Some("side")
    );
    account.fsck("two")?;

    let back = Repo::new(HashKind::Sha1);
    let server = GitServer::new(&back);
    let to = https(&server)?;
    mirror(&two, &to, &exactly()?, None).await?;
    assert_eq!(back.refs(), refs);
    assert_eq!(back.objects(), source.objects());
    back.fsck();

    grow(&source);
    source.git(&["symbolic-ref", "HEAD", "refs/heads/main"]);
    assert_eq!(
        counts(&mirror(&from, &one, &exactly()?, None).await?),
        GROWN
    );
    assert_eq!(
        account.default_branch("one").await?.as_deref(),
        Some("main")
    );
    let two = account.remote("two")?;
    assert_eq!(counts(&mirror(&one, &two, &exactly()?, None).await?), GROWN);
    let kept = account.default_branch("two").await?;
    assert_eq!(kept.as_deref(), Some("side"), "only who creates sets it");
    assert_eq!(counts(&mirror(&two, &to, &exactly()?, None).await?), GROWN);
    assert_eq!(back.refs(), source.refs());
    assert_eq!(back.objects(), source.objects());
    for name in ["one", "two"] {
        account.fsck(name)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_unborn_or_detached_does_not_reach_the_default_branch() -> Result<()> {
    let account = Account::new().await?;
    let source = source();
    let server = GitServer::new(&source);
    let from = https(&server)?;
    let to = account.remote("demo")?.with_create(true);
    mirror(&from, &to, &exactly()?, None).await?;
    account.server.requests().reset();
    source.git(&["symbolic-ref", "HEAD", "refs/heads/unborn"]);
    mirror(&from, &to, &exactly()?, None).await?;
    source.git(&["update-ref", "--no-deref", "HEAD", "main~2"]);
    mirror(&from, &to, &exactly()?, None).await?;
    assert_eq!(account.count(Service::CodeCommit, "UpdateDefaultBranch"), 0);
    assert_eq!(
        account.count(Service::Git, "git-receive-pack"),
        2,
        "two looks"
    );
    assert_eq!(
        account.default_branch("demo").await?.as_deref(),
        Some("side")
    );
    let opened = account.remote("demo")?.source(&[]).await?;
    assert_eq!(opened.snapshot().refs.len(), source.refs().lines().count());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_repository_of_codecommit_is_accepted_on_either_side() -> Result<()> {
    let account = Account::new().await?;
    for name in ["from", "to"] {
        let name = RepositoryName::new(name)?;
        SdkCodeCommit::new(&account.aws)
            .create_repository(&name)
            .await?;
    }
    let (from, to) = (account.remote("from")?, account.remote("to")?);
    let outcome = mirror(&from, &to, &exactly()?, None).await?;
    assert!(outcome.complete);
    assert_eq!(counts(&outcome), [0; 4]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_concurrent_creations_of_a_repository_both_succeed() -> Result<()> {
    let account = Account::new().await?;
    let source = source();
    let server = GitServer::new(&source);
    let (one, two) = (https(&server)?, https(&server)?);
    let to = account.remote("demo")?.with_create(true);
    let options = exactly()?;
    let (first, second) = tokio::try_join!(
        mirror(&one, &to, &options, None),
        mirror(&two, &to, &options, None)
    )?;
    assert!(first.complete && second.complete);
    assert!(first.rejected.is_empty() && second.rejected.is_empty());
    assert_eq!(account.refs("demo")?, source.refs());
    account.fsck("demo")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_fail_or_lose_their_answer_are_retried() -> Result<()> {
    let account = Account::new().await?;
    let mut runs = 0;
    for (service, operations) in [
        ("git", [("git-receive-pack", 2), ("git-upload-pack", 2)]),
        (
            "codecommit",
            [("GetRepository", 2), ("CreateRepository", 1)],
        ),
    ] {
        for (operation, calls) in operations {
            for fault in ["drop", "lose-answer", "cut", "throttle", "error"] {
                for nth in 1..=calls {
                    runs += 1;
                    let (one, two) = (format!("one-{runs}"), format!("two-{runs}"));
                    let source = source();
                    let server = GitServer::new(&source);
                    let from = https(&server)?;
                    let one = account.remote(&one)?.with_create(true);
                    mirror(&from, &one, &exactly()?, None).await?;
                    grow(&source);
                    mirror(&from, &one, &exactly()?, None).await?;

                    let rule = format!("{service}/{operation}:{fault},nth={nth}");
                    account.fault(&rule)?;
                    let to = account.remote(&two)?.with_create(true);
                    let outcome = mirror(&one, &to, &exactly()?, None).await;
                    let outcome =
                        outcome.map_err(|error| anyhow::anyhow!("{rule}: {}", error.report()))?;
                    let hits = account.server.faults().rules()[0].hits;
                    assert_eq!(hits, 1, "{rule} has struck");
                    account.server.faults().clear();
                    let refs = source.refs();
                    assert_eq!(account.refs(&two)?, refs, "{rule}");
                    let all = refs.lines().count() as u64;
                    assert_eq!(counts(&outcome), [all, 0, 0, 0], "{rule}");
                    account.fsck(&two)?;
                }
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn more_refs_than_one_push_may_change_go_in_several() -> Result<()> {
    let account = Account::new().await?;
    let source = Repo::with_history(HashKind::Sha1, 5, 2);
    let id = source.id("main");
    let lines = (0..4010).fold(String::new(), |lines, n| {
        lines + &format!("create refs/heads/many/{n:04} {id}\n")
    });
    source.input(&["update-ref", "--stdin"], lines.as_bytes());
    source.git(&["pack-refs", "--all"]);
    let server = GitServer::new(&source);
    let to = account.remote("demo")?.with_create(true);
    let outcome = mirror(&https(&server)?, &to, &exactly()?, None).await?;
    assert_eq!(account.refs("demo")?, source.refs());
    assert_eq!(outcome.created, source.refs().lines().count() as u64);
    let requests = account.count(Service::Git, "git-receive-pack");
    assert_eq!(requests, 3, "the refs, and two pushes");
    account.fsck("demo")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_a_password_of_its_own_and_an_old_one_is_refused() -> Result<()> {
    let account = Account::new().await?;
    let source = source();
    let server = GitServer::new(&source);
    let from = https(&server)?;
    let credentials = CodeCommitCredentials::new(&account.aws);
    let counting = Arc::new(CountingCredentials::new(credentials));
    let to = account.with("demo", counting.clone())?.with_create(true);
    mirror(&from, &to, &exactly()?, None).await?;
    let requests = account.count(Service::Git, "git-receive-pack");
    assert_eq!(counting.requests().len() as u64, requests);
    assert_eq!(requests, 2, "the refs, and the push");

    // A clock that falls behind in the middle of a run: as if one password were kept.
    grow(&source);
    let before = account.refs("demo")?;
    for good in 0..2 {
        let left = Arc::new(AtomicI64::new(good));
        let now = Timestamp::now();
        let login = CodeCommitCredentials::new(&account.aws);
        let turns = Arc::clone(&left);
        let falling = ClockCorrectedLogin(
            login.clone(),
            login.with_clock(move || now - SignedDuration::from_mins(16)),
            turns,
        );
        let to = account.with("demo", Arc::new(falling))?;
        let error = mirror(&from, &to, &exactly()?, None).await;
        let error = error.expect_err("the password has run out");
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{}", error.report());
        assert_eq!(account.refs("demo")?, before, "nothing has moved");
        account.fsck("demo")?;
    }
    let outcome = mirror(&from, &account.remote("demo")?, &exactly()?, None).await?;
    assert_eq!(counts(&outcome), GROWN);
    assert_eq!(account.refs("demo")?, source.refs());
    Ok(())
}

/// Logs in with the first credentials a given number of times, and then with the second.
struct ClockCorrectedLogin(CodeCommitCredentials, CodeCommitCredentials, Arc<AtomicI64>);

#[async_trait]
impl CredentialSource for ClockCorrectedLogin {
    async fn credentials(
        &self,
        repository: &RepositoryUrl,
    ) -> branchline_core::git::Result<Option<Credentials>> {
        let login = if self.2.fetch_sub(1, Ordering::SeqCst) > 0 {
            &self.0
        } else {
            &self.1
        };
        login.credentials(repository).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guessed_clone_url_is_used_only_if_codecommit_returns_it() -> Result<()> {
    let (account, other) = (Account::new().await?, Account::new().await?);
    let addresses = CloneUrlCache::default();
    let remote = |account: &Account, name: &str| -> Result<CodeCommitRemote> {
        let remote = account.remote(name)?.with_create(true);
        Ok(remote.with_url_cache(addresses.clone()))
    };
    let source = source();
    let git_server = GitServer::new(&source);
    let from = https(&git_server)?;
    let pushed_to = |account: &Account| account.count(Service::Git, "git-receive-pack");
    // What is learned of the first one is right for the second, even where that is yet to
    // be created, and wrong for the third.
    for (account, name, guessed) in [
        (&account, "one", 0),
        (&account, "two", 1),
        (&other, "three", 0),
    ] {
        let before = pushed_to(account);
        let target = remote(account, name)?;
        let outcome = mirror(&from, &target, &exactly()?, None).await?;
        assert!(outcome.complete);
        let [refs, wanted] = [account.refs(name)?, source.refs()];
        assert_eq!(refs.trim_end(), wanted.trim_end(), "{name}");
        // The guess may be answered before CodeCommit says that there is nothing.
        let requests = pushed_to(account) - before;
        assert!((2..=2 + guessed).contains(&requests), "{name}: {requests}");
    }
    let elsewhere = pushed_to(&account);
    let target = remote(&account, "one")?;
    target.target().await?;
    assert_eq!(pushed_to(&account) - elsewhere, 1, "asked once");
    account.server.shutdown().await;
    other.server.shutdown().await;
    Ok(())
}
