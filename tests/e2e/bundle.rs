//! The S3 bundle layout beside the client that it is from, git-remote-s3 0.4.2, on one
//! bucket of the development server, when `BRANCHLINE_VENV` names the Python environment
//! that has it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Result, bail};
use async_trait::async_trait;
use branchline_core::ErrorKind;
use branchline_core::aws::{AccessKey, Aws};
use branchline_core::git::pack::Limits;
use branchline_core::git::{HashKind, ObjectId};
use branchline_core::mirror::{self, Options, Outcome, RefSelection};
use branchline_core::name::{BucketName, KeyPrefix, ObjectKey};
use branchline_core::remote::s3_bundle::{BundleOptions, BundleRemote};
use branchline_core::remote::{
    Head, Incoming, IncomingOptions, PackBody, Push, RefChange, RefOutcome, RefTarget, Remote,
    Snapshot, Source, Target, Wanted,
};
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::storage::{ObjectStore, PutOptions};
use branchline_dev::server::{Options as ServerOptions, Server};
use branchline_tests::git;
use bstr::BString;
use futures_util::StreamExt as _;

/// A bucket that both clients use, and a repository that both push from.
struct Peers {
    server: Server,
    environment: PathBuf,
    store: Arc<SdkObjectStore>,
    bucket: BucketName,
    folder: tempfile::TempDir,
}

const URL: &str = "s3://bundles/team/repo1";

impl Peers {
    async fn start() -> Result<Option<Self>> {
        let Some(environment) = std::env::var_os("BRANCHLINE_VENV").map(PathBuf::from) else {
            eprintln!(
                "skipped: BRANCHLINE_VENV is not set; `cargo xtask test` makes that environment"
            );
            return Ok(None);
        };
        let server = Server::start(ServerOptions::default()).await?;
        let region = &server.account().region;
        let made = server.store().create_bucket("bundles", region);
        made.map_err(|error| anyhow::anyhow!("{error}"))?;
        let credentials = server.credentials();
        let key = AccessKey {
            id: credentials.access_key_id.clone(),
            secret: credentials.secret_access_key.clone(),
            session_token: credentials.session_token.clone(),
        };
        let aws = Aws::fixed(region, &server.endpoint(), &key);
        let folder = tempfile::tempdir()?;
        git::init(&folder.path().join("work"))?;
        Ok(Some(Self {
            store: Arc::new(SdkObjectStore::new(&aws)),
            bucket: BucketName::new("bundles")?,
            environment,
            server,
            folder,
        }))
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// Git in the working folder.
    fn git(&self, arguments: &[&str]) -> Result<String> {
        git::git(&self.work(), arguments)
    }

    /// Git that finds the Python helper; what it says, on both channels.
    async fn python(&self, folder: &Path, arguments: &[&str]) -> Result<(bool, String)> {
        let credentials = self.server.credentials();
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = self.environment.join("bin");
        let mut command = git::command(folder);
        command
            .args(arguments)
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("HOME", self.folder.path())
            .env("AWS_ENDPOINT_URL", self.server.endpoint())
            .env("AWS_DEFAULT_REGION", &self.server.account().region)
            .env("AWS_ACCESS_KEY_ID", &credentials.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key)
            .env_remove("AWS_SESSION_TOKEN")
            .env_remove("AWS_PROFILE");
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said += &String::from_utf8_lossy(&output.stderr);
        Ok((output.status.success(), said))
    }

    async fn python_push(&self, refspecs: &[&str]) -> Result<()> {
        let arguments = [&["push", URL], refspecs].concat();
        let (done, said) = self.python(&self.work(), &arguments).await?;
        assert!(done, "the Python client pushes {refspecs:?}: {said}");
        Ok(())
    }

    /// A clone by the Python client, checked by git, with the refs that it has.
    async fn python_clone(&self, name: &str) -> Result<String> {
        let to = self.folder.path().join(name);
        let to_text = to.display().to_string();
        let arguments = ["clone", "--quiet", "--mirror", URL, &to_text];
        let (done, said) = self.python(self.folder.path(), &arguments).await?;
        assert!(done, "the Python client clones: {said}");
        check(&to)?;
        refs(&to)
    }

    fn remote(&self) -> Result<BundleRemote> {
        Ok(BundleRemote::new(
            Arc::<SdkObjectStore>::clone(&self.store),
            self.bucket.clone(),
            KeyPrefix::new("team/repo1")?,
            BundleOptions::default(),
        ))
    }

    /// Makes the remote's refs equal to the working folder's, as ours does it.
    async fn our_push(&self) -> Result<Outcome> {
        let options = Options {
            refs: RefSelection::new(["refs/*"])?,
            prune: true,
            ..Options::default()
        };
        let local = Local(self.work());
        let outcome = mirror::mirror(&local, &self.remote()?, &options, None).await?;
        assert!(
            outcome.complete && outcome.rejected.is_empty(),
            "{outcome:?}"
        );
        Ok(outcome)
    }

    /// A clone by ours, checked by git, with the refs that it has.
    async fn our_clone(&self, name: &str) -> Result<String> {
        let to = self.folder.path().join(name);
        git::init(&to)?;
        let source = self.remote()?.source(&[]).await?;
        let snapshot = source.snapshot();
        let wanted = Wanted {
            wants: snapshot.tips(),
            offset_deltas: true,
            ..Wanted::default()
        };
        let mut pack = Vec::new();
        let mut body = source.fetch(&wanted).await?;
        while let Some(bytes) = body.next().await {
            pack.extend_from_slice(&bytes?);
        }
        input(&to, &["index-pack", "--stdin", "--strict"], &pack)?;
        for (name, target) in &snapshot.refs {
            git::git(
                &to,
                ["update-ref", &name.to_string(), &target.id.to_string()],
            )?;
        }
        check(&to)?;
        refs(&to)
    }

    /// The keys of the remote, those of bundles and `HEAD`.
    async fn keys(&self) -> Result<Vec<String>> {
        let page = self
            .store
            .list(&self.bucket, "team/repo1/", None, None)
            .await?;
        Ok(page
            .objects
            .into_iter()
            .map(|object| object.key.to_string())
            .collect())
    }

    /// The keys that the remote must have for the working folder's refs.
    fn expected_keys(&self) -> Result<Vec<String>> {
        let refs = refs(&self.work())?;
        let key = |line: &str| {
            let (id, name) = line.split_once(' ').unwrap_or_default();
            format!("team/repo1/{name}/{id}.bundle")
        };
        let mut keys: Vec<_> = refs.lines().map(key).collect();
        keys.push("team/repo1/HEAD".to_owned());
        keys.sort();
        Ok(keys)
    }

    async fn both_agree(&self, step: &str) -> Result<()> {
        let expected = refs(&self.work())?;
        assert_eq!(
            self.python_clone(&format!("{step}-python")).await?,
            expected,
            "{step}"
        );
        assert_eq!(
            self.our_clone(&format!("{step}-ours")).await?,
            expected,
            "{step}"
        );
        assert_eq!(self.keys().await?, self.expected_keys()?, "{step}");
        Ok(())
    }
}

fn refs(folder: &Path) -> Result<String> {
    git::git(
        folder,
        ["for-each-ref", "--format=%(objectname) %(refname)"],
    )
}

fn check(folder: &Path) -> Result<()> {
    let found = git::git(folder, ["fsck", "--full", "--strict", "--no-dangling"])?;
    assert_eq!(found, "", "git fsck finds nothing");
    Ok(())
}

/// What git prints, given that input.
fn input(folder: &Path, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut command: Command = git::command(folder);
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().expect("it is piped");
    let output = std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut stdin, input));
        child.wait_with_output()
    })?;
    if !output.status.success() {
        bail!("git {arguments:?} failed");
    }
    Ok(output.stdout)
}

