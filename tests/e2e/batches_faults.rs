//! Migrations in batches under faults: rejections, throttling, cut connections, and deadlines.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::batches_environment::{BatchEnvironment, empty, hasty, import, linear, merged, rule};

const COMMITS: u64 = 6;

fn message(failure: &Value) -> &str {
    failure["errorMessage"].as_str().unwrap_or_default()
}

/// Returns a hook that rejects the `k`-th ref, with a message of its own.
fn refuse_nth(k: usize) -> String {
    format!(
        "printf x >> \"$GIT_DIR/asked\"\n\
         test $(wc -c < \"$GIT_DIR/asked\") -ne {k} && exit 0\n\
         echo \"$1\" > \"$GIT_DIR/refused\"; exit 1"
    )
}

/// "A ref that the target refuses is reported in its words", and the others are migrated.
#[tokio::test(flavor = "multi_thread")]
async fn any_rejected_ref_does_not_stop_the_others_and_the_next_run_completes() -> Result<()> {
    let environment = BatchEnvironment::new(merged()).await?;
    let all = environment.source.refs();
    let all = all.lines().filter(|line| !line.contains("notes")).count();
    let (mut tags, mut refs) = (0, 0);
    for k in 1.. {
        let target = format!("k-{k}");
        environment.hook(&target, &refuse_nth(k)).await?;
        let place = environment
            .stage
            .server
            .codecommit()
            .repository_dir(&target);
        let refused_file = place.context("the repository is missing")?.join("refused");
        let result = environment.migrate(&target, COMMITS).await;
        let Ok(refused) = std::fs::read_to_string(refused_file) else {
            assert_eq!(
                result.map_err(|error| anyhow::anyhow!("{error}"))?["status"],
                "complete"
            );
            environment.check(&target)?;
            break;
        };
        let refused = refused.trim();
        let there = environment.stage.refs(&target)?;
        match result {
            Ok(answer) => {
                // A temporary tag, which the run skipped, or whose deletion it retried.
                tags += 1;
                assert!(refused.contains("codecommit_migration_"), "{refused}");
                assert_eq!(answer["status"], "complete");
                assert_eq!(answer["refs"]["created"], json!(all));
                assert_eq!(answer["refs"]["rejected"], 0);
                environment.check(&target)?;
            }
            Err(failure) => {
                assert_eq!(failure["errorType"], "branchline.Rejected", "{failure}");
                let words = format!("the target refused 1 refs: `{refused}`: hook declined");
                assert!(message(&failure).contains(&words), "{failure}");
                refs += 1;
                let created = format!("created {} refs", all - 1);
                assert!(message(&failure).contains(&created), "{failure}");
                assert_eq!(environment.temporary(&target)?.len(), 3, "{there}");
            }
        }
        environment.unhook(&target)?;
        assert_eq!(environment.finish(&target, COMMITS).await?, 1);
        environment.check(&target)?;
    }
    assert_eq!(
        (tags, refs),
        (3 + 3, all),
        "each ref must have been rejected once"
    );
    Ok(())
}

/// A target that rejects all temporary tags receives the refs in one push.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_rejects_every_temporary_tag_receives_all_refs() -> Result<()> {
    let source = empty();
    let table: Vec<(usize, &str, Vec<usize>)> = (1..=30)
        .map(|n| (n, "main", (1..n).last().into_iter().collect()))
        .collect();
    import(&source, &table, 3000);
    let environment = BatchEnvironment::new(source).await?;
    let refuse = "case $1 in *codecommit_migration_*) exit 1;; esac";
    for bytes in [1 << 20, 20_000] {
        let target = format!("none-{bytes}");
        environment.hook(&target, refuse).await?;
        let before = environment.push_requests();
        let batch = json!({ "commits": 3, "bytes": bytes });
        let answer = environment
            .call(&environment.mapping(&target), &batch)
            .await;
        let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
        assert_eq!(answer["status"], "complete", "{answer}");
        environment.check(&target)?;
        let requests = environment.push_requests() - before;
        assert!(
            requests < 30,
            "the tags must not be tried on and on: {requests}"
        );
    }
    Ok(())
}

/// Temporary tags keep the objects of a rejected ref.
#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_rejected_branch_are_not_sent_again() -> Result<()> {
    let environment = BatchEnvironment::new(linear(25)).await?;
    environment
        .hook("target", "test \"$1\" != refs/heads/main")
        .await?;
    for _ in 0..2 {
        let failure = environment.migrate("target", 10).await;
        let failure = failure.expect_err("the branch is rejected");
        let words = "`refs/heads/main`: hook declined";
        assert!(message(&failure).contains(words), "{failure}");
        assert_eq!(environment.temporary("target")?.len(), 3);
    }
    environment.unhook("target")?;
    let answer = environment.migrate("target", 10).await;
    let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    assert_eq!(
        (&answer["status"], &answer["objects"]),
        (&json!("complete"), &json!(0))
    );
    environment.check("target")
}

