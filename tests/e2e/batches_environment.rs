//! Environment of migrations in batches: a source behind `git http-backend`, and repositories
//! of CodeCommit on the development server.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use branchline_core::git::HashKind;
use branchline_dev::faults::{Rule, Service};
use branchline_test_support::git;
use branchline_tests::environment::{MIGRATION, Setup, TestEnvironment};
use serde_json::{Value, json};

use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::repo::Repo;

/// Prefix of temporary tags.
pub(crate) const TEMPORARY: &str = "refs/tags/codecommit_migration_";

/// A source and a development server for it to be migrated to.
pub(crate) struct BatchEnvironment {
    pub stage: TestEnvironment,
    pub source: Arc<Repo>,
    pub server: GitServer,
    /// Number of packs that the source will still send.
    packs: Arc<AtomicUsize>,
}

impl BatchEnvironment {
    pub(crate) async fn new(source: Repo) -> Result<Self> {
        Self::with(source, Setup::default()).await
    }

    pub(crate) async fn with(source: Repo, setup: Setup) -> Result<Self> {
        let source = Arc::new(source);
        let packs = Arc::new(AtomicUsize::new(usize::MAX));
        let left = Arc::clone(&packs);
        let server = GitServer::with(&source, move |seen| {
            // The rule is asked without the body first.
            if !wants_pack(&seen.body) {
                return Response::Git;
            }
            let take = |left: usize| left.checked_sub(1);
            match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
                Ok(_) => Response::Git,
                Err(_) => Response::Fixed(403, "text/plain", b"no more".to_vec()),
            }
        });
        let mut faults = setup.faults.clone();
        // Nobody waits for the events of refs that come and go.
        faults.push(rule("events:lose"));
        let stage = TestEnvironment::start(Setup {
            migration: Some(setup.migration.clone().unwrap_or_default()),
            faults,
            ..setup
        })
        .await?;
        Ok(Self {
            stage,
            source,
            server,
            packs,
        })
    }

    /// Has the source refuse to send more than `packs` packs.
    pub(crate) fn stop_after(&self, packs: usize) {
        self.packs.store(packs, Ordering::SeqCst);
    }

    /// Has the source send whatever it is asked for.
    pub(crate) fn go_on(&self) {
        self.stop_after(usize::MAX);
    }

    /// A mapping of the source to `codecommit://<target>`, created if it is not there.
    pub(crate) fn mapping(&self, target: &str) -> Value {
        json!({
            "source": self.server.url(),
            "target": format!("codecommit://{target}"),
            "create": true,
        })
    }

    /// Migrates in batches of `commits` commits.
    pub(crate) async fn migrate(&self, target: &str, commits: u64) -> Result<Value, Value> {
        let batch = json!({ "commits": commits });
        self.call(&self.mapping(target), &batch).await
    }

    /// Calls the function and returns the answer's only mapping, or the failure.
    pub(crate) async fn call(&self, mapping: &Value, batch: &Value) -> Result<Value, Value> {
        let event = json!({ "mappings": [mapping], "batch": batch });
        let answer = self.stage.call(MIGRATION, &event).await?;
        Ok(answer["mappings"][0].clone())
    }

    /// Calls the function until the migration is complete; returns the number of calls.
    pub(crate) async fn finish(&self, target: &str, commits: u64) -> Result<usize> {
        for calls in 1..50 {
            let answer = self.migrate(target, commits).await;
            let answer = answer.map_err(|error| anyhow::anyhow!("migration failed: {error}"))?;
            if answer["status"] == "complete" {
                return Ok(calls);
            }
        }
        bail!("it does not come to an end");
    }

    /// The temporary tags of a repository, as `<id> <name>` in the order of their numbers.
    pub(crate) fn temporary(&self, target: &str) -> Result<Vec<String>> {
        let refs = self.stage.refs(target)?;
        let mut tags: Vec<String> = refs
            .lines()
            .filter(|line| line.contains(TEMPORARY))
            .map(str::to_owned)
            .collect();
        tags.sort_by_key(|line| (line.len(), line.rsplit(' ').next().map(str::to_owned)));
        Ok(tags)
    }

    /// Makes sure that a repository is sound, and has the source's refs that start with one
    /// of `prefixes`, their objects, and nothing else.
    pub(crate) fn check_refs(&self, target: &str, prefixes: &[&str]) -> Result<()> {
        let place = self.stage.server.codecommit().repository_dir(target);
        let place = place.with_context(|| format!("there is no repository `{target}`"))?;
        let fsck = ["fsck", "--full", "--strict", "--no-dangling"];
        assert_eq!(git::git(&place, fsck)?, "", "git fsck finds nothing");
        let selected = |line: &&str| {
            let name = line.split(' ').nth(1).unwrap_or_default();
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        };
        let wanted: Vec<String> = self
            .source
            .refs()
            .lines()
            .filter(selected)
            .map(str::to_owned)
            .collect();
        let refs = self.stage.refs(target)?;
        assert_eq!(refs.lines().collect::<Vec<_>>(), wanted, "refs of {target}");
        Ok(())
    }

    /// Compares all branches and tags of `target` with the source.
    pub(crate) fn check(&self, target: &str) -> Result<()> {
        self.check_refs(target, &["refs/heads/", "refs/tags/"])
    }

    /// Installs a hook `update` in a repository: a shell script, without its first line.
    pub(crate) async fn hook(&self, target: &str, script: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        if self.stage.refs(target).is_err() {
            self.stage.create_repository(target).await?;
        }
        let place = self.stage.server.codecommit().repository_dir(target);
        let hooks = place.context("it was created")?.join("hooks");
        std::fs::create_dir_all(&hooks)?;
        let hook = hooks.join("update");
        std::fs::write(&hook, format!("#!/bin/sh\n{script}\n"))?;
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Takes the hook away.
    pub(crate) fn unhook(&self, target: &str) -> Result<()> {
        let place = self.stage.server.codecommit().repository_dir(target);
        let hook = place.context("it is there")?.join("hooks/update");
        Ok(std::fs::remove_file(hook)?)
    }

    /// Requests for pushes so far: for refs, for leave to push, and pushes.
    pub(crate) fn push_requests(&self) -> u64 {
        let requests = self.stage.server.requests();
        requests.count(Service::Git, "git-receive-pack")
    }
}

