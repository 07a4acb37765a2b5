//! Choices of a deployment: the way of pushes to update, names and trusts of roles, the use of
//! a key, timeouts, observability, and the environments of `samconfig.toml`.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use branchline_dev::delivery::EventRule;
use branchline_test_support::git;
use branchline_tests::environment::{LIFECYCLE, Setup, TestEnvironment, UPDATE};
use branchline_tests::template::{ResolvedTemplate, Template};
use serde_json::{Value, json};

use super::reference::top;

const KEY: &str = "arn:aws:kms:eu-central-1:123456789012:key/k";

/// The event rules of a deployment that are on: each with its function and its events.
fn event_rules(deployment: &ResolvedTemplate<'_>) -> Result<Vec<EventRule>> {
    let mut rules = Vec::new();
    for (resource, name, function) in [
        ("LifecycleFunction", "Branches", LIFECYCLE),
        ("UpdateFunction", "Pushes", UPDATE),
    ] {
        let rule = deployment.properties(resource)?["Events"][name]["Properties"].take();
        if rule["State"] == "ENABLED" {
            let events = rule["Pattern"]["detail"]["event"].as_array();
            let events = events.context("the rule names events")?.iter();
            rules.push(EventRule {
                function: function.to_owned(),
                events: events
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect(),
            });
        }
    }
    Ok(rules)
}

#[test]
fn pushes_reach_update_by_the_way_that_is_chosen() -> Result<()> {
    let template = Template::load()?;
    let pushes = ["referenceCreated", "referenceUpdated"];
    for (way, lifecycle_is_on, update_is_on, excluded) in [
        ("triggers", true, false, "wip/**"),
        ("eventbridge", false, true, "**"),
        ("both", true, true, "wip/**"),
    ] {
        let parameters = [("PushEvents", way), ("BranchesExclude", "wip/**")];
        let deployment = template.resolve(&parameters)?;
        let rules = event_rules(&deployment)?;
        let rule = |function: &str| rules.iter().find(|rule| rule.function == function);
        assert_eq!(rule(LIFECYCLE).is_some(), lifecycle_is_on, "{way}");
        assert_eq!(rule(UPDATE).is_some(), update_is_on, "{way}");
        if let Some(rule) = rule(UPDATE) {
            assert!(
                rule.events.iter().map(String::as_str).eq(pushes),
                "{rule:?}"
            );
        }
        let lifecycle = deployment.environment("LifecycleFunction")?;
        assert_eq!(lifecycle["BRANCHES_EXCLUDE"], excluded, "{way}");
        let update = deployment.environment("UpdateFunction")?;
        assert_eq!(update["BRANCHES_EXCLUDE"], "wip/**", "{way}");
    }
    // Events that no function received are kept, whichever rule they are of.
    let policy = template.at(&["Resources", "DeadLettersPolicy"]).to_string();
    for rule in [
        "LifecycleFunctionBranches",
        "UpdateFunctionPullRequests",
        "UpdateFunctionPipelineEnds",
        "UpdateFunctionPushes",
    ] {
        assert!(policy.contains(rule), "{rule} may send dead letters");
    }
    Ok(())
}

