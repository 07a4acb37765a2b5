//! Stock git pushes to served remotes as it does to a bare repository at `file://`.

use std::path::Path;
use std::sync::Arc;

use branchline_core::git::HashKind;
use branchline_core::mirror::mirror;
use branchline_core::remote::Remote;
use branchline_test_support::git;
use branchline_test_support::git_remote::GitRemote;
use branchline_test_support::repo::Repo;

use super::local::{local, options};
use super::serve_fixture::{Client, Daemon, run};
use super::{s3_bundle_fixture, s3_dumb_fixture};

/// A name for each scenario, and git commands in a clone of the remote, one a line. `OLD` is the
/// id of an old commit; `commit` makes one on the branch that is checked out.
const PUSHES: &[(&str, &[&str])] = &[
    ("new-branch", &["push URL main:refs/heads/new"]),
    ("commit", &["commit", "push URL main"]),
    (
        "two-commits-two-refs",
        &["commit", "push URL main main~1:refs/heads/x"],
    ),
    ("by-id", &["push URL OLD:refs/heads/old"]),
    ("notes", &["push URL main:refs/notes/x"]),
    ("forward", &["push URL main:refs/heads/other"]),
    (
        "not-forward",
        &["reset -q --hard main~3", "commit", "push URL main"],
    ),
    (
        "force",
        &["reset -q --hard main~3", "commit", "push -f URL main"],
    ),
    ("rewind", &["push -f URL main~2:main"]),
    ("delete", &["push URL :refs/heads/other"]),
    ("delete-missing", &["push URL :refs/heads/nothing"]),
    ("delete-current", &["push URL :refs/heads/main"]),
    (
        "delete-and-create",
        &["push URL :refs/heads/other main:refs/heads/other/x"],
    ),
    ("conflicting-name", &["push URL main:refs/heads/main/x"]),
    (
        "conflicting-name-and-another",
        &["commit", "push URL main:refs/heads/other/x main"],
    ),
    ("annotated-tag", &["tag -a -m t t", "push URL t"]),
    (
        "follow-tags",
        &["commit", "tag -a -m t t", "push --follow-tags URL main"],
    ),
    ("existing-tag", &["tag -f light main~5", "push URL light"]),
    ("up-to-date", &["push URL main"]),
    ("all-refs", &["commit", "branch b main~2", "push --all URL"]),
    ("dry-run", &["commit", "push --dry-run URL main"]),
    ("quiet", &["commit", "push -q URL main"]),
    (
        "lease",
        &[
            "reset -q --hard main~1",
            "commit",
            "push --force-with-lease=main:TIP URL main",
        ],
    ),
    (
        "stale-lease",
        &[
            "reset -q --hard main~1",
            "commit",
            "push --force-with-lease=main:OLD URL main",
        ],
    ),
    ("options", &["commit", "push --push-option=x URL main"]),
    (
        "signed-if-asked",
        &["commit", "push --signed=if-asked URL main"],
    ),
    (
        "branch-of-a-tree",
        &["commit", "push URL main^{tree}:refs/heads/tree main"],
    ),
    (
        "branch-of-a-tag",
        &[
            "tag -a -m t t",
            "push URL t:refs/heads/tag t main:refs/heads/new",
        ],
    ),
    (
        "branch-of-a-tag-that-is-there",
        &["tag -a -m t t", "push URL t", "push URL t:refs/heads/tag"],
    ),
    ("funny-name", &["push URL main:HEAD"]),
    (
        "shallow",
        &["fetch -q --depth 2 URL main", "commit", "push URL main"],
    ),
    (
        "no-thin",
        &["commit", "push --no-thin URL main:refs/heads/nt"],
    ),
];