/// A repository on disk as a source, served by git itself.
struct Local(PathBuf);

impl std::fmt::Display for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.display().fmt(f)
    }
}

#[async_trait]
impl Remote for Local {
    async fn source(&self, _prefixes: &[BString]) -> branchline_core::Result<Box<dyn Source>> {
        let mut snapshot = Snapshot::empty(HashKind::Sha1);
        for line in refs(&self.0).expect("git lists refs").lines() {
            let (id, name) = line.split_once(' ').expect("git was asked for two words");
            let id = ObjectId::from_hex(id.as_bytes()).expect("git prints ids");
            snapshot
                .refs
                .insert(name.into(), RefTarget { id, peeled: None });
        }
        snapshot.head = Some(Head::Symbolic("refs/heads/main".into()));
        Ok(Box::new(LocalSource(self.0.clone(), snapshot)))
    }

    async fn target(&self) -> branchline_core::Result<Box<dyn Target>> {
        unreachable!("it is only a source")
    }
}

struct LocalSource(PathBuf, Snapshot);

#[async_trait]
impl Source for LocalSource {
    fn snapshot(&self) -> &Snapshot {
        &self.1
    }

    async fn fetch(&self, wanted: &Wanted) -> branchline_core::Result<PackBody> {
        let mut revisions = String::new();
        for id in &wanted.wants {
            writeln!(revisions, "{id}").expect("memory takes all");
        }
        for id in &wanted.haves {
            let id = id.to_string();
            if git::git(&self.0, ["cat-file", "-e", &id]).is_ok() {
                writeln!(revisions, "^{id}").expect("memory takes all");
            }
        }
        let mut arguments = vec!["pack-objects", "--revs", "--stdout", "-q"];
        arguments.extend(wanted.thin.then_some("--thin"));
        arguments.extend(wanted.offset_deltas.then_some("--delta-base-offset"));
        let pack = input(&self.0, &arguments, revisions.as_bytes()).expect("git makes a pack");
        Ok(Box::pin(futures_util::stream::iter([Ok(pack.into())])))
    }
}

