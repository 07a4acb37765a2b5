//! Folders, files, blobs, commits and differences, compared with git.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::{Server, git, run, run_with};

/// Returns `ls-tree -r -t` as lines of mode name, id and path, names lossy.
fn listed_by_git(local: &Path, commit: &str) -> BTreeSet<String> {
    let output = git(local)
        .args(["ls-tree", "-r", "-t", "-z", commit])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split('\0')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (head, path) = line.split_once('\t').unwrap();
            let words: Vec<&str> = head.split(' ').collect();
            let word = match words[0] {
                "100644" => "NORMAL",
                "100755" => "EXECUTABLE",
                "120000" => "SYMLINK",
                "160000" => "MODULE",
                _ => "TREE",
            };
            format!("{word} {} {path}", words[2])
        })
        .collect()
}

/// Lists like [`listed_by_git`], by `GetFolder`, folder by folder.
async fn listed_by_folders(server: &Server, specifier: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut todo = vec![String::new()];
    while let Some(folder) = todo.pop() {
        let input = json!({
            "repositoryName": "demo", "folderPath": folder, "commitSpecifier": specifier,
        });
        let output = server.call("GetFolder", input).await.unwrap();
        let kinds = [
            ("subFolders", "treeId", Some("TREE")),
            ("files", "blobId", None),
            ("symbolicLinks", "blobId", None),
            ("subModules", "commitId", Some("MODULE")),
        ];
        for (list, id, word) in kinds {
            for entry in output[list]
                .as_array()
                .expect("all four lists are always there")
            {
                let path = entry["absolutePath"].as_str().unwrap();
                let relative = entry["relativePath"].as_str().unwrap();
                let joined = format!("{folder}/{relative}");
                assert_eq!(
                    joined.trim_start_matches('/'),
                    path,
                    "relative to the folder"
                );
                let word = word.unwrap_or_else(|| entry["fileMode"].as_str().unwrap());
                all.insert(format!("{word} {} {path}", entry[id].as_str().unwrap()));
                if list == "subFolders" {
                    todo.push(path.to_owned());
                }
            }
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_recursively_equal_ls_tree() {
    let (server, local) = Server::with_fixture().await;
    let tip = run(&local, &["rev-parse", "main"]);
    for specifier in [tip.as_str(), "main", "HEAD", "refs/heads/main", "feature/x"] {
        let git = listed_by_git(&local, specifier);
        assert!(
            git.len() > 15,
            "the fixture has entries of all kinds: {git:?}"
        );
        assert_eq!(
            listed_by_folders(&server, specifier).await,
            git,
            "at {specifier}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_commit_is_the_default_branchs_tip() {
    let (server, local) = Server::with_fixture().await;
    let input = json!({ "repositoryName": "demo", "folderPath": "/a/b/" });
    let output = server.call("GetFolder", input).await.unwrap();
    assert_eq!(output["commitId"], run(&local, &["rev-parse", "main"]));
    assert_eq!(output["treeId"], run(&local, &["rev-parse", "main:a/b"]));
    assert_eq!(
        output["folderPath"], "a/b",
        "slashes at the ends mean nothing"
    );
    assert_eq!(output["subFolders"][0]["absolutePath"], "a/b/c");
    assert_eq!(output["subFolders"][0]["relativePath"], "c");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_reads_as_git_reads_it_by_path_and_by_id() {
    let (server, local) = Server::with_fixture().await;
    let decode = |value: &Value| {
        let text = value.as_str().unwrap();
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap()
    };
    let mut files = 0;
    for line in listed_by_folders(&server, "main").await {
        let mut words = line.splitn(3, ' ');
        let (mode, id, path) = (
            words.next().unwrap(),
            words.next().unwrap(),
            words.next().unwrap(),
        );
        if matches!(mode, "TREE" | "MODULE") {
            continue;
        }
        files += 1;
        let content = run_with(&local, &["cat-file", "blob", id], b"").stdout;
        let input = json!({ "repositoryName": "demo", "blobId": id });
        let blob = server.call("GetBlob", input).await.unwrap();
        assert_eq!(decode(&blob["content"]), content, "{path}");
        if path.contains('\u{fffd}') {
            continue;
        }
        let input = json!({ "repositoryName": "demo", "filePath": path });
        let file = server.call("GetFile", input).await.unwrap();
        assert_eq!(decode(&file["fileContent"]), content, "{path}");
        assert_eq!(file["fileMode"], mode, "{path}");
        assert_eq!(file["blobId"], id, "{path}");
        assert_eq!(file["fileSize"], content.len(), "{path}");
    }
    assert_eq!(files, 10, "all files of the fixture were read");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_names_are_in_the_error() {
    let (server, local) = Server::with_fixture().await;
    let tree = run(&local, &["rev-parse", "main^{tree}"]);
    let blob = run(&local, &["rev-parse", "main:README.md"]);
    let absent = "1".repeat(40);
    let cases = [
        (
            "GetFolder",
            json!({"folderPath": "nope"}),
            "FolderDoesNotExistException",
        ),
        (
            "GetFolder",
            json!({"folderPath": "README.md"}),
            "FolderDoesNotExistException",
        ),
        (
            "GetFolder",
            json!({"folderPath": "vendor/module"}),
            "FolderDoesNotExistException",
        ),
        (
            "GetFolder",
            json!({"folderPath": "line\nfeet"}),
            "FolderDoesNotExistException",
        ),
        ("GetFolder", json!({}), "PathRequiredException"),
        (
            "GetFolder",
            json!({"folderPath": "a/../b"}),
            "InvalidPathException",
        ),
        (
            "GetFolder",
            json!({"folderPath": "", "commitSpecifier": absent}),
            "CommitDoesNotExistException",
        ),
        (
            "GetFolder",
            json!({"folderPath": "", "commitSpecifier": blob}),
            "CommitDoesNotExistException",
        ),
        (
            "GetFolder",
            json!({"folderPath": "", "commitSpecifier": "nope"}),
            "CommitDoesNotExistException",
        ),
        (
            "GetFolder",
            json!({"folderPath": "", "commitSpecifier": "main~1"}),
            "InvalidCommitException",
        ),
        (
            "GetFolder",
            json!({"folderPath": "", "commitSpecifier": "main\n"}),
            "InvalidCommitException",
        ),
        (
            "GetFile",
            json!({"filePath": "a"}),
            "FileDoesNotExistException",
        ),
        (
            "GetFile",
            json!({"filePath": "a/nope"}),
            "FileDoesNotExistException",
        ),
        (
            "GetFile",
            json!({"filePath": "vendor/module"}),
            "FileDoesNotExistException",
        ),
        ("GetFile", json!({}), "PathRequiredException"),
        ("GetBlob", json!({}), "BlobIdRequiredException"),
        ("GetBlob", json!({"blobId": "12"}), "InvalidBlobIdException"),
        (
            "GetBlob",
            json!({"blobId": absent}),
            "BlobIdDoesNotExistException",
        ),
        (
            "GetBlob",
            json!({"blobId": tree}),
            "BlobIdDoesNotExistException",
        ),
        ("GetCommit", json!({}), "CommitIdRequiredException"),
        (
            "GetCommit",
            json!({"commitId": "main"}),
            "InvalidCommitIdException",
        ),
        (
            "GetCommit",
            json!({"commitId": absent}),
            "CommitIdDoesNotExistException",
        ),
        (
            "GetCommit",
            json!({"commitId": tree}),
            "CommitIdDoesNotExistException",
        ),
        ("GetDifferences", json!({}), "CommitRequiredException"),
        (
            "GetDifferences",
            json!({"afterCommitSpecifier": "nope"}),
            "CommitDoesNotExistException",
        ),
        (
            "GetDifferences",
            json!({"afterCommitSpecifier": "main", "MaxResults": 0}),
            "InvalidMaxResultsException",
        ),
        (
            "GetDifferences",
            json!({"afterCommitSpecifier": "main", "NextToken": "x"}),
            "InvalidContinuationTokenException",
        ),
        (
            "GetDifferences",
            json!({"afterCommitSpecifier": "main", "afterPath": "x"}),
            "PathDoesNotExistException",
        ),
        ("GetBlob", json!({"blobId": 7}), "SerializationException"),
    ];
    for (operation, mut input, code) in cases {
        input["repositoryName"] = "demo".into();
        let shown = input.to_string();
        let error = server.error(operation, input).await;
        assert_eq!(error.code, code, "{operation} {shown}: {}", error.message);
        assert_eq!(error.status, 400);
    }
    let input = json!({ "repositoryName": "demo", "folderPath": "nope" });
    let error = server.error("GetFolder", input).await;
    assert_eq!(error.message, "Could not find path nope");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_repository_has_no_commit_to_read() {
    let server = Server::with_demo().await;
    for (operation, member) in [("GetFolder", "folderPath"), ("GetFile", "filePath")] {
        let input = json!({ "repositoryName": "demo", member: "x" });
        assert_eq!(
            server.error(operation, input).await.code,
            "CommitDoesNotExistException"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_over_six_mebibytes_are_refused_and_the_next_request_is_served() {
    let server = Server::with_demo().await;
    let local = server.dir.path().join("work");
    run(
        server.dir.path(),
        &["init", "--quiet", "--initial-branch=main", "work"],
    );
    std::fs::write(local.join("limit"), vec![b'x'; 6_291_456]).unwrap();
    std::fs::write(local.join("over"), vec![b'x'; 6_291_457]).unwrap();
    run(&local, &["add", "."]);
    run(&local, &["commit", "--quiet", "-m", "large"]);
    run(
        &local,
        &["push", "--quiet", &server.git_url("demo"), "main"],
    );
    let over = run(&local, &["rev-parse", "main:over"]);
    for _ in 0..3 {
        let by_id = json!({ "repositoryName": "demo", "blobId": over });
        assert_eq!(
            server.error("GetBlob", by_id).await.code,
            "FileTooLargeException"
        );
        let by_path = json!({ "repositoryName": "demo", "filePath": "over" });
        assert_eq!(
            server.error("GetFile", by_path).await.code,
            "FileTooLargeException"
        );
        let limit = json!({ "repositoryName": "demo", "filePath": "limit" });
        let file = server.call("GetFile", limit).await.unwrap();
        assert_eq!(file["fileSize"], 6_291_456);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_equal_git_log() {
    let (server, local) = Server::with_fixture().await;
    let format = "--format=%H%x00%T%x00%P%x00%an%x00%ae%x00%ad%x00%cn%x00%ce%x00%cd%x00%B";
    let mut ids = Vec::new();
    for commit in run(&local, &["rev-list", "--all"]).lines() {
        let log = run(&local, &["log", "-1", "--date=raw", format, commit]);
        let fields: Vec<&str> = log.split('\0').collect();
        let input = json!({ "repositoryName": "demo", "commitId": commit });
        let output = server.call("GetCommit", input).await.unwrap();
        let read = &output["commit"];
        assert_eq!(read["commitId"], fields[0]);
        assert_eq!(read["treeId"], fields[1]);
        let parents: Vec<&str> = fields[2].split_whitespace().collect();
        assert_eq!(read["parents"], json!(parents));
        for (role, at) in [("author", 3), ("committer", 6)] {
            let person =
                json!({ "name": fields[at], "email": fields[at + 1], "date": fields[at + 2] });
            assert_eq!(read[role], person);
        }
        assert_eq!(
            read["message"].as_str().unwrap().trim_end(),
            fields[9].trim_end()
        );
        ids.push(commit.to_owned());
    }
    ids.push("2".repeat(40));
    let input = json!({ "repositoryName": "demo", "commitIds": ids });
    let batch = server.call("BatchGetCommits", input).await.unwrap();
    assert_eq!(batch["commits"].as_array().unwrap().len(), 3);
    assert_eq!(
        batch["errors"][0]["errorCode"],
        "CommitIdDoesNotExistException"
    );
}

/// Returns all pages of `GetDifferences`, a line per difference.
async fn differences(server: &Server, input: &Value, page: u32) -> Vec<String> {
    let mut all = Vec::new();
    let mut input = input.clone();
    input["repositoryName"] = "demo".into();
    input["MaxResults"] = page.into();
    loop {
        let output = server.call("GetDifferences", input.clone()).await.unwrap();
        let list = output["differences"].as_array().unwrap();
        assert!(
            list.len() <= page as usize,
            "a page holds at most MaxResults"
        );
        for difference in list {
            let side = |side: &str| {
                let blob = &difference[side];
                match blob["path"].as_str() {
                    None => "-".to_owned(),
                    Some(path) => format!(
                        "{}:{}:{path}",
                        blob["mode"].as_str().unwrap(),
                        blob["blobId"].as_str().unwrap()
                    ),
                }
            };
            let kind = difference["changeType"].as_str().unwrap();
            all.push(format!(
                "{kind} {} {}",
                side("beforeBlob"),
                side("afterBlob")
            ));
        }
        match output.get("NextToken") {
            Some(token) => input["NextToken"] = token.clone(),
            None => return all,
        }
    }
}

fn differences_by_git(local: &Path, arguments: &[&str]) -> Vec<String> {
    let output = git(local).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut parts = text.split('\0').filter(|part| !part.is_empty());
    let mut all = Vec::new();
    while let (Some(head), Some(path)) = (parts.next(), parts.next()) {
        let words: Vec<&str> = head.trim_start_matches(':').split(' ').collect();
        let side = |mode: &str, id: &str| match mode {
            "000000" => "-".to_owned(),
            _ => format!("{mode}:{id}:{path}"),
        };
        let (before, after) = (side(words[0], words[2]), side(words[1], words[3]));
        all.push(format!("{} {before} {after}", words[4]));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_equal_diff_tree_and_without_before_the_whole_tree() {
    let (server, local) = Server::with_fixture().await;
    let flags = ["diff-tree", "-r", "-z", "--no-renames", "--no-abbrev"];
    for (before, after) in [
        ("main~1", "main"),
        ("main", "feature/x"),
        ("feature/x", "main~1"),
    ] {
        let ids = [
            run(&local, &["rev-parse", before]),
            run(&local, &["rev-parse", after]),
        ];
        let by_git = differences_by_git(&local, &[&flags[..], &[before, after]].concat());
        assert!(!by_git.is_empty(), "{before} and {after} differ");
        let input = json!({ "beforeCommitSpecifier": ids[0], "afterCommitSpecifier": ids[1] });
        for page in [1, 2, 400] {
            assert_eq!(
                differences(&server, &input, page).await,
                by_git,
                "pages of {page}"
            );
        }
    }
    let empty = run_with(&local, &["mktree"], b"").stdout;
    let empty = String::from_utf8(empty).unwrap();
    let by_git = differences_by_git(&local, &[&flags[..], &[empty.trim(), "main"]].concat());
    let input = json!({ "afterCommitSpecifier": "main" });
    assert_eq!(
        differences(&server, &input, 3).await,
        by_git,
        "all files, submodules too"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_are_limited_to_paths_and_follow_a_renamed_folder() {
    let (server, local) = Server::with_fixture().await;
    let ids = [
        run(&local, &["rev-parse", "main"]),
        run(&local, &["rev-parse", "main~1"]),
    ];
    let input = json!({
        "beforeCommitSpecifier": ids[1], "afterCommitSpecifier": "main", "afterPath": "a",
    });
    let flags = ["diff-tree", "-r", "-z", "--no-renames", "--no-abbrev"];
    let by_git = differences_by_git(
        &local,
        &[&flags[..], &[&ids[1], &ids[0], "--", "a"]].concat(),
    );
    assert_eq!(differences(&server, &input, 9).await, by_git);
    let input = json!({
        "beforeCommitSpecifier": "main", "afterCommitSpecifier": "feature/x",
        "beforePath": "a", "afterPath": "renamed",
    });
    assert!(
        differences(&server, &input, 9).await.is_empty(),
        "only the name changed"
    );
    let input = json!({ "afterCommitSpecifier": "main", "afterPath": "a/b" });
    assert_eq!(differences(&server, &input, 9).await.len(), 1);
}
