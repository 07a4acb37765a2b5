//! Logs of the real bootstraps as JSON: each line with its request, one line of metrics for
//! each invocation, and never a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use branchline_core::git::HashKind;
use branchline_dev::faults::{Rule, Service};
use branchline_dev::lambda::FunctionConfig;
use branchline_test_support::git;
use branchline_test_support::git_server::GitServer;
use branchline_test_support::repo::{Repo, history};
use branchline_tests::environment::{
    LIFECYCLE, MIGRATION, Setup, TestEnvironment, UPDATE, built_programs,
};
use serde_json::{Value, json};

/// The function of `src/bin/panics.rs`.
const PANICS: &str = "panics";

/// Bootstraps that keep their environment in a file of `folder`, and log JSON, all there is.
fn bootstraps(folder: &Path) -> Result<()> {
    for name in [UPDATE, LIFECYCLE, MIGRATION, PANICS] {
        let script = format!(
            "#!/bin/sh\nenv >'{folder}/{name}.'$$.env\n\
             AWS_LAMBDA_LOG_FORMAT=JSON AWS_LAMBDA_LOG_LEVEL=TRACE exec '{programs}/{name}'\n",
            folder = folder.display(),
            programs = built_programs().display(),
        );
        let path = folder.join(name);
        std::fs::write(&path, script)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Returns the values of the functions' environment that must not be logged.
fn secrets(folder: &Path) -> Result<BTreeSet<String>> {
    let mut secrets = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "env") {
            let text = std::fs::read_to_string(path)?;
            let variables = text.lines().filter_map(|line| line.split_once('='));
            secrets.extend(
                variables
                    .filter(|(name, _)| {
                        ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"].contains(name)
                    })
                    .map(|(_, value)| value.to_owned()),
            );
        }
    }
    Ok(secrets)
}

/// Start of the message with the settings, which precedes the first invocation.
const STARTED: &str = "started with these settings";

/// All that a function printed in invocations, line by line.
fn lines(stage: &TestEnvironment, function: &str) -> Result<Vec<Value>> {
    let mut lines = all_lines(stage, function)?;
    lines.retain(|line| line["message"] != STARTED);
    Ok(lines)
}

/// All that a function printed, line by line.
fn all_lines(stage: &TestEnvironment, function: &str) -> Result<Vec<Value>> {
    let path = stage
        .server
        .data()
        .join("lambda/logs")
        .join(format!("{function}.log"));
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let json = |line| serde_json::from_str(line).with_context(|| format!("{function}: {line}"));
    text.lines().map(json).collect()
}

fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_default()
}

/// The lines with metrics, by their request.
fn metrics(lines: &[Value]) -> BTreeMap<&str, &Value> {
    let mut found = BTreeMap::new();
    for line in lines.iter().filter(|line| line["_aws"].is_object()) {
        let before = found.insert(text(line, "request.id"), line);
        assert_eq!(before, None, "one line for each invocation");
    }
    found
}

fn sum(metrics: &BTreeMap<&str, &Value>, name: &str) -> u64 {
    metrics
        .values()
        .filter_map(|line| line[name].as_u64())
        .sum()
}

/// Calls that the server saw of a function: all requests, but for the look whether there is
/// a bucket, which belongs to the call that found no object in it.
fn calls(stage: &TestEnvironment, function: &str) -> u64 {
    let principal = stage.server.lambda().principal_of(function);
    let lines = stage.server.requests().lines();
    let own = lines
        .iter()
        .filter(|line| line.principal == principal && line.operation != "HeadBucket");
    own.map(|line| line.count).sum()
}

