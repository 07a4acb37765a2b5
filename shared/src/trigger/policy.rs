//! The triggers that a repository's branches need. Pure: from branches, limits and observed
//! triggers to desired ones.
//!
//! The observed triggers matter for two things only: foreign ones use up slots, and groups of
//! branches are retained, so that one branch more or less changes one trigger.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Serialize;

use super::naming::TriggerPrefix;
use crate::codecommit::{MAX_BRANCHES_PER_TRIGGER, MAX_TRIGGERS, Trigger, TriggerEvent};
use crate::error::{Error, ErrorKind, Result};
use crate::filter::{PipelineTrigger, parse_triggers};
use crate::function::FunctionArn;
use crate::name::{BranchName, RepositoryName};
use crate::pattern::BranchPatterns;
use crate::settings::Settings;

/// Events of owned triggers: a push to a branch, and the push or API call that creates the
/// branch. A deletion is left out, because a deleted branch has nothing to archive.
pub const EVENTS: [TriggerEvent; 2] =
    [TriggerEvent::UpdateReference, TriggerEvent::CreateReference];

/// Custom data of owned triggers: at most 1,000 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomData(Box<str>);

impl CustomData {
    /// Validates `text`.
    ///
    /// # Errors
    /// `Config` for more than 1,000 characters.
    pub fn new(text: &str) -> Result<Self> {
        let length = text.chars().count();
        if length > 1000 {
            return Err(Error::new(
                ErrorKind::Config,
                format!("custom data has at most 1,000 characters; this has {length}"),
            ));
        }
        Ok(Self(text.into()))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Settings that determine the desired triggers.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Patterns that select branches.
    pub branches: BranchPatterns,
    /// Start of the names of owned triggers.
    pub prefix: TriggerPrefix,
    /// The update function, which owned triggers call.
    pub destination: FunctionArn,
    /// Custom data of owned triggers.
    pub custom_data: Option<CustomData>,
    /// Filters of pipelines. Where one is of tags, one trigger covers all branches and tags,
    /// because a trigger that names branches does not fire for tags.
    pub filters: Vec<PipelineTrigger>,
}

/// Division of branches among triggers; each mode needs fewer triggers than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TriggerMode {
    /// One trigger for each branch.
    PerBranch,
    /// Several branches in a trigger.
    Packed,
    /// One trigger for all branches; update skips those that the patterns do not select.
    AllBranches,
}

impl TriggerMode {
    /// Returns the name, as in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::PerBranch => "per-branch",
            Self::Packed => "packed",
            Self::AllBranches => "all-branches",
        }
    }
}

/// Limits of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TriggerLimits {
    /// Maximum number of triggers of a repository, foreign ones included.
    pub triggers: usize,
    /// Maximum number of branches that a trigger names.
    pub branches_per_trigger: usize,
    /// First mode to try.
    pub first_mode: TriggerMode,
}

impl Default for TriggerLimits {
    /// The documented limits (CodeCommit user guide, "Quotas").
    fn default() -> Self {
        Self {
            triggers: MAX_TRIGGERS,
            branches_per_trigger: MAX_BRANCHES_PER_TRIGGER,
            first_mode: TriggerMode::PerBranch,
        }
    }
}

/// Owned triggers that the branches need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredTriggers {
    /// Division of the branches.
    pub mode: TriggerMode,
    /// Owned triggers, sorted by name.
    pub triggers: Vec<Trigger>,
}

impl Policy {
    /// Reads `BRANCHES_INCLUDE`, `BRANCHES_EXCLUDE`, `TRIGGER_PREFIX`, `UPDATE_FUNCTION_ARN`,
    /// `TRIGGER_CUSTOM_DATA` and `TRIGGERS`.
    ///
    /// # Errors
    /// `Config`, naming the variable.
    pub fn read(settings: &Settings) -> Result<Self> {
        Ok(Self {
            branches: BranchPatterns::read(settings)?,
            prefix: settings
                .optional("TRIGGER_PREFIX", TriggerPrefix::new)?
                .unwrap_or_default(),
            destination: settings.required(
                "UPDATE_FUNCTION_ARN",
                "the ARN of the update function",
                FunctionArn::new,
            )?,
            custom_data: settings.optional("TRIGGER_CUSTOM_DATA", CustomData::new)?,
            filters: settings
                .optional("TRIGGERS", parse_triggers)?
                .unwrap_or_default(),
        })
    }

