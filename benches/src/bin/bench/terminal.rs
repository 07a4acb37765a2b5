//! Git on S3 at a terminal: branchline's remote helper beside git-remote-s3, in one run.
//!
//! Both are started by the same git, with the same S3 behind the same link, which counts the
//! bytes of both directions. The better of three runs is printed where a run can be repeated.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use branchline_benches::repositories;
use branchline_benches::results::{self, Output, Row, start_section};
use branchline_benches::run;
use branchline_benches::throttled_proxy::{Speed, ThrottledProxy};
use branchline_dev::faults::Service;
use branchline_dev::s3::store::PublicAccess;
use branchline_dev::server::{Options, Server};
use branchline_test_support::git;
use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Measures git on S3 at a terminal.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder with the program `branchline`.
    #[arg(long)]
    programs: PathBuf,
    /// The Python environment with git-remote-s3.
    #[arg(long)]
    peers: PathBuf,
    /// The bandwidth of the link to S3, in megabits a second each way.
    #[arg(long, default_value_t = 100)]
    link_mbit: u64,
    /// The round trip over that link.
    #[arg(long, default_value_t = 10)]
    link_latency_ms: u64,
    #[command(flatten)]
    output: Output,
}

const BUCKET: &str = "repositories";
/// Number of runs of which the best counts.
const TURNS: usize = 3;
/// Commits of the repository with a long history.
const LONG_HISTORY: usize = 20_000;
/// Commits, files and bytes of a file of the repository of 60 MB with a tip of 3 MB.
const VERSIONS: [usize; 3] = [4_000, 200, 15_000];

/// Cost of one command.
#[derive(Debug, Clone, Copy)]
struct Cost {
    requests: u64,
    wall: Duration,
    sent: u64,
    received: u64,
}

impl Cost {
    fn heads() {
        println!(
            "{:<48}{:>10}{:>12}{:>14}{:>16}",
            "", "requests", "wall", "bytes sent", "bytes received"
        );
    }

    fn print(self, name: &str) {
        let Self {
            requests,
            wall,
            sent,
            received,
        } = self;
        results::record(Row {
            name: name.to_owned(),
            requests: Some(requests),
            wall,
            peak_bytes: None,
            bytes: Some(sent + received),
        });
        let wall = wall.as_millis();
        println!("{name:<48}{requests:>10}{wall:>9} ms{sent:>14}{received:>16}");
    }

    fn ratio(self, other: Self) -> f64 {
        self.wall.as_secs_f64() / other.wall.as_secs_f64()
    }

    fn better(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if other.wall < self.wall => other,
            _ => self,
        }
    }
}

/// A program behind git.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Branchline,
    Awslabs,
}

impl Client {
    fn name(self) -> &'static str {
        match self {
            Self::Branchline => "branchline",
            Self::Awslabs => "git-remote-s3",
        }
    }
}

struct Bench {
    server: Server,
    link: ThrottledProxy,
    speed: Speed,
    folder: tempfile::TempDir,
    peers: PathBuf,
    is_slow: AtomicBool,
}