/// Runs a migration with a fault at each request in turn, and checks that it ends like an
/// undisturbed one.
async fn fail_each(fault: &str, operation: &str) -> Result<()> {
    let environment = BatchEnvironment::new(merged()).await?;
    let faults = environment.stage.server.faults();
    for k in 1.. {
        let target = format!("k-{k}");
        let id = faults.add(rule(&format!("{operation}:{fault},nth={k}")));
        let answer = environment.migrate(&target, COMMITS).await;
        let hits = faults.rules();
        let hits = hits.iter().find(|rule| rule.id == id).map(|rule| rule.hits);
        faults.remove(id);
        let answer = answer.map_err(|error| anyhow::anyhow!("{k}: {error}"))?;
        assert_eq!(answer["status"], "complete", "{k}");
        let refs = &answer["refs"];
        assert_eq!(
            (&refs["created"], &refs["unchanged"]),
            (&json!(8), &json!(0)),
            "{k}"
        );
        environment.check(&target)?;
        if hits == Some(0) {
            assert!(k > 3, "several requests must have failed");
            return Ok(());
        }
    }
    Ok(())
}

/// "HTTP 429 for API AND git"
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_survives_throttling_of_any_request() -> Result<()> {
    fail_each("throttle", "git/git-receive-pack").await?;
    fail_each("throttle", "codecommit").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_survives_failures_and_lost_answers_of_any_push() -> Result<()> {
    for fault in ["error", "drop", "lose-answer", "cut"] {
        fail_each(fault, "git/git-receive-pack").await?;
    }
    Ok(())
}

/// From CodeCommit to CodeCommit the source throttles too, and its history is read without a
/// filter.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_survives_a_throttling_source() -> Result<()> {
    let environment = BatchEnvironment::new(merged()).await?;
    environment.stage.create_repository("from").await?;
    let refspecs = ["refs/heads/*:refs/heads/*", "refs/tags/*:refs/tags/*"];
    environment
        .stage
        .push(&environment.source.path, "from", &refspecs)
        .await?;
    let faults = environment.stage.server.faults();
    for (fault, at) in [("throttle", 1), ("cut", 2)] {
        for k in 1.. {
            let target = format!("to-{at}-{k}");
            let mut mapping = environment.mapping(&target);
            mapping["source"] = json!("codecommit://from");
            let id = faults.add(rule(&format!("git/git-upload-pack:{fault},nth={k}")));
            let answer = environment
                .call(&mapping, &json!({ "commits": COMMITS }))
                .await;
            let hits = faults.rules();
            let hits = hits.iter().find(|rule| rule.id == id).map(|rule| rule.hits);
            faults.remove(id);
            let answer = answer.map_err(|error| anyhow::anyhow!("{k}: {error}"))?;
            assert_eq!(answer["status"], "complete", "{k}");
            environment.check(&target)?;
            if hits == Some(0) {
                assert!(k > 6, "several requests must have failed");
                break;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_waits_while_every_few_requests_are_throttled() -> Result<()> {
    let environment = BatchEnvironment::new(merged()).await?;
    let faults = environment.stage.server.faults();
    for every in [4, 5, 7] {
        let id = faults.add(rule(&format!("git:throttle,every={every}")));
        let target = format!("every-{every}");
        assert_eq!(environment.finish(&target, COMMITS).await?, 1);
        faults.remove(id);
        environment.check(&target)?;
    }
    Ok(())
}

/// A relay to a server that can cut a connection.
struct Relay {
    address: SocketAddr,
    /// Bytes sent to the server.
    sent: Arc<AtomicU64>,
    /// Byte at which the connection is cut; none if negative.
    cut_at: Arc<AtomicI64>,
}

impl Relay {
    fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let relay = Self {
            address: listener.local_addr()?,
            sent: Arc::default(),
            cut_at: Arc::new(AtomicI64::new(-1)),
        };
        let (sent, cut_at) = (Arc::clone(&relay.sent), Arc::clone(&relay.cut_at));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (sent, cut_at) = (Arc::clone(&sent), Arc::clone(&cut_at));
                // Ignored, because the client sees the failure.
                std::thread::spawn(move || pass(client, server, &sent, &cut_at).ok());
            }
        });
        Ok(relay)
    }
}

