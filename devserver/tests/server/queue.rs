//! Asynchronous invocations: retries, throttling, dead letters, restarts.

use std::time::{Duration, Instant};

use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use branchline_dev::server::{Options, Server};
use serde_json::{Value, json};

use crate::support::{dev, function, lambda, quick, until};

async fn send(server: &Server, name: &str, payload: &Value) {
    let output = lambda(server)
        .invoke()
        .function_name(name)
        .invocation_type(InvocationType::Event)
        .payload(Blob::new(payload.to_string()))
        .send()
        .await
        .unwrap();
    assert_eq!(output.status_code(), 202);
}

#[tokio::test]
async fn a_failed_event_is_tried_twice_more_after_one_and_two_minutes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calls");
    let mut options = quick(vec![function("flaky")]);
    // One minute is scaled to 120 ms.
    options.retry_delay_scale = 0.002;
    let server = Server::start(options).await.unwrap();
    let started = Instant::now();
    let payload = json!({ "do": "flaky", "file": file, "failures": 2 });
    send(&server, "flaky", &payload).await;
    until("the third attempt succeeded", || {
        server.queue().pending() == 0
    })
    .await;
    assert!(
        started.elapsed() >= Duration::from_millis(360),
        "one and two minutes pass before the third attempt: {:?}",
        started.elapsed()
    );
    assert_eq!(std::fs::read(&file).unwrap().len(), 3);
    assert!(server.queue().dead_letters().is_empty());
    server.shutdown().await;
}

#[tokio::test]
async fn an_event_that_fails_three_times_is_a_dead_letter_and_stays_one() {
    let data = tempfile::tempdir().unwrap();
    let options = Options {
        data: Some(data.path().to_owned()),
        ..quick(vec![function("f")])
    };
    let server = Server::start(options.clone()).await.unwrap();
    let payload = json!({ "do": "fail", "mark": 7 });
    send(&server, "f", &payload).await;
    until("it was given up", || {
        server.queue().dead_letters().len() == 1
    })
    .await;
    server.shutdown().await;

    let server = Server::start(options).await.unwrap();
    let letters = dev(&server, "GET", "dead-letters", Value::Null).await;
    let letter = &letters["deadLetters"][0];
    assert_eq!(
        letter["payload"], payload,
        "the event is kept, over a restart"
    );
    assert_eq!(letter["attempts"], 3);
    assert_eq!(letter["condition"], "RetriesExhausted");
    assert_eq!(letter["error_message"], "it was asked to fail");
    assert_eq!(server.queue().pending(), 0, "it is not tried again");
    dev(&server, "DELETE", "dead-letters", Value::Null).await;
    assert!(server.queue().dead_letters().is_empty());
    server.shutdown().await;
}

#[tokio::test]
async fn reserved_concurrency_one_serialises_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calls");
    let mut config = function("single");
    config.reserved_concurrency = Some(1);
    let server = Server::start(quick(vec![config])).await.unwrap();
    let payload = json!({ "do": "overlap", "file": file });
    for _ in 0..6 {
        send(&server, "single", &payload).await;
    }
    until("all events were delivered", || {
        server.queue().pending() == 0
    })
    .await;
    let lines = std::fs::read_to_string(&file).unwrap();
    assert_eq!(lines, "alone\n".repeat(6), "one at a time, and each once");
    assert!(server.queue().dead_letters().is_empty());
    server.shutdown().await;
}

#[tokio::test]
async fn an_event_that_stays_throttled_reaches_the_maximum_age() {
    let mut config = function("off");
    config.reserved_concurrency = Some(0);
    let mut options = quick(vec![config]);
    // Six hours are scaled to 216 ms.
    options.retry_delay_scale = 0.000_01;
    let server = Server::start(options).await.unwrap();
    send(&server, "off", &json!({})).await;
    until("it was given up", || {
        !server.queue().dead_letters().is_empty()
    })
    .await;
    let letter = &server.queue().dead_letters()[0];
    assert_eq!(letter.condition, "EventAgeExceeded");
    assert_eq!(letter.attempts, 0, "the function never ran");
    server.shutdown().await;
}

#[tokio::test]
async fn waiting_events_survive_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calls");
    let mut off = function("f");
    off.reserved_concurrency = Some(0);
    let options = |config| Options {
        data: Some(data.path().to_owned()),
        retry_delay_scale: 1.0,
        ..quick(vec![config])
    };
    let server = Server::start(options(off)).await.unwrap();
    let payload = json!({ "do": "append", "file": file, "line": "delivered" });
    send(&server, "f", &payload).await;
    let started = Instant::now();
    server.shutdown().await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "a stop waits for no retry"
    );

    let server = Server::start(options(function("f"))).await.unwrap();
    until("it was delivered", || server.queue().pending() == 0).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "delivered\n");
    server.shutdown().await;
    let left = std::fs::read_dir(data.path().join("lambda/queue")).unwrap();
    assert_eq!(left.count(), 0, "a delivered event is forgotten");
}

#[tokio::test]
async fn a_busy_server_stops_within_its_grace_period_and_leaves_no_process() {
    let mut config = function("busy");
    config.timeout = Duration::from_mins(15);
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("bootstrap");
    let pid_file = folder.path().join("pid");
    // The process prints its id before it works, and ignores SIGTERM.
    std::fs::write(
        &script,
        format!(
            "#!/bin/sh\ntrap '' TERM\necho $$ > {}\nexec {}\n",
            pid_file.display(),
            config.bootstrap.display()
        ),
    )
    .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    config.bootstrap = script;
    let server = Server::start(quick(vec![config])).await.unwrap();
    send(&server, "busy", &json!({ "do": "sleep", "ms": 600_000 })).await;
    until("the function runs", || {
        std::fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n'))
    })
    .await;
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    let pid: u64 = pid.trim().parse().unwrap();
    let started = Instant::now();
    server.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(10));
    until("the process is gone", || !crate::support::is_running(pid)).await;
}
