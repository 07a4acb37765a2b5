//! The difference between the triggers that are there and those that are wanted. Pure.
//!
//! Two triggers are equal when they do the same: the order of triggers, of branches and
//! of events does not count.

use std::collections::BTreeSet;

use serde::Serialize;

use super::naming::TriggerPrefix;
use crate::codecommit::{Trigger, TriggerEvent};

/// What is to be written, and what that changes. Serialises as what a reader wants to
/// know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TriggerPlan {
    /// Triggers of ours that are missing.
    pub added: Vec<Trigger>,
    /// Triggers of ours that are not as they should be: as they are, as they should be.
    pub changed: Vec<(Trigger, Trigger)>,
    /// Triggers of ours that are not needed.
    pub removed: Vec<Trigger>,
    /// Triggers of ours that are as they should be.
    pub kept: Vec<Trigger>,
    /// Foreign triggers, unchanged.
    pub foreign: Vec<Trigger>,
    /// Foreign triggers that another writer dropped, to be put back.
    pub returned: Vec<Trigger>,
}

impl TriggerPlan {
    /// Compares `present` with `wanted` (ours) and `returned` (foreign triggers that are
    /// to be there again).
    pub fn new(
        prefix: &TriggerPrefix,
        present: &[Trigger],
        wanted: &[Trigger],
        returned: &[Trigger],
    ) -> Self {
        let (mut ours, foreign) = partition_owned(prefix, present);
        let mut plan = Self {
            added: Vec::new(),
            changed: Vec::new(),
            removed: Vec::new(),
            kept: Vec::new(),
            foreign,
            returned: returned.to_vec(),
        };
        for trigger in wanted {
            let Some(at) = ours.iter().position(|own| own.name == trigger.name) else {
                plan.added.push(trigger.clone());
                continue;
            };
            let own = ours.remove(at);
            if is_same(&own, trigger) {
                plan.kept.push(own);
            } else {
                plan.changed.push((own, trigger.clone()));
            }
        }
        plan.removed = ours;
        plan
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.changes() == 0
    }

    /// How many triggers a write adds, changes, removes or puts back.
    pub fn changes(&self) -> usize {
        self.added.len() + self.changed.len() + self.removed.len() + self.returned.len()
    }

    /// The whole set to write: foreign triggers first, as they are.
    pub fn triggers_to_put(&self) -> Vec<Trigger> {
        let changed = self.changed.iter().map(|(_, wanted)| wanted);
        let ours = self.kept.iter().chain(changed).chain(&self.added);
        let foreign = self.foreign.iter().chain(&self.returned);
        foreign.chain(ours).cloned().collect()
    }
}

/// Divides triggers into ours and foreign ones.
pub fn partition_owned(
    prefix: &TriggerPrefix,
    triggers: &[Trigger],
) -> (Vec<Trigger>, Vec<Trigger>) {
    let ours = |trigger: &Trigger| prefix.is_ours(&trigger.name);
    triggers.iter().cloned().partition(ours)
}

/// Whether two triggers do the same under the same name.
pub fn is_same(a: &Trigger, b: &Trigger) -> bool {
    a.name == b.name && canonical(a) == canonical(b)
}

/// Whether two sets have the same triggers.
pub fn is_same_set(a: &[Trigger], b: &[Trigger]) -> bool {
    a.len() == b.len() && sorted(a) == sorted(b)
}

fn sorted(triggers: &[Trigger]) -> Vec<(&str, Canonical<'_>)> {
    let mut set: Vec<_> = triggers
        .iter()
        .map(|trigger| (trigger.name.as_str(), canonical(trigger)))
        .collect();
    set.sort_unstable();
    set
}

type Canonical<'a> = (&'a str, &'a str, BTreeSet<&'a str>, BTreeSet<TriggerEvent>);

fn canonical(trigger: &Trigger) -> Canonical<'_> {
    (
        &trigger.destination_arn,
        // The service may give an empty text back as none, and the other way round.
        trigger.custom_data.as_deref().unwrap_or_default(),
        trigger.branches.iter().map(String::as_str).collect(),
        trigger.events.iter().copied().collect(),
    )
}
