//! LFS objects in S3: branchline's agent beside git-lfs-s3, driven by the same git-lfs on the
//! same S3, in one run; and `codecommit://` beside git's own HTTP.
//!
//! The best of several runs is printed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use branchline_benches::repositories;
use branchline_benches::results::{self, Output, Row, start_section};
use branchline_dev::faults::Service;
use branchline_dev::server::{Options, Server};
use branchline_test_support::git;
use clap::Args;
use serde_json::json;

/// Measures LFS objects in S3, and `codecommit://`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder with the program `branchline`.
    #[arg(long)]
    programs: PathBuf,
    /// The Python environment with git-lfs-s3.
    #[arg(long)]
    peers: PathBuf,
    /// Transfers also one object of 1 GiB, by branchline only.
    #[arg(long)]
    large: bool,
    #[command(flatten)]
    output: Output,
}

const BUCKET: &str = "repositories";
/// Number of runs of which the best counts.
const TURNS: usize = 3;
/// Number of runs of short commands, of which the best counts.
const SHORT_TURNS: usize = 15;
/// Number of small objects, and their size in bytes.
const OBJECTS: usize = 1_000;
const OBJECT_BYTES: usize = 10_000;
/// Size of the large object, in bytes.
const LARGE_BYTES: usize = 1 << 30;
/// Interval at which the memory of the agents is read.
const MEMORY_INTERVAL: Duration = Duration::from_millis(20);

/// A program that transfers LFS objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agent {
    Branchline,
    Awslabs,
}

impl Agent {
    fn name(self) -> &'static str {
        match self {
            Self::Branchline => "branchline",
            Self::Awslabs => "git-lfs-s3",
        }
    }
}

/// Cost of one command.
#[derive(Debug, Clone, Copy)]
struct Cost {
    requests: u64,
    wall: Duration,
    /// The most memory of one agent of branchline, in bytes; 0 if none ran.
    memory: u64,
}

impl Cost {
    fn print(self, name: &str) {
        results::record(Row {
            name: name.to_owned(),
            requests: Some(self.requests),
            wall: self.wall,
            peak_bytes: Some(self.memory).filter(|bytes| *bytes > 0),
            bytes: None,
        });
        let memory = match self.memory {
            0 => "-".to_owned(),
            bytes => format!("{} MiB", bytes >> 20),
        };
        println!(
            "{name:<44}{:>10} requests{:>9} ms{memory:>12}",
            self.requests,
            self.wall.as_millis(),
        );
    }

    fn better(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if other.wall < self.wall => other,
            _ => self,
        }
    }
}

struct Bench {
    server: Server,
    folder: tempfile::TempDir,
    programs: PathBuf,
    peers: PathBuf,
}

