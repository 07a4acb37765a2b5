//! Repository triggers: the ones that the branches need, the difference from the observed
//! ones, and the one write that makes both equal.
//!
//! *Owned* triggers are branchline's, identified by name; all others are *foreign*.
//!
//! - [`naming`]: names of owned triggers, and recognition by name;
//! - [`policy`]: branches and limits to desired triggers (pure);
//! - [`plan`]: desired and observed triggers to a difference (pure);
//! - [`foreign_triggers`]: foreign triggers that another writer dropped meanwhile (pure);
//! - [`reconcile`]: read, decide, write, read back;
//! - [`invocation_event`]: the event that invokes update for a newly covered branch.
//!
//! # Guarantees with concurrent writers
//!
//! `PutRepositoryTriggers` replaces the whole set and has no precondition, so that a write
//! by another client that takes effect between the run's last read and its write is lost
//! unseen. All other concurrent writes are detected:
//!
//! - the triggers are read directly before they are written: the window is one request;
//! - a write is never repeated blindly: after a refusal or a lost answer the triggers are
//!   read again first;
//! - if the set changes while the branches are listed, they are listed again, so that an
//!   older view is never written over a newer one;
//! - the set is read back; if another set is found, the run starts again from that set;
//! - a foreign trigger that the run read or wrote, and that vanished in a set which another
//!   reconciler wrote, is restored ([`foreign_triggers`]).
//!
//! Not detected: a foreign trigger added, edited or deleted **within that one window** is
//! undone, and a foreign trigger deleted between the write and the read back may be restored
//! once. Reserved concurrency 1 for the lifecycle function prevents a second reconciler; two
//! deployments that share a repository must have different `TRIGGER_PREFIX`es.
//!
//! # The first push
//!
//! The push that creates a branch comes before its trigger. After the write, update is
//! therefore invoked once for each branch that a set read or written by the run did not
//! cover. [`PendingInvocations`] carries the branches that could not be invoked to the next
//! run of the same execution environment; also those not known yet, because a trigger for
//! all branches covers branches created after the listing, which only the next listing
//! shows. The update function's schedule archives branches that are lost with the
//! environment.

pub mod foreign_triggers;
pub mod invocation_event;
pub mod naming;
pub mod plan;
pub mod policy;
pub mod reconcile;

pub use naming::TriggerPrefix;
pub use plan::TriggerPlan;
pub use policy::{CustomData, DesiredTriggers, Policy, TriggerLimits, TriggerMode};
pub use reconcile::{
    PendingInvocations, Preview, ReconcileOutcome, Reconciled, Reconciler, preview,
};
