//! Duration of the reading operations. Time is not asserted: the figures are
//! printed (`--no-capture`).

use std::time::Instant;

use serde_json::json;

use crate::support::{Server, run};

const REQUESTS: u32 = 2000;

#[tokio::test]
async fn reading_operations_are_served_without_a_process_each() {
    let server = Server::with_demo().await;
    let local = crate::support::fixture(server.dir.path());
    let url = server.git_url("demo");
    let dir = local.clone();
    tokio::task::spawn_blocking(move || run(&dir, &["push", "--quiet", &url, "--all"]))
        .await
        .unwrap();
    let commit = run(&local, &["rev-parse", "main"]);
    let blob = run(&local, &["rev-parse", "main:a/b/c/d/deep.txt"]);
    let inputs = [
        (
            "GetFolder",
            json!({ "folderPath": "a/b/c", "commitSpecifier": commit }),
        ),
        (
            "GetFolder",
            json!({ "folderPath": "a/b/c", "commitSpecifier": "main" }),
        ),
        (
            "GetFile",
            json!({ "filePath": "a/b/c/d/deep.txt", "commitSpecifier": commit }),
        ),
        ("GetBlob", json!({ "blobId": blob })),
        ("GetCommit", json!({ "commitId": commit })),
    ];
    for (operation, mut input) in inputs {
        input["repositoryName"] = "demo".into();
        let start = Instant::now();
        for _ in 0..REQUESTS {
            server.call(operation, input.clone()).await.unwrap();
        }
        let one = f64::from(REQUESTS) / start.elapsed().as_secs_f64();
        let start = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (service, input) = (server.service.clone(), input.clone());
            tasks.spawn(async move {
                for _ in 0..REQUESTS / 8 {
                    service.call(operation, input.clone(), "arn").await.unwrap();
                }
            });
        }
        tasks.join_all().await;
        let eight = f64::from(REQUESTS) / start.elapsed().as_secs_f64();
        eprintln!("{operation}: {one:.0} requests/s one at a time, {eight:.0} with 8 in flight");
    }
}
