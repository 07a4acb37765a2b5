//! Delivery of ref changes to functions.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sdk_codecommit::types::{RepositoryTrigger, RepositoryTriggerEventEnum as On};
use branchline_core::event::{Change, Request, parse};
use branchline_dev::faults::Rule;
use branchline_dev::ref_observer::{RefObserver as _, RefUpdate};
use branchline_dev::server::{Options, Server};
use serde_json::Value;

use crate::support::{codecommit, function, git, quick};

/// A server whose function `listener` appends its events to a file.
struct Heard {
    server: Server,
    file: PathBuf,
    folder: tempfile::TempDir,
}

impl Heard {
    async fn start(change: impl FnOnce(&mut Options)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("heard");
        let mut listener = function("listener");
        let path = file.to_str().unwrap().to_owned();
        listener.environment.insert("RECORD".into(), path);
        // One at a time, so that the file has the order of invocations.
        listener.reserved_concurrency = Some(1);
        let mut options = quick(vec![listener]);
        change(&mut options);
        let server = Server::start(options).await.unwrap();
        Self {
            server,
            file,
            folder,
        }
    }

    fn arn(&self) -> String {
        self.server.account().function_arn("listener")
    }

    async fn repository(&self, triggers: Vec<RepositoryTrigger>) {
        let client = codecommit(&self.server);
        let create = client.create_repository().repository_name("demo");
        create.send().await.unwrap();
        client
            .put_repository_triggers()
            .repository_name("demo")
            .set_triggers(Some(triggers))
            .send()
            .await
            .unwrap();
    }