/// A stack that changes from triggers to EventBridge, by way of both.
#[tokio::test(flavor = "multi_thread")]
async fn with_eventbridge_pushes_are_archived_without_triggers() -> Result<()> {
    let template = Template::load()?;
    let data = tempfile::tempdir()?;
    let work = tempfile::tempdir()?;
    git::init(work.path())?;
    for (way, triggers) in [("triggers", 2), ("both", 2), ("eventbridge", 0)] {
        let deployment = template.resolve(&[("PushEvents", way)])?;
        let excluded = deployment.environment("LifecycleFunction")?["BRANCHES_EXCLUDE"].clone();
        let stage = TestEnvironment::start(Setup {
            data: Some(data.path().to_owned()),
            lifecycle: vec![("BRANCHES_EXCLUDE", excluded)],
            event_rules: event_rules(&deployment)?,
            ..Setup::default()
        })
        .await?;
        if way == "triggers" {
            stage.create_repository("demo").await?;
        } else {
            let answer = stage.call(LIFECYCLE, &json!({"schedule": true})).await;
            answer.map_err(|error| anyhow::anyhow!("{error}"))?;
            assert_eq!(
                stage.triggers("demo").len(),
                triggers,
                "those of before are removed once they are not needed"
            );
        }
        let before = stage.executions().len();
        for (branches, text) in [(&["main"][..], "1"), (&["main", "main:new"], "2")] {
            git::commit(work.path(), &[("a.txt", &format!("{way} {text}"))], text)?;
            stage.push(work.path(), "demo", branches).await?;
            stage.wait_until_idle().await?;
        }
        // An event that comes by both ways starts nothing twice.
        assert_eq!(stage.executions().len() - before, 3, "{way}");
        let letters = stage.server.queue().dead_letters();
        ensure!(letters.is_empty(), "no event failed: {letters:?}");
        assert_eq!(stage.triggers("demo").len(), triggers, "{way}");
        stage.server.shutdown().await;
    }
    Ok(())
}

#[test]
fn every_trust_names_the_account() -> Result<()> {
    let template = Template::load()?;
    let deployment = template.resolve(&[
        ("SamplePipeline", "true"),
        ("BackupSchedule", "rate(1 day)"),
    ])?;
    let mut roles = 0;
    for role in template.resources_of("AWS::IAM::Role")? {
        let trust = deployment.properties(role)?["AssumeRolePolicyDocument"].take();
        for statement in trust["Statement"].as_array().context("statements")? {
            let account = &statement["Condition"]["StringEquals"]["aws:SourceAccount"];
            assert_eq!(*account, "123456789012", "{role}");
        }
        roles += 1;
    }
    assert_eq!(
        roles, 8,
        "each function, the state machines, schedules and the sample"
    );
    let deployment = template.resolve(&[
        ("MigrationTriggers", "true"),
        ("RepositoryNamePattern", "a,b,c,d,e"),
    ])?;
    for permission in template.resources_of("AWS::Lambda::Permission")? {
        let properties = deployment.properties(permission)?;
        assert_eq!(properties["SourceAccount"], "123456789012", "{permission}");
    }
    Ok(())
}

#[test]
fn roles_have_the_path_and_names_that_an_account_asks_for() -> Result<()> {
    let template = Template::load()?;
    let backups = ("BackupSchedule", "rate(1 day)");
    let plain = template.resolve(&[("SamplePipeline", "true"), backups])?;
    let prefixed = template.resolve(&[
        ("SamplePipeline", "true"),
        backups,
        ("RolePath", "/team/"),
        ("RoleNamePrefix", "a-prefix-of-20-chars"),
    ])?;
    let prefixed = prefixed.at("123456789012", "ap-southeast-1");
    let mut names = BTreeSet::new();
    for role in template.resources_of("AWS::IAM::Role")? {
        let properties = plain.properties(role)?;
        assert_eq!(properties["Path"], "/", "{role}");
        assert!(
            properties["RoleName"].is_null(),
            "{role} is named by CloudFormation"
        );
        let properties = prefixed.properties(role)?;
        assert_eq!(properties["Path"], "/team/", "{role}");
        let name = properties["RoleName"].as_str().context("it is named")?;
        assert!(name.starts_with("a-prefix-of-20-chars"), "{name}");
        assert!(name.len() <= 64, "IAM allows {name}");
        assert!(
            name.contains("ap-southeast-1"),
            "regions share an account's roles"
        );
        names.insert(name.to_owned());
    }
    assert_eq!(names.len(), 8, "each has its own name: {names:?}");
    let outputs: Vec<&str> = template.section("Outputs")?.map(|(name, _)| name).collect();
    for role in ["LifecycleRoleArn", "UpdateRoleArn", "MigrationRoleArn"] {
        assert!(outputs.contains(&role), "{role} is an output");
    }
    Ok(())
}

