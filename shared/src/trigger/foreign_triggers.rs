//! Detects foreign triggers that another reconciler dropped. Pure.
//!
//! Another reconciler that read before a foreign trigger was added and wrote afterwards
//! drops that trigger without knowing. A person who deletes a trigger leaves the owned ones
//! unchanged. So a vanished foreign trigger is restored only if the owned triggers show that
//! another reconciler wrote:
//!
//! - an owned trigger has a form that this run has not seen before; or
//! - the owned triggers are exactly those that this run wrote last. A deliberate deletion
//!   between that write and the read back looks equal; the trigger is restored all the same,
//!   once, with a warning, because a lost trigger is silent and a restored one is not.
//!
//! Edits of foreign triggers are not judged: the form read last counts.

use super::naming::TriggerPrefix;
use super::plan::{is_same, is_same_set, partition_owned};
use crate::codecommit::Trigger;

/// Triggers that one run has read and written.
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
    /// Creates a tracker that has read nothing.
    pub fn new(prefix: &TriggerPrefix) -> Self {
        Self {
            prefix: prefix.clone(),
            ours: Vec::new(),
            last: None,
            lost: Vec::new(),
        }
    }

    /// Records the triggers that were read.
    pub fn record_read(&mut self, set: &[Trigger]) {
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

    /// Records the triggers that this run wrote.
    pub fn record_write(&mut self, set: &[Trigger]) {
        self.remember(set, true);
    }

    /// Foreign triggers that another reconciler dropped and that are still missing.
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