    /// Waits until the server is idle, and returns the events of the function.
    async fn events(&self) -> Vec<Value> {
        assert!(self.server.wait_until_idle(Duration::from_secs(20)).await);
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn push(&self, updates: &[(&str, bool, bool)]) {
        let id = |there: bool, digit: &str| there.then(|| digit.repeat(40));
        let updates: Vec<RefUpdate> = updates
            .iter()
            .map(|(name, old, new)| RefUpdate {
                name: (*name).to_owned(),
                old: id(*old, "a"),
                new: id(*new, "b"),
            })
            .collect();
        let principal = &self.server.credentials().principal_arn;
        self.server
            .delivery()
            .refs_changed("demo", principal, &updates);
    }
}

fn trigger(name: &str, arn: &str, branches: &[&str], events: &[On]) -> RepositoryTrigger {
    RepositoryTrigger::builder()
        .name(name)
        .destination_arn(arn)
        .set_branches(Some(branches.iter().map(ToString::to_string).collect()))
        .set_events(Some(events.to_vec()))
        .custom_data("{\"pipeline_name\":\"p\"}")
        .build()
        .unwrap()
}

fn references(event: &Value) -> Vec<(String, Change)> {
    parse(event)
        .unwrap()
        .into_iter()
        .map(|request| match request.unwrap() {
            Request::RefEvent(change) => (change.reference.to_string(), change.change),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn work_tree(folder: &Path) -> PathBuf {
    let tree = folder.join("work");
    std::fs::create_dir(&tree).unwrap();
    git(&tree, &["init", "-q", "-b", "main"]);
    std::fs::write(tree.join("a"), "1").unwrap();
    git(&tree, &["add", "."]);
    git(&tree, &["commit", "-q", "-m", "one"]);
    tree
}

// git blocks its thread while the server answers on another.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_push_reaches_a_function_in_one_record() {
    let heard = Heard::start(|_| {}).await;
    let all = trigger("all", &heard.arn(), &[], &[On::All]);
    heard.repository(vec![all]).await;
    let tree = work_tree(heard.folder.path());
    git(&tree, &["branch", "feature/a"]);
    git(&tree, &["tag", "v1"]);
    let path = "/v1/repos/demo";
    let credentials = branchline_core::codecommit::git_credentials::sign(
        &branchline_core::codecommit::git_credentials::SigningKey {
            id: &heard.server.credentials().access_key_id,
            secret: &heard.server.credentials().secret_access_key,
            session_token: None,
        },
        &branchline_core::codecommit::git_credentials::Endpoint {
            region: "us-east-1",
            host: "127.0.0.1",
            path,
        },
        std::time::SystemTime::now().try_into().unwrap(),
    );
    let host = heard.server.endpoint().replace("http://", "");
    let url = format!("http://{}@{host}{path}", credentials.userinfo());
    git(&tree, &["push", "-q", &url, "main", "feature/a", "v1"]);
    let events = heard.events().await;
    assert_eq!(events.len(), 1, "one push and one trigger make one record");
    let mut found = references(&events[0]);
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["refs/heads/feature/a", "refs/heads/main", "refs/tags/v1"]
    );
    let record = &events[0]["Records"][0];
    assert_eq!(record["eventName"], "ReferenceChanges");
    assert_eq!(record["eventTriggerName"], "all");
    assert_eq!(record["customData"], "{\"pipeline_name\":\"p\"}");
    assert_eq!(
        record["eventSourceARN"],
        heard.server.account().repository_arn("demo")
    );
    assert_eq!(
        record["userIdentityARN"],
        heard.server.credentials().principal_arn
    );
    let time = record["eventTime"].as_str().unwrap();
    assert_eq!(time.len(), "2022-01-10T18:55:09.100+0000".len(), "{time}");
    let tip = git(&tree, &["rev-parse", "main"]);
    assert_eq!(record["codecommit"]["references"][0]["commit"], tip);
    heard.server.shutdown().await;
}

#[tokio::test]
async fn a_record_has_the_refs_of_its_trigger_only() {
    let heard = Heard::start(|_| {}).await;
    let arn = format!("{}:live", heard.arn());
    heard
        .repository(vec![
            trigger(
                "one",
                &arn,
                &["feature/a"],
                &[On::UpdateReference, On::CreateReference],
            ),
            trigger("two", &arn, &[], &[On::DeleteReference]),
            trigger("three", &arn, &["other"], &[On::All]),
        ])
        .await;
    heard.push(&[
        ("refs/heads/feature/a", true, true),
        ("refs/heads/b", false, true),
        ("refs/heads/old", true, false),
        ("refs/tags/v1", true, false),
    ]);
    let mut events = heard.events().await;
    events.sort_by_key(|event| event["Records"][0]["eventTriggerName"].to_string());
    assert_eq!(
        events.len(),
        2,
        "a trigger without a matching ref is silent"
    );
    assert_eq!(
        references(&events[0]),
        [("refs/heads/feature/a".to_owned(), Change::Updated)]
    );
    assert_eq!(
        references(&events[1]),
        [
            ("refs/heads/old".to_owned(), Change::Deleted),
            ("refs/tags/v1".to_owned(), Change::Deleted)
        ]
    );
    let updated = &events[0]["Records"][0]["codecommit"]["references"][0];
    assert_eq!(
        updated.get("created"),
        None,
        "a moved ref says neither created nor deleted"
    );
    heard.server.shutdown().await;
}

#[tokio::test]
async fn eventbridge_sends_one_event_a_ref_to_the_rules_that_match() {
    let heard = Heard::start(|options| {
        options.event_rules = vec![
            "listener=referenceCreated,referenceDeleted"
                .parse()
                .unwrap(),
        ];
    })
    .await;
    heard.repository(vec![]).await;
    heard.push(&[
        ("refs/heads/new", false, true),
        ("refs/heads/moved", true, true),
        ("refs/tags/gone", true, false),
    ]);
    let mut events = heard.events().await;
    events.sort_by_key(|event| event["detail"]["event"].to_string());
    assert_eq!(events.len(), 2, "an update matches no rule");
    let [created, deleted] = &events[..] else {
        unreachable!()
    };
    assert_eq!(
        references(created),
        [("refs/heads/new".to_owned(), Change::Created)]
    );
    assert_eq!(
        references(deleted),
        [("refs/tags/gone".to_owned(), Change::Deleted)]
    );
    assert_eq!(created["detail"].get("oldCommitId"), None);
    assert_eq!(created["detail"]["commitId"], "b".repeat(40));
    assert_eq!(deleted["detail"].get("commitId"), None);
    assert_eq!(deleted["detail"]["oldCommitId"], "a".repeat(40));
    assert_eq!(deleted["detail"]["referenceType"], "tag");
    assert_eq!(
        created["detail"]["repositoryId"].as_str().unwrap().len(),
        36
    );
    assert_eq!(created["source"], "aws.codecommit");
    heard.server.shutdown().await;
}

#[tokio::test]
async fn a_pull_request_reaches_the_functions_whose_rules_name_its_events() {
    let heard = Heard::start(|options| {
        let rule = "listener=pullRequestCreated,pullRequestSourceBranchUpdated";
        options.event_rules = vec![rule.parse().unwrap()];
    })
    .await;
    heard.repository(vec![]).await;
    let dir = heard.server.codecommit().repository_dir("demo").unwrap();
    let commit = |branch: &str, time: u32| {
        format!("commit refs/heads/{branch}\ncommitter C <c@x> {time} +0000\ndata 1\nx\n\n")
    };
    let stream = heard.folder.path().join("stream");
    std::fs::write(&stream, commit("main", 1) + &commit("next", 2)).unwrap();
    let import = format!("git fast-import --quiet < {}", stream.display());
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &import]).env("GIT_DIR", &dir);
    assert!(shell.status().unwrap().success());
    let client = codecommit(&heard.server);
    let target = aws_sdk_codecommit::types::Target::builder()
        .repository_name("demo")
        .source_reference("next")
        .destination_reference("main")
        .build()
        .unwrap();
    let created = client.create_pull_request().title("Next").targets(target);
    let created = created.send().await.unwrap();
    let created = created.pull_request().unwrap();
    client
        .update_pull_request_status()
        .pull_request_id("1")
        .pull_request_status(aws_sdk_codecommit::types::PullRequestStatusEnum::Closed)
        .send()
        .await
        .unwrap();
    let events = heard.events().await;
    assert_eq!(events.len(), 1, "closing matches no rule: {events:?}");
    let event = &events[0];
    assert_eq!(event["detail-type"], "CodeCommit Pull Request State Change");
    assert_eq!(event["account"], "123456789012");
    assert_eq!(event["region"], "us-east-1");
    assert_eq!(event["detail"]["event"], "pullRequestCreated");
    assert_eq!(
        event["detail"]["pullRequestId"],
        created.pull_request_id().unwrap()
    );
    heard.server.shutdown().await;
}

