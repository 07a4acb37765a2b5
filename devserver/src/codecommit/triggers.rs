//! The operations on triggers, and the trait that tests them.

use std::collections::HashSet;
use std::sync::PoisonError;

use async_trait::async_trait;
use branchline_core::codecommit::{Trigger, TriggerEvent};
use branchline_core::name::BranchName;
use serde_json::{Value, json};

use super::input::{Input, wrong_type};
use super::{CodeCommitService, contents};
use crate::aws_json::{ApiError, ApiResult};

/// Maximum length of a trigger's name.
const MAX_NAME_CHARS: usize = 100;

/// Maximum length of the custom data.
const MAX_CUSTOM_DATA_CHARS: usize = 1000;

/// A test of one trigger, as `TestRepositoryTriggers` requests it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerTest {
    /// The repository's name.
    pub repository: String,
    /// ARN of the principal that requests the test.
    pub principal_arn: String,
    /// The id of the repository's present set of triggers.
    pub configuration_id: String,
    /// Trigger under test; it need not be one of the repository's triggers.
    pub trigger: Trigger,
    /// Default branch, `refs/heads/main`; also while the repository has none.
    pub reference: String,
    /// Tip of the default branch; 40 zeros while there is none.
    pub commit: String,
}

/// Sends the events of `TestRepositoryTriggers`.
#[async_trait]
pub trait TriggerTester: Send + Sync {
    /// Sends one `TriggerEventTest`. Errors are returned to the caller as `failureMessage`.
    async fn test(&self, test: &TriggerTest) -> Result<(), String>;
}

impl CodeCommitService {
    pub(super) fn get_repository_triggers(&self, input: Input<'_>) -> ApiResult {
        let set = self.named(input)?.triggers();
        Ok(json!({ "configurationId": set.configuration_id, "triggers": set.triggers }))
    }

    pub(super) fn put_repository_triggers(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        let triggers = self.read_triggers(input)?;
        let configuration_id = uuid::Uuid::new_v4().to_string();
        repository.update(|metadata| {
            metadata.configuration_id.clone_from(&configuration_id);
            metadata.triggers = triggers;
        })?;
        Ok(json!({ "configurationId": configuration_id }))
    }

    pub(super) async fn test_repository_triggers(
        &self,
        input: Input<'_>,
        principal_arn: &str,
    ) -> ApiResult {
        let repository = self.named(input)?;
        let triggers = self.read_triggers(input)?;
        let tester = {
            let held = self.0.tester.read();
            held.unwrap_or_else(PoisonError::into_inner).clone()
        };
        let branch = repository.default_branch();
        let commit = match contents::resolve(&repository, None).await {
            Ok((commit, _)) => commit,
            Err(error) if error.code == "CommitDoesNotExistException" => "0".repeat(40),
            Err(error) => return Err(error),
        };
        let (mut successful, mut failed) = (Vec::new(), Vec::new());
        for trigger in triggers {
            let test = TriggerTest {
                repository: repository.name.clone(),
                principal_arn: principal_arn.to_owned(),
                configuration_id: repository.triggers().configuration_id,
                trigger,
                reference: format!("refs/heads/{}", branch.as_deref().unwrap_or("main")),
                commit: commit.clone(),
            };
            let result = match &tester {
                Some(tester) => tester.test(&test).await,
                None => Err("this server delivers no trigger events".to_owned()),
            };
            match result {
                Ok(()) => successful.push(test.trigger.name),
                Err(message) => failed.push(json!({
                    "trigger": test.trigger.name,
                    "failureMessage": message,
                })),
            }
        }
        Ok(json!({ "successfulExecutions": successful, "failedExecutions": failed }))
    }

    /// Reads `triggers`, required and valid.
    fn read_triggers(&self, input: Input<'_>) -> Result<Vec<Trigger>, ApiError> {
        let list = input.list("triggers")?.ok_or_else(|| {
            ApiError::new(
                "RepositoryTriggersListRequiredException",
                "Repository triggers list cannot be null",
            )
        })?;
        let limit = self.0.limits.triggers;
        if list.len() > limit {
            return Err(ApiError::new(
                "MaximumRepositoryTriggersExceededException",
                format!("A repository can have at most {limit} triggers"),
            ));
        }
        let mut names = HashSet::new();
        list.iter()
            .map(|value| {
                let members = value
                    .as_object()
                    .ok_or_else(|| wrong_type("triggers", "a list of structures"))?;
                let trigger = self.read_trigger(Input(members))?;
                if !names.insert(trigger.name.clone()) {
                    return Err(ApiError::new(
                        "InvalidRepositoryTriggerNameException",
                        format!("Repository trigger name {} is not unique", trigger.name),
                    ));
                }
                Ok(trigger)
            })
            .collect()
    }