/// Measures, and prints the results.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let programs = arguments.programs.canonicalize()?;
    let peers = arguments.peers.canonicalize()?;
    let speed = Speed {
        mbit: arguments.link_mbit,
        round_trip: Duration::from_millis(arguments.link_latency_ms),
    };
    let server = Server::start(Options::default()).await?;
    let region = server.account().region.clone();
    let created = server.store().create_bucket(BUCKET, &region);
    created.map_err(|error| anyhow::anyhow!("{error}"))?;
    server
        .store()
        .set_public_access(BUCKET, PublicAccess::ReadAndList);
    let link = ThrottledProxy::open(speed).await?;
    link.lead_to(&server.endpoint())?;
    let folder = tempfile::tempdir()?;
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin)?;
    for name in ["branchline", "git-remote-s3", "git-remote-s3+zip"] {
        symlink(programs.join("branchline"), bin.join(name))?;
    }
    let bench = Bench {
        server,
        link,
        speed,
        folder,
        peers,
        is_slow: AtomicBool::new(false),
    };
    for is_slow in [false, true] {
        bench.link.set_speed(is_slow.then_some(bench.speed));
        bench.is_slow.store(is_slow, Ordering::Relaxed);
        let link = if is_slow {
            format!(
                "over {} Mbit/s each way, {} ms there and back",
                arguments.link_mbit, arguments.link_latency_ms
            )
        } else {
            "on this machine".to_owned()
        };
        println!("\nS3 is the development server, {link}\n");
        Cost::heads();
        let name = if is_slow { "link" } else { "loopback" };
        bench.small_commands(name).await?;
        bench.large_bundle(name).await?;
        bench.dumb_layout(name).await?;
    }
    bench.server.shutdown().await;
    arguments.output.save()
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command of git behind which `client` is found first.
    fn git(&self, client: Client, folder: &Path, arguments: &[&str]) -> Result<Command> {
        let first = match client {
            Client::Branchline => self.path("bin"),
            Client::Awslabs => self.peers.join("bin"),
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(first).chain(std::env::split_paths(&path));
        let mut command = git::command(folder);
        let credentials = self.server.credentials();
        command
            .env("PATH", std::env::join_paths(folders)?)
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("AWS_ENDPOINT_URL", self.link.endpoint())
            .env("AWS_ACCESS_KEY_ID", &credentials.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key)
            .env("AWS_DEFAULT_REGION", &self.server.account().region)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .args(arguments)
            .stdin(Stdio::null());
        Ok(command)
    }

    fn requests(&self) -> u64 {
        let lines = self.server.requests().lines();
        let counted = lines.iter().filter(|line| line.service == Service::S3);
        counted.map(|line| line.count).sum()
    }

    async fn cost<T>(&self, work: impl Future<Output = Result<T>>) -> Result<(Cost, T)> {
        let (requests, (sent, received)) = (self.requests(), self.link.carried());
        let begin = Instant::now();
        let result = work.await?;
        let wall = begin.elapsed();
        let (sent_now, received_now) = self.link.carried();
        let cost = Cost {
            requests: self.requests() - requests,
            wall,
            sent: sent_now - sent,
            received: received_now - received,
        };
        Ok((cost, result))
    }

    /// Runs a command, which must succeed.
    async fn run(&self, mut command: Command) -> Result<Cost> {
        let work = async {
            // The server runs on this very runtime.
            let output = tokio::task::spawn_blocking(move || command.output()).await??;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "{text}");
            Ok(())
        };
        Ok(self.cost(work).await?.0)
    }

    async fn in_git(&self, client: Client, folder: &Path, arguments: &[&str]) -> Result<Cost> {
        self.run(self.git(client, folder, arguments)?).await
    }

    /// Returns the distance of S3.
    fn place(&self) -> &'static str {
        if self.is_slow.load(Ordering::Relaxed) {
            "over the link"
        } else {
            "on this machine"
        }
    }

    /// Runs a command of both clients in turns, prints the best of each, and returns them.
    async fn both(
        &self,
        what: &str,
        mut command: impl FnMut(Client, usize) -> Result<Command>,
    ) -> Result<[Cost; 2]> {
        let mut best = [None, None];
        for turn in 0..TURNS {
            for (at, client) in [Client::Branchline, Client::Awslabs]
                .into_iter()
                .enumerate()
            {
                let cost = self.run(command(client, turn)?).await?;
                best[at] = Some(cost.better(best[at]));
            }
        }
        let [Some(ours), Some(theirs)] = best else {
            unreachable!("there are several turns");
        };
        start_section(format!("{what}, {}", self.place()), Client::Awslabs.name());
        ours.print(&format!("{}, {what}", Client::Branchline.name()));
        theirs.print(&format!("{}, {what}", Client::Awslabs.name()));
        println!("{:<58}{:>9.1} x", "  faster", theirs.ratio(ours));
        Ok([ours, theirs])
    }

    /// A repository of ten commits: what starting a helper costs.
    async fn small_commands(&self, name: &str) -> Result<()> {
        let repository = self.path(&format!("{name}-small.git"));
        repositories::repository(&repository, |out| repositories::commits(out, 10))?;
        let url = url(&format!("{name}/small"));
        let push = ["push", "--quiet", &url, "main"];
        self.in_git(Client::Awslabs, &repository, &push).await?;
        let home = self.folder.path();
        self.both("ls-remote", |client, _| {
            self.git(client, home, &["ls-remote", &url])
        })
        .await?;
        self.both("clone of ten commits", |client, turn| {
            let to = self.path(&format!("{name}-small-{}-{turn}", client.name()));
            self.git(
                client,
                home,
                &["clone", "--quiet", &url, &to.to_string_lossy()],
            )
        })
        .await?;
        let clones = [Client::Branchline, Client::Awslabs]
            .map(|client| self.path(&format!("{name}-small-{}-0", client.name())));
        let costs = self
            .both("fetch of nothing new", |client, _| {
                let clone = &clones[usize::from(client == Client::Awslabs)];
                self.git(client, clone, &["fetch", "--quiet"])
            })
            .await?;
        ensure!(costs[0].requests <= 2, "a fetch of nothing is two requests");
        Ok(())
    }

    /// 60 MB in the layout of bundles.
    async fn large_bundle(&self, name: &str) -> Result<()> {
        let repository = self.path(&format!("{name}-large.git"));
        repositories::repository(&repository, |out| repositories::blobs(out, &[1 << 20; 58]))?;
        let url = |client: Client, n: usize| url(&format!("{name}/{}-{n}", client.name()));
        self.both("first push of 60 MB", |client, turn| {
            let url = url(client, turn);
            self.git(client, &repository, &["push", "--quiet", &url, "main"])
        })
        .await?;
        let home = self.folder.path();
        let [ours, _] = self
            .both("clone of 60 MB", |client, turn| {
                let to = self.path(&format!("{name}-large-{}-{turn}", client.name()));
                let _ = std::fs::remove_dir_all(self.path("cache"));
                let url = url(client, 0);
                self.git(
                    client,
                    home,
                    &["clone", "--quiet", &url, &to.to_string_lossy()],
                )
            })
            .await?;
        let plain = self.download_and_clone(name, &repository).await?;
        plain.print("download, and git clone of the file");
        println!(
            "{:<58}{:>9.2} x",
            "  branchline's clone takes",
            ours.ratio(plain)
        );

        let mut change = 0;
        let mut push = async |client: Client, cache: Option<&str>| {
            change += 1;
            repositories::change(&repository, "main", change)?;
            let push = ["push", "--quiet", &url(client, 0), "main"];
            let mut command = self.git(client, &repository, &push)?;
            command.envs(cache.map(|mib| ("BRANCHLINE_CACHE_MIB", mib)));
            self.run(command).await
        };
        // Fills the cache, which the next pushes find warm.
        push(Client::Branchline, None).await?;
        let mut warm = None;
        let mut cold = None;
        let mut theirs = None;
        for (client, cache, best) in [
            (Client::Branchline, None, &mut warm),
            (Client::Branchline, Some("0"), &mut cold),
            (Client::Awslabs, None, &mut theirs),
        ] {
            for _ in 0..TURNS {
                *best = Some(push(client, cache).await?.better(*best));
            }
        }
        let push = ["push", "--quiet", &url(Client::Branchline, 0), "main"];
        self.in_git(Client::Branchline, &repository, &push).await?;
        let theirs = theirs.context("there are several turns")?;
        start_section(
            format!("Push of 2 bytes more, {}", self.place()),
            Client::Awslabs.name(),
        );
        for (cost, what) in [(warm, "2 bytes more"), (cold, "2 bytes more, no cache")] {
            let cost = cost.context("there are several turns")?;
            cost.print(&format!("branchline, {what}"));
            println!("{:<58}{:>9.1} x", "  faster", theirs.ratio(cost));
        }
        theirs.print("git-remote-s3, 2 bytes more");
        let clone = self.path(&format!("{name}-check.git"));
        let ours = url(Client::Branchline, 0);
        let mirror = [
            "clone",
            "--quiet",
            "--mirror",
            &ours,
            &clone.to_string_lossy(),
        ];
        self.in_git(Client::Awslabs, home, &mirror).await?;
        run::same(&[&repository, &clone])
    }

    /// Downloads the bundle by one request, and clones from the file.
    async fn download_and_clone(&self, name: &str, repository: &Path) -> Result<Cost> {
        let tip = git::git(repository, ["rev-parse", "main"])?;
        let key = format!("{name}/git-remote-s3-0/refs/heads/main/{tip}.bundle");
        let file = self.path(&format!("{name}.bundle"));
        let to = self.path(&format!("{name}-plain"));
        let address = self.link.endpoint().replace("http://", "");
        let work = async {
            let mut connection = TcpStream::connect(&address).await?;
            let head = format!(
                "GET /{BUCKET}/{key} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
            );
            connection.write_all(head.as_bytes()).await?;
            let mut answer = Vec::new();
            connection.read_to_end(&mut answer).await?;
            let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            let body = end.context("the answer has a head")? + 4;
            tokio::fs::write(&file, &answer[body..]).await?;
            let mut clone = git::command(self.folder.path());
            clone.args(["clone", "--quiet", "--branch", "main"]);
            clone.arg(&file).arg(&to);
            tokio::task::spawn_blocking(move || git::run(&mut clone)).await??;
            Ok(())
        };
        Ok(self.cost(work).await?.0)
    }

    /// The layout of packs: a small change, and a shallow clone of a long history.
    async fn dumb_layout(&self, name: &str) -> Result<()> {
        let repository = self.path(&format!("{name}-large.git"));
        let large = url(&format!("{name}/dumb"));
        let layout = ["-c", "branchline.layout=dumb", "push", "--quiet"];
        let push = [&layout[..], &[&large, "main"]].concat();
        let first = self.in_git(Client::Branchline, &repository, &push).await?;
        start_section(format!("Layout of packs, {}", self.place()), "");
        first.print("branchline, first push of 60 MB, dumb");
        let mut small = None;
        for turn in 0..TURNS {
            repositories::change(&repository, "main", 20 + turn)?;
            let cost = self.in_git(Client::Branchline, &repository, &push).await?;
            small = Some(cost.better(small));
        }
        let small = small.context("there are several turns")?;
        small.print("branchline, 2 bytes more, dumb");
        ensure!(small.requests <= 8, "a small push is at most 8 requests");
        ensure!(small.sent <= 16 << 10, "a small push sends at most 16 KiB");

        let history = self.path(&format!("{name}-history.git"));
        repositories::repository(&history, |out| repositories::commits(out, LONG_HISTORY))?;
        for (at, layout) in ["dumb", "bundle"].into_iter().enumerate() {
            let url = url(&format!("{name}/history-{layout}"));
            let layout_setting = format!("branchline.layout={layout}");
            let push = ["-c", &layout_setting, "push", "--quiet", &url, "main"];
            self.in_git(Client::Branchline, &history, &push).await?;
            let _ = std::fs::remove_dir_all(self.path("cache"));
            for depth in [None, Some("--depth=1")] {
                let to = self.path(&format!("{name}-history-{at}-{}", depth.is_some()));
                let to = to.to_string_lossy().into_owned();
                let mut clone = vec!["clone", "--quiet", &url, &to];
                clone.extend(depth);
                let cost = self
                    .in_git(Client::Branchline, self.folder.path(), &clone)
                    .await?;
                let depth = depth.unwrap_or("whole");
                cost.print(&format!(
                    "branchline, clone {depth}, {LONG_HISTORY} commits, {layout}"
                ));
            }
        }
        self.shallow_clone(name).await
    }

    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    /// A shallow clone of 60 MB of versions of few files, in the layout of packs.
    async fn shallow_clone(&self, name: &str) -> Result<()> {
        let [commits, files, bytes] = VERSIONS;
        let repository = self.path(&format!("{name}-versions.git"));
        repositories::repository(&repository, |out| {
            repositories::versions(out, commits, files, bytes)
        })?;
        let url = url(&format!("{name}/versions"));
        let layout = "branchline.layout=dumb";
        let push = ["-c", layout, "push", "--quiet", &url, "main"];
        self.in_git(Client::Branchline, &repository, &push).await?;
        let to = self.path(&format!("{name}-versions"));
        let to = to.to_string_lossy().into_owned();
        let clone = ["clone", "--quiet", "--depth=1", &url, &to];
        let cost = self
            .in_git(Client::Branchline, self.folder.path(), &clone)
            .await?;
        cost.print("branchline, clone --depth=1, 60 MB, tip of 3 MB");
        let tip = (files * bytes) as u64;
        println!(
            "{:<58}{:>9.2} x",
            "  the size of the tip",
            cost.received as f64 / tip as f64
        );
        ensure!(cost.received < 2 * tip, "a shallow clone reads its tip");
        Ok(())
    }
}

fn url(name: &str) -> String {
    format!("s3://{BUCKET}/{name}")
}