fn pass(
    mut client: TcpStream,
    server: SocketAddr,
    sent: &AtomicU64,
    cut_at: &AtomicI64,
) -> std::io::Result<()> {
    let mut upstream = TcpStream::connect(server)?;
    let (mut back, mut to) = (upstream.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        let copied = std::io::copy(&mut back, &mut to);
        to.shutdown(Shutdown::Both).and(copied)
    });
    let mut buffer = [0; 4096];
    loop {
        let read = client.read(&mut buffer)?;
        if read == 0 {
            return upstream.shutdown(Shutdown::Write);
        }
        let before = sent.fetch_add(read as u64, Ordering::SeqCst);
        let at = cut_at.load(Ordering::SeqCst);
        if u64::try_from(at).is_ok_and(|at| (before..before + read as u64).contains(&at)) {
            cut_at.store(-1, Ordering::SeqCst);
            upstream.shutdown(Shutdown::Both)?;
            return client.shutdown(Shutdown::Both);
        }
        upstream.write_all(&buffer[..read])?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_survives_connections_cut_within_a_pack() -> Result<()> {
    const CUTS: u64 = 12;
    let source = empty();
    let table: Vec<(usize, &str, Vec<usize>)> = (1..=12)
        .map(|n| (n, "main", (1..n).last().into_iter().collect()))
        .collect();
    import(&source, &table, 100_000);
    let environment = BatchEnvironment::new(source).await?;
    let server = environment.stage.server.endpoint();
    let server = server.strip_prefix("http://").context("not plain HTTP")?;
    let relay = Relay::start(server.parse()?)?;
    let codecommit = environment.stage.server.codecommit();
    codecommit.set_base_url(&format!("http://{}", relay.address));
    assert_eq!(environment.finish("whole", COMMITS).await?, 1);
    let whole = relay.sent.swap(0, Ordering::SeqCst);
    assert!(
        whole > 500_000,
        "packs must be most of the traffic: {whole} bytes"
    );
    for cut in 1..CUTS {
        relay.sent.store(0, Ordering::SeqCst);
        let at = i64::try_from(whole * cut / CUTS)?;
        relay.cut_at.store(at, Ordering::SeqCst);
        let target = format!("cut-{cut}");
        assert_eq!(environment.finish(&target, COMMITS).await?, 1);
        assert_eq!(
            relay.cut_at.load(Ordering::SeqCst),
            -1,
            "the connection must have been cut"
        );
        environment.check(&target)?;
    }
    Ok(())
}

/// "`incomplete` means that the time was over: call it with the same event again."
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_at_any_push_is_made_up_for_by_an_equal_event() -> Result<()> {
    let environment = BatchEnvironment::with(linear(25), hasty(Duration::from_secs(4))).await?;
    let faults = environment.stage.server.faults();
    // Reading refs, three batches, and the refs; the first read may be refused for want of
    // credentials.
    for k in 1..=7 {
        let id = faults.add(rule(&format!(
            "git/git-receive-pack:latency,ms=60000,nth={k}"
        )));
        let target = format!("k-{k}");
        let answer = environment.migrate(&target, 10).await;
        let answer = answer.map_err(|error| anyhow::anyhow!("{k}: {error}"))?;
        faults.remove(id);
        if answer["status"] == "complete" {
            assert!(k > 5, "push {k} was not delayed");
            return environment.check(&target);
        }
        assert_eq!(answer["status"], "incomplete", "{k}");
        let there = environment.stage.refs(&target).unwrap_or_default();
        let created = answer["refs"]["created"].as_u64().context("not a count")?;
        let others = there.lines().filter(|line| !line.contains("migration_"));
        assert_eq!(
            others.count() as u64,
            created,
            "the count must match the target: {there}"
        );
        environment.finish(&target, 10).await?;
        environment.check(&target)?;
    }
    anyhow::bail!("a run with seven pushes is not complete")
}

#[tokio::test(flavor = "multi_thread")]
async fn cleaning_survives_throttling_and_resumes_after_a_rejection() -> Result<()> {
    let environment = BatchEnvironment::new(linear(25)).await?;
    environment.stop_after(2);
    environment
        .migrate("target", 10)
        .await
        .expect_err("the source stops");
    let mut mapping = environment.mapping("target");
    mapping["clean"] = json!(true);
    let faults = environment.stage.server.faults();
    let keep = "case $1 in *_2) exit 1;; esac";
    environment.hook("target", keep).await?;
    for nth in [1, 3] {
        faults.add(rule(&format!("git/git-receive-pack:throttle,nth={nth}")));
    }
    let failure = environment.call(&mapping, &json!(null)).await;
    let failure = failure.expect_err("a deletion is rejected");
    let words = "`refs/tags/codecommit_migration_2`: hook declined";
    assert!(message(&failure).contains(words), "{failure}");
    assert!(message(&failure).contains("deleted 1 refs"), "{failure}");
    environment.unhook("target")?;
    let answer = environment.call(&mapping, &json!(null)).await;
    let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    assert_eq!(
        (&answer["status"], &answer["refs"]["deleted"]),
        (&json!("complete"), &json!(1))
    );
    assert_eq!(environment.stage.refs("target")?, "");
    Ok(())
}
