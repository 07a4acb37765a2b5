//! Mirrors into S3: the migration function beside mirror-git-to-s3, and beside
//! `git clone --mirror` with one upload of its pack, in one run.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use branchline_core::aws::{AccessKey, Aws};
use branchline_core::name::BucketName;
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::storage::upload::Upload;
use branchline_dev::faults::Service;
use branchline_tests::git;
use branchline_tests::http_backend::HttpBackend;
use branchline_tests::stage::{MIGRATION, Setup, Stage};
use clap::Parser;
use serde_json::{Value, json};

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
/// What the function may hold of packs.
const MEMORY_MIB: u64 = 256;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let stage = Stage::start(Setup {
        migration: Some(vec![("MIGRATION_MEMORY_MIB", MEMORY_MIB.to_string())]),
        bootstraps: arguments.bootstraps.clone(),
        timeout: Duration::from_mins(15),
        ..Setup::default()
    })
    .await?;
    stage.create_public_bucket(BUCKET)?;
    let folder = tempfile::tempdir()?;
    println!(
        "{:<44}{:>10}{:>12}{:>14}",
        "", "requests", "wall", "peak memory"
    );
    let small = folder.path().join("small.git");
    make(&small, |out| objects(out, 500))?;
    objects_of_peers(&arguments, &stage, &small).await?;

    let middle = folder.path().join("middle.git");
    make(&middle, |out| blobs(out, &[1 << 20; 30]))?;
    upload_of_git(&stage, &middle, folder.path()).await?;

    if arguments.large {
        let large = folder.path().join("large.git");
        let sizes: Vec<usize> = [500 << 20].into_iter().chain([4 << 20; 131]).collect();
        make(&large, |out| blobs(out, &sizes))?;
        let run = mirror(&stage, &large, "large").await?;
        let pack = pack_of(&large)?.metadata()?.len();
        run.tell(&format!("migration, a pack of {} MiB", pack >> 20));
        ensure!(run.peak < 512 << 20, "the peak is under 512 MiB");
    }
    stage.server.shutdown().await;
    Ok(())
}

/// Beside mirror-git-to-s3, and again with nothing new.
async fn objects_of_peers(arguments: &Arguments, stage: &Stage, small: &Path) -> Result<()> {
    let warm = git::git(small, ["rev-list", "--objects", "--all"])?;
    println!("{} objects", warm.lines().count());
    // The first call starts the function.
    mirror(stage, small, "warm").await?;
    let ours = mirror(stage, small, "ours").await?;
    ours.tell("migration");
    let again = mirror(stage, small, "ours").await?;
    again.tell("migration, nothing new");
    let Some(peers) = &arguments.peers else {
        println!("mirror-git-to-s3 is not compared: --peers names no environment");
        return Ok(());
    };
    let theirs = peer(stage, small, peers).await?;
    theirs.tell("mirror-git-to-s3 0.0.24");
    println!(
        "faster than mirror-git-to-s3        {:.1} x",
        theirs.ratio(&ours)
    );
    same(stage, &["ours", "theirs"]).await
}

/// Beside `git clone --mirror` with one upload of its pack.
async fn upload_of_git(stage: &Stage, middle: &Path, folder: &Path) -> Result<()> {
    println!("{} MiB", pack_of(middle)?.metadata()?.len() >> 20);
    let mut ours = mirror(stage, middle, "middle-0").await?;
    let mut git = clone_and_upload(stage, middle, &folder.join("clone-0.git")).await?;
    // The better of three each: others use this machine, too.
    for turn in 1..3 {
        let run = mirror(stage, middle, &format!("middle-{turn}")).await?;
        ours = if run.wall < ours.wall { run } else { ours };
        let clone = folder.join(format!("clone-{turn}.git"));
        let run = clone_and_upload(stage, middle, &clone).await?;
        git = if run.wall < git.wall { run } else { git };
    }
    ours.tell("migration");
    git.tell("git clone --mirror, and one upload");
    println!(
        "as long as git and an upload        {:.2} x",
        ours.ratio(&git)
    );
    Ok(())
}

/// What one run cost.
struct Run {
    requests: u64,
    wall: Duration,
    peak: u64,
}

impl Run {
    fn tell(&self, name: &str) {
        let peak = match self.peak {
            0 => "-".to_owned(),
            bytes => format!("{} MiB", bytes >> 20),
        };
        let wall = self.wall.as_millis();
        println!("{name:<44}{:>10}{wall:>9} ms{peak:>14}", self.requests);
    }

    fn ratio(&self, other: &Self) -> f64 {
        self.wall.as_secs_f64() / other.wall.as_secs_f64()
    }
}

fn requests(stage: &Stage) -> u64 {
    let lines = stage.server.requests().lines();
    let s3 = lines.iter().filter(|line| line.service == Service::S3);
    s3.map(|line| line.count).sum()
}

async fn mirror(stage: &Stage, repository: &Path, name: &str) -> Result<Run> {
    let server = HttpBackend::start(repository)?;
    let event = json!({ "mappings": [{
        "source": server.url(), "target": format!("s3://{BUCKET}/{name}"), "layout": "dumb",
    }]});
    let before = requests(stage);
    let run = stage.invoke(MIGRATION, &event).await?;
    let branchline_dev::lambda::Outcome::Answer(answer) = &run.outcome else {
        bail!("the run failed: {:?}", run.outcome);
    };
    let answer: Value = serde_json::from_slice(answer)?;
    ensure!(answer["status"] == "complete", "{answer}");
    Ok(Run {
        requests: requests(stage) - before,
        wall: run.duration,
        peak: run.max_memory_bytes.unwrap_or(0),
    })
}