    fn read_trigger(&self, input: Input<'_>) -> Result<Trigger, ApiError> {
        let name = input.required("name", "RepositoryTriggerNameRequiredException")?;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.len() > MAX_NAME_CHARS || !name.chars().all(legal) {
            return Err(ApiError::new(
                "InvalidRepositoryTriggerNameException",
                "Repository trigger names have 1 to 100 letters, digits, periods, underscores \
                 and dashes",
            ));
        }
        let arn = input.required(
            "destinationArn",
            "RepositoryTriggerDestinationArnRequiredException",
        )?;
        self.check_destination(arn)?;
        let custom_data = input.text("customData")?;
        if custom_data.is_some_and(|data| data.chars().count() > MAX_CUSTOM_DATA_CHARS) {
            return Err(ApiError::new(
                "InvalidRepositoryTriggerCustomDataException",
                format!(
                    "Repository trigger custom data has more than {MAX_CUSTOM_DATA_CHARS} characters"
                ),
            ));
        }
        let branches = self.read_branches(input)?;
        Ok(Trigger {
            name: name.to_owned(),
            destination_arn: arn.to_owned(),
            custom_data: custom_data.map(str::to_owned),
            branches,
            events: read_events(input)?,
        })
    }

    fn read_branches(&self, input: Input<'_>) -> Result<Vec<String>, ApiError> {
        let branches = input.texts("branches")?.ok_or_else(|| {
            ApiError::new(
                "RepositoryTriggerBranchNameListRequiredException",
                "Repository trigger branch name list cannot be null",
            )
        })?;
        let limit = self.0.limits.branches_per_trigger;
        if branches.len() > limit {
            return Err(ApiError::new(
                "MaximumBranchesExceededException",
                format!("A repository trigger can name at most {limit} branches"),
            ));
        }
        branches
            .into_iter()
            .map(|branch| {
                BranchName::new(branch)
                    .map(|branch| branch.to_string())
                    .map_err(|error| {
                        let code = "InvalidRepositoryTriggerBranchNameException";
                        ApiError::new(code, error.to_string())
                    })
            })
            .collect()
    }

    /// Checks for `arn:<partition>:lambda:<region>:<account>:function:<name>[:<qualifier>]` or
    /// `arn:<partition>:sns:<region>:<account>:<topic>`, in the repository's region.
    fn check_destination(&self, arn: &str) -> Result<(), ApiError> {
        let parts: Vec<&str> = arn.split(':').collect();
        let word = |text: &str| {
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$');
            !text.is_empty() && text.chars().all(legal)
        };
        let account = |id: &str| id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_digit());
        let region = match parts.as_slice() {
            [
                "arn",
                partition,
                "lambda",
                region,
                id,
                "function",
                name,
                qualifier @ ..,
            ] if partition.starts_with("aws")
                && account(id)
                && word(name)
                && qualifier.len() <= 1
                && qualifier.iter().all(|qualifier| word(qualifier)) =>
            {
                region
            }
            ["arn", partition, "sns", region, id, topic]
                if partition.starts_with("aws") && account(id) && word(topic) =>
            {
                region
            }
            _ => {
                return Err(ApiError::new(
                    "InvalidRepositoryTriggerDestinationArnException",
                    "Repository trigger destination is not the ARN of a Lambda function or an \
                     SNS topic",
                ));
            }
        };
        if *region != self.0.account.region {
            return Err(ApiError::new(
                "InvalidRepositoryTriggerRegionException",
                format!(
                    "Repository trigger destination is in region {region}, the repository in {}",
                    self.0.account.region
                ),
            ));
        }
        Ok(())
    }
}

/// Reads `events`, required and valid: `all` alone, or some of the others.
fn read_events(input: Input<'_>) -> Result<Vec<TriggerEvent>, ApiError> {
    let list = input.list("events")?.ok_or_else(|| {
        ApiError::new(
            "RepositoryTriggerEventsListRequiredException",
            "Repository trigger events list cannot be null",
        )
    })?;
    let invalid = |message: &str| ApiError::new("InvalidRepositoryTriggerEventsException", message);
    let events: Vec<TriggerEvent> = list
        .iter()
        .map(|event: &Value| {
            serde_json::from_value(event.clone()).map_err(|_| {
                invalid(
                    "Repository trigger events are all, updateReference, createReference and \
                     deleteReference",
                )
            })
        })
        .collect::<Result<_, _>>()?;
    if events.is_empty() {
        return Err(invalid("Repository trigger events list cannot be empty"));
    }
    if events.len() > 1 && events.contains(&TriggerEvent::All) {
        return Err(invalid(
            "Repository trigger event all cannot be combined with others",
        ));
    }
    Ok(events)
}
