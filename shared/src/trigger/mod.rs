//! Repository triggers: which ones the branches need, what differs from those that are
//! there, and the one write that makes them equal.
//!
//! - [`naming`]: the names of our triggers, and which triggers are ours by them;
//! - [`policy`]: branches and limits to wanted triggers (pure);
//! - [`plan`]: wanted and present triggers to a difference (pure);
//! - [`foreign_triggers`]: foreign triggers that another writer dropped meanwhile (pure);
//! - [`reconcile`]: read, decide, write, read back;
//! - [`invocation_event`]: the call of the update function for a branch newly covered.
//!
//! # What holds while others write
//!
//! `PutRepositoryTriggers` replaces the whole set and takes no precondition, so that a
//! write by someone else which takes effect between our last read and our write is
//! replaced without a trace. Everything else is noticed:
//!
//! - the triggers are read directly before they are written: the window is one request;
//! - a write is never blindly repeated: after a refusal or a lost answer the triggers are
//!   read anew first;
//! - a set that changed while the branches were listed makes us list them again, so that
//!   we never write an older view over a newer one that we could see;
//! - the set is read back; another's is taken as the new present, and all is done again;
//! - a foreign trigger that we saw or wrote, and that vanished in a set which another
//!   reconciler wrote, is put back ([`foreign_triggers`]).
//!
//! What remains: a foreign trigger added, edited or deleted **within that one window** is
//! undone, and a foreign trigger deleted between our write and our read back may return
//! once. Reserved concurrency 1 for the lifecycle function keeps a second reconciler, and
//! with it the need for most of this, away; two deployments that share a repository must
//! have different `TRIGGER_PREFIX`es.
//!
//! # The first push
//!
//! The push that makes a branch comes before its trigger, so update is invoked once for
//! each branch that a set seen or written by the run left out, after the write. What
//! cannot be invoked, or cannot be known yet, is [`PendingInvocations`] by the next run of the same
//! environment: a trigger for all branches also covers branches that came after they were
//! listed; the next list tells which. What is lost with the environment, the update
//! function's schedule finds.

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
