//! The actions that the commands need, as `docs/terminal.md` lists them.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use branchline_dev::faults::Service;
use branchline_dev::s3::store::PutOptions;
use branchline_tests::environment::{BUCKET, Setup};
use serde_json::json;

use super::super::document::table;
use super::Console;

/// The actions that the user of the console has carried out over HTTP, except by git.
fn used(console: &Console) -> BTreeSet<String> {
    let server = &console.stage.server;
    let user = &server.credentials().principal_arn;
    let lines = server.requests().lines();
    let own = lines
        .into_iter()
        .filter(|line| line.principal.as_ref() == Some(user) && line.service != Service::Git);
    // A missing object is 404 only for who may list the bucket.
    let actions = own.flat_map(|line| {
        let also = (line.operation == "HeadObject").then(|| "s3:ListBucket".to_owned());
        also.into_iter().chain([line.action])
    });
    actions.collect()
}

/// The actions in the row of a command.
fn listed(command: &str) -> Result<BTreeSet<String>> {
    let rows = table("The credentials need these actions");
    let name = format!("`{command}`");
    let row = rows.iter().find(|row| row[0] == name).context(name)?;
    let names = row[1].split('`').skip(1).step_by(2);
    let mut actions = BTreeSet::new();
    for name in names {
        if name.contains(':') {
            actions.insert(name.to_owned());
        } else {
            actions.extend(listed(name)?);
        }
    }
    Ok(actions)
}

/// A console with a branch that is up to date, and one that is behind.
async fn console() -> Result<Console> {
    let console = Console::start(Setup::default()).await?;
    console.commit("1")?;
    console.push(&["main"]).await?;
    console.lose_events()?;
    console.commit("2")?;
    console.push(&["main:new"]).await?;
    console.stage.server.faults().clear();
    let list = json!([{ "source": "a", "target": "b" }]).to_string();
    let options = PutOptions::default();
    let store = console.stage.server.store();
    store.put(BUCKET, "fleets/mappings.json", list.as_bytes(), options)?;
    Ok(console)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_uses_the_actions_that_are_listed() -> Result<()> {
    let status = console().await?;
    status.run(&["status"]).await?;
    assert_eq!(used(&status), listed("status")?);

    let doctor = console().await?;
    let key = doctor.stage.server.kms().call("CreateKey", &json!({}));
    let key = key.map_err(|error| anyhow::anyhow!(error.message))?;
    let key = key["KeyMetadata"]["KeyId"].as_str().context("an id")?;
    let setting = format!("--env=KMS_KEY_ID={key}");
    doctor.run(&["doctor", "stack", &setting]).await?;
    assert_eq!(used(&doctor), listed("doctor stack")?);

    let triggers = console().await?;
    triggers.run(&["triggers", "demo"]).await?.done();
    assert_eq!(used(&triggers), listed("triggers")?);
    triggers.run(&["triggers", "demo", "--apply"]).await?.done();
    assert_eq!(used(&triggers), listed("triggers --apply")?);

    let start = console().await?;
    start.run(&["start", "demo"]).await?.done();
    start.run(&["start", "demo", "new"]).await?.done();
    assert_eq!(used(&start), listed("start")?);
    Ok(())
}
