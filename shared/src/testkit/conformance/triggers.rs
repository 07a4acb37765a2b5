//! Cases of triggers that every [`CodeCommit`](crate::codecommit::CodeCommit) passes.

use std::collections::BTreeSet;

use super::codecommit_setup::CodeCommitSetup;
use crate::codecommit::{MAX_BRANCHES_PER_TRIGGER, MAX_TRIGGERS, Trigger, TriggerEvent};
use crate::error::ErrorKind;

fn trigger(setup: &dyn CodeCommitSetup, name: &str, branches: &[&str]) -> Trigger {
    Trigger {
        name: name.into(),
        destination_arn: setup.function_arn(),
        custom_data: None,
        branches: branches.iter().map(|&branch| branch.into()).collect(),
        events: vec![TriggerEvent::UpdateReference, TriggerEvent::CreateReference],
    }
}

pub(super) async fn triggers_are_replaced_as_a_set(setup: &dyn CodeCommitSetup) {
    let service = setup.codecommit();
    let repository = setup.repository().await;
    let none = service.get_triggers(&repository).await;
    assert_eq!(none.expect("it is there").triggers, []);
    let mut ids = BTreeSet::new();
    let mut everything = trigger(setup, "all", &[]);
    everything.events = vec![TriggerEvent::All];
    everything.custom_data = Some("{\"a\":1}".into());
    let mut deletions = trigger(setup, "deletions", &["main"]);
    deletions.events = vec![TriggerEvent::DeleteReference];
    for set in [
        vec![trigger(setup, "one", &["main", "feature/x"])],
        vec![everything, deletions, trigger(setup, "two", &["main"])],
        vec![],
    ] {
        let id = service.put_triggers(&repository, &set).await;
        let id = id.expect("the triggers are legal");
        let mut read = service
            .get_triggers(&repository)
            .await
            .expect("it is there");
        read.triggers.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(read.triggers, set, "the whole set is replaced");
        assert_eq!(read.configuration_id, id);
        assert!(ids.insert(id), "each set has an id of its own");
    }
}

pub(super) async fn triggers_beyond_the_quotas_are_refused(setup: &dyn CodeCommitSetup) {
    let service = setup.codecommit();
    let repository = setup.repository().await;
    let many: Vec<_> = (0..=MAX_TRIGGERS)
        .map(|n| trigger(setup, &format!("t{n}"), &["main"]))
        .collect();
    let full = service.put_triggers(&repository, &many[1..]).await;
    full.expect("the quota may be used up");
    let refused = service.put_triggers(&repository, &many).await;
    let code = refused.as_ref().err().and_then(|error| error.aws_code());
    assert_eq!(code, Some("MaximumRepositoryTriggersExceededException"));
    let names: Vec<_> = (0..=MAX_BRANCHES_PER_TRIGGER)
        .map(|n| format!("b{n}"))
        .collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let refused = service
        .put_triggers(&repository, &[trigger(setup, "t", &names)])
        .await;
    let code = refused.as_ref().err().and_then(|error| error.aws_code());
    assert_eq!(code, Some("MaximumBranchesExceededException"));
    let kept = service
        .get_triggers(&repository)
        .await
        .expect("it is there");
    assert_eq!(
        kept.triggers.len(),
        MAX_TRIGGERS,
        "a refused set changes nothing"
    );
}

pub(super) async fn malformed_triggers_are_refused(setup: &dyn CodeCommitSetup) {
    let service = setup.codecommit();
    let repository = setup.repository().await;
    let good = trigger(setup, "good", &["main"]);
    let with = |change: &dyn Fn(&mut Trigger)| {
        let mut trigger = good.clone();
        change(&mut trigger);
        vec![trigger]
    };
    for (code, set) in [
        (
            "InvalidRepositoryTriggerNameException",
            with(&|t| t.name = "a b".into()),
        ),
        (
            "InvalidRepositoryTriggerDestinationArnException",
            with(&|t| t.destination_arn = "not an arn".into()),
        ),
        (
            "InvalidRepositoryTriggerCustomDataException",
            with(&|t| t.custom_data = Some("x".repeat(1001))),
        ),
        (
            "InvalidRepositoryTriggerBranchNameException",
            with(&|t| t.branches = vec!["a..b".into()]),
        ),
        (
            "InvalidRepositoryTriggerEventsException",
            with(&|t| t.events.clear()),
        ),
    ] {
        let error = service.put_triggers(&repository, &set).await;
        let error = error.expect_err("the trigger is malformed");
        assert_eq!(error.aws_code(), Some(code), "{}", error.report());
        assert_eq!(error.kind(), ErrorKind::Config);
    }
    let kept = service
        .get_triggers(&repository)
        .await
        .expect("it is there");
    assert_eq!(kept.triggers, [], "a refused set changes nothing");
}
