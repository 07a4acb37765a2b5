//! Repositories and branches, by the AWS SDK and as plain JSON.

use std::sync::Arc;

use aws_sdk_codecommit::error::ProvideErrorMetadata as _;
use branchline_dev::codecommit::{CodeCommitService, Limits};
use branchline_dev::ref_observer::NoObserver;
use serde_json::json;

use crate::push::work;
use crate::support::{PRINCIPAL, Server, account, run};

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_creates_reads_lists_and_deletes_repositories() {
    let server = Server::start().await;
    let sdk = server.sdk();
    let create = sdk.create_repository().repository_name("demo");
    let created = create
        .repository_description("a demo")
        .send()
        .await
        .unwrap();
    let created = created.repository_metadata().unwrap();
    let get = sdk
        .get_repository()
        .repository_name("demo")
        .send()
        .await
        .unwrap();
    let read = get.repository_metadata().unwrap();
    assert_eq!(created, read);
    assert_eq!(read.account_id(), Some("123456789012"));
    assert_eq!(
        read.arn(),
        Some("arn:aws:codecommit:eu-west-1:123456789012:demo")
    );
    assert_eq!(
        read.clone_url_http(),
        Some(format!("{}/v1/repos/demo", server.url).as_str())
    );
    assert_eq!(read.repository_description(), Some("a demo"));
    assert_eq!(read.default_branch(), None, "it is empty");
    assert!(read.creation_date().unwrap().secs() > 1_600_000_000);
    let list = sdk.list_repositories().send().await.unwrap();
    assert_eq!(list.repositories()[0].repository_id(), read.repository_id());
    let batch = sdk
        .batch_get_repositories()
        .repository_names("demo")
        .repository_names("nope");
    let batch = batch.send().await.unwrap();
    assert_eq!(batch.repositories().len(), 1);
    assert_eq!(batch.repositories_not_found(), ["nope"]);
    let dir = server.service.repository_dir("demo").unwrap();
    let deleted = sdk
        .delete_repository()
        .repository_name("demo")
        .send()
        .await
        .unwrap();
    assert_eq!(deleted.repository_id(), read.repository_id());
    assert!(!dir.exists(), "the objects are deleted");
    let again = sdk
        .delete_repository()
        .repository_name("demo")
        .send()
        .await
        .unwrap();
    assert_eq!(
        again.repository_id(),
        None,
        "deleting a missing repository is not an error"
    );
    let error = sdk
        .get_repository()
        .repository_name("demo")
        .send()
        .await
        .unwrap_err();
    assert!(
        error
            .into_service_error()
            .is_repository_does_not_exist_exception()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn required_members_are_checked_in_order_the_repository_first() {
    let server = Server::with_demo().await;
    let cases = [
        (
            "GetRepository",
            json!({}),
            "RepositoryNameRequiredException",
        ),
        (
            "GetRepository",
            json!({"repositoryName": "a/b"}),
            "InvalidRepositoryNameException",
        ),
        (
            "GetRepository",
            json!({"repositoryName": "a.git"}),
            "InvalidRepositoryNameException",
        ),
        (
            "GetRepository",
            json!({"repositoryName": ".."}),
            "InvalidRepositoryNameException",
        ),
        (
            "GetRepository",
            json!({"repositoryName": "nope"}),
            "RepositoryDoesNotExistException",
        ),
        ("GetRepository", json!([]), "SerializationException"),
        (
            "CreateRepository",
            json!({"repositoryName": "demo"}),
            "RepositoryNameExistsException",
        ),
        (
            "CreateRepository",
            json!({"repositoryName": "x", "repositoryDescription": "x".repeat(1001)}),
            "InvalidRepositoryDescriptionException",
        ),
        (
            "ListRepositories",
            json!({"sortBy": "x"}),
            "InvalidSortByException",
        ),
        (
            "ListRepositories",
            json!({"order": "x"}),
            "InvalidOrderException",
        ),
        (
            "ListRepositories",
            json!({"nextToken": "x"}),
            "InvalidContinuationTokenException",
        ),
        (
            "BatchGetRepositories",
            json!({}),
            "RepositoryNamesRequiredException",
        ),
        (
            "BatchGetRepositories",
            json!({"repositoryNames": vec!["x"; 101]}),
            "MaximumRepositoryNamesExceededException",
        ),
        (
            "BatchGetCommits",
            json!({"repositoryName": "demo"}),
            "CommitIdsListRequiredException",
        ),
        (
            "BatchGetCommits",
            json!({"repositoryName": "demo", "commitIds": vec!["x"; 101]}),
            "CommitIdsLimitExceededException",
        ),
        (
            "GetBranch",
            json!({"branchName": "x"}),
            "RepositoryNameRequiredException",
        ),
        (
            "GetBranch",
            json!({"repositoryName": "demo"}),
            "BranchNameRequiredException",
        ),
        (
            "GetBranch",
            json!({"repositoryName": "demo", "branchName": "a..b"}),
            "InvalidBranchNameException",
        ),
        (
            "GetBranch",
            json!({"repositoryName": "demo", "branchName": "a".repeat(40)}),
            "InvalidBranchNameException",
        ),
        (
            "GetBranch",
            json!({"repositoryName": "demo", "branchName": "x"}),
            "BranchDoesNotExistException",
        ),
        (
            "CreateBranch",
            json!({"repositoryName": "demo"}),
            "BranchNameRequiredException",
        ),
        (
            "CreateBranch",
            json!({"repositoryName": "demo", "branchName": "x"}),
            "CommitIdRequiredException",
        ),
        (
            "CreateBranch",
            json!({"repositoryName": "demo", "branchName": "x", "commitId": "main"}),
            "InvalidCommitIdException",
        ),
        (
            "CreateBranch",
            json!({"repositoryName": "demo", "branchName": "x", "commitId": "1".repeat(40)}),
            "CommitDoesNotExistException",
        ),
        (
            "UpdateDefaultBranch",
            json!({"repositoryName": "demo", "defaultBranchName": "x"}),
            "BranchDoesNotExistException",
        ),
        (
            "ListBranches",
            json!({"repositoryName": "demo", "nextToken": "!"}),
            "InvalidContinuationTokenException",
        ),
        (
            "GetFolder",
            json!({"folderPath": ""}),
            "RepositoryNameRequiredException",
        ),
        (
            "MergeBranchesBySquash",
            json!({}),
            "UnknownOperationException",
        ),
    ];
    for (operation, input, code) in cases {
        let shown = input.to_string();
        let error = server.error(operation, input).await;
        assert_eq!(error.code, code, "{operation} {shown}: {}", error.message);
        assert_eq!(error.status, 400);
    }
    let input = json!({ "repositoryName": "nope" });
    assert_eq!(
        server.error("GetRepository", input).await.message,
        "nope does not exist"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_created_and_deleted_by_the_api_are_reported_like_pushes() {
    let (server, local) = Server::with_fixture().await;
    let sdk = server.sdk();
    let tip = run(&local, &["rev-parse", "main"]);
    let create = |name: &str| {
        let create = sdk.create_branch().repository_name("demo");
        create.branch_name(name).commit_id(&tip).send()
    };
    create("release/1").await.unwrap();
    let short = &tip[..7];
    assert_eq!(
        server.observer.take(),
        [format!("demo refs/heads/release/1 -..{short}")]
    );
    let get = sdk
        .get_branch()
        .repository_name("demo")
        .branch_name("release/1");
    assert_eq!(
        get.send().await.unwrap().branch().unwrap().commit_id(),
        Some(tip.as_str())
    );
    for taken in ["release/1", "release", "release/1/x"] {
        let error = create(taken).await.unwrap_err();
        assert_eq!(error.code(), Some("BranchNameExistsException"), "{taken}");
    }
    assert!(
        server.observer.take().is_empty(),
        "what is refused is not reported"
    );
    let delete = |name: &str| {
        let delete = sdk.delete_branch().repository_name("demo");
        delete.branch_name(name).send()
    };
    let deleted = delete("release/1").await.unwrap();
    assert_eq!(
        deleted.deleted_branch().unwrap().commit_id(),
        Some(tip.as_str())
    );
    assert_eq!(
        server.observer.take(),
        [format!("demo refs/heads/release/1 {short}..-")]
    );
    assert_eq!(delete("release/1").await.unwrap().deleted_branch(), None);
    let error = delete("main").await.unwrap_err().into_service_error();
    assert!(error.is_default_branch_cannot_be_deleted_exception());
    let update = sdk.update_default_branch().repository_name("demo");
    update
        .default_branch_name("feature/x")
        .send()
        .await
        .unwrap();
    delete("main").await.unwrap();
    assert_eq!(
        server.observer.take(),
        [format!("demo refs/heads/main {short}..-")]
    );
    let head = run(
        &local,
        &["ls-remote", "--symref", &server.git_url("demo"), "HEAD"],
    );
    let feature = run(&local, &["rev-parse", "feature/x"]);
    assert_eq!(
        head,
        format!("{feature}\tHEAD"),
        "HEAD follows the default branch"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_are_paged_in_the_order_of_their_names() {
    let limits = Limits {
        branches_page: 2,
        repositories_page: 1,
        ..Limits::default()
    };
    let server = Server::start_with(limits).await;
    for name in ["demo", "other"] {
        server
            .call("CreateRepository", json!({ "repositoryName": name }))
            .await
            .unwrap();
    }
    let local = work(&server);
    let mut names: Vec<String> = (0..5).map(|n| format!("b{n}")).collect();
    for name in &names {
        run(&local, &["branch", name]);
    }
    names.push("main".into());
    run(
        &local,
        &["push", "--quiet", &server.git_url("demo"), "--all"],
    );
    let sdk = server.sdk();
    let pages = sdk
        .list_branches()
        .repository_name("demo")
        .into_paginator()
        .send();
    let pages = pages.try_collect().await.unwrap();
    assert_eq!(pages.len(), 3);
    let all: Vec<String> = pages
        .iter()
        .flat_map(|page| page.branches().to_vec())
        .collect();
    assert_eq!(all, names);
    let descending = json!({ "order": "descending" });
    let first = server.call("ListRepositories", descending).await.unwrap();
    assert_eq!(first["repositories"][0]["repositoryName"], "other");
    let next = json!({ "order": "descending", "nextToken": first["nextToken"] });
    let second = server.call("ListRepositories", next).await.unwrap();
    assert_eq!(second["repositories"][0]["repositoryName"], "demo");
    assert_eq!(second.get("nextToken"), None);
    let pushed = json!({ "sortBy": "lastModifiedDate", "order": "descending" });
    let latest = server.call("ListRepositories", pushed).await.unwrap();
    assert_eq!(
        latest["repositories"][0]["repositoryName"], "demo",
        "it was pushed to"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_are_complete_after_a_restart() {
    let (server, local) = Server::with_fixture().await;
    let triggers = json!([{
        "name": "t", "branches": [], "events": ["all"], "customData": "x",
        "destinationArn": "arn:aws:lambda:eu-west-1:123456789012:function:f",
    }]);
    let put = json!({ "repositoryName": "demo", "triggers": triggers });
    server.call("PutRepositoryTriggers", put).await.unwrap();
    let name = json!({ "repositoryName": "demo" });
    let questions = ["GetRepository", "GetRepositoryTriggers", "ListBranches"];
    let mut before = Vec::new();
    for question in questions {
        before.push(server.call(question, name.clone()).await.unwrap());
    }
    // Leftovers of a server that was killed during a creation and a deletion.
    let home = server.dir.path().join("repositories");
    std::fs::create_dir_all(home.join(".new-x/objects")).unwrap();
    std::fs::create_dir_all(home.join(".deleted-x/objects")).unwrap();
    let quarantine = home.join("demo.git/objects/tmp_objdir-incoming-x/pack");
    std::fs::create_dir_all(&quarantine).unwrap();
    // A bare repository that was copied into the folder.
    run(
        &home,
        &[
            "clone",
            "--quiet",
            "--bare",
            local.to_str().unwrap(),
            "brought.git",
        ],
    );
    let again = CodeCommitService::open(&home, account().0, Arc::new(NoObserver)).unwrap();
    again.set_base_url(&server.url);
    for (question, answer) in questions.iter().zip(before) {
        let now = again.call(question, name.clone(), PRINCIPAL).await.unwrap();
        assert_eq!(now, answer, "{question}");
    }
    assert_eq!(again.repositories(), ["brought", "demo"]);
    let brought = json!({ "repositoryName": "brought" });
    let brought = again
        .call("GetRepository", brought, PRINCIPAL)
        .await
        .unwrap();
    assert_eq!(brought["repositoryMetadata"]["defaultBranch"], "main");
    assert!(!quarantine.exists(), "a push that was cut off is over");
    assert!(!home.join(".new-x").exists() && !home.join(".deleted-x").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_cat_file_process_is_replaced_and_a_deleted_repository_has_none() {
    let (server, _) = Server::with_fixture().await;
    let dir = server.service.repository_dir("demo").unwrap();
    let folder = json!({ "repositoryName": "demo", "folderPath": "", "commitSpecifier": "main" });
    let readers = || {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let entries = entries.filter(|entry| {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let names = |bytes: &[u8], text: &str| String::from_utf8_lossy(bytes).contains(text);
            names(&line, "cat-file") && names(&environment, dir.to_str().unwrap())
        });
        let ids = entries.map(|entry| entry.file_name().into_string().unwrap());
        ids.collect::<Vec<String>>()
    };
    for _ in 0..3 {
        server.call("GetFolder", folder.clone()).await.unwrap();
        let ids = readers();
        assert_eq!(ids.len(), 1, "requests one after the other share a process");
        let killed = std::process::Command::new("kill")
            .args(["-9", &ids[0]])
            .status()
            .unwrap();
        assert!(killed.success());
    }
    server.call("GetFolder", folder.clone()).await.unwrap();
    assert_eq!(readers().len(), 1);
    let name = json!({ "repositoryName": "demo" });
    server.call("DeleteRepository", name.clone()).await.unwrap();
    for _ in 0..100 {
        if readers().is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(
        readers().is_empty(),
        "no process reads a deleted repository"
    );
    server.call("CreateRepository", name).await.unwrap();
    let error = server.error("GetFolder", folder).await;
    assert_eq!(
        error.code, "CommitDoesNotExistException",
        "the new one is empty"
    );
}
