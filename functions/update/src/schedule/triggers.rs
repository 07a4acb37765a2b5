//! Keys and pipelines that a repository's triggers choose by their custom data. Without them, the
//! schedule would archive such a branch a second time, under the default key.

use branchline_core::Result;
use branchline_core::name::{BranchName, RepositoryName};

use crate::Context;
use crate::config::CustomData;
use crate::request::Overrides;

/// Overrides of the triggers that call this function.
#[derive(Debug, Default)]
pub(super) struct ChosenOverrides(Vec<TriggerOverrides>);

/// Overrides of one trigger.
#[derive(Debug)]
struct TriggerOverrides {
    /// Names of the branches; empty for all.
    branches: Vec<String>,
    /// The overrides, or the reason why they are refused.
    overrides: Result<Overrides, String>,
}

impl ChosenOverrides {
    /// Returns the overrides of each trigger that covers `branch`, without duplicates, or the
    /// reasons why they are refused; no overrides if no trigger has custom data for the branch.
    pub(super) fn of_branch(&self, branch: &BranchName) -> Vec<Result<Overrides, String>> {
        self.of_covering(|trigger| {
            trigger.branches.is_empty()
                || trigger.branches.iter().any(|name| name == branch.as_str())
        })
    }

    /// Returns the overrides of each trigger that fires for tags, which are those that name no
    /// branch, as [`of_branch`](Self::of_branch) does.
    pub(super) fn of_tags(&self) -> Vec<Result<Overrides, String>> {
        self.of_covering(|trigger| trigger.branches.is_empty())
    }

    fn of_covering(
        &self,
        covers: impl Fn(&TriggerOverrides) -> bool,
    ) -> Vec<Result<Overrides, String>> {
        let mut chosen: Vec<Result<Overrides, String>> = Vec::new();
        for trigger in self.0.iter().filter(|trigger| covers(trigger)) {
            if !chosen.contains(&trigger.overrides) {
                chosen.push(trigger.overrides.clone());
            }
        }
        if chosen.is_empty() {
            chosen.push(Ok(Overrides::default()));
        }
        chosen
    }
}

/// Reads the triggers of a repository, unless custom data are ignored or the function's ARN is
/// not known.
pub(super) async fn overrides(
    context: &Context,
    repository: &RepositoryName,
) -> Result<ChosenOverrides> {
    let Some(function) = context.function() else {
        return Ok(ChosenOverrides::default());
    };
    if context.config.custom_data == CustomData::Ignore {
        return Ok(ChosenOverrides::default());
    }
    let set = context.codecommit.get_triggers(repository).await?;
    let own = set
        .triggers
        .into_iter()
        .filter(|trigger| function.is_same_function(&trigger.destination_arn));
    let chosen = own.map(|trigger| TriggerOverrides {
        branches: trigger.branches,
        overrides: Overrides::read(trigger.custom_data.as_deref())
            .and_then(|overrides| overrides.allowed(context.config.custom_data, repository))
            .map_err(|error| format!("trigger `{}`: {}", trigger.name, error.report())),
    });
    Ok(ChosenOverrides(chosen.collect()))
}