async fn peer(stage: &Stage, repository: &Path, peers: &Path) -> Result<Run> {
    let server = HttpBackend::start(repository)?;
    let mut command = Command::new(peers.join("bin/python"));
    command
        .arg(peers.join("bin/mirror-git-to-s3"))
        .args(["--source", &server.url()])
        .args(["--target", &format!("s3://{BUCKET}/theirs")])
        .stdin(Stdio::null());
    stage.sign_in(&mut command);
    let (before, begin) = (requests(stage), Instant::now());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let wall = begin.elapsed();
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "mirror-git-to-s3: {text}");
    Ok(Run {
        requests: requests(stage) - before,
        wall,
        peak: 0,
    })
}

async fn clone_and_upload(stage: &Stage, repository: &Path, clone: &Path) -> Result<Run> {
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
    let mut command = git::command(repository.parent().context("it lies in a folder")?);
    command
        .args(["clone", "--quiet", "--mirror", &server.url()])
        .arg(clone);
    let (before, begin) = (requests(stage), Instant::now());
    tokio::task::spawn_blocking(move || git::run(&mut command)).await??;
    let pack = std::fs::read(pack_of(clone)?)?;
    let bucket = BucketName::new(BUCKET)?;
    let name = clone
        .file_name()
        .context("it has a name")?
        .display()
        .to_string();
    let upload = Upload::new(store, bucket, format!("{name}/pack").parse()?);
    upload.complete(1, pack.into()).await?;
    Ok(Run {
        requests: requests(stage) - before,
        wall: begin.elapsed(),
        peak: 0,
    })
}

/// The only pack of a repository.
fn pack_of(repository: &Path) -> Result<PathBuf> {
    for entry in std::fs::read_dir(repository.join("objects/pack"))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "pack")
        {
            return Ok(path);
        }
    }
    bail!("{} has no pack", repository.display())
}

/// Makes sure that stock git sees the same refs and objects in each mirror.
async fn same(stage: &Stage, names: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut seen = Vec::new();
    for name in names {
        let url = format!("{}/{BUCKET}/{name}", stage.server.endpoint());
        let mut clone = git::command(folder.path());
        clone.args(["clone", "--quiet", "--mirror", &url, name]);
        tokio::task::spawn_blocking(move || git::run(&mut clone)).await??;
        let list = ["rev-list", "--objects", "--no-object-names", "--all"];
        let mut ids = git::git(&folder.path().join(name), list)?
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>();
        ids.sort();
        seen.push(ids);
    }
    ensure!(seen.windows(2).all(|two| two[0] == two[1]), "they differ");
    Ok(())
}

/// Makes a bare repository of what `write` tells `git fast-import`, in one pack.
fn make(folder: &Path, write: impl FnOnce(&mut dyn std::io::Write) -> Result<()>) -> Result<()> {
    let parent = folder.parent().context("it lies in a folder")?;
    let mut init = git::command(parent);
    init.args(["init", "--quiet", "--bare", "--initial-branch=main"]);
    git::run(init.arg(folder))?;
    let mut import = git::command(folder);
    import
        .args(["-c", "fastimport.unpackLimit=0"])
        .args(["-c", "core.bigFileThreshold=1m"])
        .args(["fast-import", "--quiet"])
        .stdin(Stdio::piped());
    let mut import = import.spawn().context("git cannot be started")?;
    let pipe = import.stdin.take().context("it is piped")?;
    let mut out = std::io::BufWriter::new(pipe);
    write(&mut out)?;
    out.flush()?;
    drop(out);
    ensure!(import.wait()?.success(), "git fast-import failed");
    Ok(())
}

/// So many commits of one changed file: three objects each.
fn objects(out: &mut dyn std::io::Write, commits: usize) -> Result<()> {
    for n in 0..commits {
        let mut text = String::new();
        for line in 0..40 {
            let stamp = if line % 8 == n % 8 { n } else { 0 };
            writeln!(text, "line {line} {stamp}")?;
        }
        let date = 1_600_000_000 + n;
        write!(
            out,
            "commit refs/heads/main\ncommitter C <c@x> {date} +0000\ndata 1\nx\n\
             M 100644 inline f{}\ndata {}\n{text}\n",
            n % 20,
            text.len()
        )?;
    }
    Ok(())
}

/// One commit of files of these sizes that no one can compress.
fn blobs(out: &mut dyn std::io::Write, sizes: &[usize]) -> Result<()> {
    write!(
        out,
        "commit refs/heads/main\ncommitter C <c@x> 1600000000 +0000\ndata 1\nx\n"
    )?;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for (file, size) in sizes.iter().enumerate() {
        write!(out, "M 100644 inline f{file}\ndata {size}\n")?;
        for _ in 0..size / 8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            out.write_all(&state.to_le_bytes())?;
        }
        out.write_all(b"\n")?;
    }
    Ok(())
}