/// A stage on which a push, a schedule, two bad events, a mirror and a bad mapping went by.
async fn busy(folder: &Path) -> Result<TestEnvironment> {
    bootstraps(folder)?;
    let rule = |text| Rule::from_str(text).expect("the rule is well formed");
    let stage = TestEnvironment::start(Setup {
        bootstraps: folder.to_owned(),
        migration: Some(Vec::new()),
        faults: vec![rule("codecommit/GetFolder:throttle,nth=1")],
        ..Setup::default()
    })
    .await?;
    stage.create_repository("demo").await?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    git::commit(work.path(), &[("a.txt", "1"), ("b/c.txt", "2")], "First")?;
    let refs = ["main", "main:refs/heads/feature/x"];
    stage.push(work.path(), "demo", &refs).await?;
    stage.wait_until_idle().await?;
    stage
        .update(&json!({"schedule": true}))
        .await
        .expect("all is well");
    for event in [json!({"repository": "demo", "branch": "nope"}), json!({})] {
        stage.update(&event).await.expect_err("it fails");
    }
    stage.create_public_bucket("mirrors")?;
    let mapping =
        |source: &str| json!({"source": source, "target": "s3://mirrors/x", "layout": "bundle"});
    let event = json!({"mappings": [mapping("codecommit://demo")]});
    stage.call(MIGRATION, &event).await.expect("all is well");
    let event = json!({"mappings": [mapping("codecommit://nope")]});
    stage.call(MIGRATION, &event).await.expect_err("it fails");
    Ok(stage)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_is_json_with_its_requests_id_and_no_secret() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stage = busy(folder.path()).await?;
    let secrets = secrets(folder.path())?;
    assert!(secrets.len() >= 6, "three functions have two secrets each");
    for function in [UPDATE, LIFECYCLE, MIGRATION] {
        let lines = lines(&stage, function)?;
        assert!(lines.len() >= 4, "{function}: {lines:?}");
        for line in &lines {
            assert!(!text(line, "request.id").is_empty(), "{line}");
            assert!(text(line, "trace.id").starts_with("1-"), "{line}");
            assert!(text(line, "timestamp").ends_with('Z'), "{line}");
            assert!(!text(line, "level").is_empty(), "{line}");
            let shown = line.to_string();
            for secret in &secrets {
                assert!(
                    !shown.contains(secret.as_str()),
                    "a secret is logged: {line}"
                );
            }
        }
        // Names are those of the answers.
        let (field, name) = match function {
            UPDATE => ("outcome", "started"),
            LIFECYCLE => ("mode", "per-branch"),
            _ => ("status", "complete"),
        };
        assert!(lines.iter().any(|line| line[field] == name), "{lines:?}");
        let archived = |line: &&Value| line["message"] == "archived";
        let count = lines.iter().filter(archived).count();
        assert_eq!(count, if function == UPDATE { 2 } else { 0 });
        for line in lines.iter().filter(archived) {
            assert_eq!(line["repository.name"], "demo");
            assert!(line["size_bytes"].is_u64(), "a number is a number: {line}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_line_for_each_invocation_has_its_numbers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stage = busy(folder.path()).await?;
    let update = lines(&stage, UPDATE)?;
    let metrics_of_update = metrics(&update);
    let logged: BTreeSet<&str> = update.iter().map(|line| text(line, "request.id")).collect();
    assert!(
        logged.iter().copied().eq(metrics_of_update.keys().copied()),
        "each invocation has its line"
    );
    // Both branches as lifecycle found them, the second one once more by its own event, a schedule,
    // two bad events.
    assert_eq!(metrics_of_update.len(), 5);
    for line in metrics_of_update.values() {
        assert_eq!(line["FunctionName"], UPDATE);
        assert_eq!(
            line["_aws"]["CloudWatchMetrics"][0]["Namespace"],
            "branchline"
        );
        assert!(line["Duration"].is_u64());
    }
    let mut sizes = 0;
    for execution in stage.executions() {
        sizes += stage.source_of(&execution)?.len() as u64;
    }
    let of_update = |name| sum(&metrics_of_update, name);
    assert_eq!(of_update("Archives"), 2);
    assert_eq!(of_update("ExecutionsStarted"), 2);
    assert_eq!(of_update("ArchiveBytes"), sizes);
    assert_eq!(of_update("Throttles"), 1);
    assert_eq!(of_update("ApiRequests"), calls(&stage, UPDATE));
    assert_eq!(of_update("Failures"), 2);
    assert_eq!(of_update("FailuresNotFound"), 1);
    assert_eq!(of_update("FailuresInvalidEvent"), 1);

    let lifecycle = lines(&stage, LIFECYCLE)?;
    let metrics_of_lifecycle = metrics(&lifecycle);
    let of_lifecycle = |name| sum(&metrics_of_lifecycle, name);
    assert_eq!(of_lifecycle("TriggersChanged"), 2);
    assert_eq!(of_lifecycle("ApiRequests"), calls(&stage, LIFECYCLE));
    assert_eq!(of_lifecycle("Failures"), 0);

    let migration = lines(&stage, MIGRATION)?;
    let metrics_of_migration = metrics(&migration);
    assert_eq!(metrics_of_migration.len(), 2, "a mirror and a bad mapping");
    let of_migration = |name| sum(&metrics_of_migration, name);
    assert_eq!(of_migration("Mirrors"), 1);
    assert_eq!(of_migration("IncompleteMirrors"), 0);
    assert!(of_migration("MirrorBytes") > 0);
    assert_eq!(of_migration("FailuresNotFound"), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_logged_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stage = busy(folder.path()).await?;
    let update = lines(&stage, UPDATE)?;
    let errors: Vec<&Value> = update
        .iter()
        .filter(|line| line["level"] == "ERROR")
        .collect();
    let kinds: Vec<&str> = errors.iter().map(|line| text(line, "error.kind")).collect();
    assert_eq!(kinds, ["NotFound", "InvalidEvent"], "{errors:?}");
    assert!(text(errors[0], "message").contains("`nope`"));
    assert_eq!(errors[0]["error.aws_code"], "BranchDoesNotExistException");
    assert_ne!(errors[0]["request.id"], errors[1]["request.id"]);
    Ok(())
}

/// Requests to AWS carry the trace of their invocation.
#[tokio::test(flavor = "multi_thread")]
async fn requests_carry_the_trace_on() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stage = busy(folder.path()).await?;
    for function in [UPDATE, LIFECYCLE, MIGRATION] {
        let lines = lines(&stage, function)?;
        let traces: BTreeSet<&str> = lines.iter().map(|line| text(line, "trace.id")).collect();
        let principal = stage.server.lambda().principal_of(function);
        let asked = stage.server.requests().lines();
        // git's own protocol knows no trace.
        let api = asked.iter().filter(|line| line.service != Service::Git);
        let mut own = api.filter(|line| line.principal == principal);
        let is_traced = |header: &str| {
            let mut parts = header.split(';');
            let root = parts.find_map(|part| part.strip_prefix("Root="));
            root.is_some_and(|root| traces.contains(root))
        };
        assert!(own.clone().count() > 3, "{function} asked for something");
        assert!(
            own.all(|line| line.trace.as_deref().is_some_and(is_traced)),
            "{function}: {traces:?}: {asked:?}"
        );
    }
    Ok(())
}

/// An error at init is one line, and the process prints nothing else. There is no request
/// yet: the line names none, and the caller receives the same reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_init_is_logged_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    bootstraps(folder.path())?;
    let stage = TestEnvironment::start(Setup {
        update: vec![("PIPELINE_PIN", "maybe".to_owned())],
        lifecycle: vec![("TRIGGER_PREFIX", "a b".to_owned())],
        migration: Some(vec![("MIGRATION_MEMORY_MIB", "7".to_owned())]),
        bootstraps: folder.path().to_owned(),
        ..Setup::default()
    })
    .await?;
    for (function, named) in [
        (UPDATE, "`PIPELINE_PIN`"),
        (LIFECYCLE, "`TRIGGER_PREFIX`"),
        (MIGRATION, "`MIGRATION_MEMORY_MIB`"),
    ] {
        let error = stage.call(function, &json!({"schedule": true})).await;
        let error = error.expect_err("it cannot start");
        assert_eq!(error["errorType"], "branchline.Config", "{function}");
        let lines = lines(&stage, function)?;
        let [line] = lines.as_slice() else {
            panic!("one failure is one line: {lines:?}");
        };
        assert_eq!(line["error.kind"], "Config");
        assert_eq!(line["level"], "ERROR");
        assert!(text(line, "message").contains(named), "{line}");
        assert_eq!(error["errorMessage"], line["message"]);
        assert_eq!(line.get("request.id"), None, "there is no request at init");
    }
    Ok(())
}

/// "Each function logs the settings in force when it starts, and warns of variables whose names are
/// close to a setting's."
#[tokio::test(flavor = "multi_thread")]
async fn the_settings_in_force_and_misspelled_names_are_logged_at_the_start() -> Result<()> {
    let folder = tempfile::tempdir()?;
    bootstraps(folder.path())?;
    let stage = TestEnvironment::start(Setup {
        update: vec![
            ("PIPELINE_NAME", String::new()),
            ("PIPELIN_NAME", "deploy".to_owned()),
            ("HTTPS_PROXY", "http://user:hunter2@127.0.0.1:9".to_owned()),
            ("NO_PROXY", "*".to_owned()),
        ],
        bootstraps: folder.path().to_owned(),
        ..Setup::default()
    })
    .await?;
    let answer = stage.update(&json!({"schedule": true})).await;
    answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    let lines = all_lines(&stage, UPDATE)?;
    let [misspelled, started, ..] = lines.as_slice() else {
        panic!("two lines precede the invocation: {lines:?}");
    };
    assert_eq!(misspelled["level"], "WARN");
    assert_eq!(misspelled["setting.name"], "PIPELIN_NAME");
    assert!(text(misspelled, "message").contains("`PIPELINE_NAME`"));
    assert_eq!(started["level"], "INFO");
    assert_eq!(started["message"], STARTED);
    let settings: Value = serde_json::from_str(text(started, "settings"))?;
    assert_eq!(settings["ARTIFACT_BUCKET"], "artifacts");
    assert_eq!(settings["EXISTING_BRANCHES"], "start");
    assert_eq!(settings["HTTPS_PROXY"], "(set)");
    assert_eq!(settings.get("PIPELINE_NAME"), None, "it is empty");
    for secret in secrets(folder.path())?
        .iter()
        .map(String::as_str)
        .chain(["hunter2"])
    {
        let mut shown = lines.iter().map(Value::to_string);
        assert!(
            !shown.any(|line| line.contains(secret)),
            "a secret is logged"
        );
    }
    Ok(())
}

/// "migration logs a warning when a `bundle` target stores more than ten times its largest bundle."
#[tokio::test(flavor = "multi_thread")]
async fn bundles_of_more_than_ten_times_the_source_are_warned_of_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    bootstraps(folder.path())?;
    let stage = TestEnvironment::start(Setup {
        bootstraps: folder.path().to_owned(),
        migration: Some(Vec::new()),
        lifecycle: vec![("BRANCHES_EXCLUDE", "**".to_owned())],
        ..Setup::default()
    })
    .await?;
    stage.create_public_bucket("mirrors")?;
    let repo = Repo::new(HashKind::Sha1);
    repo.input(&["fast-import", "--quiet"], &history(0, 3, 2));
    let server = GitServer::new(&repo);
    for (branches, layout, warnings) in [
        (10, "bundle", 0),
        (12, "bundle", 1),
        (12, "bundle", 1),
        (12, "dumb", 1),
    ] {
        // `main`, and this many others less one.
        for number in 1..branches {
            repo.git(&["branch", "-f", &format!("b{number}"), "main"]);
        }
        let target = format!("s3://mirrors/{layout}");
        let mapping = json!({"source": server.url(), "target": target, "layout": layout});
        let answer = stage.call(MIGRATION, &json!({"mappings": [mapping]})).await;
        answer.map_err(|error| anyhow::anyhow!("{error}"))?;
        let lines = all_lines(&stage, MIGRATION)?;
        let warned = lines.iter().filter(|line| {
            line["level"] == "WARN" && text(line, "message").contains("once for each ref")
        });
        assert_eq!(warned.count(), warnings, "{branches} branches, {layout}");
    }
    Ok(())
}

/// Because Lambda kills a function at its timeout without a log line, each function stops
/// before and logs what is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_at_its_deadline_logs_its_request() -> Result<()> {
    let folder = tempfile::tempdir()?;
    bootstraps(folder.path())?;
    let rule = |text: String| Rule::from_str(&text).expect("the rule is well formed");
    let stage = TestEnvironment::start(Setup {
        bootstraps: folder.path().to_owned(),
        migration: Some(vec![("DEADLINE_MARGIN_SECONDS", "1".to_owned())]),
        // Longer than an invocation may take.
        faults: [
            "codecommit/GetBranch",
            "codecommit/ListBranches",
            "git/git-upload-pack",
        ]
        .map(|what| rule(format!("{what}:latency,ms=60000")))
        .into(),
        timeout: Duration::from_secs(4),
        ..Setup::default()
    })
    .await?;
    stage.create_repository("demo").await?;
    stage.create_public_bucket("mirrors")?;
    let mapping =
        json!({"source": "codecommit://demo", "target": "s3://mirrors/x", "layout": "dumb"});
    for (function, event) in [
        (UPDATE, json!({"repository": "demo", "branch": "main"})),
        (LIFECYCLE, json!({"repository": "demo"})),
        (MIGRATION, json!({"mappings": [mapping]})),
    ] {
        let outcome = stage.call(function, &event).await;
        let lines = lines(&stage, function)?;
        let requests: BTreeSet<&str> = lines.iter().map(|line| text(line, "request.id")).collect();
        assert_eq!(requests.len(), 1, "{function}: {lines:?}");
        assert!(!requests.contains(""), "{function}: {lines:?}");
        let numbers = metrics(&lines);
        assert_eq!(
            numbers.len(),
            1,
            "{function} has logged its numbers: {lines:?}"
        );
        if function == MIGRATION {
            // To be short of time is its daily business.
            let answer = outcome.expect("it answers");
            assert_eq!(answer["status"], "incomplete", "{answer}");
            assert_eq!(sum(&numbers, "IncompleteMirrors"), 1);
            continue;
        }
        let error = outcome.expect_err("its time is over");
        assert_eq!(
            error["errorType"], "branchline.Deadline",
            "{function}: {error}"
        );
        let logged = lines.iter().filter(|line| line["error.kind"] == "Deadline");
        assert_eq!(logged.count(), 1, "{function}: {lines:?}");
        assert_eq!(sum(&numbers, "FailuresDeadline"), 1, "{function}");
    }
    Ok(())
}

