//! Mirrors into S3: the migration function beside mirror-git-to-s3, and beside
//! `git clone --mirror` with one upload of its pack, in one run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use branchline_benches::repositories::{self, pack_of};
use branchline_benches::run::{self, Measurement, requests};
use branchline_core::aws::{AccessKey, Aws};
use branchline_core::name::BucketName;
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::storage::multipart::MultipartWriter;
use branchline_dev::faults::Service;
use branchline_test_support::git;
use branchline_test_support::http_backend::HttpBackend;
use branchline_tests::environment::{Setup, TestEnvironment};
use clap::Parser;
use serde_json::json;

/// Measures mirrors into S3.
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder with the bootstraps.
    #[arg(long)]
    bootstraps: PathBuf,
    /// The Python environment with mirror-git-to-s3; not compared without.
    #[arg(long)]
    peers: Option<PathBuf>,
    /// Measures a pack of 1 GiB with one blob of 500 MiB, too.
    #[arg(long)]
    large: bool,
}

/// The bucket, which everyone may read.
const BUCKET: &str = "mirrors";
/// Memory limit of the function for packs, in MiB.
const MEMORY_MIB: u64 = 256;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let stage = TestEnvironment::start(Setup {
        migration: Some(vec![("MIGRATION_MEMORY_MIB", MEMORY_MIB.to_string())]),
        bootstraps: arguments.bootstraps.clone(),
        timeout: Duration::from_mins(15),
        ..Setup::default()
    })
    .await?;
    stage.create_public_bucket(BUCKET)?;
    let folder = tempfile::tempdir()?;
    Measurement::heads();
    let small = folder.path().join("small.git");
    repositories::repository(&small, |out| repositories::commits(out, 500))?;
    objects_of_peers(&arguments, &stage, &small).await?;

    let middle = folder.path().join("middle.git");
    repositories::repository(&middle, |out| repositories::blobs(out, &[1 << 20; 30]))?;
    upload_of_git(&stage, &middle, folder.path()).await?;

    if arguments.large {
        let large = folder.path().join("large.git");
        let sizes: Vec<usize> = [500 << 20].into_iter().chain([4 << 20; 131]).collect();
        repositories::repository(&large, |out| repositories::blobs(out, &sizes))?;
        let run = mirror(&stage, &large, "large").await?;
        let pack = pack_of(&large)?.metadata()?.len();
        run.print(&format!("migration, a pack of {} MiB", pack >> 20));
        ensure!(run.peak < 512 << 20, "the peak is under 512 MiB");
    }
    stage.server.shutdown().await;
    Ok(())
}

/// Beside mirror-git-to-s3, and again with nothing new.
async fn objects_of_peers(
    arguments: &Arguments,
    stage: &TestEnvironment,
    small: &Path,
) -> Result<()> {
    let warm = git::git(small, ["rev-list", "--objects", "--all"])?;
    println!("{} objects", warm.lines().count());
    // The first call starts the function.
    mirror(stage, small, "warm").await?;
    let ours = mirror(stage, small, "ours").await?;
    ours.print("migration");
    let again = mirror(stage, small, "ours").await?;
    again.print("migration, nothing new");
    let Some(peers) = &arguments.peers else {
        println!("mirror-git-to-s3 is not compared: --peers names no environment");
        return Ok(());
    };
    let theirs = peer(stage, small, peers).await?;
    theirs.print("mirror-git-to-s3 0.0.24");
    println!(
        "faster than mirror-git-to-s3        {:.1} x",
        theirs.ratio(&ours)
    );
    same(stage, &["ours", "theirs"]).await
}

/// Beside `git clone --mirror` with one upload of its pack.
async fn upload_of_git(stage: &TestEnvironment, middle: &Path, folder: &Path) -> Result<()> {
    println!("{} MiB", pack_of(middle)?.metadata()?.len() >> 20);
    let (mut ours, mut git) = (None, None);
    // The better of three each: others use this machine, too.
    for turn in 0..3 {
        let run = mirror(stage, middle, &format!("middle-{turn}")).await?;
        ours = Some(run.better(ours));
        let clone = folder.join(format!("clone-{turn}.git"));
        let run = clone_and_upload(stage, middle, &clone).await?;
        git = Some(run.better(git));
    }
    let (ours, git) = ours.zip(git).context("there are three turns")?;
    ours.print("migration");
    git.print("git clone --mirror, and one upload");
    println!(
        "as long as git and an upload        {:.2} x",
        ours.ratio(&git)
    );
    Ok(())
}

async fn mirror(stage: &TestEnvironment, repository: &Path, name: &str) -> Result<Measurement> {
    let server = HttpBackend::start(repository)?;
    let event = json!({ "mappings": [{
        "source": server.url(), "target": format!("s3://{BUCKET}/{name}"), "layout": "dumb",
    }]});
    run::migrate(stage, &event, Service::S3).await
}

async fn peer(stage: &TestEnvironment, repository: &Path, peers: &Path) -> Result<Measurement> {
    let server = HttpBackend::start(repository)?;
    let mut command = Command::new(peers.join("bin/python"));
    command
        .arg(peers.join("bin/mirror-git-to-s3"))
        .args(["--source", &server.url()])
        .args(["--target", &format!("s3://{BUCKET}/theirs")]);
    run::program(stage, command, Service::S3).await
}

async fn clone_and_upload(
    stage: &TestEnvironment,
    repository: &Path,
    clone: &Path,
) -> Result<Measurement> {
    let server = HttpBackend::start(repository)?;
    let credentials = stage.server.credentials();
    let key = AccessKey {
        id: credentials.access_key_id.clone(),
        secret: credentials.secret_access_key.clone(),
        session_token: credentials.session_token.clone(),
    };
    let region = &stage.server.account().region;
    let aws = Aws::fixed(region, &stage.server.endpoint(), &key);
    let store = std::sync::Arc::new(SdkObjectStore::new(&aws));
    let mut command = git::command(repository.parent().context("a repository is in a folder")?);
    command
        .args(["clone", "--quiet", "--mirror", &server.url()])
        .arg(clone);
    let (before, begin) = (requests(stage, Service::S3), Instant::now());
    tokio::task::spawn_blocking(move || git::run(&mut command)).await??;
    let pack = std::fs::read(pack_of(clone)?)?;
    let bucket = BucketName::new(BUCKET)?;
    let name = clone
        .file_name()
        .context("it has a name")?
        .display()
        .to_string();
    let upload = MultipartWriter::new(store, bucket, format!("{name}/pack").parse()?);
    upload.complete(1, pack.into()).await?;
    Ok(Measurement {
        requests: requests(stage, Service::S3) - before,
        wall: begin.elapsed(),
        peak: 0,
        sent: 0,
    })
}

/// Makes sure that stock git sees the same refs and objects in each mirror.
async fn same(stage: &TestEnvironment, names: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut clones = Vec::new();
    for name in names {
        let url = format!("{}/{BUCKET}/{name}", stage.server.endpoint());
        let mut clone = git::command(folder.path());
        clone.args(["clone", "--quiet", "--mirror", &url, name]);
        tokio::task::spawn_blocking(move || git::run(&mut clone)).await??;
        clones.push(folder.path().join(name));
    }
    run::same(&clones.iter().map(PathBuf::as_path).collect::<Vec<_>>())
}
