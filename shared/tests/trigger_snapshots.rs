//! Lists of triggers after a reconciliation, as a reader sees them.

use std::fmt::Write as _;

use branchline_core::codecommit::{Trigger, TriggerEvent};
use branchline_core::function::FunctionArn;
use branchline_core::name::{BranchName, RepositoryName};
use branchline_core::pattern::BranchPatterns;
use branchline_core::trigger::plan::partition_owned;
use branchline_core::trigger::{Policy, TriggerLimits, TriggerPlan, TriggerPrefix};
use insta::assert_snapshot;

const UPDATE: &str = "arn:aws:lambda:eu-west-1:111122223333:function:update";

/// Plans the triggers of `branches` beside one foreign trigger and lists the result.
fn reconciled(branches: &[&str]) -> String {
    let policy = Policy {
        branches: BranchPatterns::default(),
        prefix: TriggerPrefix::default(),
        destination: FunctionArn::new(UPDATE).expect("because the ARN is valid"),
        custom_data: None,
        filters: Vec::new(),
    };
    let present = [Trigger {
        name: "mail".into(),
        destination_arn: "arn:aws:sns:eu-west-1:111122223333:topic".into(),
        custom_data: Some("x".into()),
        branches: vec!["main".into()],
        events: vec![TriggerEvent::All],
    }];
    let branches: Vec<BranchName> = branches
        .iter()
        .map(|name| BranchName::new(name).expect("because the name is valid"))
        .collect();
    let (ours, foreign) = partition_owned(&policy.prefix, &present);
    let repository = RepositoryName::new("demo").expect("because the name is valid");
    let matching = policy.matching(&branches);
    let desired = policy
        .desired_triggers(
            &repository,
            TriggerLimits::default(),
            &matching,
            &ours,
            &foreign,
        )
        .expect("because the service has room");
    let plan = TriggerPlan::new(&policy.prefix, &present, &desired.triggers, &[]);
    let mut list = String::new();
    for trigger in plan.triggers_to_put() {
        writeln!(
            list,
            "{} -> {} on {:?} of {}",
            trigger.name,
            trigger.destination_arn,
            trigger.events,
            trigger.branches.join(", ")
        )
        .expect("because a string grows");
    }
    list
}

#[test]
fn two_branches_have_a_trigger_each_and_the_foreign_one_is_carried() {
    assert_snapshot!(reconciled(&["main", "feature/login"]), @r"
    mail -> arn:aws:sns:eu-west-1:111122223333:topic on [All] of main
    branchline-feature-login-238ff8ac -> arn:aws:lambda:eu-west-1:111122223333:function:update on [UpdateReference, CreateReference] of feature/login
    branchline-main-ae741254 -> arn:aws:lambda:eu-west-1:111122223333:function:update on [UpdateReference, CreateReference] of main
    ");
}

#[test]
fn twelve_branches_share_triggers() {
    let names: Vec<String> = (1..=12).map(|n| format!("topic/{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_snapshot!(reconciled(&names), @r"
    mail -> arn:aws:sns:eu-west-1:111122223333:topic on [All] of main
    branchline-group-1-9f7f3c50 -> arn:aws:lambda:eu-west-1:111122223333:function:update on [UpdateReference, CreateReference] of topic/1, topic/10, topic/11, topic/12, topic/2, topic/3, topic/4, topic/5, topic/6, topic/7
    branchline-group-2-ab7d8b3f -> arn:aws:lambda:eu-west-1:111122223333:function:update on [UpdateReference, CreateReference] of topic/8, topic/9
    ");
}
