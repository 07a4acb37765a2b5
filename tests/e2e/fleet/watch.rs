//! The watch of a scheduled backup, whatever the interval of the schedule.

use anyhow::Result;
use jiff::Timestamp;
use serde_json::json;

use super::Scripted;

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_reported_unless_a_fleet_has_ended_since_its_time() -> Result<()> {
    let Some(mut fleet) = Scripted::start().await? else {
        return Ok(());
    };
    let overdue = Err(Some("Backup.Overdue".to_owned()));
    let repositories = json!({ "repositories": { "target": "s3://mirrors/backup" } });
    let invalid = json!({});
    for (fleet_input, watched) in [
        (None, overdue),
        (Some(repositories), Ok(())),
        // A failure is reported by an alarm of its own.
        (Some(invalid), Ok(())),
    ] {
        // The scheduler's times are whole seconds.
        let slot = Timestamp::from_second(Timestamp::now().as_second())?.to_string();
        if let Some(input) = &fleet_input {
            tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
            fleet.interpreter.run("mirror-fleet", input).await?;
        }
        let watch = json!({ "slot": slot });
        let run = fleet.interpreter.run("backup-watch", &watch).await?;
        let ended = match run.0["status"].as_str() {
            Some("SUCCEEDED") => Ok(()),
            _ => Err(run.0["error"].as_str().map(str::to_owned)),
        };
        assert_eq!(ended, watched, "{fleet_input:?}: {run:?}");
        let states = run.0["states"].as_array().expect("states are recorded");
        let reports = states.iter().filter(|state| *state == "Report").count();
        assert_eq!(reports, if watched.is_ok() { 0 } else { 2 }, "{run:?}");
        let metric = json!([{
            "Namespace": "branchline", "MetricName": "BackupsOverdue",
            "Dimensions": [{ "Name": "StackName", "Value": "branchline" }],
        }]);
        assert_eq!(run.0["metrics"], metric, "{run:?}");
    }
    // A fleet that ended before does not count.
    let watch = json!({ "slot": "2999-01-01T00:00:00Z" });
    let run = fleet.interpreter.run("backup-watch", &watch).await?;
    assert_eq!(run.0["error"], "Backup.Overdue", "{run:?}");
    Ok(())
}