#[tokio::test]
async fn a_trigger_of_an_unknown_function_ends_as_a_dead_letter() {
    let heard = Heard::start(|_| {}).await;
    let arn = heard.server.account().function_arn("nobody");
    heard
        .repository(vec![trigger("lost", &arn, &[], &[On::All])])
        .await;
    heard.push(&[("refs/heads/main", false, true)]);
    assert!(heard.events().await.is_empty());
    let letters = heard.server.queue().dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].condition, "FunctionNotFound");
    assert_eq!(letters[0].function, arn);
    heard.server.shutdown().await;
}

#[tokio::test]
async fn a_tested_trigger_sends_a_test_event() {
    let heard = Heard::start(|_| {}).await;
    heard.repository(vec![]).await;
    let answer = codecommit(&heard.server)
        .test_repository_triggers()
        .repository_name("demo")
        .triggers(trigger("try", &heard.arn(), &[], &[On::All]))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.successful_executions(), ["try"]);
    let events = heard.events().await;
    assert_eq!(events[0]["Records"][0]["eventName"], "TriggerEventTest");
    let requests = parse(&events[0]).unwrap();
    assert!(matches!(requests[0], Ok(Request::TriggerTest { .. })));
    heard.server.shutdown().await;
}

#[tokio::test]
async fn events_are_lost_doubled_reordered_and_delayed_on_demand() {
    for (rule, expected) in [
        ("events/trigger:lose,nth=2", vec!["0", "2"]),
        ("events/trigger:double,nth=2", vec!["0", "1", "1", "2"]),
        ("events/trigger:reorder,nth=2,ms=20000", vec!["0", "2", "1"]),
        ("events/trigger:delay,nth=1,ms=1500", vec!["1", "2", "0"]),
    ] {
        let rule: Rule = rule.parse().unwrap();
        let heard = Heard::start(|options| options.faults = vec![rule.clone()]).await;
        heard
            .repository(vec![trigger("all", &heard.arn(), &[], &[On::All])])
            .await;
        for n in 0..3 {
            heard.push(&[(&format!("refs/heads/{n}"), true, true)]);
            // Lambda keeps no order, so each event must arrive before the next push.
            let queue = heard.server.queue();
            crate::support::until("it arrived", || queue.pending() == 0).await;
        }
        let found: Vec<String> = heard
            .events()
            .await
            .iter()
            .map(|event| references(event)[0].0.replace("refs/heads/", ""))
            .collect();
        assert_eq!(found, expected, "{rule}");
        heard.server.shutdown().await;
    }
}
