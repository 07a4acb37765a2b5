//! Stock git fetches from served remotes as it does from the same repository at `file://`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use branchline_core::git::HashKind;
use branchline_core::mirror::{MirrorOptions, RefSelection, mirror};
use branchline_core::remote::{Remote, s3_bundle};
use branchline_test_support::git_remote::GitRemote;
use branchline_test_support::repo::Repo;

use super::local::local;
use super::serve_fixture::{Client, Daemon, Ran, State, run, state};
use super::{s3_bundle_fixture, s3_dumb_fixture};

/// Commands of a scenario, one a line. `URL` is the server's; commands run in the folder `c` as
/// soon as one has created that.
type Scenario = &'static [&'static str];

/// A name for each scenario, and its commands.
const FETCHES: &[(&str, Scenario)] = &[
    ("clone", &["clone -q URL c"]),
    ("mirror", &["clone -q --mirror URL c"]),
    ("bare", &["clone -q --bare URL c"]),
    ("branch", &["clone -q -b side URL c"]),
    ("single-branch", &["clone -q --single-branch URL c"]),
    ("no-tags", &["clone -q --single-branch --no-tags URL c"]),
    ("tag", &["clone -q --single-branch -b v1 URL c"]),
    ("depth-1", &["clone -q --depth 1 URL c"]),
    ("depth-3", &["clone -q --depth 3 --no-single-branch URL c"]),
    ("depth-all", &["clone -q --depth 1000 URL c"]),
    (
        "deepen",
        &[
            "clone -q --depth 2 URL c",
            "fetch -q --deepen 3",
            "fetch -q --deepen 1",
        ],
    ),
    (
        "depth-grows",
        &[
            "clone -q --depth 2 URL c",
            "fetch -q --depth 7",
            "fetch -q --depth 3",
        ],
    ),
    (
        "unshallow",
        &["clone -q --depth 2 URL c", "fetch -q --unshallow"],
    ),
    (
        "shallow-then-all",
        &[
            "clone -q --depth 2 URL c",
            "fetch -q origin +refs/heads/*:refs/remotes/origin/*",
        ],
    ),
    (
        "since",
        &[
            "clone -q --shallow-since=1600001000 URL c",
            "fetch -q --shallow-since=1600000300",
        ],
    ),
    (
        "since-nothing",
        &["clone -q --shallow-since=1900000000 URL c"],
    ),
    ("exclude", &["clone -q --shallow-exclude=old URL c"]),
    (
        "exclude-and-since",
        &["clone -q --shallow-exclude=refs/tags/old --shallow-since=1600000900 URL c"],
    ),
    (
        "exclude-missing",
        &["clone -q --shallow-exclude=nothing URL c"],
    ),
    ("blob-none", &["clone -q --bare --filter=blob:none URL c"]),
    (
        "blob-limit",
        &["clone -q --bare --filter=blob:limit=2k URL c"],
    ),
    ("tree-0", &["clone -q --bare --filter=tree:0 URL c"]),
    ("tree-1", &["clone -q --bare --filter=tree:1 URL c"]),
    ("tree-2", &["clone -q --bare --filter=tree:2 URL c"]),
    ("tree-3", &["clone -q --bare --filter=tree:3 URL c"]),
    (
        "type-commit",
        &["clone -q --bare --filter=object:type=commit URL c"],
    ),
    (
        "type-tree",
        &["clone -q --bare --filter=object:type=tree URL c"],
    ),
    (
        "type-blob",
        &["clone -q --bare --filter=object:type=blob URL c"],
    ),
    (
        "type-tag",
        &["clone -q --bare --filter=object:type=tag URL c"],
    ),
    (
        "combined",
        &["clone -q --bare --filter=combine:tree:3+blob:limit=2k URL c"],
    ),
    (
        "shallow-and-partial",
        &[
            "clone -q --bare --depth 2 --filter=blob:none URL c",
            "fetch -q --unshallow",
        ],
    ),
    (
        "lazy",
        &[
            "clone -q --filter=blob:none URL c",
            "log -p --stat main",
            "checkout -q side",
        ],
    ),
    (
        "lazy-trees",
        &[
            "clone -q --filter=tree:0 URL c",
            "log --oneline --stat -3 main",
        ],
    ),
    (
        "refetch",
        &[
            "clone -q --bare --filter=tree:0 URL c",
            "fetch -q --refetch --filter=blob:none",
        ],
    ),
    (
        "one-commit",
        &["init -q c", "fetch -q URL OLD:refs/heads/x"],
    ),
    (
        "incremental",
        &[
            "init -q c",
            "fetch -q URL OLD:refs/heads/x",
            "remote add origin URL",
            "fetch -q origin",
        ],
    ),
    (
        "incremental-with-own-commits",
        &[
            "init -q -b x c",
            "fetch -q URL OLD",
            "reset -q --hard FETCH_HEAD",
            "commit -q --allow-empty -m own",
            "commit -q --allow-empty -m own2",
            "fetch -q URL refs/heads/*:refs/heads/*",
        ],
    ),
    (
        "nothing-new",
        &["clone -q URL c", "fetch -q", "fetch -q --tags origin"],
    ),
    (
        "tree-by-id",
        &["init -q c", "fetch -q URL TREE", "cat-file -p TREE"],
    ),
    (
        "blob-by-id",
        &["init -q c", "fetch -q URL BLOB", "cat-file -p BLOB"],
    ),
    (
        "unknown-id",
        &[
            "init -q c",
            "fetch -q URL 1111111111111111111111111111111111111111",
        ],
    ),
    ("unknown-ref", &["init -q c", "fetch -q URL nothing"]),
    (
        "negotiate-only",
        &[
            "clone -q URL c",
            "fetch -q --negotiate-only --negotiation-tip=main origin",
        ],
    ),
    (
        "negotiator-skipping",
        &[
            "init -q c",
            "fetch -q URL OLD:refs/heads/x",
            "-c fetch.negotiationAlgorithm=skipping fetch -q URL main",
        ],
    ),
    ("ls-remote", &["ls-remote URL"]),
    ("ls-remote-symref", &["ls-remote --symref URL"]),
    ("ls-remote-heads", &["ls-remote --heads URL"]),
    ("ls-remote-tags", &["ls-remote --tags URL v1"]),
    ("ls-remote-pattern", &["ls-remote URL refs/notes/*"]),
    ("ls-remote-head", &["ls-remote URL HEAD"]),
    (
        "ls-remote-nothing",
        &["ls-remote --exit-code URL refs/heads/nothing"],
    ),
    (
        "set-head",
        &[
            "clone -q URL c",
            "remote set-head origin -a",
            "remote show origin",
        ],
    ),
];