/// "Each reads, pushes over, deletes and repairs what the other wrote."
#[tokio::test(flavor = "multi_thread")]
async fn both_clients_share_one_bucket() -> Result<()> {
    let Some(peers) = Peers::start().await? else {
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
#[tokio::test(flavor = "multi_thread")]
async fn a_ref_that_the_python_client_cannot_push_to_is_repaired() -> Result<()> {
    let Some(peers) = Peers::start().await? else {
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
    let key = ObjectKey::new(&format!("team/repo1/refs/heads/main/{old}.bundle"))?;
    let options = PutOptions::default();
    peers
        .store
        .put(&peers.bucket, &key, bundle.into(), &options)
        .await?;

    git::commit(&work, &[("a.txt", "three\n")], "Third")?;
    let (done, said) = peers.python(&work, &["push", URL, "main"]).await?;
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
#[tokio::test(flavor = "multi_thread")]
async fn a_composed_bundle_is_read_by_the_python_client() -> Result<()> {
    let Some(peers) = Peers::start().await? else {
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

/// One of ours: moves `main` from `old` to `new`; whether it was told that it did.
async fn our_race(
    remote: BundleRemote,
    local: Local,
    old: ObjectId,
    new: ObjectId,
) -> Result<bool> {
    let mut target = remote.target().await?;
    let name = BString::from("refs/heads/main");
    if target.snapshot().refs.get(&name).map(|at| at.id) != Some(old) {
        return Ok(false);
    }
    let wanted = Wanted {
        wants: vec![new],
        haves: vec![old],
        thin: true,
        offset_deltas: true,
    };
    let pack = local.source(&[]).await?.fetch(&wanted).await?;
    let options = IncomingOptions {
        hash: HashKind::Sha1,
        limits: Limits::default(),
        pointers: false,
    };
    let push = Push {
        changes: vec![RefChange {
            name,
            old: Some(old),
            new: Some(RefTarget {
                id: new,
                peeled: None,
            }),
        }],
        pack: Some(Incoming::new(pack, &options)),
        ..Push::default()
    };
    match target.push(push).await {
        Ok(report) => {
            assert_eq!(report.refs[0].1, RefOutcome::Done);
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// "One `ok` a round, no acknowledged commit unreachable, no ref unreadable."
#[tokio::test(flavor = "multi_thread")]
async fn of_both_clients_pushing_at_once_one_wins() -> Result<()> {
    const ROUNDS: usize = 3;
    const WRITERS: usize = 8;
    let Some(peers) = Peers::start().await? else {
        return Ok(());
    };
    let work = peers.work();
    git::commit(&work, &[("a.txt", "one\n")], "First")?;
    peers.python_push(&["main"]).await?;
    for round in 0..ROUNDS {
        let old = peers.git(&["rev-parse", "main"])?;
        let tree = peers.git(&["rev-parse", "main^{tree}"])?;
        let mut commits = Vec::new();
        for writer in 0..WRITERS {
            let message = format!("round {round}, writer {writer}");
            let commit = peers.git(&["commit-tree", &tree, "-p", &old, "-m", &message])?;
            // The Python client takes names only.
            peers.git(&["branch", "--force", &format!("w{writer}"), &commit])?;
            commits.push(commit);
        }
        let id = |hex: &str| ObjectId::from_hex(hex.as_bytes()).expect("git prints ids");
        let pushes = commits.iter().enumerate().map(|(writer, commit)| {
            let (peers, work) = (&peers, &work);
            let (old, new) = (id(&old), id(commit));
            async move {
                if writer % 2 == 0 {
                    return our_race(peers.remote()?, Local(work.clone()), old, new).await;
                }
                let refspec = format!("w{writer}:refs/heads/main");
                Ok(peers.python(work, &["push", URL, &refspec]).await?.0)
            }
        });
        let told = futures_util::future::try_join_all(pushes).await?;
        let winners: Vec<_> = (0..WRITERS).filter(|writer| told[*writer]).collect();
        assert_eq!(winners.len(), 1, "one wins in round {round}: {told:?}");
        let won = &commits[winners[0]];
        let keys = peers.keys().await?;
        let expected = format!("team/repo1/refs/heads/main/{won}.bundle");
        assert_eq!(keys, ["team/repo1/HEAD", &expected], "round {round}");
        peers.git(&["update-ref", "refs/heads/main", won])?;
    }
    for writer in 0..WRITERS {
        peers.git(&["branch", "--delete", "--force", &format!("w{writer}")])?;
    }
    peers.both_agree("raced").await
}
