//! The difference between observed and desired triggers. Pure.
//!
//! Triggers are compared by effect: the order of triggers, of branches and of events does
//! not count.

use std::collections::BTreeSet;

use serde::Serialize;

use super::naming::TriggerPrefix;
use crate::codecommit::{Trigger, TriggerEvent};

/// Triggers to write, grouped by what the write changes; serialised for previews.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TriggerPlan {
    /// Owned triggers that are missing.
    pub added: Vec<Trigger>,
    /// Owned triggers that differ: observed, desired.
    pub changed: Vec<(Trigger, Trigger)>,
    /// Owned triggers that are not needed.
    pub removed: Vec<Trigger>,
    /// Owned triggers that equal the desired ones.
    pub kept: Vec<Trigger>,
    /// Foreign triggers, unchanged.
    pub foreign: Vec<Trigger>,
    /// Foreign triggers that another writer dropped, to be restored.
    pub returned: Vec<Trigger>,
}

impl TriggerPlan {
    /// Compares the observed triggers `present` with the owned ones that are `desired` and the
    /// foreign ones to restore, `returned`.
    pub fn new(
        prefix: &TriggerPrefix,
        present: &[Trigger],
        desired: &[Trigger],
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
        for trigger in desired {
            let Some(index) = ours.iter().position(|own| own.name == trigger.name) else {
                plan.added.push(trigger.clone());
                continue;
            };
            let own = ours.remove(index);
            if is_same(&own, trigger) {
                plan.kept.push(own);
            } else {
                plan.changed.push((own, trigger.clone()));
            }
        }
        plan.removed = ours;
        plan
    }

    /// Returns true if there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.changes() == 0
    }

    /// Number of triggers that the write adds, changes, removes or restores.
    pub fn changes(&self) -> usize {
        self.added.len() + self.changed.len() + self.removed.len() + self.returned.len()
    }

    /// Returns the whole set to write: foreign triggers first, unchanged.
    pub fn triggers_to_put(&self) -> Vec<Trigger> {
        let changed = self.changed.iter().map(|(_, desired)| desired);
        let ours = self.kept.iter().chain(changed).chain(&self.added);
        let foreign = self.foreign.iter().chain(&self.returned);
        foreign.chain(ours).cloned().collect()
    }
}

/// Divides triggers into owned and foreign ones.
pub fn partition_owned(
    prefix: &TriggerPrefix,
    triggers: &[Trigger],
) -> (Vec<Trigger>, Vec<Trigger>) {
    let ours = |trigger: &Trigger| prefix.is_ours(&trigger.name);
    triggers.iter().cloned().partition(ours)
}

/// Returns true if two triggers have equal names and equal effects.
pub fn is_same(a: &Trigger, b: &Trigger) -> bool {
    a.name == b.name && canonical(a) == canonical(b)
}

/// Returns true if two sets have equal triggers, in any order.
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
        // The service may return an empty text for none, and none for an empty text.
        trigger.custom_data.as_deref().unwrap_or_default(),
        trigger.branches.iter().map(String::as_str).collect(),
        trigger.events.iter().copied().collect(),
    )
}