/// Whether a request asks for objects, and not for a history without them.
pub(crate) fn wants_pack(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    text.contains("want ") && !text.contains("filter ")
}

pub(crate) fn rule(text: &str) -> Rule {
    text.parse().expect("the rule is well formed")
}

/// A setup whose invocations have little time: for work, and one second to end in.
pub(crate) fn hasty(work: Duration) -> Setup {
    Setup {
        timeout: work + Duration::from_secs(1),
        migration: Some(vec![("DEADLINE_MARGIN_SECONDS", "1".to_owned())]),
        ..Setup::default()
    }
}

/// One line of history, and a tag.
pub(crate) fn linear(commits: usize) -> Repo {
    let repo = empty();
    let numbers: Vec<usize> = (1..=commits).collect();
    let table: Vec<(usize, &str, Vec<usize>)> = numbers
        .iter()
        .map(|n| {
            let parent = n.checked_sub(1).filter(|parent| *parent > 0);
            (*n, "main", parent.into_iter().collect())
        })
        .collect();
    import(&repo, &table, 20);
    repo.git(&["tag", "light", "main~1"]);
    repo
}

/// `m1`-`m3`, `side` from there, merged, `rel` from later on; with it tags of a commit, of a
/// tag, of a tree and of a blob, and notes.
pub(crate) fn merged() -> Repo {
    let repo = empty();
    let table: Vec<(usize, &str, Vec<usize>)> = vec![
        (1, "main", vec![]),
        (2, "main", vec![1]),
        (3, "main", vec![2]),
        (11, "side", vec![3]),
        (12, "side", vec![11]),
        (13, "side", vec![12]),
        (14, "side", vec![13]),
        (4, "main", vec![3]),
        (5, "main", vec![4]),
        (20, "main", vec![5, 14]),
        (6, "main", vec![20]),
        (7, "main", vec![6]),
        (8, "main", vec![7]),
        (9, "main", vec![8]),
        (31, "rel", vec![7]),
        (32, "rel", vec![31]),
    ];
    import(&repo, &table, 20);
    repo.git(&["tag", "-a", "v1", "-m", "one", "main"]);
    repo.git(&["tag", "-a", "nested", "-m", "two", "v1"]);
    repo.git(&["tag", "-a", "tree", "-m", "three", "main^{tree}"]);
    repo.git(&["tag", "-a", "blob", "-m", "four", "main:f1"]);
    repo.git(&["tag", "light", "rel~1"]);
    repo.git(&["notes", "add", "-m", "noted", "main"]);
    repo
}

pub(crate) fn empty() -> Repo {
    let repo = Repo::new(HashKind::Sha1);
    repo.git(&["config", "uploadpack.allowFilter", "true"]);
    repo
}

/// Imports commits, given by number, branch and parents, each with a file of `bytes`
/// incompressible bytes.
pub(crate) fn import(repo: &Repo, commits: &[(usize, &str, Vec<usize>)], bytes: usize) {
    let mut stream = String::new();
    let mut noise = 88_172_645_463_325_252_u64;
    for (number, branch, parents) in commits {
        let text: String = (0..bytes)
            .map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                char::from(b'!' + u8::try_from(noise % 90).unwrap_or_default())
            })
            .collect();
        let date = 1_700_000_000 + number;
        write!(
            stream,
            "commit refs/heads/{branch}\nmark :{number}\n\
             committer C <c@x> {date} +0000\ndata 2\nc\n"
        )
        .expect("memory takes it");
        for (word, parent) in ["from", "merge", "merge"].iter().zip(parents) {
            writeln!(stream, "{word} :{parent}").expect("memory takes it");
        }
        write!(
            stream,
            "M 644 inline f{}\ndata {bytes}\n{text}\n",
            number % 7
        )
        .expect("memory takes it");
    }
    repo.input(&["fast-import", "--quiet", "--force"], stream.as_bytes());
}
