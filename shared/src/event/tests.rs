//! Parses each file of `events/`, and malformed events.

use serde_json::{Value, json};

use super::*;

fn file(name: &str) -> Value {
    let path = format!("{}/../events/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice(&text).expect("the file is JSON")
}

fn requests(event: &Value) -> Vec<Request> {
    let requests = parse(event).expect("the shape is known");
    requests
        .into_iter()
        .map(|request| request.expect("every item is valid"))
        .collect()
}

fn change(reference: &str, commit: Option<&str>, change: Change) -> Request {
    Request::RefEvent(RefEvent {
        repository: RepositoryName::new("demo").expect("it is valid"),
        origin: Origin::of_arn("arn:aws:codecommit:us-east-1:111122223333:demo"),
        reference: RefName::new(reference).expect("it is valid"),
        commit: commit.map(|hex| CommitId::new(hex).expect("it is valid")),
        change,
        custom_data: None,
        is_found: false,
    })
}

const A: &str = "c3d7f1a2b4c5d6e7f8091a2b3c4d5e6f70819203";
const B: &str = "f5ba0d1e2c3b4a5968778695a4b3c2d1e0f00112";
const LOGIN: &str = "refs/heads/feature/login";

#[test]
fn trigger_records_are_parsed_completely() {
    use Change::{Created, Deleted, Updated};
    assert_eq!(
        requests(&file("trigger-branch-updated")),
        [change(LOGIN, Some(A), Updated)]
    );
    assert_eq!(
        requests(&file("trigger-branch-created")),
        [change(LOGIN, Some(A), Created)]
    );
    assert_eq!(
        requests(&file("trigger-branch-deleted")),
        [change(LOGIN, None, Deleted)]
    );
    assert_eq!(
        requests(&file("trigger-many-references")),
        [
            change(LOGIN, Some(A), Updated),
            change("refs/heads/fix/crash", Some(B), Created),
            change("refs/tags/v1.0.1-beta.33", Some(B), Created),
        ]
    );
    let Request::RefEvent(change) = &requests(&file("trigger-custom-data"))[0] else {
        panic!("it is a change");
    };
    assert!(
        change
            .custom_data
            .as_deref()
            .is_some_and(|data| data.contains("pipeline_name"))
    );
    let repository = RepositoryName::new("demo").expect("it is valid");
    assert_eq!(
        requests(&file("trigger-test")),
        [Request::TriggerTest { repository }]
    );
}

#[test]
fn state_changes_are_parsed() {
    use Change::{Created, Deleted, Updated};
    assert_eq!(
        requests(&file("eventbridge-branch-created")),
        [change(LOGIN, Some(A), Created)]
    );
    assert_eq!(
        requests(&file("eventbridge-branch-updated")),
        [change(LOGIN, Some(A), Updated)]
    );
    assert_eq!(
        requests(&file("eventbridge-branch-deleted")),
        [change(LOGIN, None, Deleted)]
    );
    assert_eq!(
        requests(&file("eventbridge-tag-created")),
        [change("refs/tags/v1.0", Some(A), Created)]
    );
}

#[test]
fn changes_of_pull_requests_are_parsed() {
    let change = |event: &Value| {
        let mut requests = requests(event);
        let Request::PullRequest(change) = requests.remove(0) else {
            panic!("it is a pull request");
        };
        assert_eq!(change.repository.as_str(), "demo");
        assert_eq!(change.id.as_str(), "12");
        assert!(change.origin.is_some());
        change.change
    };
    for (name, expected) in [
        ("created", PullRequestEvent::Open),
        ("updated", PullRequestEvent::Updated),
        ("closed", PullRequestEvent::Closed),
        ("merged", PullRequestEvent::Closed),
    ] {
        let event = file(&format!("eventbridge-pull-request-{name}"));
        assert_eq!(change(&event), Some(expected), "{name}");
    }
    let mut approved = file("eventbridge-pull-request-created");
    approved["detail"]["event"] = json!("pullRequestApprovalStateChanged");
    assert_eq!(change(&approved), None);
    for (member, value, field) in [
        ("pullRequestId", json!("a/b"), "`detail.pullRequestId`"),
        ("repositoryNames", json!([]), "`detail.repositoryNames`"),
        (
            "repositoryNames",
            json!(["a/b"]),
            "`detail.repositoryNames[0]`",
        ),
        ("event", json!(null), "`detail`"),
    ] {
        let mut event = file("eventbridge-pull-request-created");
        event["detail"][member] = value;
        let error = parse(&event).expect_err(field);
        assert!(error.to_string().contains(field), "{error}");
    }
}

#[test]
fn manual_requests_are_parsed() {
    let repository = RepositoryName::new("demo").expect("it is valid");
    let branch = BranchName::new("feature/login").expect("it is valid");
    assert_eq!(
        requests(&file("manual-branch")),
        [Request::Branch {
            repository: repository.clone(),
            branch: branch.clone(),
            commit: None,
            again: false,
        }]
    );
    assert_eq!(
        requests(&file("manual-branch-at-commit")),
        [Request::Branch {
            repository: repository.clone(),
            branch,
            commit: Some(CommitId::new(A).expect("it is valid")),
            again: false,
        }]
    );
    assert_eq!(
        requests(&file("manual-again")),
        [Request::Branch {
            repository: repository.clone(),
            branch: BranchName::new("main").expect("it is valid"),
            commit: None,
            again: true,
        }]
    );
    for name in ["v1.0", "refs/tags/v1.0"] {
        let mut event = file("manual-tag");
        event["tag"] = json!(name);
        assert_eq!(
            requests(&event),
            [Request::Tag {
                repository: repository.clone(),
                tag: TagName::new("v1.0").expect("it is valid"),
                again: false,
            }]
        );
    }
    assert_eq!(
        requests(&file("manual-commit")),
        [Request::Commit {
            repository: repository.clone(),
            commit: CommitId::new(A).expect("it is valid"),
            again: false,
        }]
    );
    assert_eq!(
        requests(&file("manual-repository")),
        [Request::Repository(repository)]
    );
    assert_eq!(
        requests(&file("schedule")),
        [Request::Schedule { plan: false }]
    );
    assert_eq!(
        requests(&file("schedule-plan")),
        [Request::Schedule { plan: true }]
    );
}

#[test]
fn every_event_file_is_parsed() {
    let folder = format!("{}/../events", env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let name = entry.expect("it is readable").file_name();
        let name = name.to_str().expect("it is text");
        let Some(name) = name.strip_suffix(".json") else {
            continue;
        };
        // Events of the migration function have another shape.
        if !name.starts_with("migration-") {
            requests(&file(name));
            seen += 1;
        }
    }
    assert!(seen >= 14, "all {seen} files were read");
}

#[test]
fn a_serialised_event_equals_the_parsed_file() {
    for name in ["trigger-many-references", "trigger-custom-data"] {
        let record: CodeCommitRecord = serde_json::from_value(file(name)).expect("it is a record");
        assert_eq!(
            serde_json::to_value(record).expect("it serialises"),
            file(name)
        );
    }
    let change: StateChange =
        serde_json::from_value(file("eventbridge-branch-updated")).expect("it is a change");
    assert_eq!(
        serde_json::to_value(change).expect("it serialises"),
        file("eventbridge-branch-updated")
    );
}

#[test]
fn an_unknown_shape_is_refused_with_the_known_ones() {
    for event in [
        json!(null),
        json!([]),
        json!("x"),
        json!({}),
        json!({"Repository": "r"}),
    ] {
        let error = parse(&event).expect_err("the shape is not known");
        assert_eq!(error.kind(), ErrorKind::InvalidEvent);
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("trigger record")),
            "{event}"
        );
    }
}