/// The scenarios whose last command git refuses.
const REFUSED: &[&str] = &[
    "since-nothing",
    "exclude-missing",
    "unknown-id",
    "unknown-ref",
    "ls-remote-nothing",
];

/// A repository with merges, tags of every kind, a large file and equal trees at several depths.
fn upstream() -> Repo {
    let repo = Repo::with_history(HashKind::Sha1, 30, 12);
    repo.git(&["tag", "-a", "old", "-m", "old", "main~12"]);
    repo.git(&["tag", "-a", "blob", "-m", "blob", "main:link"]);
    let mut stream = b"commit refs/heads/main\ncommitter C <c@x> 1600009000 +0000\ndata 5\nlarge\n\
        from refs/heads/main^0\nM 100644 inline large\n"
        .to_vec();
    let lines: Vec<String> = (0..20_000).map(|line| (line * line).to_string()).collect();
    let large = lines.join("\n");
    stream.extend_from_slice(format!("data {}\n{large}\n", large.len()).as_bytes());
    let tree = repo.git(&["rev-parse", "main:d0"]);
    stream.extend_from_slice(format!("M 040000 {tree} deep/er/copy\n").as_bytes());
    stream.extend_from_slice(format!("M 040000 {tree} copy\n\n").as_bytes());
    repo.input(&["fast-import", "--quiet"], &stream);
    repo.git(&["branch", "-q", "other", "side~2"]);
    for (name, value) in [
        ("uploadpack.allowFilter", "true"),
        ("uploadpack.allowAnySHA1InWant", "true"),
    ] {
        repo.git(&["config", name, value]);
    }
    repo
}

/// Runs a scenario and returns the result of each command, up to the first that fails, and the
/// state of the client.
async fn play(
    repo: &Repo,
    scenario: Scenario,
    url: &str,
    version: &str,
) -> (Vec<Ran>, Option<State>) {
    let client = Client::new();
    let clone = client.path().join("c");
    let names = [
        ("URL", url.to_owned()),
        ("OLD", repo.git(&["rev-parse", "main~9"])),
        ("TREE", repo.git(&["rev-parse", "main:d1"])),
        ("BLOB", repo.git(&["rev-parse", "main:large"])),
    ];
    let mut ran = Vec::new();
    for line in scenario {
        let mut line = (*line).to_owned();
        for (name, value) in &names {
            line = line.replace(name, value);
        }
        let version = format!("protocol.version={version}");
        let mut args = vec!["-c", version.as_str()];
        args.extend(line.split(' '));
        let folder = if clone.exists() {
            clone.clone()
        } else {
            client.path()
        };
        let mut result = run(&folder, &args).await;
        result.stdout = result.stdout.replace(url, "URL");
        let failed = result.status != Some(0);
        ran.push(result);
        if failed {
            break;
        }
    }
    let state = clone.exists().then(|| state(&clone)).flatten();
    (ran, state)
}

