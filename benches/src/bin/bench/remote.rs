//! A remote of bundles in S3: the migration function beside git-remote-s3, in one run.
//!
//! The function reads from a git server; the Python client pushes from a clone on the disk. A
//! warm function has copies of the packs that it wrote before. Between S3 and both clients there
//! is the machine's loopback, where a request costs nothing, and then a [slower link](Speed).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use branchline_benches::repositories::{self, pack_of};
use branchline_benches::results::{Output, start_section};
use branchline_benches::run::{self, Measurement};
use branchline_benches::throttled_proxy::{Speed, ThrottledProxy};
use branchline_dev::faults::Service;
use branchline_test_support::git;
use branchline_test_support::http_backend::HttpBackend;
use branchline_test_support::moto::Moto;
use branchline_tests::environment::{Setup, TestEnvironment};
use clap::Args;
use serde_json::json;

/// Measures remotes of bundles in S3.
#[derive(Debug, Clone, Args)]
pub(crate) struct Arguments {
    /// The folder with the bootstraps.
    #[arg(long)]
    bootstraps: PathBuf,
    /// The Python environment with git-remote-s3.
    #[arg(long)]
    peers: PathBuf,
    /// Measures 51 refs that share 10 MiB, too.
    #[arg(long)]
    large: bool,
    /// Measures a bundle of more than 5 GiB, too: a ref is moved whose bundle no single
    /// request can write. git-remote-s3 cannot.
    #[arg(long)]
    huge: bool,
    /// The bandwidth of the link between S3 and both clients, in megabits a second each way.
    #[arg(long, default_value_t = 100)]
    link_mbit: u64,
    /// The round trip over that link.
    #[arg(long, default_value_t = 10)]
    link_latency_ms: u64,
    #[command(flatten)]
    output: Output,
}

impl Arguments {
    fn speed(&self) -> Speed {
        Speed {
            mbit: self.link_mbit,
            round_trip: Duration::from_millis(self.link_latency_ms),
        }
    }
}

const BUCKET: &str = "remotes";
/// Start of the names of the peer's runs.
const PEER: &str = "git-remote-s3";
/// Memory limit of the function for packs, in MiB.
const MEMORY_MIB: u64 = 256;

/// Server of S3, and the link to it.
enum Over {
    /// The development server.
    Loopback,
    /// The development server behind a throttled link.
    Link(ThrottledProxy),
    /// moto, whose requests are not counted.
    Moto(Moto),
}

impl Over {
    /// Returns the endpoint of S3; `None` for the development server's own.
    fn endpoint(&self) -> Option<String> {
        match self {
            Self::Loopback => None,
            Self::Link(link) => Some(link.endpoint()),
            Self::Moto(moto) => Some(moto.endpoint()),
        }
    }
}

/// The functions, and S3 for them and for the Python client.
struct Bench {
    arguments: Arguments,
    stage: TestEnvironment,
    over: Over,
    folder: tempfile::TempDir,
}

/// Measures, and prints the results.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let output = arguments.output.clone();
    println!("S3 is the development server\n");
    let bench = Bench::start(arguments.clone(), Over::Loopback).await?;
    Measurement::heads();
    bench.small_change().await?;
    if arguments.large {
        bench.many_refs().await?;
    }
    if arguments.huge {
        bench.huge_bundle().await?;
    }
    bench.stage.server.shutdown().await;
    println!(
        "\nS3 is the development server, over {} Mbit/s each way, {} ms there and back\n",
        arguments.link_mbit, arguments.link_latency_ms
    );
    let link = ThrottledProxy::open(arguments.speed()).await?;
    let bench = Bench::start(arguments.clone(), Over::Link(link)).await?;
    Measurement::heads();
    bench.small_change().await?;
    bench.stage.server.shutdown().await;
    println!("\nS3 is moto, whose requests are not counted\n");
    let moto = Moto::start_from(&arguments.peers)?;
    let bench = Bench::start(arguments, Over::Moto(moto)).await?;
    Measurement::heads();
    bench.small_change().await?;
    bench.stage.server.shutdown().await;
    output.save()
}