#[test]
fn a_key_is_used_for_logs_and_dead_letters_too() -> Result<()> {
    let template = Template::load()?;
    let (plain, encrypted) = (
        template.resolve(&[])?,
        template.resolve(&[("KmsKeyId", KEY)])?,
    );
    let mut groups = 0;
    for group in template.resources_of("AWS::Logs::LogGroup")? {
        assert!(plain.properties(group)?["KmsKeyId"].is_null(), "{group}");
        assert_eq!(encrypted.properties(group)?["KmsKeyId"], KEY, "{group}");
        groups += 1;
    }
    assert_eq!(groups, 4);
    let queue = plain.properties("DeadLetters")?;
    assert_eq!(queue["SqsManagedSseEnabled"], true);
    let queue = encrypted.properties("DeadLetters")?;
    assert_eq!(queue["KmsMasterKeyId"], KEY);
    assert!(
        queue["SqsManagedSseEnabled"].is_null(),
        "one kind of encryption"
    );
    for role in [
        "LifecycleRole",
        "UpdateRole",
        "MigrationRole",
        "MirrorFleetRole",
        "SchedulerRole",
    ] {
        let statements = encrypted.statements_of_role(role)?;
        let uses_key = |statement: &&branchline_tests::template::Statement| {
            let actions = ["kms:Decrypt", "kms:GenerateDataKey"];
            statement.resources == [KEY] && statement.actions == actions
        };
        assert!(
            statements.iter().any(|one| uses_key(&one)),
            "{role} uses the key"
        );
    }
    Ok(())
}

#[test]
fn timeouts_move_the_alarms_and_the_state_machine_waits_for_the_longest() -> Result<()> {
    let template = Template::load()?;
    let longest = template.at(&["Parameters", "MigrationTimeout", "AllowedValues"]);
    assert_eq!(*longest, json!([300, 900, 1800]));
    for (seconds, alarm) in [("300", 240_000), ("900", 720_000), ("1800", 1_440_000)] {
        let parameters = [("UpdateTimeout", seconds), ("MigrationTimeout", seconds)];
        let deployment = template.resolve(&parameters)?;
        for function in ["UpdateFunction", "MigrationFunction"] {
            assert_eq!(
                deployment.properties(function)?["Timeout"],
                *seconds,
                "{function}"
            );
        }
        let alarm_properties = deployment.properties("UpdateDuration")?;
        assert_eq!(alarm_properties["Threshold"], alarm, "{seconds} s");
        let overrun = deployment.properties("MigrationDuration")?;
        let timeout: u64 = seconds.parse()?;
        assert_eq!(overrun["Threshold"], timeout * 1000 - 5000);
    }
    let lifecycle = template.resolve(&[])?.properties("LifecycleFunction")?;
    assert!(
        lifecycle["Timeout"].is_null(),
        "lifecycle has the default of all"
    );
    let machine = std::fs::read_to_string(top().join("statemachines/mirror-repository.asl.json"))?;
    let machine: Value = serde_json::from_str(&machine)?;
    let wait = machine["States"]["Migrate"]["TimeoutSeconds"].as_u64();
    assert!(
        wait.is_some_and(|wait| wait > 1800),
        "Lambda ends a run first: {wait:?}"
    );
    Ok(())
}

#[test]
fn concurrency_and_temporary_storage_are_those_of_the_parameters() -> Result<()> {
    let template = Template::load()?;
    let defaults = template.resolve(&[])?;
    let update = defaults.properties("UpdateFunction")?;
    assert!(update["ReservedConcurrentExecutions"].is_null(), "{update}");
    let parameters = [
        ("UpdateReservedConcurrency", "7"),
        ("MigrationEphemeralStorage", "2048"),
    ];
    let deployment = template.resolve(&parameters)?;
    let update = deployment.properties("UpdateFunction")?;
    assert_eq!(update["ReservedConcurrentExecutions"], "7");
    let migration = deployment.properties("MigrationFunction")?;
    assert_eq!(migration["EphemeralStorage"]["Size"], "2048");
    Ok(())
}

