//! The state machines for fleets, run by an interpreter that is not ours, over the
//! development server.

mod interpreter;
mod migration;
mod template;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use branchline_dev::codecommit::Limits;
use branchline_dev::faults::Service;
use branchline_dev::lambda::FunctionConfig;
use branchline_dev::s3::store::{PutOptions, Query};
use branchline_tests::environment::{Setup, TestEnvironment};
use branchline_tests::template::Template;
use serde_json::{Value, json};
use tempfile::TempDir;

use interpreter::{BUCKET, Interpreter, MIGRATION, deployment};

/// A fleet whose migration function is scripted by the sources of the mappings.
struct Scripted {
    stage: TestEnvironment,
    interpreter: Interpreter,
    _calls: TempDir,
}

impl Scripted {
    async fn start() -> Result<Option<Self>> {
        Self::of_repositories("*").await
    }

    /// A fleet for the repositories of a pattern.
    async fn of_repositories(pattern: &str) -> Result<Option<Self>> {
        let calls = tempfile::tempdir()?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/fleet_function.py");
        let mut function = FunctionConfig::new(MIGRATION, PathBuf::from(script));
        let folder = calls
            .path()
            .to_str()
            .expect("temporary folders have plain names");
        function.environment = BTreeMap::from([("CALLS".to_owned(), folder.to_owned())]);
        let stage = stage(function).await?;
        let interpreter = Interpreter::start(&stage, pattern).await?;
        Ok(interpreter.map(|interpreter| Self {
            stage,
            interpreter,
            _calls: calls,
        }))
    }
}

async fn stage(migration: FunctionConfig) -> Result<TestEnvironment> {
    let stage = TestEnvironment::start(Setup {
        functions: vec![migration],
        codecommit_limits: Limits {
            repositories_page: 2,
            ..Limits::default()
        },
        ..Setup::default()
    })
    .await?;
    Ok(stage)
}

fn put(stage: &TestEnvironment, key: &str, text: &str) -> Result<()> {
    let store = stage.server.store();
    store.put(BUCKET, key, text.as_bytes(), PutOptions::default())?;
    Ok(())
}

/// The keys below a prefix of the fleets' bucket.
fn keys(stage: &TestEnvironment, prefix: &str) -> Result<Vec<String>> {
    let bucket = stage.server.store().bucket(BUCKET)?;
    let page = bucket.list(&Query {
        prefix: prefix.to_owned(),
        limit: 1000,
        ..Query::default()
    });
    Ok(page
        .versions
        .iter()
        .map(|version| version.key.clone())
        .collect())
}

fn mapping(source: &str) -> Value {
    json!({ "source": source, "target": "s3://mirrors/x", "layout": "bundle" })
}