/// Measures, and prints the results.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let programs = arguments.programs.canonicalize()?;
    let peers = arguments.peers.canonicalize()?;
    let server = Server::start(Options::default()).await?;
    let region = server.account().region.clone();
    let created = server.store().create_bucket(BUCKET, &region);
    created.map_err(|error| anyhow::anyhow!("{error}"))?;
    let folder = tempfile::tempdir()?;
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin)?;
    for name in [
        "branchline",
        "git-lfs-s3",
        "git-remote-codecommit",
        "git-remote-s3",
    ] {
        symlink(programs.join("branchline"), bin.join(name))?;
    }
    let bench = Bench {
        server,
        folder,
        programs,
        peers,
    };
    bench.agent_start()?;
    bench.small_objects().await?;
    if arguments.large {
        bench.large_object().await?;
    }
    bench.codecommit().await?;
    bench.server.shutdown().await;
    arguments.output.save()
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command that finds the programs of an agent first.
    fn command(&self, agent: Agent, folder: &Path, program: &str, words: &[&str]) -> Command {
        let first = match agent {
            Agent::Branchline => self.path("bin"),
            Agent::Awslabs => self.peers.join("bin"),
        };
        let path = std::env::var("PATH").unwrap_or_default();
        // Finds the program by the new `PATH`.
        let mut command = Command::new("env");
        git::make_hermetic(&mut command, self.folder.path());
        let credentials = self.server.credentials();
        command
            .arg(program)
            .args(words)
            .current_dir(folder)
            .env("PATH", format!("{}:{path}", first.display()))
            .env("GIT_CONFIG_GLOBAL", self.path("config"))
            .env("AWS_ENDPOINT_URL", self.server.endpoint())
            .env("CODE_COMMIT_ENDPOINT", self.server.endpoint())
            .env("AWS_ACCESS_KEY_ID", &credentials.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key)
            .env("AWS_DEFAULT_REGION", &self.server.account().region)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn requests(&self) -> u64 {
        let lines = self.server.requests().lines();
        let counted = lines.iter().filter(|line| line.service == Service::S3);
        counted.map(|line| line.count).sum()
    }

    /// Runs a command, which must succeed.
    async fn run(&self, mut command: Command) -> Result<Cost> {
        let (requests, begin) = (self.requests(), Instant::now());
        let child = command.spawn()?;
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
        let program = self.programs.join("branchline");
        let mut memory = 0;
        let mut ended = std::pin::pin!(ended);
        let output = loop {
            tokio::select! {
                output = &mut ended => break output??,
                () = tokio::time::sleep(MEMORY_INTERVAL) => {
                    memory = memory.max(peak_of(&program));
                }
            }
        };
        let wall = begin.elapsed();
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?}: {text}");
        Ok(Cost {
            requests: self.requests() - requests,
            wall,
            memory,
        })
    }

    async fn git(&self, agent: Agent, folder: &Path, words: &[&str]) -> Result<Cost> {
        self.run(self.command(agent, folder, "git", words)).await
    }

    /// Makes a repository of LFS files.
    async fn repository(&self, name: &str, sizes: &[usize]) -> Result<PathBuf> {
        let repository = self.path(name);
        let ours = Agent::Branchline;
        let home = self.folder.path();
        let install = ["lfs", "install", "--skip-repo"];
        self.git(ours, home, &install).await?;
        git::init(&repository)?;
        self.git(ours, &repository, &["lfs", "track", "*.bin"])
            .await?;
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for (number, size) in sizes.iter().enumerate() {
            let mut bytes = Vec::with_capacity(size + 8);
            while bytes.len() < *size {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.extend_from_slice(&state.to_le_bytes());
            }
            bytes.truncate(*size);
            std::fs::write(repository.join(format!("{number}.bin")), bytes)?;
        }
        self.git(ours, &repository, &["add", "--all"]).await?;
        self.git(ours, &repository, &["commit", "--quiet", "--message=x"])
            .await?;
        Ok(repository)
    }

    /// Uploads all objects by an agent into a prefix of its own, and downloads them again.
    async fn up_and_down(&self, agent: Agent, repository: &Path, turn: usize) -> Result<[Cost; 2]> {
        let prefix = format!("{}-{turn}", agent.name());
        let url = format!("s3://{BUCKET}/{prefix}");
        let install = |folder: &Path| {
            let words: &[&str] = &["install"];
            self.command(agent, folder, "git-lfs-s3", words)
        };
        for words in [&["remote", "remove", "origin"][..], &["lfs", "env"]] {
            // There is no remote in the first turn.
            let _ = self.git(agent, repository, words).await;
        }
        self.git(agent, repository, &["remote", "add", "origin", &url])
            .await?;
        self.run(install(repository)).await?;
        let push = ["push", "--quiet", "--no-verify", "origin", "main"];
        self.git(agent, repository, &push).await?;
        let up = self
            .git(agent, repository, &["lfs", "push", "--all", "origin"])
            .await?;
        let clone = self.path(&format!("clone-{prefix}"));
        let to = clone.display().to_string();
        let words = ["clone", "--quiet", &url, &to];
        let mut command = self.command(agent, self.folder.path(), "git", &words);
        command.env("GIT_LFS_SKIP_SMUDGE", "1");
        self.run(command).await?;
        self.run(install(&clone)).await?;
        let down = self.git(agent, &clone, &["lfs", "fetch"]).await?;
        self.git(agent, &clone, &["lfs", "checkout"]).await?;
        let difference = ["diff", "--no-index", "--quiet", "--", "0.bin"];
        let original = repository.join("0.bin").display().to_string();
        let words = [&difference[..], &[original.as_str()]].concat();
        self.git(agent, &clone, &words).await?;
        std::fs::remove_dir_all(&clone)?;
        // The next agent sets its own.
        for key in ["lfs.customtransfer", "lfs.standalonetransferagent"] {
            let mut config = git::command(repository);
            config.args(["config", "--remove-section", key]);
            let _ = git::run(&mut config);
        }
        Ok([up, down])
    }

    /// The time from the start of an agent to its answer to git-lfs' `init`.
    fn agent_start(&self) -> Result<()> {
        println!("the start of an agent, until it is ready\n");
        let repository = self.path("start");
        git::init(&repository)?;
        let url = format!("s3://{BUCKET}/start");
        git::git(&repository, ["remote", "add", "origin", &url])?;
        let mut best = [Duration::MAX; 2];
        for _ in 0..SHORT_TURNS {
            for (at, agent) in [Agent::Branchline, Agent::Awslabs].into_iter().enumerate() {
                best[at] = best[at].min(self.start(agent, &repository)?);
            }
        }
        let names = [Agent::Branchline, Agent::Awslabs].map(Agent::name);
        for (wall, name) in best.iter().zip(names) {
            println!("{name:<63}{:>9.1} ms", wall.as_secs_f64() * 1000.0);
        }
        print_faster(best[0], best[1]);
        Ok(())
    }

    /// Starts an agent in a repository, and ends it; returns the time until it was ready.
    fn start(&self, agent: Agent, repository: &Path) -> Result<Duration> {
        let init = json!({
            "event": "init", "operation": "download", "remote": "origin", "concurrent": true,
            "concurrenttransfers": 8,
        });
        let mut command = self.command(agent, repository, "git-lfs-s3", &[]);
        command.stdin(Stdio::piped()).stderr(Stdio::inherit());
        let begin = Instant::now();
        let mut child = command.spawn()?;
        let mut input = child.stdin.take().context("it is piped")?;
        writeln!(input, "{init}")?;
        let mut output = BufReader::new(child.stdout.take().context("it is piped")?);
        let mut answer = String::new();
        output.read_line(&mut answer)?;
        let wall = begin.elapsed();
        ensure!(answer.trim() == "{}", "{}: {answer}", agent.name());
        // git-lfs-s3 ends in a traceback at the end of its input.
        child.kill()?;
        child.wait()?;
        Ok(wall)
    }

    async fn small_objects(&self) -> Result<()> {
        println!("{OBJECTS} LFS objects of {OBJECT_BYTES} bytes, S3 is the development server\n");
        let repository = self.repository("small", &[OBJECT_BYTES; OBJECTS]).await?;
        let mut best = [[None; 2]; 2];
        for turn in 0..TURNS {
            for (at, agent) in [Agent::Branchline, Agent::Awslabs].into_iter().enumerate() {
                let copy = self.path(&format!("{}-{turn}", agent.name()));
                let mut copying = Command::new("cp");
                copying.arg("-r").arg(&repository).arg(&copy);
                ensure!(copying.status()?.success(), "a repository is copied");
                let costs = self.up_and_down(agent, &copy, turn).await?;
                for (way, cost) in costs.into_iter().enumerate() {
                    best[at][way] = Some(cost.better(best[at][way]));
                }
                std::fs::remove_dir_all(&copy)?;
            }
        }
        for (way, name) in ["up", "down"].into_iter().enumerate() {
            let [ours, theirs] = [0, 1].map(|at| best[at][way]);
            let (ours, theirs) = ours.zip(theirs).context("there are several turns")?;
            let title = format!("{OBJECTS} LFS objects of {OBJECT_BYTES} bytes, {name}");
            start_section(title, Agent::Awslabs.name());
            ours.print(&format!("branchline, {name}"));
            theirs.print(&format!("git-lfs-s3, {name}"));
            print_faster(ours.wall, theirs.wall);
        }
        Ok(())
    }

    async fn large_object(&self) -> Result<()> {
        println!("one LFS object of {LARGE_BYTES} bytes\n");
        let repository = self.repository("large", &[LARGE_BYTES]).await?;
        let [up, down] = self
            .up_and_down(Agent::Branchline, &repository, TURNS)
            .await?;
        start_section("One LFS object of 1 GiB", "");
        up.print("branchline, up");
        down.print("branchline, down");
        std::fs::remove_dir_all(repository)?;
        println!();
        Ok(())
    }

    /// A fetch of nothing new at `codecommit://`, and by git's own HTTP with a password that is
    /// known.
    async fn codecommit(&self) -> Result<()> {
        println!("a fetch of nothing new from CodeCommit\n");
        let principal = &self.server.credentials().principal_arn;
        let input = json!({ "repositoryName": "r" });
        let codecommit = self.server.codecommit();
        let created = codecommit.call("CreateRepository", input, principal).await;
        created.map_err(|error| anyhow::anyhow!("{}", error.message))?;
        let repository = self.path("history.git");
        repositories::repository(&repository, |out| repositories::commits(out, 100))?;
        let ours = Agent::Branchline;
        self.git(
            ours,
            &repository,
            &["push", "--quiet", "codecommit://r", "main"],
        )
        .await?;
        let home = self.folder.path();
        self.git(
            ours,
            home,
            &["clone", "--quiet", "codecommit://r", "fetched"],
        )
        .await?;
        let clone = self.path("fetched");
        let plain = format!("{}/v1/repos/r", self.server.endpoint());
        let mut child = self.signer(&plain)?;
        let password = std::io::read_to_string(child.stdout.take().context("it is piped")?)?;
        ensure!(child.wait()?.success(), "a password is signed");
        let file = self.path("password");
        std::fs::write(&file, password)?;
        let helper = format!("!cat {}", file.display());
        let mut best = [None; 2];
        for _ in 0..SHORT_TURNS {
            let by_helper = ["fetch", "--quiet", "codecommit://r", "main"];
            let setting = format!("credential.helper={helper}");
            let by_http = ["-c", &setting, "fetch", "--quiet", &plain, "main"];
            for (at, words) in [&by_helper[..], &by_http].into_iter().enumerate() {
                let cost = self.git(ours, &clone, words).await?;
                best[at] = Some(cost.better(best[at]));
            }
        }
        start_section("A fetch of nothing new from CodeCommit", "git, http://");
        let [ours, plain] = best.map(|cost: Option<Cost>| cost.map(|cost| cost.wall));
        let (ours, plain) = ours.zip(plain).context("there are several turns")?;
        for (wall, name) in [
            (ours, "branchline, codecommit://"),
            (plain, "git, http://"),
            (ours.saturating_sub(plain), "  difference"),
        ] {
            if !name.starts_with(' ') {
                results::record(Row {
                    name: name.to_owned(),
                    wall,
                    ..Row::default()
                });
            }
            println!("{name:<63}{:>9.1} ms", wall.as_secs_f64() * 1000.0);
        }
        Ok(())
    }

    /// Starts the credential helper of the development server for a URL.
    fn signer(&self, url: &str) -> Result<Child> {
        let (_, rest) = url.split_once("://").context("it is a URL")?;
        let (host, path) = rest.split_once('/').context("it has a path")?;
        let helper = self.programs.join("branchline-dev");
        let helper = helper.display().to_string();
        let words = ["credential-helper", "get"];
        let mut command = self.command(Agent::Branchline, self.folder.path(), &helper, &words);
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let mut input = child.stdin.take().context("it is piped")?;
        write!(input, "protocol=http\nhost={host}\npath={path}\n\n")?;
        Ok(child)
    }
}

/// Prints how many times longer the peer took.
fn print_faster(ours: Duration, theirs: Duration) {
    let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
    println!("{:<63}{ratio:>9.1} x\n", "  faster");
}

/// Returns the most memory that a process of `program` has used until now, in bytes.
fn peak_of(program: &Path) -> u64 {
    let mut peak = 0;
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let executable = std::fs::read_link(path.join("exe"));
        if !executable.is_ok_and(|executable| executable == program) {
            continue;
        }
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
    }
    peak
}
