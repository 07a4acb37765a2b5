//! Mirrors into S3: the migration function and `branchline mirror` beside mirror-git-to-s3, and
//! beside `git clone --mirror` with one upload of its pack, in one run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use branchline_benches::repositories::{self, pack_of};
use branchline_benches::results::{Output, start_section};
use branchline_benches::run::{self, Measurement, requests};
use branchline_core::aws::{AccessKey, Aws};
use branchline_core::name::BucketName;
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::storage::multipart::MultipartWriter;
use branchline_dev::faults::Service;
use branchline_test_support::git;
use branchline_test_support::http_backend::HttpBackend;
use branchline_tests::environment::{Setup, TestEnvironment};
use clap::Args;
use serde_json::json;

/// Measures mirrors into S3.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder with the bootstraps, and with the program `branchline`.
    #[arg(long)]
    bootstraps: PathBuf,
    /// The Python environment with mirror-git-to-s3; not compared without.
    #[arg(long)]
    peers: Option<PathBuf>,
    /// Measures a pack of 1 GiB with one blob of 500 MiB, too.
    #[arg(long)]
    large: bool,
    #[command(flatten)]
    output: Output,
}

/// The bucket, which everyone may read.
const BUCKET: &str = "mirrors";
/// Memory limit of the function for packs, in MiB.
const MEMORY_MIB: u64 = 256;

/// Measures, and prints the results.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
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
    upload_of_git(&arguments, &stage, &middle, folder.path()).await?;

    if arguments.large {
        let large = folder.path().join("large.git");
        let sizes: Vec<usize> = [500 << 20].into_iter().chain([4 << 20; 131]).collect();
        repositories::repository(&large, |out| repositories::blobs(out, &sizes))?;
        start_section("Mirror of a large pack", "");
        let run = mirror(&stage, &large, "large").await?;
        let pack = pack_of(&large)?.metadata()?.len();
        run.print(&format!("migration, a pack of {} MiB", pack >> 20));
        ensure!(run.peak < 512 << 20, "the peak is under 512 MiB");
    }
    stage.server.shutdown().await;
    arguments.output.save()
}

/// Beside mirror-git-to-s3, and again with nothing new.
async fn objects_of_peers(
    arguments: &Arguments,
    stage: &TestEnvironment,
    small: &Path,
) -> Result<()> {
    let warm = git::git(small, ["rev-list", "--objects", "--all"])?;
    let objects = warm.lines().count();
    println!("{objects} objects");
    start_section(format!("Mirror of {objects} objects"), "mirror-git-to-s3");
    // The first call starts the function.
    mirror(stage, small, "warm").await?;
    let ours = mirror(stage, small, "ours").await?;
    ours.print("migration");
    let again = mirror(stage, small, "ours").await?;
    again.print("migration, nothing new");
    let programs = &arguments.bootstraps;
    at_terminal(stage, programs, small, "warm-terminal").await?;
    let terminal = at_terminal(stage, programs, small, "terminal").await?;
    terminal.print("branchline mirror");
    let terminal_again = at_terminal(stage, programs, small, "terminal").await?;
    terminal_again.print("branchline mirror, nothing new");
    print_ratio("branchline mirror / migration", &terminal, &ours);
    same(stage, &["ours", "terminal"]).await?;
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
async fn upload_of_git(
    arguments: &Arguments,
    stage: &TestEnvironment,
    middle: &Path,
    folder: &Path,
) -> Result<()> {
    let mebibytes = pack_of(middle)?.metadata()?.len() >> 20;
    println!("{mebibytes} MiB");
    start_section(format!("Mirror of {mebibytes} MiB"), "git clone");
    let (mut ours, mut terminal, mut git) = (None, None, None);
    // The better of three each: others use this machine, too.
    for turn in 0..3 {
        let run = mirror(stage, middle, &format!("middle-{turn}")).await?;
        ours = Some(run.better(ours));
        let name = format!("middle-terminal-{turn}");
        let run = at_terminal(stage, &arguments.bootstraps, middle, &name).await?;
        terminal = Some(run.better(terminal));
        let clone = folder.join(format!("clone-{turn}.git"));
        let run = clone_and_upload(stage, middle, &clone).await?;
        git = Some(run.better(git));
    }
    let (ours, git) = ours.zip(git).context("there are three turns")?;
    let terminal = terminal.context("there are three turns")?;
    ours.print("migration");
    terminal.print("branchline mirror");
    git.print("git clone --mirror, and one upload");
    print_ratio("migration / git and an upload", &ours, &git);
    print_ratio("branchline mirror / migration", &terminal, &ours);
    Ok(())
}

/// Prints the duration of one run, divided by that of another.
fn print_ratio(name: &str, one: &Measurement, other: &Measurement) {
    println!("{name:<44}{:>10.2} x", one.ratio(other));
}

async fn mirror(stage: &TestEnvironment, repository: &Path, name: &str) -> Result<Measurement> {
    let server = HttpBackend::start(repository)?;
    let event = json!({ "mappings": [{
        "source": server.url(), "target": format!("s3://{BUCKET}/{name}"), "layout": "dumb",
    }]});
    run::migrate(stage, &event, Service::S3).await
}

/// Mirrors by `branchline mirror`.
async fn at_terminal(
    stage: &TestEnvironment,
    programs: &Path,
    repository: &Path,
    name: &str,
) -> Result<Measurement> {
    let server = HttpBackend::start(repository)?;
    let to = format!("s3://{BUCKET}/{name}");
    let url = server.url();
    let words = ["mirror", &url, &to, "--layout", "dumb"];
    run::command_line(stage, programs, &words, Service::S3).await
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
