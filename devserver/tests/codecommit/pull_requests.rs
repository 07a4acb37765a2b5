//! Pull requests: life, merges, comments, approvals, events.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use branchline_dev::event::{Event, EventSink};
use serde_json::{Value, json};

use crate::support::{PRINCIPAL, Server, run};

const REVIEWER: &str = "arn:aws:iam::123456789012:user/reviewer";

/// Sink that records its events.
#[derive(Default)]
struct Heard(Mutex<Vec<Event>>);

impl EventSink for Heard {
    fn put(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Heard {
    /// Takes the events since the last call.
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn names(&self) -> Vec<String> {
        let events = self.take();
        let names = events.iter().map(|event| event.detail["event"].as_str());
        names.map(|name| name.unwrap().to_owned()).collect()
    }
}

/// A server with `demo`: `main`, and `feature` with one commit more.
struct Review {
    server: Server,
    local: PathBuf,
    heard: Arc<Heard>,
}

impl Review {
    async fn start() -> Self {
        let server = Server::with_demo().await;
        let local = server.dir.path().join("work");
        std::fs::create_dir(&local).unwrap();
        run(&local, &["init", "--quiet", "--initial-branch=main"]);
        let heard = Arc::new(Heard::default());
        let sink: Arc<dyn EventSink> = Arc::<Heard>::clone(&heard);
        server.service.set_event_sink(sink);
        let review = Self {
            server,
            local,
            heard,
        };
        review.commit("main", &[("a", "1\n2\n3\n4\n5\n")]);
        run(&review.local, &["checkout", "--quiet", "-b", "feature"]);
        review.commit("feature", &[("b", "new\n")]);
        review
    }

    /// Commits files and pushes the branch; returns the commit.
    fn commit(&self, branch: &str, files: &[(&str, &str)]) -> String {
        for (name, content) in files {
            std::fs::write(self.local.join(name), content).unwrap();
        }
        run(&self.local, &["add", "-A"]);
        run(&self.local, &["commit", "--quiet", "-m", branch]);
        self.push(branch);
        run(&self.local, &["rev-parse", "HEAD"])
    }

    fn push(&self, branch: &str) {
        let url = self.server.git_url("demo");
        let refspec = format!("+HEAD:refs/heads/{branch}");
        run(&self.local, &["push", "--quiet", &url, &refspec]);
    }

    fn checkout(&self, branch: &str) {
        run(&self.local, &["checkout", "--quiet", branch]);
    }

    fn tip(&self, branch: &str) -> String {
        let dir = self.server.service.repository_dir("demo").unwrap();
        run(&dir, &["rev-parse", &format!("refs/heads/{branch}")])
    }

    async fn call(&self, operation: &str, input: Value) -> Value {
        let called = self.server.call(operation, input).await;
        called.unwrap_or_else(|error| panic!("{operation}: {error:?}"))
    }

    /// Creates a pull request from `feature` into `main`; returns its id.
    async fn create(&self) -> String {
        let created = self.call("CreatePullRequest", new()).await;
        text(&created["pullRequest"]["pullRequestId"])
    }

    async fn get(&self, id: &str) -> Value {
        let input = json!({ "pullRequestId": id });
        self.call("GetPullRequest", input).await["pullRequest"].clone()
    }
}

fn new() -> Value {
    json!({
        "title": "Add b",
        "description": "It is new",
        "targets": [{ "repositoryName": "demo", "sourceReference": "feature" }],
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_follows_its_branches_until_it_is_closed() {
    let review = Review::start().await;
    review.heard.take();
    let created = review.call("CreatePullRequest", new()).await["pullRequest"].clone();
    assert_eq!(created["pullRequestId"], "1");
    assert_eq!(created["pullRequestStatus"], "OPEN");
    assert_eq!(created["authorArn"], PRINCIPAL);
    let target = &created["pullRequestTargets"][0];
    assert_eq!(target["sourceReference"], "refs/heads/feature");
    assert_eq!(target["destinationReference"], "refs/heads/main");
    assert_eq!(target["sourceCommit"], review.tip("feature"));
    assert_eq!(target["destinationCommit"], review.tip("main"));
    assert_eq!(target["mergeBase"], review.tip("main"));
    assert_eq!(target["mergeMetadata"], json!({ "isMerged": false }));
    let events = review.heard.take();
    assert_eq!(events.len(), 1);
    assert_eq!(
        events[0].detail_type,
        "CodeCommit Pull Request State Change"
    );
    assert_eq!(events[0].source, "aws.codecommit");
    assert_eq!(
        events[0].resources,
        ["arn:aws:codecommit:eu-west-1:123456789012:demo"]
    );
    let detail = &events[0].detail;
    for (member, value) in [
        ("event", json!("pullRequestCreated")),
        ("isMerged", json!("False")),
        ("pullRequestId", json!("1")),
        ("pullRequestStatus", json!("Open")),
        ("repositoryNames", json!(["demo"])),
        ("sourceCommit", target["sourceCommit"].clone()),
        ("destinationCommit", target["destinationCommit"].clone()),
        ("sourceReference", json!("refs/heads/feature")),
        ("revisionId", created["revisionId"].clone()),
        ("title", json!("Add b")),
        ("description", json!("It is new")),
    ] {
        assert_eq!(detail[member], value, "{member}");
    }

    // A push to the source is a new revision; one to the destination moves its tip only.
    let new_tip = review.commit("feature", &[("b", "newer\n")]);
    assert_eq!(review.heard.names(), ["pullRequestSourceBranchUpdated"]);
    let updated = review.get("1").await;
    assert_ne!(updated["revisionId"], created["revisionId"]);
    assert_eq!(updated["pullRequestTargets"][0]["sourceCommit"], new_tip);
    review.checkout("main");
    let main = review.commit("main", &[("c", "c\n")]);
    assert!(review.heard.take().is_empty());
    let moved = review.get("1").await;
    assert_eq!(moved["revisionId"], updated["revisionId"]);
    assert_eq!(moved["pullRequestTargets"][0]["destinationCommit"], main);
    assert_eq!(
        moved["pullRequestTargets"][0]["mergeBase"],
        target["mergeBase"]
    );

    let close = json!({ "pullRequestId": "1", "pullRequestStatus": "CLOSED" });
    let closed = review.call("UpdatePullRequestStatus", close.clone()).await;
    assert_eq!(closed["pullRequest"]["pullRequestStatus"], "CLOSED");
    let events = review.heard.take();
    assert_eq!(events[0].detail["event"], "pullRequestStatusChanged");
    assert_eq!(events[0].detail["pullRequestStatus"], "Closed");
    assert_eq!(events[0].detail["isMerged"], "False");
    let error = review.server.error("UpdatePullRequestStatus", close).await;
    assert_eq!(error.code, "InvalidPullRequestStatusUpdateException");
    // A closed one no longer follows.
    review.checkout("feature");
    review.commit("feature", &[("b", "newest\n")]);
    assert!(review.heard.take().is_empty());
    assert_eq!(
        review.get("1").await["pullRequestTargets"][0]["sourceCommit"],
        new_tip
    );

    let described = review
        .call("DescribePullRequestEvents", json!({ "pullRequestId": "1" }))
        .await;
    let kinds: Vec<&Value> = described["pullRequestEvents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["pullRequestEventType"])
        .collect();
    assert_eq!(
        kinds,
        [
            "PULL_REQUEST_STATUS_CHANGED",
            "PULL_REQUEST_SOURCE_REFERENCE_UPDATED",
            "PULL_REQUEST_CREATED"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_ends_with_its_branches_and_with_a_fast_forward_by_git() {
    let review = Review::start().await;
    let first = review.create().await;
    run(
        &review.local,
        &[
            "push",
            "--quiet",
            &review.server.git_url("demo"),
            ":refs/heads/feature",
        ],
    );
    assert_eq!(review.get(&first).await["pullRequestStatus"], "CLOSED");
    review.push("feature");
    let second = review.create().await;
    assert_ne!(first, second, "ids are never used twice");
    review.heard.take();
    review.push("main");
    assert_eq!(review.heard.names(), ["pullRequestMergeStatusUpdated"]);
    let merged = review.get(&second).await;
    assert_eq!(merged["pullRequestStatus"], "CLOSED");
    let merge = &merged["pullRequestTargets"][0]["mergeMetadata"];
    assert_eq!(merge["isMerged"], true);
    assert_eq!(merge["mergeOption"], "FAST_FORWARD_MERGE");
    assert_eq!(merge["mergeCommitId"], review.tip("main"));
    assert_eq!(merge["mergedBy"], PRINCIPAL);

    // With the repository all its pull requests are gone, also for a new one of that name.
    let name = json!({ "repositoryName": "demo" });
    review.call("DeleteRepository", name.clone()).await;
    review.call("CreateRepository", name.clone()).await;
    let listed = review.call("ListPullRequests", name).await;
    assert_eq!(listed, json!({ "pullRequestIds": [] }));
    let input = json!({ "pullRequestId": second });
    let error = review.server.error("GetPullRequest", input).await;
    assert_eq!(error.code, "PullRequestDoesNotExistException");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_of_merging_makes_the_commit_that_git_would_make() {
    for (operation, option, parents) in [
        ("MergePullRequestByFastForward", "FAST_FORWARD_MERGE", 1),
        ("MergePullRequestBySquash", "SQUASH_MERGE", 1),
        ("MergePullRequestByThreeWay", "THREE_WAY_MERGE", 2),
    ] {
        let review = Review::start().await;
        let (old, source) = (review.tip("main"), review.tip("feature"));
        let id = review.create().await;
        review.heard.take();
        let mut input = json!({
            "pullRequestId": id, "repositoryName": "demo", "sourceCommitId": old,
        });
        let error = review.server.error(operation, input.clone()).await;
        assert_eq!(error.code, "TipOfSourceReferenceIsDifferentException");
        input["sourceCommitId"] = source.clone().into();
        if option != "FAST_FORWARD_MERGE" {
            input["commitMessage"] = "Together".into();
            input["authorName"] = "Ann Other".into();
            input["email"] = "ann@example.com".into();
        }
        let merged = review.call(operation, input.clone()).await;
        let merge = &merged["pullRequest"]["pullRequestTargets"][0]["mergeMetadata"];
        assert_eq!(merge["mergeOption"], option);
        let tip = review.tip("main");
        assert_eq!(merge["mergeCommitId"], tip);
        let dir = review.server.service.repository_dir("demo").unwrap();
        let tree = |commit: &str| run(&dir, &["rev-parse", &format!("{commit}^{{tree}}")]);
        assert_eq!(tree(&tip), tree(&source), "{option}");
        let found = run(&dir, &["log", "-1", "--format=%P|%s|%an|%ae", &tip]);
        match option {
            "FAST_FORWARD_MERGE" => assert_eq!(tip, source),
            _ => assert!(
                found.ends_with("|Together|Ann Other|ann@example.com"),
                "{found}"
            ),
        }
        let found = found.split('|').next().unwrap().split(' ').count();
        assert_eq!(found, parents, "{option}");
        let events = review.heard.take();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].detail["event"], "pullRequestMergeStatusUpdated");
        assert_eq!(events[0].detail["isMerged"], "True");
        assert_eq!(events[0].detail["pullRequestStatus"], "Closed");
        assert_eq!(events[0].detail["mergeOption"], option);
        let reported = review.server.observer.take();
        assert!(
            reported
                .iter()
                .any(|line| line.contains("refs/heads/main") && line.contains(&tip[..7])),
            "the change of the branch is reported: {reported:?}"
        );
        let error = review.server.error(operation, input).await;
        assert_eq!(error.code, "PullRequestAlreadyClosedException");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_those_that_git_finds() {
    let review = Review::start().await;
    review.commit("feature", &[("a", "1\n2\n3\n4\nfive\n")]);
    review.checkout("main");
    review.commit("main", &[("a", "one\n2\n3\n4\n5\n")]);
    let id = review.create().await;
    let conflicts = |level: &str, strategy: &str| {
        json!({
            "repositoryName": "demo", "sourceCommitSpecifier": "feature",
            "destinationCommitSpecifier": "main", "mergeOption": "THREE_WAY_MERGE",
            "conflictDetailLevel": level, "conflictResolutionStrategy": strategy,
        })
    };
    let of_file = review
        .call("GetMergeConflicts", conflicts("FILE_LEVEL", "NONE"))
        .await;
    assert_eq!(of_file["mergeable"], false, "both changed one file");
    let of_line = review
        .call("GetMergeConflicts", conflicts("LINE_LEVEL", "NONE"))
        .await;
    assert_eq!(of_line["mergeable"], true, "but different lines");
    let merge = json!({ "pullRequestId": id, "repositoryName": "demo" });
    for operation in [
        "MergePullRequestByThreeWay",
        "MergePullRequestByFastForward",
    ] {
        let error = review.server.error(operation, merge.clone()).await;
        assert_eq!(error.code, "ManualMergeRequiredException");
    }
    // Now in one line.
    review.commit("main", &[("a", "one\n2\n3\n4\nFIVE\n")]);
    let of_line = review
        .call("GetMergeConflicts", conflicts("LINE_LEVEL", "NONE"))
        .await;
    assert_eq!(of_line["mergeable"], false);
    let conflict = &of_line["conflictMetadataList"][0];
    assert_eq!(conflict["filePath"], "a");
    assert_eq!(conflict["contentConflict"], true);
    assert_eq!(conflict["fileModeConflict"], false);
    assert_eq!(conflict["numberOfConflicts"], 1);
    assert_eq!(
        conflict["fileSizes"],
        json!({ "base": 10, "source": 13, "destination": 15 })
    );
    assert_eq!(
        conflict["mergeOperations"],
        json!({ "source": "M", "destination": "M" })
    );
    let options = json!({
        "repositoryName": "demo", "sourceCommitSpecifier": "feature",
        "destinationCommitSpecifier": "main",
    });
    let options = review.call("GetMergeOptions", options).await;
    assert_eq!(options["mergeOptions"], json!([]));
    let mut merge = merge;
    merge["conflictResolutionStrategy"] = "ACCEPT_SOURCE".into();
    review.call("MergePullRequestByThreeWay", merge).await;
    let dir = review.server.service.repository_dir("demo").unwrap();
    assert_eq!(run(&dir, &["show", "main:a"]), "one\n2\n3\n4\nfive");
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_are_posted_once_answered_and_changed_by_their_author_only() {
    let review = Review::start().await;
    let id = review.create().await;
    review.heard.take();
    let (before, after) = (review.tip("main"), review.tip("feature"));
    let post = json!({
        "pullRequestId": id, "repositoryName": "demo", "beforeCommitId": before,
        "afterCommitId": after, "content": "Well done", "clientRequestToken": "once",
        "location": { "filePath": "b", "filePosition": 1, "relativeFileVersion": "AFTER" },
    });
    let posted = review.call("PostCommentForPullRequest", post.clone()).await;
    let comment = text(&posted["comment"]["commentId"]);
    assert_eq!(posted["location"], post["location"]);
    assert_eq!(posted["comment"]["content"], "Well done");
    assert_eq!(posted["comment"]["deleted"], false);
    let again = review.call("PostCommentForPullRequest", post.clone()).await;
    assert_eq!(again, posted, "the same token is the same comment");
    let mut other = post.clone();
    other["content"] = "Something else".into();
    let error = review
        .server
        .error("PostCommentForPullRequest", other)
        .await;
    assert_eq!(error.code, "IdempotencyParameterMismatchException");
    let events = review.heard.take();
    assert_eq!(events.len(), 1, "a repeated request sends no event");
    assert_eq!(events[0].detail_type, "CodeCommit Comment on Pull Request");
    assert_eq!(events[0].detail["event"], "commentOnPullRequestCreated");
    assert_eq!(events[0].detail["pullRequestId"], id);
    assert_eq!(events[0].detail["commentId"], comment);

    let reply = json!({ "inReplyTo": comment, "content": "Thanks" });
    let reply = review.call("PostCommentReply", reply).await;
    assert_eq!(reply["comment"]["inReplyTo"], comment);
    let change = json!({ "commentId": comment, "content": "Very well done" });
    let changed = review.call("UpdateComment", change.clone()).await;
    assert_eq!(changed["comment"]["content"], "Very well done");
    let called = review
        .server
        .service
        .call("UpdateComment", change, REVIEWER)
        .await;
    assert_eq!(
        called.unwrap_err().code,
        "CommentNotCreatedByCallerException"
    );
    assert_eq!(
        review.heard.names(),
        ["commentOnPullRequestCreated", "commentOnPullRequestUpdated"]
    );
    let listed = review
        .call("GetCommentsForPullRequest", json!({ "pullRequestId": id }))
        .await;
    let groups = listed["commentsForPullRequestData"].as_array().unwrap();
    assert_eq!(groups.len(), 1, "a reply is where its comment is");
    let contents: Vec<&Value> = groups[0]["comments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|comment| &comment["content"])
        .collect();
    assert_eq!(contents, ["Very well done", "Thanks"]);
    let which = json!({ "commentId": comment });
    let deleted = review.call("DeleteCommentContent", which.clone()).await;
    assert_eq!(deleted["comment"]["deleted"], true);
    let error = review.server.error("GetComment", which).await;
    assert_eq!(error.code, "CommentDeletedException");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_is_of_one_revision_and_never_of_the_author() {
    let review = Review::start().await;
    let id = review.create().await;
    let revision = review.get(&id).await["revisionId"].clone();
    review.heard.take();
    let approve = json!({
        "pullRequestId": id, "revisionId": revision, "approvalState": "APPROVE",
    });
    let error = review
        .server
        .error("UpdatePullRequestApprovalState", approve.clone())
        .await;
    assert_eq!(error.code, "PullRequestCannotBeApprovedByAuthorException");
    let service = &review.server.service;
    for _ in 0..2 {
        let approved = service.call("UpdatePullRequestApprovalState", approve.clone(), REVIEWER);
        approved.await.unwrap();
    }
    let states = json!({ "pullRequestId": id, "revisionId": revision });
    let approved = review
        .call("GetPullRequestApprovalStates", states.clone())
        .await;
    let expected = json!([{ "userArn": REVIEWER, "approvalState": "APPROVE" }]);
    assert_eq!(approved["approvals"], expected);
    let events = review.heard.take();
    assert_eq!(events.len(), 1, "an equal state sends no event");
    assert_eq!(events[0].detail["event"], "pullRequestApprovalStateChanged");
    assert_eq!(events[0].detail["approvalStatus"], "APPROVE");
    review.commit("feature", &[("b", "newer\n")]);
    let late = service
        .call("UpdatePullRequestApprovalState", approve, REVIEWER)
        .await;
    assert_eq!(late.unwrap_err().code, "RevisionNotCurrentException");
    let mut now = states;
    now["revisionId"] = review.get(&id).await["revisionId"].clone();
    let approved = review.call("GetPullRequestApprovalStates", now).await;
    assert_eq!(approved["approvals"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_of_pull_requests_has_its_error() {
    let review = Review::start().await;
    let id = review.create().await;
    let with = |member: &str, value: Value| {
        let mut input = new();
        input[member] = value;
        input
    };
    let target = |member: &str, value: Value| {
        let mut input = new();
        input["targets"][0][member] = value;
        input
    };
    let (before, after) = (review.tip("main"), review.tip("feature"));
    let comment = |member: &str, value: Value| {
        let mut input = json!({
            "pullRequestId": id, "repositoryName": "demo", "beforeCommitId": before,
            "afterCommitId": after, "content": "x",
        });
        input[member] = value;
        input
    };
    let of = |id: Value| json!({ "pullRequestId": id });
    for (operation, input, code) in [
        (
            "CreatePullRequest",
            with("title", Value::Null),
            "TitleRequiredException",
        ),
        (
            "CreatePullRequest",
            with("title", "x".repeat(151).into()),
            "InvalidTitleException",
        ),
        (
            "CreatePullRequest",
            with("description", "x".repeat(10_241).into()),
            "InvalidDescriptionException",
        ),
        (
            "CreatePullRequest",
            with("targets", json!([])),
            "TargetsRequiredException",
        ),
        (
            "CreatePullRequest",
            with("targets", json!([{}, {}])),
            "MultipleRepositoriesInPullRequestException",
        ),
        (
            "CreatePullRequest",
            target("repositoryName", "nothing".into()),
            "RepositoryDoesNotExistException",
        ),
        (
            "CreatePullRequest",
            target("sourceReference", "absent".into()),
            "ReferenceDoesNotExistException",
        ),
        (
            "CreatePullRequest",
            target("sourceReference", Value::Null),
            "ReferenceNameRequiredException",
        ),
        (
            "CreatePullRequest",
            target("sourceReference", "a..b".into()),
            "InvalidReferenceNameException",
        ),
        (
            "CreatePullRequest",
            target("sourceReference", "refs/tags/v1".into()),
            "ReferenceTypeNotSupportedException",
        ),
        (
            "CreatePullRequest",
            target("sourceReference", "main".into()),
            "SourceAndDestinationAreSameException",
        ),
        (
            "GetPullRequest",
            of(Value::Null),
            "PullRequestIdRequiredException",
        ),
        (
            "GetPullRequest",
            of("x".into()),
            "InvalidPullRequestIdException",
        ),
        (
            "GetPullRequest",
            of("99".into()),
            "PullRequestDoesNotExistException",
        ),
        (
            "ListPullRequests",
            json!({ "repositoryName": "demo", "pullRequestStatus": "x" }),
            "InvalidPullRequestStatusException",
        ),
        (
            "ListPullRequests",
            json!({ "repositoryName": "demo", "maxResults": 0 }),
            "InvalidMaxResultsException",
        ),
        (
            "PostCommentForPullRequest",
            comment("content", "".into()),
            "CommentContentRequiredException",
        ),
        (
            "PostCommentForPullRequest",
            comment("content", "x".repeat(10_241).into()),
            "CommentContentSizeLimitExceededException",
        ),
        (
            "PostCommentForPullRequest",
            comment("beforeCommitId", after.clone().into()),
            "BeforeCommitIdAndAfterCommitIdAreSameException",
        ),
        (
            "PostCommentForPullRequest",
            comment("afterCommitId", "0".repeat(40).into()),
            "CommitDoesNotExistException",
        ),
        (
            "PostCommentForPullRequest",
            comment("location", json!({ "filePath": "absent" })),
            "PathDoesNotExistException",
        ),
        (
            "PostCommentForPullRequest",
            comment("clientRequestToken", "".into()),
            "ClientRequestTokenRequiredException",
        ),
        (
            "GetComment",
            json!({ "commentId": "x" }),
            "InvalidCommentIdException",
        ),
        (
            "UpdatePullRequestApprovalState",
            json!({ "pullRequestId": id, "revisionId": "1", "approvalState": "APPROVE" }),
            "InvalidRevisionIdException",
        ),
        (
            "CreatePullRequestApprovalRule",
            of("1".into()),
            "UnknownOperationException",
        ),
    ] {
        let error = review.server.error(operation, input.clone()).await;
        assert_eq!(error.code, code, "{operation} {input}");
    }
    let error = review.server.error("PutCommentReaction", json!({})).await;
    assert!(
        error.message.contains("GetPullRequest"),
        "{}",
        error.message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_requests_survive_a_restart_and_are_listed_in_pages() {
    let review = Review::start().await;
    let first = review.create().await;
    let mut input = new();
    input["clientRequestToken"] = "once".into();
    let second = review.call("CreatePullRequest", input.clone()).await;
    let repeated = review.call("CreatePullRequest", input).await;
    assert_eq!(repeated, second, "the same token is the same pull request");
    let service = reopened(review.server.dir.path());
    let list = json!({ "repositoryName": "demo", "maxResults": 1 });
    let page = service
        .call("ListPullRequests", list.clone(), PRINCIPAL)
        .await
        .unwrap();
    assert_eq!(
        page["pullRequestIds"],
        json!(["2"]),
        "the newest is the first"
    );
    let mut next = list;
    next["nextToken"] = page["nextToken"].clone();
    let page = service
        .call("ListPullRequests", next, PRINCIPAL)
        .await
        .unwrap();
    assert_eq!(page, json!({ "pullRequestIds": [first] }));
}

fn reopened(folder: &Path) -> branchline_dev::codecommit::CodeCommitService {
    let (account, _) = crate::support::account();
    let observer = Arc::new(branchline_dev::ref_observer::NoObserver);
    branchline_dev::codecommit::CodeCommitService::open(
        folder.join("repositories"),
        account,
        observer,
    )
    .unwrap()
}