fn file_url(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// Plays all scenarios over `remote` and over the repository itself, and compares.
async fn compare(
    repo: &Repo,
    remote: Arc<dyn Remote>,
    versions: &[&str],
    may_send_more: fn(&str) -> bool,
) {
    let daemon = Daemon::start(remote).await;
    let mut differences = Vec::new();
    for version in versions {
        for (name, scenario) in FETCHES {
            let (expected, expected_state) =
                play(repo, scenario, &file_url(&repo.path), version).await;
            let (found, found_state) = play(repo, scenario, &daemon.url(), version).await;
            let succeeds = expected.last().is_some_and(|ran| ran.status == Some(0));
            assert_ne!(
                succeeds,
                REFUSED.contains(name) || (*version == "0" && *name == "negotiate-only"),
                "`{name}`, version {version}, is refused by git only where it is meant to be: {:?}",
                expected.last()
            );
            let outcome = |ran: &[Ran]| {
                let of = |ran: &Ran| (ran.status, ran.stdout.clone());
                ran.iter().map(of).collect::<Vec<_>>()
            };
            let failures = daemon.failures();
            let said = |ran: &[Ran]| ran.last().map(|ran| ran.stderr.clone()).unwrap_or_default();
            if outcome(&found) != outcome(&expected) {
                let (found, expected) = (
                    (outcome(&found), said(&found)),
                    (outcome(&expected), said(&expected)),
                );
                differences.push(format!(
                    "`{name}`, version {version}: {found:?} instead of {expected:?}; the server: \
                     {failures:?}"
                ));
                continue;
            }
            let (found, expected) = (found_state, expected_state);
            let parts = |state: &Option<State>| {
                let state = state.as_ref();
                state.map(|state| {
                    (
                        state.refs.clone(),
                        state.head.clone(),
                        state.shallow.clone(),
                    )
                })
            };
            let (found_parts, expected_parts) = (parts(&found), parts(&expected));
            if found_parts != expected_parts {
                differences.push(format!(
                    "`{name}`, version {version}: {found_parts:?} instead of {expected_parts:?}"
                ));
            }
            if let (Some(found), Some(expected)) = (found, expected) {
                let list = |from: &BTreeSet<String>, without| {
                    let ids = from.difference(without).map(|id| {
                        let kind = repo.git(&["cat-file", "-t", id]);
                        format!("{id} {kind}")
                    });
                    ids.collect::<Vec<_>>()
                };
                let missing = list(&expected.objects, &found.objects);
                let surplus = list(&found.objects, &expected.objects);
                if !(missing.is_empty() && (surplus.is_empty() || may_send_more(name))) {
                    differences.push(format!(
                        "`{name}`, version {version}: missing {missing:?}, surplus {surplus:?}"
                    ));
                }
            }
        }
    }
    let number = differences.len();
    assert!(
        differences.is_empty(),
        "git gets the same from the server; {number} differences:\n{}",
        differences.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn git_fetches_from_a_served_local_repository_as_from_the_repository_itself() {
    let repo = upstream();
    let remote = Arc::new(local(&repo.path));
    compare(&repo, remote, &["2", "0"], |_| false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn git_fetches_from_a_served_dumb_remote_as_from_the_repository_itself() {
    let repo = upstream();
    let world = s3_dumb_fixture::DumbFixture::new();
    world.mirror(&repo).await;
    compare(&repo, Arc::new(world.remote()), &["2"], |_| false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn git_fetches_from_a_served_bundle_remote_as_from_the_repository_itself() {
    let repo = upstream();
    let world = s3_bundle_fixture::BundleFixture::new(5 << 20);
    let remote: s3_bundle::BundleRemote = world.remote("r");
    let options = MirrorOptions {
        refs: RefSelection::new(["refs/*"]).unwrap(),
        ..MirrorOptions::default()
    };
    mirror(&GitRemote::new(&repo), &remote, &options, None)
        .await
        .unwrap();
    compare(&repo, Arc::new(remote), &["2"], |_| false).await;
}