fn json_list(sources: &[&str]) -> String {
    let mappings: Value = sources.iter().map(|source| mapping(source)).collect();
    mappings.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mapping_of_a_list_has_its_own_outcome() -> Result<()> {
    let Some(mut fleet) = Scripted::start().await? else {
        return Ok(());
    };
    let steady = "script:steady/complete";
    let slow = "script:slow/moved-5,moved-7,idle,moved-7,complete";
    let throttled = "script:throttled/branchline.Throttled,branchline.Transport,complete";
    let missing = "script:missing/branchline.NotFound,complete";
    let refused = "script:refused/branchline.Rejected,complete";
    let stuck = "script:stuck/moved-3,idle,idle,idle,complete";
    let circling = "script:circling/moved-4,moved-4,moved-4,moved-4,complete";
    let large = "script:large/lfs-1000,lfs-1000,lfs-1000,lfs-1000,lfs-1000,complete";
    let late = "script:late/branchline.Deadline,branchline.Deadline,branchline.Deadline,complete";
    let crashed = "script:crashed/crash,complete";
    let sources = [
        steady, slow, throttled, missing, refused, stuck, circling, large, late, crashed,
    ];
    put(&fleet.stage, "list.json", &json_list(&sources))?;
    fleet.stage.server.requests().reset();
    let input = json!({
        "list": { "key": "list.json" }, "maxConcurrency": 2, "toleratedFailurePercentage": 90,
    });
    let run = fleet.interpreter.run("mirror-fleet", &input).await?;

    assert_eq!(run.item(steady).expect("it is complete")["rounds"], 1);
    let answer = run
        .item(slow)
        .expect("an incomplete mapping is gone on with");
    assert_eq!(
        answer["rounds"], 5,
        "one idle round does not count as a standstill"
    );
    assert_eq!(answer["mapping"]["status"], "complete");
    let answer = run
        .item(throttled)
        .expect("passing failures are tried again");
    assert_eq!(answer["rounds"], 1, "a retry does not count as a round");
    assert!(run.item(crashed).is_ok(), "a crash may have been bad luck");
    assert_eq!(
        run.item(missing),
        Err("branchline.NotFound"),
        "others are not"
    );
    assert_eq!(
        run.item(refused),
        Err("branchline.Rejected"),
        "a target that refuses a ref does so again"
    );
    assert_eq!(
        run.item(stuck),
        Err("Fleet.NoProgress"),
        "nothing moved thrice"
    );
    assert_eq!(
        run.item(circling),
        Err("Fleet.NoProgress"),
        "the same moved again"
    );
    let answer = run
        .item(large)
        .expect("copied LFS objects are progress, although no ref moves");
    assert_eq!(answer["rounds"], 6);
    assert_eq!(
        run.item(late),
        Err("branchline.Deadline"),
        "not tried for ever"
    );

    assert_eq!(
        run.0["status"], "FAILED",
        "failed mappings are seen at the fleet"
    );
    assert_eq!(run.0["error"], "Fleet.SomeFailed");
    let cause = run.0["cause"].as_str().expect("there is a cause");
    assert!(cause.starts_with("5 of 10 mappings failed"), "{cause}");
    let map = &run.0["mapRuns"][0];
    assert_eq!(map["itemCounts"]["succeeded"], 5, "{map}");
    assert_eq!(map["itemCounts"]["failed"], 5, "{map}");
    assert_eq!(map["maxConcurrency"], 2, "the input's bound is the map's");
    assert_eq!(map["toleratedFailurePercentage"], 90.0);
    let requests = fleet.stage.server.requests();
    let most = requests.max_in_flight(Service::Lambda);
    assert!(
        most <= 2,
        "no more mappings at a time than asked for: {most}"
    );
    // 1 steady, 5 slow, 3 throttled, 1 missing, 1 refused, 4 stuck, 4 circling, 6 large, 3 late, 2 crashed.
    assert_eq!(requests.count(Service::Lambda, "Invoke"), 30);
    let waits = run.0["waits"].as_array().expect("they are logged");
    assert_eq!(waits.len(), 5, "each retry has waited: {waits:?}");
    let results = keys(&fleet.stage, "fleets/runs/run-1/")?;
    assert!(
        results.len() == 1 && results[0].ends_with("/manifest.json"),
        "results are written below the execution's name: {results:?}"
    );
    assert!(
        cause.ends_with("below s3://artifacts/fleets/runs/run-1/"),
        "{cause}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_started_again_does_the_rest() -> Result<()> {
    let Some(mut fleet) = Scripted::start().await? else {
        return Ok(());
    };
    let late = "script:late/branchline.AccessDenied,moved-2,complete";
    put(&fleet.stage, "list.json", &json_list(&[late]))?;
    let input = json!({ "list": { "key": "list.json" } });
    let run = fleet.interpreter.run("mirror-fleet", &input).await?;
    assert_eq!(run.item(late), Err("branchline.AccessDenied"));
    let map = &run.0["mapRuns"][0];
    assert_eq!(map["maxConcurrency"], 4, "the deployed default");
    assert_eq!(
        map["toleratedFailurePercentage"], 10.0,
        "the deployed default"
    );
    let run = fleet.interpreter.run("mirror-fleet", &input).await?;
    assert_eq!(run.item(late).expect("now it goes")["rounds"], 2);
    assert_eq!(run.0["status"], "SUCCEEDED");
    let output = json!({
        "status": "complete", "items": 1, "results": "s3://artifacts/fleets/runs/run-2/",
    });
    assert_eq!(run.0["output"], output);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_may_be_csv() -> Result<()> {
    let Some(mut fleet) = Scripted::start().await? else {
        return Ok(());
    };
    let list = "source,target,layout\n\
                script:one/complete,s3://mirrors/one,bundle\n\
                \"script:two/moved-1,complete\",s3://mirrors/two,dumb\n";
    put(&fleet.stage, "list.csv", list)?;
    let input = json!({ "list": { "key": "list.csv", "format": "csv" } });
    let run = fleet.interpreter.run("mirror-fleet", &input).await?;
    assert_eq!(run.0["status"], "SUCCEEDED", "{run:?}");
    assert_eq!(
        run.item("script:two/moved-1,complete").expect("done")["rounds"],
        2
    );
    let items = run.0["items"].as_array().expect("they are logged");
    let of_one = |item: &&Value| item["input"]["mapping"]["target"] == "s3://mirrors/one";
    let one = items.iter().find(of_one).expect("it was started");
    let wanted = json!({
        "source": "script:one/complete", "target": "s3://mirrors/one", "layout": "bundle",
    });
    assert_eq!(one["input"]["mapping"], wanted, "a row is a mapping");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_repositories_are_mirrored_page_by_page() -> Result<()> {
    let Some(mut fleet) = Scripted::start().await? else {
        return Ok(());
    };
    // What the schedule starts the fleet with.
    let template = Template::load()?;
    let deployment = deployment(&template, "*")?;
    let machine = deployment.properties("MirrorFleet")?;
    let schedule = &machine["Events"]["Backup"]["Properties"];
    assert_eq!(schedule["State"], "ENABLED");
    let input = schedule["Input"]
        .as_str()
        .expect("the schedule has an input");
    let input = serde_json::from_str(input)?;
    let run = fleet.interpreter.run("mirror-fleet", &input).await?;
    assert_eq!(
        run.0["output"]["items"], 0,
        "an empty list of repositories is not a failure: {run:?}"
    );
    for name in ["a", "b.c", "d", "e_f", "g-h"] {
        fleet.stage.create_repository(name).await?;
    }
    fleet.stage.server.requests().reset();
    let run = fleet.interpreter.run("mirror-fleet", &input).await?;
    assert_eq!(run.0["status"], "SUCCEEDED", "{run:?}");
    assert_eq!(run.0["output"]["items"], 5, "the pages are summed up");
    let sources = ["a", "b.c", "d", "e_f", "g-h"].map(|name| format!("codecommit://{name}"));
    assert_eq!(run.sources(), sources, "each repository once");
    let requests = fleet.stage.server.requests();
    assert_eq!(
        requests.count(Service::CodeCommit, "ListRepositories"),
        3,
        "2 on a page"
    );
    assert_eq!(
        run.0["mapRuns"].as_array().map(Vec::len),
        Some(3),
        "a map for each page"
    );
    let items = run.0["items"].as_array().expect("they are logged");
    let of_d = |item: &&Value| item["input"]["mapping"]["source"] == "codecommit://d";
    let wanted = json!({
        "source": "codecommit://d", "target": "s3://mirrors/backup/d", "layout": "dumb",
    });
    let d = items.iter().find(of_d).expect("it was started");
    assert_eq!(
        d["input"]["mapping"], wanted,
        "all else is as the input has it"
    );
    let pages: Vec<String> = keys(&fleet.stage, "fleets/runs/run-2/repositories-")?;
    assert_eq!(pages.len(), 3, "what was listed is kept: {pages:?}");
    let mut granted = Vec::new();
    for role in ["MirrorFleetRole", "MirrorRepositoryRole"] {
        let statements = deployment.statements_of_role(role)?;
        granted.extend(
            statements
                .into_iter()
                .flat_map(|statement| statement.actions),
        );
    }
    for line in fleet.stage.server.requests().lines() {
        assert!(
            granted.contains(&line.action),
            "the roles grant {}",
            line.action
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_that_the_stack_may_not_read_are_passed_over() -> Result<()> {
    let Some(mut fleet) = Scripted::of_repositories("team-*,api").await? else {
        return Ok(());
    };
    for name in ["team-api", "other", "api", "team-web"] {
        fleet.stage.create_repository(name).await?;
    }
    let input = json!({ "repositories": { "target": "s3://mirrors/backup", "layout": "bundle" } });
    let run = fleet.interpreter.run("mirror-fleet", &input).await?;
    assert_eq!(run.0["status"], "SUCCEEDED", "{run:?}");
    let sources = ["api", "team-api", "team-web"].map(|name| format!("codecommit://{name}"));
    assert_eq!(run.sources(), sources);
    Ok(())
}

/// The inputs of the commands in `docs/fleets.md`, with the state machine that each is for.
fn documented() -> Result<Vec<(&'static str, Value)>> {
    let text = include_str!("../../docs/fleets.md");
    let mut inputs = Vec::new();
    for command in text.split("aws stepfunctions start-execution").skip(1) {
        let (before, after) = command.split_once("--input '").context("it has an input")?;
        let (input, _) = after.split_once('\'').context("the input ends")?;
        let machine = if before.contains("output MirrorFleet") {
            "mirror-fleet"
        } else {
            "mirror-repository"
        };
        inputs.push((machine, serde_json::from_str(input)?));
    }
    // What the text says about CSV.
    let csv = text
        .split('`')
        .find(|span| span.contains("\"format\": \"csv\""));
    inputs.push(("mirror-fleet", serde_json::from_str(csv.context("CSV")?)?));
    Ok(inputs)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_commands_are_understood() -> Result<()> {
    let Some(mut fleet) = Scripted::start().await? else {
        return Ok(());
    };
    for list in ["mappings.json", "mappings.csv"] {
        put(&fleet.stage, &format!("fleets/{list}"), &example(list)?)?;
    }
    fleet.stage.create_repository("api").await?;
    let inputs = documented()?;
    assert!(inputs.len() >= 4, "{inputs:?}");
    for (machine, input) in inputs {
        let run = fleet.interpreter.run(machine, &input).await?;
        assert_eq!(run.0["status"], "SUCCEEDED", "{input}: {run:?}");
        assert!(!run.sources().is_empty(), "{input} names mappings");
    }
    Ok(())
}

fn example(name: &str) -> Result<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../statemachines/examples");
    Ok(std::fs::read_to_string(format!("{folder}/{name}"))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_are_understood() -> Result<()> {
    let Some(mut fleet) = Scripted::start().await? else {
        return Ok(());
    };
    for list in ["mappings.json", "mappings.csv"] {
        put(&fleet.stage, &format!("fleets/{list}"), &example(list)?)?;
    }
    fleet.stage.create_repository("api").await?;
    for (machine, name, mappings) in [
        ("mirror-fleet", "list-json.json", 2),
        ("mirror-fleet", "list-csv.json", 2),
        ("mirror-fleet", "all-repositories.json", 1),
        ("mirror-repository", "repository.json", 1),
    ] {
        let input = serde_json::from_str(&example(name)?)?;
        let run = fleet.interpreter.run(machine, &input).await?;
        assert_eq!(run.0["status"], "SUCCEEDED", "{name}: {run:?}");
        assert_eq!(
            run.sources().len(),
            mappings,
            "{name} names so many mappings"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_are_bounded() -> Result<()> {
    let Some(mut fleet) = Scripted::start().await? else {
        return Ok(());
    };
    let endless = "script:endless/moved-1,moved-2,moved-3,moved-4,complete";
    let input = json!({ "mapping": mapping(endless), "maxRounds": 3 });
    let run = fleet.interpreter.run("mirror-repository", &input).await?;
    assert_eq!(run.0["error"], "Fleet.TooManyRounds");
    let requests = fleet.stage.server.requests();
    assert_eq!(requests.count(Service::Lambda, "Invoke"), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lambdas_own_throttling_is_waited_out() -> Result<()> {
    let Some(mut fleet) = Scripted::start().await? else {
        return Ok(());
    };
    let rule = "lambda/Invoke:throttle,nth=1"
        .parse()
        .expect("it is a fault");
    fleet.stage.server.faults().add(rule);
    let input = json!({ "mapping": mapping("script:one/complete") });
    let run = fleet.interpreter.run("mirror-repository", &input).await?;
    assert_eq!(run.0["status"], "SUCCEEDED", "{run:?}");
    let [wait] = run.0["waits"]
        .as_array()
        .expect("they are logged")
        .as_slice()
    else {
        panic!("one retry is enough: {run:?}");
    };
    let wait = wait.as_f64().expect("seconds");
    assert!(
        (0.0..=15.0).contains(&wait),
        "full jitter: anything up to 15 s, not {wait}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_request_is_refused_before_any_read() -> Result<()> {
    let Some(mut fleet) = Scripted::start().await? else {
        return Ok(());
    };
    let target = json!({ "target": "s3://mirrors/backup" });
    let cases = [
        (json!({}), "`list`"),
        (json!({ "list": {} }), "`list`"),
        (
            json!({ "list": { "key": "l" }, "repositories": target }),
            "either",
        ),
        (
            json!({ "list": { "key": "l", "format": "xml" } }),
            "`list.format`",
        ),
        (
            json!({ "repositories": { "target": "s3://mirrors/" } }),
            "`repositories.target`",
        ),
        (json!({ "repositories": {} }), "`repositories.target`"),
        (
            json!({ "list": { "key": "l" }, "maxConcurrency": 0 }),
            "`maxConcurrency`",
        ),
        (
            json!({ "list": { "key": "l" }, "maxConcurrency": "many" }),
            "`maxConcurrency`",
        ),
    ];
    fleet.stage.server.requests().reset();
    for (input, named) in cases {
        let run = fleet.interpreter.run("mirror-fleet", &input).await?;
        assert_eq!(
            run.0["error"], "branchline.InvalidEvent",
            "{input}: {run:?}"
        );
        let cause = run.0["cause"].as_str().expect("there is a cause");
        assert!(cause.contains(named), "{input}: {cause}");
    }
    assert!(
        fleet.stage.server.requests().lines().is_empty(),
        "nothing was asked for"
    );
    Ok(())
}