    /// Returns the branches that the patterns select.
    pub fn matching<'a>(&self, branches: &'a [BranchName]) -> Vec<&'a BranchName> {
        let selected = |branch: &&BranchName| self.branches.matches(branch);
        branches.iter().filter(selected).collect()
    }

    /// Computes the triggers that `branches` need: those that [`matching`](Self::matching)
    /// returned, sorted, without duplicates. `ours` and `foreign` are the observed triggers.
    ///
    /// # Errors
    /// `Config` if foreign triggers use all slots.
    pub fn desired_triggers(
        &self,
        repository: &RepositoryName,
        limits: TriggerLimits,
        branches: &[&BranchName],
        ours: &[Trigger],
        foreign: &[Trigger],
    ) -> Result<DesiredTriggers> {
        let slots = limits.triggers.saturating_sub(foreign.len());
        if branches.is_empty() {
            return Ok(DesiredTriggers {
                mode: TriggerMode::PerBranch,
                triggers: Vec::new(),
            });
        }
        if slots == 0 {
            return Err(no_slot_error(repository, limits, foreign));
        }
        let packable = slots.saturating_mul(limits.branches_per_trigger);
        let mut filters = self.filters.iter();
        let first_mode = if filters.any(|filter| filter.has_tag_filter(repository)) {
            TriggerMode::AllBranches
        } else {
            limits.first_mode
        };
        let (mode, mut triggers) =
            if first_mode == TriggerMode::PerBranch && branches.len() <= slots {
                (
                    TriggerMode::PerBranch,
                    self.one_trigger_per_branch(branches),
                )
            } else if first_mode <= TriggerMode::Packed && branches.len() <= packable {
                let groups = pack(
                    branches,
                    &self.groups(ours, limits),
                    slots,
                    limits.branches_per_trigger,
                );
                let named = |(number, group)| self.trigger(self.prefix.of_group(number), group);
                (TriggerMode::Packed, groups.into_iter().map(named).collect())
            } else {
                let all = self.trigger(self.prefix.of_all(), BTreeSet::new());
                (TriggerMode::AllBranches, vec![all])
            };
        triggers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(DesiredTriggers { mode, triggers })
    }

    fn one_trigger_per_branch(&self, branches: &[&BranchName]) -> Vec<Trigger> {
        // Lower case, because it is not documented whether CodeCommit compares names
        // case-sensitively.
        let mut taken = HashSet::new();
        let named = branches.iter().map(|branch| {
            let name = (0..=u32::MAX)
                .map(|salt| self.prefix.of_branch(branch.as_str(), salt))
                .find(|name| taken.insert(name.to_ascii_lowercase()))
                .expect("because there are more salts than triggers");
            self.trigger(name, BTreeSet::from([branch.as_str()]))
        });
        named.collect()
    }

    fn trigger(&self, name: String, branches: BTreeSet<&str>) -> Trigger {
        Trigger {
            name,
            destination_arn: self.destination.as_str().to_owned(),
            custom_data: self
                .custom_data
                .as_ref()
                .map(|data| data.as_str().to_owned()),
            branches: branches.into_iter().map(str::to_owned).collect(),
            events: EVENTS.to_vec(),
        }
    }

    /// Returns the observed groups of branches, by number.
    fn groups<'a>(&self, ours: &'a [Trigger], limits: TriggerLimits) -> Groups<'a> {
        let numbers = (1..=limits.triggers).map(|number| (self.prefix.of_group(number), number));
        let numbers: BTreeMap<String, usize> = numbers.collect();
        let found = ours.iter().filter_map(|trigger| {
            let number = *numbers.get(&trigger.name)?;
            Some((
                number,
                trigger.branches.iter().map(String::as_str).collect(),
            ))
        });
        found.collect()
    }
}