#[test]
fn update_never_writes_lists_and_results_of_fleets() -> Result<()> {
    let template = Template::load()?;
    for custom_data in ["own", "ignore", "trust"] {
        let parameters = [("CustomData", custom_data), ("ArtifactBucket", "artifacts")];
        let denials = template
            .resolve(&parameters)?
            .denials_of_role("UpdateRole")?;
        let [denied] = denials.as_slice() else {
            anyhow::bail!("one statement denies: {denials:?}");
        };
        assert_eq!(denied.actions, ["s3:DeleteObject", "s3:PutObject"]);
        let keys = ["*.csv", "*.json", "runs/*"];
        let resources = keys.map(|key| format!("arn:aws:s3:::artifacts/fleets/{key}"));
        assert_eq!(denied.resources, resources);
    }
    Ok(())
}

#[test]
fn observability_can_be_switched_off() -> Result<()> {
    let template = Template::load()?;
    let off = template.resolve(&[
        ("CreateAlarms", "false"),
        ("CreateDashboard", "false"),
        ("Tracing", "false"),
        ("BackupSchedule", "rate(1 day)"),
    ])?;
    for kind in ["AWS::CloudWatch::Alarm", "AWS::CloudWatch::Dashboard"] {
        for resource in template.resources_of(kind)? {
            assert!(!off.has(resource)?, "{resource}");
        }
    }
    for machine in template.resources_of("AWS::Serverless::StateMachine")? {
        if machine == "BackupWatch" {
            assert!(!off.has(machine)?, "no alarm reads its metric");
            continue;
        }
        assert_eq!(
            off.properties(machine)?["Tracing"]["Enabled"],
            false,
            "{machine}"
        );
    }
    Ok(())
}

#[test]
fn a_backup_that_does_not_end_is_missed() -> Result<()> {
    let template = Template::load()?;
    let none = template.resolve(&[])?;
    assert!(!none.has("BackupOverdue")?, "nothing is expected");
    let nightly = template.resolve(&[
        ("BackupSchedule", "cron(0 2 * * ? *)"),
        ("BackupOverdueHours", "26"),
    ])?;
    let machine = nightly.properties("BackupWatch")?;
    assert_eq!(machine["DefinitionSubstitutions"]["OverdueHours"], "26");
    let slot = &machine["Events"]["Slot"]["Properties"];
    assert_eq!(slot["ScheduleExpression"], "cron(0 2 * * ? *)");
    assert_eq!(
        slot["FlexibleTimeWindow"]["Mode"], "OFF",
        "the backup does not end before its watch begins"
    );
    let alarm = nightly.properties("BackupOverdue")?;
    let definition = std::fs::read_to_string(top().join("statemachines/backup-watch.asl.json"))?;
    let definition: Value = serde_json::from_str(&definition)?;
    let reported = &definition["States"]["Report"]["Parameters"];
    assert_eq!(alarm["Namespace"], reported["Namespace"]);
    assert_eq!(alarm["MetricName"], reported["MetricData"][0]["MetricName"]);
    let quiet = template.resolve(&[
        ("BackupSchedule", "cron(0 2 * * ? *)"),
        ("CreateAlarms", "false"),
    ])?;
    assert!(!quiet.has("BackupWatch")?, "no alarm reads the metric");
    let watched = |alarm: &Value| {
        let metrics = alarm["Metrics"].as_array().cloned().unwrap_or_default();
        let names = metrics.into_iter().filter_map(|metric| {
            let name = &metric["MetricStat"]["Metric"]["MetricName"];
            name.as_str().map(str::to_owned)
        });
        names.collect::<Vec<_>>()
    };
    let failed = nightly.properties("FleetFailed")?;
    assert_eq!(
        watched(&failed),
        [
            "ExecutionsFailed",
            "ExecutionsTimedOut",
            "ExecutionsAborted"
        ]
    );
    Ok(())
}