/// Pushes of several refs at once, which only some remotes accept.
const ATOMIC_PUSHES: &[(&str, &[&str])] = &[
    (
        "atomic",
        &["commit", "push --atomic URL main main~1:refs/heads/x"],
    ),
    (
        "atomic-with-conflict",
        &["commit", "push --atomic URL main main:refs/heads/other/x"],
    ),
    (
        "atomic-with-a-branch-of-a-tree",
        &[
            "commit",
            "push --atomic URL main main^{tree}:refs/heads/tree",
        ],
    ),
    (
        "atomic-delete",
        &["commit", "push --atomic URL main :refs/heads/other"],
    ),
    (
        "atomic-delete-current",
        &["push --atomic URL main:refs/heads/x :refs/heads/main"],
    ),
];

fn upstream() -> Repo {
    Repo::with_history(HashKind::Sha1, 12, 8)
}

/// Returns the lines of `git push --porcelain` without reasons.
fn outcome(stdout: &str) -> Vec<String> {
    let line = |line: &str| {
        let mut fields = line.split('\t');
        let (flag, refs) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        format!("{flag} {refs}")
    };
    let mut lines: Vec<String> = stdout.lines().map(line).collect();
    lines.sort();
    lines
}

/// Runs a scenario; returns the status and the outcome of each command, the refs of the remote,
/// and the messages.
async fn play(
    scenario: &[&str],
    url: &str,
    version: &str,
) -> (Vec<(Option<i32>, Vec<String>)>, String, String) {
    let client = Client::new();
    client.ok(&["clone", "-q", url, "c"]).await;
    let clone = client.path().join("c");
    let mut results = Vec::new();
    let mut messages = String::new();
    let tip = client.ok(&["-C", "c", "rev-parse", "main"]).await;
    let old = client.ok(&["-C", "c", "rev-parse", "main~6"]).await;
    for line in scenario {
        let line = line
            .replace("URL", url)
            .replace("TIP", tip.trim())
            .replace("OLD", old.trim());
        if line == "commit" {
            git::commit(&clone, &[("file", &format!("{results:?}"))], "new").unwrap();
            continue;
        }
        let version = format!("protocol.version={version}");
        let mut args = vec!["-c", version.as_str()];
        for (at, word) in line.split(' ').enumerate() {
            args.push(word);
            if at == 0 && word == "push" {
                args.push("--porcelain");
            }
        }
        let ran = run(&clone, &args).await;
        messages.push_str(&ran.stderr);
        results.push((ran.status, outcome(&ran.stdout.replace(url, "URL"))));
    }
    let refs = client.ok(&["ls-remote", "--refs", url]).await;
    let head = client.ok(&["ls-remote", "--symref", url, "HEAD"]).await;
    (results, refs + &head, messages)
}

/// Asserts that git clones a remote whole, and finds no fault with it.
async fn assert_whole(url: &str, name: &str) {
    let client = Client::new();
    client.ok(&["clone", "-q", "--mirror", url, "c"]).await;
    let checked = run(&client.path().join("c"), &["fsck", "--full", "--strict"]).await;
    assert_eq!(checked.status, Some(0), "`{name}`: {}", checked.stderr);
}

/// Plays scenarios over new remotes, which `make` fills from a repository, and over bare
/// repositories, and compares.
async fn compare(scenarios: &[(&str, &[&str])], make: impl AsyncFn(&Repo) -> Arc<dyn Remote>) {
    let mut differences = Vec::new();
    for (name, scenario) in scenarios {
        let (oracle, source) = (upstream(), upstream());
        let daemon = Daemon::start(make(&source).await).await;
        let (found, found_refs, said) = play(scenario, &daemon.url(), "2").await;
        let file = format!("file://{}", oracle.path.display());
        let (expected, expected_refs, expected_words) = play(scenario, &file, "2").await;
        if found != expected || found_refs != expected_refs {
            differences.push(format!(
                "`{name}`: {found:?} {found_refs} {said}\n instead of {expected:?} \
                 {expected_refs} {expected_words}\n the server: {:?}",
                daemon.failures()
            ));
        }
        assert_whole(&daemon.url(), name).await;
    }
    let number = differences.len();
    assert!(
        differences.is_empty(),
        "git gets the same from the server; {number} differences:\n{}",
        differences.join("\n")
    );
}