#[test]
fn a_malformed_field_is_named() {
    let record = |change: fn(&mut Value)| {
        let mut event = file("trigger-branch-updated");
        change(&mut event["Records"][0]);
        event
    };
    let cases = [
        (json!({"Records": {}}), "Records"),
        (json!({"Records": []}), "Records"),
        (
            json!({"Records": [{"eventSource": "aws:s3", "s3": {}}]}),
            "Records[0].eventSource",
        ),
        (
            record(|r| r["eventSourceARN"] = json!("arn:aws:s3:::demo")),
            "Records[0].eventSourceARN",
        ),
        (
            record(|r| r["codecommit"] = json!(null)),
            "Records[0].codecommit.references",
        ),
        (
            record(|r| r["codecommit"]["references"][0]["ref"] = json!("refs/heads/../x")),
            "Records[0].codecommit.references[0].ref",
        ),
        (
            record(|r| r["codecommit"]["references"][0]["commit"] = json!("12")),
            "Records[0].codecommit.references[0].commit",
        ),
        (
            json!({"detail-type": "EC2 Instance State-change", "detail": {}}),
            "detail-type",
        ),
        (json!({"detail": {}}), "detail-type"),
        (json!({"repository": "a/b"}), "repository"),
        (json!({"repository": 1}), "repository"),
        (json!({"repository": "r", "branch": "a..b"}), "branch"),
        (
            json!({"repository": "r", "branch": "b", "commit": "xyz"}),
            "commit",
        ),
        (json!({"repository": "r", "tag": "a..b"}), "tag"),
        (json!({"repository": "r", "tag": "t", "branch": "b"}), "tag"),
        (
            json!({"repository": "r", "tag": "t", "commit": A}),
            "commit",
        ),
        (json!({"repository": "r", "again": true}), "again"),
        (
            json!({"repository": "r", "branch": "b", "again": 1}),
            "again",
        ),
        (json!({"schedule": false}), "schedule"),
        (json!({"schedule": true, "repository": "r"}), "schedule"),
        (json!({"schedule": true, "plan": "yes"}), "plan"),
        (json!({"repository": "r", "plan": true}), "plan"),
    ];
    for (event, field) in cases {
        let error = parse(&event)
            .and_then(|requests| requests.into_iter().collect::<Result<Vec<_>>>())
            .expect_err("the field is malformed");
        assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{event}");
        assert!(
            error.to_string().contains(&format!("`{field}`")),
            "{field} is named: {error}"
        );
    }
}

#[test]
fn an_invalid_reference_does_not_hide_the_others() {
    let mut event = file("trigger-many-references");
    event["Records"][0]["codecommit"]["references"][1]["ref"] = json!("heads");
    let results = parse(&event).expect("the shape is known");
    let valid = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!((results.len(), valid), (3, 2));
}

#[test]
fn an_event_with_too_many_references_is_refused() {
    let reference = json!({"ref": "refs/heads/x"});
    let mut event = file("trigger-branch-updated");
    event["Records"][0]["codecommit"]["references"] = Value::Array(vec![reference; 10_001]);
    let error = parse(&event).expect_err("it is too long");
    assert!(error.to_string().contains("more than 10000"), "{error}");
}