#[test]
fn results_of_fleets_expire_after_a_redrive_is_impossible() -> Result<()> {
    let template = Template::load()?;
    let bucket = template.resolve(&[])?.properties("Artifacts")?;
    let rules = bucket["LifecycleConfiguration"]["Rules"]
        .as_array()
        .context("rules")?;
    let rule = rules.iter().find(|rule| rule["Prefix"] == "fleets/runs/");
    assert_eq!(rule.context("there is one")?["ExpirationInDays"], "90");
    let machine = template.at(&["Resources", "MirrorFleet", "Properties"]);
    assert_eq!(
        machine["DefinitionSubstitutions"]["ResultPrefix"],
        "fleets/runs"
    );
    let least = template.at(&["Parameters", "FleetResultDays", "MinValue"]);
    assert!(least.as_u64().is_some_and(|days| days > 14), "{least}");
    Ok(())
}

/// The environments of `samconfig.toml`.
fn environments() -> Result<Value> {
    let code = "import json, tomllib\n\
                print(json.dumps(tomllib.load(open('samconfig.toml', 'rb'))))";
    let mut python = Command::new("python3");
    let output = python.args(["-c", code]).current_dir(top()).output()?;
    ensure!(output.status.success(), "python3 reads samconfig.toml");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The overrides of an environment, as `sam` reads them.
fn overrides(config: &Value) -> Result<Vec<(String, String)>> {
    let deploy = &config["deploy"]["parameters"];
    let list = deploy["parameter_overrides"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    list.iter()
        .map(|text| {
            let text = text.as_str().context("an override is text")?;
            let (name, value) = text.split_once('=').context("a name and a value")?;
            let plain = value.trim_matches('"');
            // sam ends a value at a space, unless it is quoted.
            ensure!(plain.len() < value.len() || !value.contains(' '), "{text}");
            Ok((name.to_owned(), plain.to_owned()))
        })
        .collect()
}

/// cargo-lambda installs a target of Rust that is missing, which only one of several may do.
#[test]
fn the_first_build_of_a_machine_is_not_parallel() -> Result<()> {
    for (name, environment) in environments()?.as_object().context("a table")? {
        if name != "version" {
            let build = &environment["build"]["parameters"];
            assert_eq!(build["parallel"], false, "{name}");
        }
    }
    Ok(())
}

#[test]
fn each_environment_has_a_few_overrides_that_no_rule_refuses() -> Result<()> {
    let template = Template::load()?;
    let environments = environments()?;
    let default = &environments["default"];
    assert_eq!(overrides(default)?, [], "the defaults are the template's");
    for environment in ["try", "team", "backup"] {
        let config = &environments[environment];
        let mut deploy = config["deploy"].clone();
        let parameters = deploy["parameters"].as_object_mut().context("parameters")?;
        parameters.remove("parameter_overrides");
        assert_eq!(deploy, default["deploy"], "{environment} is deployed alike");
        assert_eq!(
            config["build"], default["build"],
            "{environment} is built alike"
        );
        let overrides = overrides(config)?;
        assert!((3..=5).contains(&overrides.len()), "{overrides:?}");
        let parameters: Vec<(&str, &str)> = overrides
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let deployment = template.resolve(&parameters).context(environment)?;
        assert_eq!(
            deployment.refusals()?,
            Vec::<String>::new(),
            "{environment}"
        );
        let lifecycle = deployment.environment("LifecycleFunction")?;
        let prefix = template.at(&["Parameters", "TriggerPrefix", "Default"]);
        assert!(
            lifecycle["REPOSITORIES"] != "*" || *prefix != *lifecycle["TRIGGER_PREFIX"],
            "{environment} removes no trigger of a stack for all repositories"
        );
        for (name, value) in parameters {
            let pattern = template.at(&["Parameters", name, "AllowedPattern"]);
            if let Some(pattern) = pattern.as_str() {
                let passes = super::parameters::matches(pattern, &[value])?;
                assert_eq!(passes, [true], "{environment}: {name}={value}");
            }
        }
    }
    Ok(())
}