type Groups<'a> = BTreeMap<usize, BTreeSet<&'a str>>;

/// Divides `branches` among at most `slots` groups of at most `per_group` branches and changes
/// as few of the groups `present` as possible. The slots must suffice for all branches.
fn pack<'a>(
    branches: &[&'a BranchName],
    present: &Groups<'_>,
    slots: usize,
    per_group: usize,
) -> Groups<'a> {
    let mut left: BTreeSet<&'a str> = branches.iter().map(|branch| branch.as_str()).collect();
    let mut groups = Groups::new();
    let mut changed = HashSet::new();
    for (number, members) in present {
        let stay: BTreeSet<&'a str> = members
            .iter()
            .filter_map(|member| left.get(*member).copied())
            .take(per_group)
            .collect();
        left.retain(|branch| !stay.contains(branch));
        if stay.len() != members.len() {
            changed.insert(*number);
        }
        if !stay.is_empty() {
            groups.insert(*number, stay);
        }
    }
    // Foreign triggers may have used up slots: the smallest groups are dissolved.
    while groups.len() > slots {
        let smallest = groups
            .iter()
            .min_by_key(|(number, group)| (group.len(), std::cmp::Reverse(**number)))
            .map(|(number, _)| *number);
        left.extend(
            smallest
                .and_then(|number| groups.remove(&number))
                .unwrap_or_default(),
        );
    }
    for branch in left {
        // A group that changes anyhow is filled first, then the smallest one.
        let open = groups
            .iter()
            .filter(|(_, group)| group.len() < per_group)
            .min_by_key(|(number, group)| (!changed.contains(*number), group.len(), **number))
            .map(|(number, _)| *number);
        let number = open.unwrap_or_else(|| {
            (1..=groups.len() + 1)
                .find(|number| !groups.contains_key(number))
                .expect("because there is one number more than groups")
        });
        changed.insert(number);
        groups.entry(number).or_default().insert(branch);
    }
    groups
}

fn no_slot_error(repository: &RepositoryName, limits: TriggerLimits, foreign: &[Trigger]) -> Error {
    let names: Vec<_> = foreign
        .iter()
        .map(|trigger| format!("`{}`", trigger.name))
        .collect();
    Error::new(
        ErrorKind::Config,
        format!(
            "repository `{repository}` has {} triggers that are not branchline's and can have {}: \
             no slot is left for branchline's",
            foreign.len(),
            limits.triggers
        ),
    )
    .with_hint(format!("remove one of {}", names.join(", ")))
}

/// Branches whose pushes reach the update function.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BranchCoverage {
    all: bool,
    branches: HashSet<String>,
}

impl BranchCoverage {
    /// Computes the coverage by the owned ones of `triggers` that call the update function on
    /// all of [`EVENTS`].
    pub fn of(policy: &Policy, triggers: &[Trigger]) -> Self {
        let mut coverage = Self::default();
        for trigger in triggers {
            let has_all_events = trigger.events.contains(&TriggerEvent::All)
                || EVENTS.iter().all(|event| trigger.events.contains(event));
            if has_all_events
                && policy.prefix.is_ours(&trigger.name)
                && trigger.destination_arn == policy.destination.as_str()
            {
                coverage.all |= trigger.branches.is_empty();
                coverage.branches.extend(trigger.branches.iter().cloned());
            }
        }
        coverage
    }

    /// Returns true if a push to any branch reaches the update function.
    pub fn covers_all(&self) -> bool {
        self.all
    }

    /// Returns true if a push to `branch` reaches the update function.
    pub fn covers(&self, branch: &BranchName) -> bool {
        self.all || self.branches.contains(branch.as_str())
    }
}
