//! A function that is frozen between two invocations, while the network forgets its connections.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use branchline_core::git::HashKind;
use branchline_test_support::git;
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::Repo;
use branchline_tests::environment::{MIGRATION, Setup, TestEnvironment, UPDATE};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Router between a function and the server, which can forget its connections.
struct Router {
    address: SocketAddr,
    server: Arc<OnceLock<SocketAddr>>,
    cuts: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl Router {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let router = Self {
            address: listener.local_addr()?,
            server: Arc::default(),
            cuts: Arc::default(),
            connections: Arc::default(),
        };
        let (server, cuts) = (Arc::clone(&router.server), Arc::clone(&router.cuts));
        let connections = Arc::clone(&router.connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Some(server) = server.get().copied() else {
                    continue;
                };
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(route(client, server, Arc::clone(&cuts)));
            }
        });
        Ok(router)
    }

    /// Forgets all connections: no packet passes, and neither side notices.
    fn forget(&self) {
        self.cuts.fetch_add(1, Ordering::SeqCst);
    }
}

async fn route(client: TcpStream, server: SocketAddr, cuts: Arc<AtomicUsize>) -> Result<()> {
    let server = TcpStream::connect(server).await?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let opened_after = cuts.load(Ordering::SeqCst);
    let forth = copy(from_client, to_server, Arc::clone(&cuts), opened_after);
    let back = copy(from_server, to_client, cuts, opened_after);
    tokio::try_join!(forth, back)?;
    Ok(())
}

/// Copies bytes until the connection is forgotten; then swallows them.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    cuts: Arc<AtomicUsize>,
    opened_after: usize,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut buffer).await?;
        if cuts.load(Ordering::SeqCst) != opened_after {
            std::future::pending::<()>().await;
        }
        if length == 0 {
            return Ok(());
        }
        let bytes = buffer.get(..length).ok_or(ErrorKind::InvalidData);
        to.write_all(bytes.map_err(Error::from)?).await?;
    }
}

/// The processes of a function, which are children of this one.
fn processes(name: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok())
        else {
            continue;
        };
        // `pid (name) state parent ..`
        let Ok(stat) = std::fs::read_to_string(path.join("stat")) else {
            continue;
        };
        let parent = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(1));
        let is_own = parent.and_then(|parent| parent.parse().ok()) == Some(std::process::id());
        if is_own && stat.contains(&format!("({name})")) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn signal(name: &str, pids: &[u32]) -> Result<()> {
    let pids = pids.iter().map(u32::to_string);
    let sent = Command::new("kill").arg(name).args(pids).status()?;
    ensure!(sent.success(), "`kill {name}` works");
    Ok(())
}

/// "After a pause, and after a lost answer, requests take new ones."
#[tokio::test(flavor = "multi_thread")]
async fn a_function_uses_no_connection_that_died_while_it_was_frozen() -> Result<()> {
    let router = Router::start().await?;
    let stage = TestEnvironment::start(Setup {
        update: vec![("AWS_ENDPOINT_URL", format!("http://{}", router.address))],
        ..Setup::default()
    })
    .await?;
    let server = stage.server.endpoint();
    let server = server.strip_prefix("http://").context("it is http")?;
    let _ = router.server.set(server.parse()?);
    stage.create_repository("demo").await?;
    let work = tempfile::tempdir()?;
    let work = work.path();
    git::init(work)?;
    for file in 0..60 {
        std::fs::write(work.join(format!("file-{file}")), format!("{file}"))?;
    }
    git::commit(work, &[], "First")?;
    stage.push(work, "demo", &["main"]).await?;
    stage.wait_until_idle().await?;
    assert_eq!(stage.executions().len(), 1);
    let pooled = router.connections.load(Ordering::SeqCst);
    assert!(pooled > 4, "{pooled} connections were made");

    for round in 0..2 {
        let functions = processes(UPDATE)?;
        ensure!(!functions.is_empty(), "a process of the function is idle");
        signal("-STOP", &functions)?;
        router.forget();
        let content = format!("round {round}");
        git::commit(work, &[("file-1", &content)], "More")?;
        stage.push(work, "demo", &["main"]).await?;
        // Lambda freezes for longer.
        tokio::time::sleep(Duration::from_millis(5_500)).await;
        signal("-CONT", &functions)?;
        let begin = Instant::now();
        stage.wait_until_idle().await?;
        let duration = begin.elapsed();
        assert!(
            duration < Duration::from_secs(30),
            "no request waits for a dead connection: {duration:?}"
        );
        assert_eq!(stage.executions().len(), 2 + round);
    }
    let made = router.connections.load(Ordering::SeqCst);
    assert!(made > pooled, "{made} connections, {pooled} of them before");
    let answer = stage
        .update(&json!({"repository": "demo", "branch": "main"}))
        .await;
    let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    assert_eq!(answer["results"][0]["outcome"], "unchanged");
    assert!(stage.server.queue().dead_letters().is_empty());
    Ok(())
}

/// Connections to S3 and to a git server, which were cut while migration was stopped.
#[tokio::test(flavor = "multi_thread")]
async fn migration_uses_no_connection_that_died_while_it_was_frozen() -> Result<()> {
    let (aws, git_http) = (Router::start().await?, Router::start().await?);
    let stage = TestEnvironment::start(Setup {
        migration: Some(vec![(
            "AWS_ENDPOINT_URL",
            format!("http://{}", aws.address),
        )]),
        ..Setup::default()
    })
    .await?;
    let server = stage.server.endpoint();
    let server = server.strip_prefix("http://").context("it is http")?;
    let _ = aws.server.set(server.parse()?);
    stage.create_public_bucket("mirrors")?;
    let repo = Repo::with_history(HashKind::Sha1, 3, 2);
    let source = GitServer::new(&repo);
    let _ = git_http.server.set(source.address());
    let url = source
        .url()
        .replace(&source.address().to_string(), &git_http.address.to_string());
    let request = json!({"mappings": [
        {"source": url, "target": "s3://mirrors/demo", "layout": "dumb"}
    ]});
    for round in 0..3 {
        if round > 0 {
            let functions = processes(MIGRATION)?;
            ensure!(!functions.is_empty(), "a process of the function is idle");
            signal("-STOP", &functions)?;
            aws.forget();
            git_http.forget();
            // Lambda freezes for longer.
            tokio::time::sleep(Duration::from_millis(5_500)).await;
            signal("-CONT", &functions)?;
            let message = format!("Round {round}");
            let commit = repo.git(&["commit-tree", "main^{tree}", "-p", "main", "-m", &message]);
            repo.git(&["update-ref", "refs/heads/main", commit.trim()]);
        }
        let begin = Instant::now();
        let answer = stage.call(MIGRATION, &request).await;
        let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
        assert_eq!(answer["mappings"][0]["status"], "complete", "{answer}");
        let duration = begin.elapsed();
        assert!(
            duration < Duration::from_secs(30),
            "no request waits for a dead connection: {duration:?}"
        );
    }
    Ok(())
}