/// The frame that the three functions share, around a handler that panics.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_logged_with_its_request_and_the_next_event_is_answered() -> Result<()> {
    let folder = tempfile::tempdir()?;
    bootstraps(folder.path())?;
    let stage = TestEnvironment::start(Setup {
        functions: vec![FunctionConfig::new(PANICS, folder.path().join(PANICS))],
        ..Setup::default()
    })
    .await?;
    for event in [json!({"panic": "here"}), json!({"panic": "in a task"})] {
        let error = stage.call(PANICS, &event).await.expect_err("it panics");
        assert_eq!(
            error["errorType"], "branchline.Internal",
            "{event}: {error}"
        );
    }
    let answer = stage.call(PANICS, &json!({})).await;
    assert_eq!(answer, Ok(json!({"calls": 3})), "the same process goes on");
    let lines = lines(&stage, PANICS)?;
    let panicked = lines
        .iter()
        .filter(|line| !line["panic.location"].is_null());
    let panicked: Vec<&Value> = panicked.collect();
    assert_eq!(panicked.len(), 2, "each panic is one line: {lines:?}");
    let logged = metrics(&lines);
    assert_eq!(
        logged.len(),
        3,
        "each invocation has its numbers: {lines:?}"
    );
    for line in &panicked {
        assert_eq!(line["level"], "ERROR");
        assert!(
            text(line, "panic.location").contains("panics.rs:"),
            "{line}"
        );
        let numbers = logged.get(text(line, "request.id"));
        let numbers = numbers.with_context(|| format!("it names its request: {line}"))?;
        assert_eq!(numbers["FailuresInternal"], 1);
    }
    assert_ne!(panicked[0]["request.id"], panicked[1]["request.id"]);
    Ok(())
}
