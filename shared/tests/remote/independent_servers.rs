//! Servers that share no code with git, as sources and as targets.
//!
//! A server that `cargo xtask test` has set up must start: `BRANCHLINE_VENV` is the Python environment
//! with dulwich, `BRANCHLINE_JGIT` the file of `JGit`.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use branchline_core::git::HashKind;
use branchline_core::git::advertisement::Version;
use branchline_core::mirror::{MirrorOptions, MirrorStats, mirror};
use branchline_core::remote::Remote;
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::{Repo, history};

use super::http::{assert_equal, everything, few, remote, strict};
use super::s3_dumb_fixture::{DumbFixture, mirror_options};

const DULWICH: &str = include_str!("independent_servers.py");

/// A server of another implementation, for one repository; it stops when dropped.
struct Independent {
    process: Child,
    port: u16,
}

impl Independent {
    /// Serves a repository with dulwich; `None` where that is not set up.
    fn dulwich(repo: &Repo) -> Option<Self> {
        let Some(environment) = std::env::var_os("BRANCHLINE_VENV").map(PathBuf::from) else {
            eprintln!("skipped: BRANCHLINE_VENV names no Python environment with dulwich");
            return None;
        };
        let python = environment.join("bin/python");
        let mut command = Command::new(python);
        command.args(["-c", DULWICH]).arg(&repo.path);
        Some(Self::start(command))
    }

    /// Serves a repository with `JGit`; `None` where that is not set up.
    fn jgit(repo: &Repo) -> Option<Self> {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/remote/JGit.java");
        if std::env::var_os("BRANCHLINE_JGIT").is_none() {
            eprintln!("skipped: BRANCHLINE_JGIT names no file of JGit");
            return None;
        }
        let mut command = Command::new("java");
        command
            .args(["-cp", "/usr/share/java/*", program])
            .arg(&repo.path)
            .stderr(Stdio::null());
        Some(Self::start(command))
    }

    /// Starts a program that prints its port.
    fn start(mut command: Command) -> Self {
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = process.expect("because the server was set up");
        let out = process.stdout.take().expect("because it is piped");
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).unwrap();
        let port = line.trim().parse();
        let port = port.unwrap_or_else(|_| panic!("{command:?} was set up, and does not start"));
        Self { process, port }
    }

    fn both() -> [fn(&Repo) -> Option<Self>; 2] {
        [Self::dulwich, Self::jgit]
    }

    fn remote(&self) -> impl Remote + use<> {
        let url = format!("http://127.0.0.1:{}/r.git", self.port);
        remote(&url, Version::V2)
    }
}

impl Drop for Independent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn source() -> Repo {
    let repo = Repo::with_history(HashKind::Sha1, 30, 12);
    repo.git(&["tag", "-a", "of-a-tag", "-m", "more", "nested"]);
    repo.git(&["repack", "-a", "-d", "-q", "-f"]);
    repo
}

fn grow(repo: &Repo, from: usize) {
    repo.input(
        &["fast-import", "--quiet", "--force"],
        &history(from, 6, 12),
    );
}

async fn run(from: &dyn Remote, to: &dyn Remote) -> MirrorStats {
    let options = MirrorOptions {
        prune: true,
        ..everything()
    };
    mirror(from, to, &options, None).await.unwrap()
}

#[tokio::test]
async fn servers_of_other_implementations_are_read_fresh_and_grown() {
    for serve in Independent::both() {
        let repo = source();
        let target = strict(HashKind::Sha1);
        let to = GitServer::new(&target);
        let to = remote(&to.url(), Version::V2);
        let world = DumbFixture::new();
        for round in 0..3 {
            let Some(server) = serve(&repo) else {
                break;
            };
            let done = run(&server.remote(), &to).await;
            assert!(done.complete && done.rejected.is_empty(), "{done:?}");
            assert_equal(&repo, &target);
            let dumb = world.remote();
            let done = mirror(&server.remote(), &dumb, &mirror_options(true), None).await;
            let done = done.unwrap();
            assert!(done.complete, "round {round}");
            world.assert_clones_equal(&repo);
            // A thin pack is completed from the target, not fetched with all history.
            let all = repo.objects().len() as u64;
            assert!(
                round == 0 || done.objects < all / 2,
                "round {round}: {} objects of {all}",
                done.objects
            );
            grow(&repo, 30 + 6 * round);
        }
    }
}

#[tokio::test]
async fn servers_of_other_implementations_are_written_fresh_and_grown() {
    for serve in Independent::both() {
        let repo = source();
        let target = Repo::new(HashKind::Sha1);
        let from = GitServer::new(&repo);
        let from = remote(&from.url(), Version::V2);
        for round in 0..3 {
            let Some(server) = serve(&target) else {
                break;
            };
            let done = run(&from, &server.remote()).await;
            assert!(done.complete && done.rejected.is_empty(), "{done:?}");
            drop(server);
            assert_equal(&repo, &target);
            grow(&repo, 30 + 6 * round);
            if round == 0 {
                repo.git(&["tag", "-d", "light"]);
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_demands_capabilities_feeds_a_target_without_offset_deltas() {
    let repo = source();
    let target = strict(HashKind::Sha1);
    for round in 0..2 {
        let Some(server) = Independent::dulwich(&repo) else {
            return;
        };
        let to = GitServer::with(&target, |seen| {
            use branchline_test_support::git_server::Response;
            match seen.method.as_str() {
                "GET" => Response::Capabilities("report-status delete-refs side-band-64k no-thin"),
                _ => Response::Git,
            }
        });
        let few = few(remote(&to.url(), Version::V2), 4000);
        let done = run(&server.remote(), &few).await;
        assert!(done.complete, "round {round}: {done:?}");
        assert_equal(&repo, &target);
        grow(&repo, 30 + 6 * round);
    }
}
