//! A bucket, the Python client and ours: what the tests of both on one bucket start from.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Result, bail};
use branchline_core::aws::{AccessKey, Aws};
use branchline_core::git::pack::PackLimits;
use branchline_core::mirror::{self, MirrorOptions, MirrorStats, RefSelection};
use branchline_core::name::{BucketName, KeyPrefix, ObjectKey};
use branchline_core::remote::local::LocalRepository;
use branchline_core::remote::s3_bundle::{BundleOptions, BundleRemote, PUSH, REPLACES};
use branchline_core::remote::{PackRequest, Remote as _};
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::storage::{ObjectMetadata, ObjectStore as _, ObjectStoreExt as _, PutOptions};
use branchline_dev::server::{Options as ServerOptions, Server};
use branchline_test_support::git;
use branchline_tests::environment::built_programs;
use bytes::Bytes;
use futures_util::StreamExt as _;

use branchline_test_support::moto::Moto;

/// The bucket.
pub(super) const BUCKET: &str = "bundles";
/// The prefix that most tests use.
pub(super) const PREFIX: &str = "team/repo1";

/// The program that provides S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    DevelopmentServer,
    Moto,
}

/// Server of S3; it stops when dropped.
enum Service {
    DevelopmentServer(Box<Server>),
    Moto(Moto),
}

/// A bucket that both clients use, and a repository that both push from.
pub(super) struct Peers {
    service: Service,
    environment: PathBuf,
    region: String,
    key: AccessKey,
    pub(super) store: Arc<SdkObjectStore>,
    pub(super) bucket: BucketName,
    pub(super) folder: tempfile::TempDir,
}

impl Peers {
    /// `None` without the Python environment.
    pub(super) async fn start(on: On) -> Result<Option<Self>> {
        let Some(environment) = std::env::var_os("BRANCHLINE_VENV").map(PathBuf::from) else {
            eprintln!(
                "skipped: BRANCHLINE_VENV is not set; `cargo xtask test` makes that environment"
            );
            return Ok(None);
        };
        let (service, region, key) = match on {
            On::DevelopmentServer => {
                let server = Server::start(ServerOptions::default()).await?;
                let region = server.account().region.clone();
                let made = server.store().create_bucket(BUCKET, &region);
                made.map_err(|error| anyhow::anyhow!("{error}"))?;
                let credentials = server.credentials();
                let key = AccessKey {
                    id: credentials.access_key_id.clone(),
                    secret: credentials.secret_access_key.clone(),
                    session_token: credentials.session_token.clone(),
                };
                (Service::DevelopmentServer(Box::new(server)), region, key)
            }
            On::Moto => {
                let Some(moto) = Moto::start()? else {
                    return Ok(None);
                };
                moto.put(&format!("/{BUCKET}"), "")?;
                let key = AccessKey {
                    id: "AKIDEXAMPLE".to_owned(),
                    secret: "secret".to_owned(),
                    session_token: None,
                };
                (Service::Moto(moto), "us-east-1".to_owned(), key)
            }
        };
        let endpoint = match &service {
            Service::DevelopmentServer(server) => server.endpoint(),
            Service::Moto(moto) => moto.endpoint(),
        };
        let aws = Aws::fixed(&region, &endpoint, &key);
        let folder = tempfile::tempdir()?;
        git::init(&folder.path().join("work"))?;
        Ok(Some(Self {
            store: Arc::new(SdkObjectStore::new(&aws)),
            bucket: BucketName::new(BUCKET)?,
            environment,
            service,
            region,
            key,
            folder,
        }))
    }

    /// The development server.
    pub(super) fn server(&self) -> &Server {
        match &self.service {
            Service::DevelopmentServer(server) => server,
            Service::Moto(_) => panic!("moto injects no faults and counts no requests"),
        }
    }

    fn endpoint(&self) -> String {
        match &self.service {
            Service::DevelopmentServer(server) => server.endpoint(),
            Service::Moto(moto) => moto.endpoint(),
        }
    }

    /// The configuration of AWS's SDK for the service.
    pub(super) fn aws(&self) -> Aws {
        Aws::fixed(&self.region, &self.endpoint(), &self.key)
    }

    pub(super) fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// Git in the working folder.
    pub(super) fn git(&self, arguments: &[&str]) -> Result<String> {
        git::git(&self.work(), arguments)
    }