fn bare(path: &Path) -> Arc<dyn Remote> {
    Arc::new(local(path))
}

#[tokio::test(flavor = "multi_thread")]
async fn git_pushes_to_a_served_local_repository_as_to_the_repository_itself() {
    compare(PUSHES, async |repo: &Repo| bare(&repo.path)).await;
}

async fn dumb(repo: &Repo) -> Arc<dyn Remote> {
    let world = s3_dumb_fixture::DumbFixture::new();
    world.mirror(repo).await;
    Arc::new(world.remote())
}

#[tokio::test(flavor = "multi_thread")]
async fn git_pushes_to_a_served_dumb_remote_as_to_a_bare_repository() {
    compare(PUSHES, dumb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atomic_push_to_a_served_dumb_remote_updates_all_refs_or_none() {
    compare(ATOMIC_PUSHES, dumb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn git_pushes_to_a_served_bundle_remote_as_to_a_bare_repository() {
    compare(PUSHES, bundles).await;
}

async fn bundles(repo: &Repo) -> Arc<dyn Remote> {
    let world = s3_bundle_fixture::BundleFixture::new(5 << 20);
    let remote = world.remote("r");
    mirror(&GitRemote::new(repo), &remote, &options(), None)
        .await
        .unwrap();
    Arc::new(remote)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atomic_push_to_a_served_bundle_remote_updates_all_refs_or_none() {
    compare(ATOMIC_PUSHES, bundles).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_location_is_cloned_and_pushed_to() {
    let world = s3_dumb_fixture::DumbFixture::new();
    let bundles = s3_bundle_fixture::BundleFixture::new(5 << 20);
    let remotes: [Arc<dyn Remote>; 2] =
        [Arc::new(world.remote()), Arc::new(bundles.remote("empty"))];
    for remote in remotes {
        let daemon = Daemon::start(remote).await;
        let client = Client::new();
        let cloned = client.git(&["clone", &daemon.url(), "c"]).await;
        assert_eq!(cloned.status, Some(0), "{}", cloned.stderr);
        assert!(
            cloned.stderr.contains("empty repository"),
            "{}",
            cloned.stderr
        );
        let clone = client.path().join("c");
        git::commit(&clone, &[("a", "1")], "first").unwrap();
        let pushed = run(&clone, &["push", "origin", "HEAD:refs/heads/dev"]).await;
        assert_eq!(
            pushed.status,
            Some(0),
            "{} {:?}",
            pushed.stderr,
            daemon.failures()
        );
        client.ok(&["clone", "-q", &daemon.url(), "d"]).await;
        let head = std::fs::read_to_string(client.path().join("d/.git/HEAD")).unwrap();
        assert_eq!(
            head, "ref: refs/heads/dev\n",
            "`HEAD` names a branch that is there"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_the_server_lacks_history_for_is_refused_and_changes_nothing() {
    let repo = upstream();
    let source = format!("file://{}", repo.path.display());
    let world = s3_dumb_fixture::DumbFixture::new();
    let bundles = s3_bundle_fixture::BundleFixture::new(5 << 20);
    let remotes: [Arc<dyn Remote>; 2] =
        [Arc::new(world.remote()), Arc::new(bundles.remote("empty"))];
    for remote in remotes {
        let daemon = Daemon::start(remote).await;
        let client = Client::new();
        client
            .ok(&["clone", "-q", "--depth", "2", &source, "c"])
            .await;
        let clone = client.path().join("c");
        let pushed = run(&clone, &["push", &daemon.url(), "main"]).await;
        assert_eq!(pushed.status, Some(1), "{}", pushed.stderr);
        assert!(
            pushed.stderr.contains("shallow update not allowed"),
            "{}",
            pushed.stderr
        );
        let refs = client.ok(&["ls-remote", &daemon.url()]).await;
        assert_eq!(refs, "", "nothing was written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_pushes_to_one_ref_one_is_rejected_and_pushes_to_two_refs_both_succeed() {
    let repo = upstream();
    let daemon = Daemon::start(dumb(&repo).await).await;
    let client = Client::new();
    for name in ["a", "b"] {
        client.ok(&["clone", "-q", &daemon.url(), name]).await;
        git::commit(&client.path().join(name), &[("file", name)], name).unwrap();
    }
    let (a, b) = (client.path().join("a"), client.path().join("b"));
    let url = daemon.url();
    let push = async |folder: &Path, refs: &[&str]| {
        let args = [&["push", url.as_str()], refs].concat();
        run(folder, &args).await
    };
    let (first, second) = tokio::join!(
        push(&a, &["main:refs/heads/a"]),
        push(&b, &["main:refs/heads/b"]),
    );
    assert_eq!(
        (first.status, second.status),
        (Some(0), Some(0)),
        "{first:?} {second:?}"
    );
    let (first, second) = tokio::join!(push(&a, &["+main"]), push(&b, &["main"]));
    // The forced push may come after the other one, which its advertisement then contains.
    assert!(
        first.status == Some(0) || second.status == Some(0),
        "{first:?} {second:?}"
    );
    let tip = client.ok(&["ls-remote", &url, "refs/heads/main"]).await;
    let tips = [&a, &b].map(|folder| git::git(folder, ["rev-parse", "main"]).unwrap());
    assert!(
        tips.iter().any(|id| tip.starts_with(id.as_str())),
        "{tip} {tips:?}"
    );
    assert_whole(&url, "races").await;
}

/// Returns the requests to a store while `git args` runs in `folder`.
async fn requests(
    store: &branchline_core::testkit::MemoryStore,
    folder: &Path,
    args: &[&str],
) -> Vec<&'static str> {
    let before = store.traffic().calls().len();
    let ran = run(folder, args).await;
    assert_eq!(ran.status, Some(0), "git {args:?}: {}", ran.stderr);
    store.traffic().calls().split_off(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_with_nothing_new_takes_two_requests_and_a_small_push_at_most_eight() {
    let repo = upstream();
    let world = s3_dumb_fixture::DumbFixture::new();
    world.mirror(&repo).await;
    let daemon = Daemon::start(Arc::new(world.remote())).await;
    let client = Client::new();
    client.ok(&["clone", "-q", &daemon.url(), "c"]).await;
    let clone = client.path().join("c");
    let fetched = requests(&world.store, &clone, &["fetch", "-q"]).await;
    assert_eq!(fetched.len(), 2, "`info/refs` and `HEAD`: {fetched:?}");
    git::commit(&clone, &[("file", "2")], "small").unwrap();
    let pushed = requests(&world.store, &clone, &["push", "-q", "origin", "main"]).await;
    assert!(pushed.len() <= 8, "{pushed:?}");

    let world = s3_bundle_fixture::BundleFixture::new(5 << 20);
    let folder = client.path().join("cache");
    let cache = branchline_core::pack_cache::PackCache::open(&folder).unwrap();
    let options = branchline_core::remote::s3_bundle::BundleOptions {
        pack_cache: Some(Arc::new(cache)),
        ..world.options()
    };
    let remote = world.remote_with("r", options);
    let mirrored = mirror(&GitRemote::new(&repo), &remote, &self::options(), None).await;
    mirrored.unwrap();
    let daemon = Daemon::start(Arc::new(remote)).await;
    client.ok(&["clone", "-q", &daemon.url(), "d"]).await;
    let clone = client.path().join("d");
    let fetched = requests(&world.store, &clone, &["fetch", "-q"]).await;
    assert_eq!(fetched.len(), 2, "a list and `HEAD`: {fetched:?}");
}
