//! Resources of the template for fleets.

use anyhow::{Context as _, Result};
use branchline_tests::template::Template;
use serde_json::{Value, json};

use super::interpreter::deployment;

const SCHEDULE: (&str, &str) = ("BackupSchedule", "rate(1 day)");

#[test]
fn backups_are_off_unless_they_are_asked_for() -> Result<()> {
    let template = Template::load()?;
    let state = |parameters: &[(&str, &str)]| -> Result<Value> {
        let machine = template.resolve(parameters)?.properties("MirrorFleet")?;
        Ok(machine["Events"]["Backup"]["Properties"]["State"].clone())
    };
    assert_eq!(state(&[])?, "DISABLED");
    assert_eq!(state(&[SCHEDULE, ("MirrorBucket", "mirrors")])?, "ENABLED");
    let refusals = template.resolve(&[SCHEDULE])?.refusals()?;
    assert!(
        refusals.len() == 1 && refusals[0].contains("MirrorBucket"),
        "backups need a bucket: {refusals:?}"
    );
    Ok(())
}

#[test]
fn the_state_machines_roles_name_what_they_allow() -> Result<()> {
    let template = Template::load()?;
    let deployment = deployment(&template, "*")?;
    let knows_no_resource = |action: &String| {
        action == "codecommit:ListRepositories"
            || action == "cloudwatch:PutMetricData"
            || action.starts_with("logs:")
            || action.starts_with("xray:")
    };
    for role in ["MirrorFleetRole", "MirrorRepositoryRole", "BackupWatchRole"] {
        for statement in deployment.statements_of_role(role)? {
            let actions = &statement.actions;
            assert!(
                actions.iter().all(|action| !action.contains('*')),
                "{role}: {actions:?}"
            );
            assert_eq!(
                statement.resources == ["*"],
                actions.iter().all(knows_no_resource),
                "{role}: {actions:?} on {:?}",
                statement.resources
            );
        }
    }
    // The fleet's role has to be there before the machine, so it knows it by its name.
    let machine = deployment.properties("MirrorFleet")?;
    let name = machine["Name"].as_str().context("it has a name")?;
    let statements = deployment.statements_of_role("MirrorFleetRole")?;
    let own = format!("arn:aws:states:us-east-1:123456789012:stateMachine:{name}");
    assert!(
        statements.iter().any(|statement| {
            statement.actions == ["states:StartExecution"] && statement.resources.contains(&own)
        }),
        "a distributed map starts executions of its own machine"
    );
    Ok(())
}

#[test]
fn lists_and_results_are_where_the_role_may_read_and_write() -> Result<()> {
    let template = Template::load()?;
    let deployment = deployment(&template, "*")?;
    let statements = deployment.statements_of_role("MirrorFleetRole")?;
    let statement = statements
        .iter()
        .find(|statement| statement.sid == "ReadListsAndWriteResults")
        .context("there is a statement for S3")?;
    let substitutions = &deployment.properties("MirrorFleet")?["DefinitionSubstitutions"];
    let bucket = substitutions["FleetBucket"].as_str().context("a bucket")?;
    assert_eq!(
        json!(statement.resources),
        json!([format!("arn:aws:s3:::{bucket}/fleets/*")])
    );
    let prefix = substitutions["ResultPrefix"].as_str();
    assert!(prefix.is_some_and(|prefix| prefix.starts_with("fleets/")));
    Ok(())
}

/// Returns all states of a definition in the repository, with those inside of maps.
fn states(name: &str) -> Result<Vec<(String, Value)>> {
    fn collect(machine: &Value, all: &mut Vec<(String, Value)>) {
        for (name, state) in machine["States"].as_object().into_iter().flatten() {
            all.push((name.clone(), state.clone()));
            collect(&state["ItemProcessor"], all);
        }
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../statemachines");
    let text = std::fs::read_to_string(format!("{folder}/{name}.asl.json"))?;
    let mut all = Vec::new();
    collect(&serde_json::from_str(&text)?, &mut all);
    Ok(all)
}

/// The interpreter of the tests ignores these settings, so they are checked in the definition.
#[test]
fn maps_are_distributed_bounded_tolerant_and_write_their_results() -> Result<()> {
    let states = states("mirror-fleet")?;
    let maps: Vec<_> = states
        .iter()
        .filter(|(_, state)| state["Type"] == "Map")
        .collect();
    assert_eq!(maps.len(), 2, "one for JSON, one for CSV");
    for (name, map) in maps {
        let settings = ["maxConcurrency", "toleratedFailurePercentage"];
        let [most, tolerated] = settings.map(|setting| json!(format!("$.settings.{setting}")));
        assert_eq!(map["MaxConcurrencyPath"], most, "{name}");
        assert_eq!(map["ToleratedFailurePercentagePath"], tolerated, "{name}");
        let mode = &map["ItemProcessor"]["ProcessorConfig"];
        assert_eq!(
            mode,
            &json!({ "Mode": "DISTRIBUTED", "ExecutionType": "STANDARD" })
        );
        let writer = &map["ResultWriter"]["Resource"];
        assert_eq!(writer, "arn:${Partition}:states:::s3:putObject", "{name}");
    }
    Ok(())
}

/// A redrive starts again what failed: nothing may catch a failure on its way up, and what
/// is tried again is spread.
#[test]
fn a_failure_reaches_the_map_so_that_a_redrive_finds_it() -> Result<()> {
    for machine in ["mirror-fleet", "mirror-repository"] {
        for (name, state) in states(machine)? {
            assert!(state["Catch"].is_null(), "{machine}: {name} catches");
            let retries = state["Retry"].as_array();
            assert_eq!(
                retries.is_some(),
                state["Type"] == "Task",
                "{machine}: {name}: a task is tried again"
            );
            for retry in retries.into_iter().flatten() {
                assert_eq!(retry["JitterStrategy"], "FULL", "{machine}: {name}");
                assert!(retry["MaxDelaySeconds"].is_u64(), "{machine}: {name}");
                let errors = retry["ErrorEquals"].as_array().context("errors")?;
                assert!(!errors.contains(&json!("States.ALL")), "{machine}: {name}");
            }
        }
    }
    Ok(())
}