    /// Lets a program find the service.
    pub(super) fn sign_in(&self, command: &mut Command) {
        command
            .env("HOME", self.folder.path())
            .env("AWS_ENDPOINT_URL", self.endpoint())
            .env("AWS_DEFAULT_REGION", &self.region)
            .env("AWS_REGION", &self.region)
            .env("AWS_ACCESS_KEY_ID", &self.key.id)
            .env("AWS_SECRET_ACCESS_KEY", &self.key.secret)
            .env_remove("AWS_SESSION_TOKEN")
            .env_remove("AWS_PROFILE");
    }

    /// A program of the Python environment.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.environment.join("bin").join(name)
    }

    /// Git that finds the Python helper.
    pub(super) fn python_command(&self, folder: &Path, arguments: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = self.environment.join("bin");
        let mut command = git::command(folder);
        command
            .args(arguments)
            .env("PATH", format!("{}:{path}", bin.display()));
        self.sign_in(&mut command);
        command
    }

    /// A program that finds the helper of the command line.
    pub(super) fn command_line(
        &self,
        folder: &Path,
        program: &str,
        arguments: &[&str],
    ) -> Result<Command> {
        let bin = self.folder.path().join("bin");
        let helper = bin.join("git-remote-s3");
        if !helper.exists() {
            std::fs::create_dir_all(&bin)?;
            std::os::unix::fs::symlink(built_programs().join("branchline"), helper)?;
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        git::make_hermetic(&mut command, self.folder.path());
        command
            .args(arguments)
            .current_dir(folder)
            .env("PATH", format!("{}:{path}", bin.display()));
        self.sign_in(&mut command);
        Ok(command)
    }

    /// Runs git with the Python helper; what it says, on both channels.
    pub(super) async fn python(&self, folder: &Path, arguments: &[&str]) -> Result<(bool, String)> {
        let mut command = self.python_command(folder, arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said += &String::from_utf8_lossy(&output.stderr);
        Ok((output.status.success(), said))
    }

    pub(super) async fn python_push(&self, refspecs: &[&str]) -> Result<()> {
        let url = url(PREFIX);
        let arguments = [&["push", url.as_str()], refspecs].concat();
        let (done, said) = self.python(&self.work(), &arguments).await?;
        assert!(done, "the Python client pushes {refspecs:?}: {said}");
        Ok(())
    }

    /// A clone by the Python client, checked by git, with the refs that it has.
    pub(super) async fn python_clone(&self, prefix: &str, name: &str) -> Result<String> {
        let to = self.folder.path().join(name);
        let (url, to_text) = (url(prefix), to.display().to_string());
        let arguments = ["clone", "--quiet", "--mirror", &url, &to_text];
        let (done, said) = self.python(self.folder.path(), &arguments).await?;
        assert!(done, "the Python client clones: {said}");
        check(&to)?;
        refs(&to)
    }

    pub(super) fn remote(&self) -> Result<BundleRemote> {
        self.remote_at(PREFIX, BundleOptions::default())
    }

    pub(super) fn remote_at(&self, prefix: &str, options: BundleOptions) -> Result<BundleRemote> {
        Ok(BundleRemote::new(
            Arc::<SdkObjectStore>::clone(&self.store),
            self.bucket.clone(),
            KeyPrefix::new(prefix)?,
            options,
        ))
    }

    /// Makes the remote's refs equal to the working folder's, as ours does it.
    pub(super) async fn our_push(&self) -> Result<MirrorStats> {
        let options = MirrorOptions {
            refs: RefSelection::new(["refs/*"])?,
            prune: true,
            ..MirrorOptions::default()
        };
        let local = LocalRepository::new(self.work(), PackLimits::default());
        let outcome = mirror::mirror(&local, &self.remote()?, &options, None).await?;
        assert!(
            outcome.complete && outcome.rejected.is_empty(),
            "{outcome:?}"
        );
        Ok(outcome)
    }

    /// A clone by ours, checked by git, with the refs that it has.
    pub(super) async fn our_clone(&self, remote: &BundleRemote, name: &str) -> Result<String> {
        let to = self.folder.path().join(name);
        let source = remote.source(&[]).await?;
        let snapshot = source.snapshot();
        std::fs::create_dir(&to)?;
        let format = format!("--object-format={}", snapshot.hash);
        git::git(&to, ["init", "--quiet", "--bare", &format])?;
        let wanted = PackRequest {
            wants: snapshot.tips(),
            offset_deltas: true,
            ..PackRequest::default()
        };
        let mut pack = Vec::new();
        let mut body = source.fetch(&wanted).await?;
        while let Some(bytes) = body.next().await {
            pack.extend_from_slice(&bytes?);
        }
        input(&to, &["index-pack", "--stdin", "--strict"], &pack)?;
        let updates = snapshot.refs.iter();
        let updates = updates.map(|(name, target)| format!("create {name} {}\n", target.id));
        let updates: String = updates.collect();
        input(&to, &["update-ref", "--stdin"], updates.as_bytes())?;
        check(&to)?;
        refs(&to)
    }

    pub(super) async fn put(&self, key: &str, body: impl Into<Bytes>) -> Result<()> {
        let (key, options) = (ObjectKey::new(key)?, PutOptions::default());
        let written = self.store.put(&self.bucket, &key, body.into(), &options);
        written.await?;
        Ok(())
    }

    pub(super) async fn get(&self, key: &str) -> Result<Bytes> {
        let key = ObjectKey::new(key)?;
        Ok(self.store.get(&self.bucket, &key, None, None).await?)
    }

    async fn metadata(&self, key: &str) -> Result<ObjectMetadata> {
        let key = ObjectKey::new(key)?;
        let head = self.store.head(&self.bucket, &key).await?;
        Ok(head.expect("it was listed").metadata)
    }

    /// The keys under a prefix.
    pub(super) async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        let mut next = None;
        loop {
            let prefix = format!("{prefix}/");
            let list = self
                .store
                .list(&self.bucket, &prefix, None, next.as_deref());
            let page = list.await?;
            let listed = page.objects.into_iter();
            keys.extend(listed.map(|object| object.key.to_string()));
            next = page.next;
            if next.is_none() {
                return Ok(keys);
            }
        }
    }

    /// The keys that the remote must have for the working folder's refs.
    fn expected_keys(&self) -> Result<Vec<String>> {
        let refs = refs(&self.work())?;
        let key = |line: &str| {
            let (id, name) = line.split_once(' ').unwrap_or_default();
            format!("{PREFIX}/{name}/{id}.bundle")
        };
        let mut keys: Vec<_> = refs.lines().map(key).collect();
        keys.push(format!("{PREFIX}/HEAD"));
        keys.sort();
        Ok(keys)
    }

    /// Both clients clone what the working folder has, nothing else is in the bucket, and
    /// every bundle is one to git.
    pub(super) async fn both_agree(&self, step: &str) -> Result<()> {
        let expected = refs(&self.work())?;
        let python = self.python_clone(PREFIX, &format!("{step}-python")).await?;
        assert_eq!(python, expected, "{step}");
        let ours = self
            .our_clone(&self.remote()?, &format!("{step}-ours"))
            .await?;
        assert_eq!(ours, expected, "{step}");
        let keys = self.keys(PREFIX).await?;
        assert_eq!(keys, self.expected_keys()?, "{step}");
        let head = self.get(&format!("{PREFIX}/HEAD")).await?;
        assert_eq!(head, "refs/heads/main", "{step}: bare, without newline");
        let bundles = keys.iter().filter(|key| key.ends_with(".bundle"));
        // A few of very many say as much.
        for key in bundles.take(40) {
            self.is_bundle(key).await?;
        }
        Ok(())
    }

    /// Asserts that an object is a complete bundle whose first ref is its id, with only the
    /// documented metadata.
    async fn is_bundle(&self, key: &str) -> Result<()> {
        let empty = self.folder.path().join("empty");
        if !empty.exists() {
            git::init(&empty)?;
        }
        std::fs::write(empty.join("it.bundle"), self.get(key).await?)?;
        git::git(&empty, ["bundle", "verify", "--quiet", "it.bundle"])?;
        let heads = git::git(&empty, ["bundle", "list-heads", "it.bundle"])?;
        let (_, id) = key.rsplit_once('/').expect("keys have folders");
        let id = id.trim_end_matches(".bundle");
        assert!(heads.starts_with(id), "`{key}` names its id: {heads}");
        let metadata = self.metadata(key).await?;
        for name in metadata.user.keys() {
            let known = [PUSH, REPLACES].contains(&name.as_str());
            assert!(known, "`{key}` has metadata `{name}`");
        }
        assert_eq!(metadata.content_disposition, None);
        Ok(())
    }
}

pub(super) fn url(prefix: &str) -> String {
    format!("s3://{BUCKET}/{prefix}")
}

pub(super) fn refs(folder: &Path) -> Result<String> {
    git::git(
        folder,
        ["for-each-ref", "--format=%(objectname) %(refname)"],
    )
}

pub(super) fn check(folder: &Path) -> Result<()> {
    let found = git::git(folder, ["fsck", "--full", "--strict", "--no-dangling"])?;
    assert_eq!(found, "", "git fsck finds nothing");
    Ok(())
}

/// Runs git with `input` and returns its output.
pub(super) fn input(folder: &Path, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
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
