//! Prints what the lifecycle function would do about a repository's triggers, computed by
//! the function's own code.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, anyhow};
use branchline_core::aws::{self, Aws};
use branchline_core::codecommit::Trigger;
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::function::FunctionArn;
use branchline_core::name::RepositoryName;
use branchline_core::retry::{RetryPolicy, Retrying};
use branchline_core::settings::Settings;
use branchline_core::trigger::{Policy, Preview, TriggerLimits, preview};
use clap::Args;
use serde_json::json;

/// Options of `triggers`.
#[derive(Debug, Args)]
pub(super) struct TriggersArgs {
    /// The repository.
    repository: String,
    /// A setting of the function `lifecycle`, KEY=VALUE; its own variables of the
    /// environment count as well.
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Prints JSON for scripts.
    #[arg(long)]
    json: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it must be KEY=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) async fn run(args: TriggersArgs) -> Result<()> {
    let explain = |error: branchline_core::Error| anyhow!(error.report());
    let repository = RepositoryName::new(&args.repository).map_err(explain)?;
    let aws = Aws::load(aws::AwsOverrides::default())
        .await
        .map_err(explain)?;
    let codecommit = Retrying::new(SdkCodeCommit::new(&aws), RetryPolicy::new(8));
    let mut settings: BTreeMap<String, String> = std::env::vars().collect();
    settings.extend(args.settings);
    if !settings.contains_key("UPDATE_FUNCTION_ARN") {
        // The function that every example names, in the repository's own account.
        let about =
            branchline_core::codecommit::CodeCommit::get_repository(&codecommit, &repository);
        let arn = about.await.map_err(explain)?.arn;
        let account = arn
            .split(':')
            .nth(4)
            .context("the repository's ARN names no account")?;
        let arn = format!("arn:aws:lambda:{}:{account}:function:update", aws.region());
        settings.insert("UPDATE_FUNCTION_ARN".to_owned(), arn);
    }
    let settings: Settings = settings.into_iter().collect();
    let policy = Policy::read(&settings).map_err(explain)?;
    let found = preview(&codecommit, &policy, TriggerLimits::default(), &repository).await;
    let found = found.map_err(explain)?;
    if args.json {
        let report = json!({
            "mode": found.desired.mode,
            "present": found.present,
            "wanted": found.desired.triggers,
            "difference": found.plan,
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", show(&found, &policy.destination));
    }
    Ok(())
}

/// Formats the triggers as lines: `=` kept, `+` added, `~` changed, `-` removed, `.` foreign.
fn show(found: &Preview, destination: &FunctionArn) -> String {
    let Preview {
        present,
        desired,
        plan,
    } = found;
    let mut text = String::new();
    let mode = serde_json::to_value(desired.mode).unwrap_or_default();
    let _ = writeln!(text, "mode     {}", mode.as_str().unwrap_or_default());
    let _ = writeln!(text, "calls    {destination}");
    let _ = writeln!(text, "present  {}", present.len());
    let _ = writeln!(text, "wanted   {}", desired.triggers.len());
    let changed: Vec<Trigger> = plan
        .changed
        .iter()
        .map(|(_, after)| after.clone())
        .collect();
    let groups = [
        ('.', &plan.foreign),
        ('=', &plan.kept),
        ('~', &changed),
        ('+', &plan.added),
        ('-', &plan.removed),
    ];
    for (sign, triggers) in groups {
        for trigger in triggers {
            let branches = match trigger.branches.as_slice() {
                [] => "all branches".to_owned(),
                some => some.join(", "),
            };
            let _ = writeln!(text, "{sign} {}  ({branches})", trigger.name);
        }
    }
    let summary = if plan.is_empty() {
        "nothing to write"
    } else {
        "one write would apply the difference"
    };
    let _ = writeln!(text, "{summary}");
    text
}
