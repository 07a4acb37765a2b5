//! What one run saw of the triggers, to tell when another reconciler dropped a foreign
//! trigger. Pure.
//!
//! Another reconciler that read before a foreign trigger was added and wrote afterwards
//! drops it, and cannot know. Whoever saw that trigger can: it vanished in a set that a
//! reconciler wrote. Someone who deletes a trigger deliberately leaves ours as they were;
//! so a vanished trigger is put back only when ours show a reconciler's hand:
//!
//! - one of ours is there in a form that this run never saw before; or
//! - ours are exactly what this run itself just wrote. Then a deliberate deletion, read
//!   and written between our write and our read back, would look the same; since a lost
//!   trigger is silent and a returned one is not, it is put back, once, with a warning.
//!
//! Edits of foreign triggers are not judged: the last form seen counts.

use super::naming::TriggerPrefix;
use super::plan::{is_same, is_same_set, partition_owned};
use crate::codecommit::Trigger;

/// The memory of one run.
#[derive(Debug, Clone)]
pub struct ForeignTriggerTracker {
    prefix: TriggerPrefix,
    ours: Vec<Trigger>,
    last: Option<Last>,
    lost: Vec<Trigger>,
}

#[derive(Debug, Clone)]
struct Last {
    set: Vec<Trigger>,
    written_by_us: bool,
}

impl ForeignTriggerTracker {
    /// A memory of nothing.
    pub fn new(prefix: &TriggerPrefix) -> Self {
        Self {
            prefix: prefix.clone(),
            ours: Vec::new(),
            last: None,
            lost: Vec::new(),
        }
    }

    /// Takes in what was read.
    pub fn read(&mut self, set: &[Trigger]) {
        let (ours, foreign) = partition_owned(&self.prefix, set);
        if let Some(last) = self.last.take() {
            let (last_ours, last_foreign) = partition_owned(&self.prefix, &last.set);
            let is_new = |own: &Trigger| !self.ours.iter().any(|seen| is_same(seen, own));
            let by_reconciler = ours.iter().any(is_new)
                || last.written_by_us
                    && is_same_set(&ours, &last_ours)
                    && !is_same_set(set, &last.set);
            if by_reconciler {
                self.lost.retain(|lost| !is_named(&last_foreign, lost));
                self.lost.extend(last_foreign);
            }
        }
        self.lost.retain(|lost| !is_named(&foreign, lost));
        self.remember(set, false);
    }

    /// Takes in what we wrote.
    pub fn record_write(&mut self, set: &[Trigger]) {
        self.remember(set, true);
    }

    /// Foreign triggers that another reconciler dropped, and that are not there now.
    pub fn dropped_foreign_triggers(&self) -> &[Trigger] {
        &self.lost
    }

    fn remember(&mut self, set: &[Trigger], written_by_us: bool) {
        for own in partition_owned(&self.prefix, set).0 {
            if !self.ours.iter().any(|seen| is_same(seen, &own)) {
                self.ours.push(own);
            }
        }
        self.last = Some(Last {
            set: set.to_vec(),
            written_by_us,
        });
    }
}

fn is_named(triggers: &[Trigger], like: &Trigger) -> bool {
    triggers.iter().any(|trigger| trigger.name == like.name)
}