impl Bench {
    async fn start(arguments: Arguments, over: Over) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let temporary = folder.path().join("tmp");
        std::fs::create_dir(&temporary)?;
        let mut variables = vec![
            ("MIGRATION_MEMORY_MIB", MEMORY_MIB.to_string()),
            ("TMPDIR", temporary.to_string_lossy().into_owned()),
        ];
        variables.extend(
            over.endpoint()
                .map(|endpoint| ("AWS_ENDPOINT_URL_S3", endpoint)),
        );
        if let Over::Moto(moto) = &over {
            moto.put(&format!("/{BUCKET}"), "")?;
        }
        let stage = TestEnvironment::start(Setup {
            migration: Some(variables),
            bootstraps: arguments.bootstraps.clone(),
            timeout: Duration::from_mins(15),
            ..Setup::default()
        })
        .await?;
        if let Over::Link(link) = &over {
            link.lead_to(&stage.server.endpoint())?;
        }
        stage.create_public_bucket(BUCKET)?;
        Ok(Self {
            arguments,
            stage,
            over,
            folder,
        })
    }

    /// Makes the link as fast as the machine for what is not measured.
    fn hurry(&self, is_hurried: bool) {
        if let Over::Link(link) = &self.over {
            link.set_speed((!is_hurried).then(|| self.arguments.speed()));
        }
    }

    /// Deletes the function's cached packs, as at a cold start.
    fn drop_copies(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.folder.path().join("tmp/branchline-packs"))? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// Two bytes in 60 MB: pushed, and fetched again.
    async fn small_change(&self) -> Result<()> {
        let repository = self.folder.path().join("change.git");
        repositories::repository(&repository, |out| repositories::blobs(out, &[1 << 20; 58]))?;
        println!("{} bytes", pack_of(&repository)?.metadata()?.len());
        let place = match &self.over {
            Over::Link(_) => format!(
                "{} Mbit/s and {} ms away",
                self.arguments.link_mbit, self.arguments.link_latency_ms
            ),
            Over::Moto(_) => "to moto".to_owned(),
            Over::Loopback => "to the development server".to_owned(),
        };
        // The first call starts the function.
        let small = self.folder.path().join("warm.git");
        repositories::repository(&small, |out| repositories::commits(out, 1))?;
        self.hurry(true);
        self.push(&small, "warm").await?;

        let ours = self.push(&repository, "ours").await?;
        let theirs = self.python_push(&repository, "theirs").await?;
        if !matches!(self.over, Over::Link(_)) {
            start_section(format!("First push of 60 MB, {place}"), PEER);
            ours.print("migration, all");
            theirs.print("git-remote-s3 0.4.2, all");
        }
        let clones = ["ours", "theirs"].map(|name| self.folder.path().join(name));
        for (clone, name) in clones.iter().zip(["ours", "theirs"]) {
            self.python_clone(name, clone).await?;
        }
        let server = self.folder.path().join("server.git");
        repositories::repository(&server, |_| Ok(()))?;
        self.fetch("ours", &server).await?;
        self.hurry(false);

        let (mut warm, mut cold, mut theirs) = (None, None, None);
        let (mut our_fetch, mut their_fetch) = (None, None);
        // The better of three each: others use this machine, too.
        for turn in 0..3 {
            repositories::change(&repository, "main", 2 * turn)?;
            let run = self.push(&repository, "ours").await?;
            ensure!(run.sent <= 6 << 20, "at most 6 MiB are sent");
            warm = Some(run.better(warm));
            let run = self.python_push(&repository, "theirs").await?;
            theirs = Some(run.better(theirs));
            our_fetch = Some(self.fetch("ours", &server).await?.better(our_fetch));
            let run = self.python_fetch(&clones[1]).await?;
            their_fetch = Some(run.better(their_fetch));
            repositories::change(&repository, "main", 2 * turn + 1)?;
            self.drop_copies()?;
            let run = self.push(&repository, "ours").await?;
            ensure!(run.sent <= 6 << 20, "at most 6 MiB are sent");
            cold = Some(run.better(cold));
        }
        self.hurry(true);
        self.python_push(&repository, "theirs").await?;
        self.fetch("ours", &server).await?;
        for clone in &clones {
            self.python_fetch(clone).await?;
        }
        run::same(&[&repository, &clones[0], &clones[1], &server])?;

        let theirs = theirs.context("there are three turns")?;
        let warm = warm.context("there are three turns")?;
        let cold = cold.context("there are three turns")?;
        start_section(format!("Push of 2 bytes more, {place}"), PEER);
        warm.print("migration, 2 bytes more, warm");
        cold.print("migration, 2 bytes more, no copy of the pack");
        theirs.print("git-remote-s3 0.4.2, 2 bytes more");
        print_ratio("warm", &warm, &theirs);
        print_ratio("without a copy", &cold, &theirs);
        let (ours, theirs) = our_fetch
            .zip(their_fetch)
            .context("there are three turns")?;
        start_section(format!("Fetch of 2 bytes more, {place}"), PEER);
        ours.print("migration, from S3 to a git server");
        theirs.print("git-remote-s3 0.4.2, git fetch");
        print_ratio("fetched", &ours, &theirs);
        Ok(())
    }

    /// 51 refs of one history of 10 MiB, each with a commit of its own.
    async fn many_refs(&self) -> Result<()> {
        let repository = self.folder.path().join("refs.git");
        repositories::repository(&repository, |out| repositories::blobs(out, &[1 << 20; 10]))?;
        for n in 0..50 {
            repositories::change(&repository, &format!("topic-{n}"), n)?;
        }
        let ours = self.push(&repository, "our-refs").await?;
        start_section("First push of 51 refs that share 10 MiB", PEER);
        ours.print("migration, 51 refs");
        let theirs = self.python_push(&repository, "their-refs").await?;
        theirs.print("git-remote-s3 0.4.2, 51 refs");
        print_ratio("51 refs", &ours, &theirs);
        let clones = ["our-refs", "their-refs"].map(|name| self.folder.path().join(name));
        for (clone, name) in clones.iter().zip(["our-refs", "their-refs"]) {
            self.python_clone(name, clone).await?;
        }
        run::same(&[&repository, &clones[0], &clones[1]])
    }

    /// More than 5 GiB, then two bytes more.
    async fn huge_bundle(&self) -> Result<()> {
        let repository = self.folder.path().join("huge.git");
        repositories::repository(&repository, |out| repositories::blobs(out, &[64 << 20; 84]))?;
        let size = pack_of(&repository)?.metadata()?.len();
        println!("{size} bytes");
        ensure!(size > 5 << 30, "it is more than one request can write");
        self.push(&repository, "huge")
            .await?
            .print("migration, all");
        repositories::change(&repository, "main", 1)?;
        let run = self.push(&repository, "huge").await?;
        ensure!(run.sent <= 6 << 20, "at most 6 MiB are sent");
        run.print("migration, 2 bytes more");
        let clone = self.folder.path().join("huge-clone");
        self.python_clone("huge", &clone).await?;
        run::same(&[&repository, &clone])
    }

    async fn push(&self, repository: &Path, name: &str) -> Result<Measurement> {
        let server = HttpBackend::start(repository)?;
        let event = json!({ "mappings": [{
            "source": server.url(), "target": url(name), "layout": "bundle",
        }]});
        run::migrate(&self.stage, &event, Service::S3).await
    }

    async fn fetch(&self, name: &str, repository: &Path) -> Result<Measurement> {
        let server = HttpBackend::start(repository)?;
        let event = json!({ "mappings": [{ "source": url(name), "target": server.url() }]});
        run::migrate(&self.stage, &event, Service::S3).await
    }

    async fn python_push(&self, repository: &Path, name: &str) -> Result<Measurement> {
        let mut command = run::git_with_peers(repository, &self.arguments.peers)?;
        command.args(["push", "--quiet", &url(name), "refs/heads/*:refs/heads/*"]);
        let run = self.program(command).await?;
        Ok(Measurement {
            sent: self.bundles(repository, name)?,
            ..run
        })
    }

    async fn python_clone(&self, name: &str, to: &Path) -> Result<()> {
        let mut command = run::git_with_peers(self.folder.path(), &self.arguments.peers)?;
        command.args(["clone", "--quiet", "--mirror", &url(name)]);
        command.arg(to);
        self.program(command).await?;
        git::git(to, ["fsck", "--strict", "--no-dangling"]).map(drop)
    }

    async fn python_fetch(&self, clone: &Path) -> Result<Measurement> {
        let mut command = run::git_with_peers(clone, &self.arguments.peers)?;
        command.args(["fetch", "--quiet", "origin"]);
        self.program(command).await
    }

    async fn program(&self, mut command: Command) -> Result<Measurement> {
        if let Some(endpoint) = self.over.endpoint() {
            command.env("AWS_ENDPOINT_URL_S3", endpoint);
        }
        run::program(&self.stage, command, Service::S3).await
    }

    /// The bytes of the bundles of a repository's branches, each of which was sent.
    fn bundles(&self, repository: &Path, name: &str) -> Result<u64> {
        let list = [
            "for-each-ref",
            "--format=%(refname)/%(objectname)",
            "refs/heads",
        ];
        if matches!(self.over, Over::Moto(_)) {
            return Ok(0);
        }
        let mut bytes = 0;
        for path in git::git(repository, list)?.lines() {
            let key = format!("{name}/{path}.bundle");
            let object = self.stage.server.store().get_bytes(BUCKET, &key, None);
            let (_, body) = object.map_err(|error| anyhow::anyhow!("`{key}`: {error}"))?;
            bytes += body.len() as u64;
        }
        Ok(bytes)
    }
}

fn print_ratio(what: &str, ours: &Measurement, theirs: &Measurement) {
    let ratio = theirs.ratio(ours);
    println!("faster than git-remote-s3, {what:<17}{ratio:.1} x");
}

fn url(name: &str) -> String {
    format!("s3://{BUCKET}/{name}")
}
