//! The difference between two remotes, as ref updates. Pure.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use bstr::{BStr, BString, ByteSlice as _};

use super::head::{BranchNames, branches, wanted_head};
use super::stale_ref::{is_stale, stale_name};
use crate::error::{Error, ErrorKind, Result};
use crate::mirror::RefSelection;
use crate::mirror::temporary_tag::is_temporary;
use crate::remote::{Head, RefUpdate, RefValue, Refs, Snapshot, conflicting_refs};

/// Ref updates that make the target's selected refs equal the source's, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MirrorPlan {
    /// New refs under which stale ones are kept, because these are in the way of others.
    pub copies: Vec<RefUpdate>,
    /// Deletions of refs whose names conflict with others (`a` and `a/b`): stale ones after they
    /// were copied, and pruned ones.
    pub conflicting_deletions: Vec<RefUpdate>,
    /// New and moved refs: the branch that the source's `HEAD` names first, then the others, by
    /// name.
    pub changes: Vec<RefUpdate>,
    /// New target of `HEAD`, if it differs.
    pub head: Option<Head>,
    /// Deletions of pruned refs whose names conflict with no other.
    pub deletions: Vec<RefUpdate>,
    /// Refs that are set aside, with their new names.
    pub set_aside: BTreeMap<BString, BString>,
    /// Selected refs that the target cannot have, with the reasons.
    pub rejected: BTreeMap<BString, String>,
    /// Number of selected refs that are equal already.
    pub unchanged: u64,
}

/// Rules of a [`plan()`].
#[derive(Debug, Clone, Copy, Default)]
pub struct PlanRules<'a> {
    /// Deletes selected refs of the target that the source does not have.
    pub prune: bool,
    /// Lets `prune` delete every selected ref.
    pub prune_all: bool,
    /// Sets refs aside that are in the way of others, instead of rejecting the others.
    pub sets_aside: bool,
    /// The source's `HEAD`, if the target can have it.
    pub head: Option<&'a Head>,
}

/// Plans the updates of `selection`.
///
/// # Errors
/// `Config` if the two sides use different hash functions. `Rejected` if every selected ref
/// would be deleted, unless the rules allow that.
pub fn plan(
    source: &Snapshot,
    target: &Snapshot,
    selection: &RefSelection,
    rules: PlanRules<'_>,
) -> Result<MirrorPlan> {
    if !target.refs.is_empty() && !source.refs.is_empty() && source.hash != target.hash {
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "the source uses {} and the target {}",
                source.hash, target.hash
            ),
        )
        .with_hint("git cannot convert between them: use an empty target"));
    }
    // Temporary tags of a migration are not mirrored, on either side.
    let selects = |name: &BStr| selection.selects(name) && !is_temporary(name);
    // Names take much memory, and most mirrors select all that the source lists.
    let mut wanted = Cow::Borrowed(&source.refs);
    if !source.refs.keys().all(|name| selects(name.as_ref())) {
        wanted.to_mut().retain(|name, _| selects(name.as_ref()));
    }
    let mut pruned = BTreeSet::new();
    if rules.prune {
        pruned.extend(target.refs.keys().filter(|name| {
            let selected = selection.prunes(name.as_bstr()) && !is_temporary(name.as_bstr());
            selected && !source.refs.contains_key(*name)
        }));
        if wanted.is_empty() && !pruned.is_empty() && !rules.prune_all {
            return Err(prunes_everything_error(pruned.len()));
        }
    }
    let mut rejected = reject_conflicts_of_source(&mut wanted);
    let conflicts = Conflicts {
        target: &target.refs,
        wanted: &wanted,
        pruned: &pruned,
        selects: &selects,
        sets_aside: rules.sets_aside,
    };
    let (conflicting, mut stale, blocked) = conflicts.find();
    stale.extend(conflicts.find_among_stale(&stale));
    if !blocked.is_empty() {
        wanted
            .to_mut()
            .retain(|name, _| target.refs.contains_key(name) || !blocked.contains_key(name));
    }
    rejected.extend(blocked.into_iter().filter(|(name, _)| {
        // A ref that exists beside one in its way is only updated.
        !target.refs.contains_key(name)
    }));

    let mut plan = MirrorPlan {
        rejected,
        ..MirrorPlan::default()
    };
    let mut taken = Refs::new();
    if !stale.is_empty() {
        taken.clone_from(&target.refs);
        taken.extend(wanted.iter().map(|(name, new)| (name.clone(), *new)));
    }
    for name in stale {
        let was = target.refs[name];
        let kept = stale_name(&taken, name.as_ref(), was.id);
        if !target.refs.contains_key(&kept) {
            plan.copies.push(update(&kept, None, Some(was)));
        }
        taken.insert(kept.clone(), was);
        plan.conflicting_deletions
            .push(update(name, Some(was), None));
        plan.set_aside.insert(name.clone(), kept);
    }
    for name in pruned {
        let deletion = update(name, Some(target.refs[name]), None);
        if conflicting.contains(name) {
            plan.conflicting_deletions.push(deletion);
        } else {
            plan.deletions.push(deletion);
        }
    }
    for (name, new) in &*wanted {
        let old = target.refs.get(name).copied();
        if old.map(|old| old.id) == Some(new.id) {
            plan.unchanged += 1;
        } else {
            plan.changes.push(update(name, old, Some(*new)));
        }
    }
    let source_head = rules.head.filter(|head| match head {
        Head::Symbolic(name) => selects(name.as_ref()),
        Head::Detached(_) => true,
    });
    let deletions = plan.conflicting_deletions.iter().chain(&plan.deletions);
    let after = RefsAfter {
        target: &target.refs,
        wanted: &wanted,
        deleted: deletions.map(|deletion| &deletion.name).collect(),
        set_aside: &plan.set_aside,
    };
    let head = wanted_head(source_head, &after, target.head.as_ref());
    // A server may choose the first branch that it receives as its default branch.
    if let Some(Head::Symbolic(first)) = source.head.as_ref().or(head.as_ref()) {
        let mut changes = plan.changes.iter();
        if let Some(at) = changes.position(|change| change.name == *first) {
            plan.changes[..=at].rotate_right(1);
        }
    }
    plan.head = head.filter(|head| target.head.as_ref() != Some(head));
    Ok(plan)
}

fn update(name: &BString, old: Option<RefValue>, new: Option<RefValue>) -> RefUpdate {
    RefUpdate {
        name: name.clone(),
        old: old.map(|old| old.id),
        new,
    }
}

/// The target's refs after a plan, without a copy of their names.
struct RefsAfter<'a> {
    target: &'a Refs,
    wanted: &'a Refs,
    deleted: HashSet<&'a BString>,
    set_aside: &'a BTreeMap<BString, BString>,
}

impl BranchNames for RefsAfter<'_> {
    fn has(&self, name: &BString) -> bool {
        let is_copy = || self.set_aside.values().any(|kept| kept == name);
        let stays = || self.target.contains_key(name) && !self.deleted.contains(name);
        self.wanted.contains_key(name) || stays() || is_copy()
    }

    fn first_branch(&self) -> Option<&BString> {
        let staying = branches(self.target).find(|name| !self.deleted.contains(name));
        branches(self.wanted)
            .next()
            .into_iter()
            .chain(staying)
            .min()
    }
}

fn prunes_everything_error(count: usize) -> Error {
    Error::new(
        ErrorKind::Rejected,
        format!("the source has no selected ref: `prune` would delete all {count} of the target"),
    )
    .with_hint("check the source; `\"prune\": \"all\"` deletes them")
}

/// Removes the refs that a source cannot have beside its others; returns the reasons.
fn reject_conflicts_of_source(wanted: &mut Cow<'_, Refs>) -> BTreeMap<BString, String> {
    let mut rejected = BTreeMap::new();
    for name in wanted.keys() {
        let other = conflicting_refs(wanted, name.as_ref()).last();
        if let Some(other) = other.filter(|other| other.len() > name.len()) {
            let reason = format!(
                "the source has `{other}` too, and a repository cannot have both; hint: rename \
                 or delete one of them at the source"
            );
            rejected.insert(name.clone(), reason);
        }
    }
    if !rejected.is_empty() {
        wanted
            .to_mut()
            .retain(|name, _| !rejected.contains_key(name));
    }
    rejected
}

/// Search for refs of the target that are in the way of others.
struct Conflicts<'t, 'a> {
    target: &'t Refs,
    wanted: &'a Refs,
    pruned: &'a BTreeSet<&'t BString>,
    selects: &'a dyn Fn(&BStr) -> bool,
    sets_aside: bool,
}

/// Pruned refs in the way of others, stale refs to be set aside, and wanted refs that cannot be
/// created, with the reasons.
type FoundConflicts<'t> = (
    BTreeSet<&'t BString>,
    BTreeSet<&'t BString>,
    BTreeMap<BString, String>,
);

impl<'t> Conflicts<'t, '_> {
    fn find(&self) -> FoundConflicts<'t> {
        let (mut conflicting, mut stale, mut blocked) =
            (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        for name in self.wanted.keys() {
            let (pruned, kept): (Vec<_>, Vec<_>) = conflicting_refs(self.target, name.as_ref())
                .filter_map(|other| self.target.get_key_value(other))
                .map(|(other, _)| other)
                .partition(|other| self.pruned.contains(other));
            let mut kept_refs = kept.iter();
            if let Some(other) = kept_refs.find(|other| !self.can_set_aside(other.as_bstr())) {
                blocked.insert(name.clone(), self.reason(other));
            } else {
                conflicting.extend(pruned);
                stale.extend(kept);
            }
        }
        (conflicting, stale, blocked)
    }

    /// Finds refs that the source does not have and that are in each other's way, as concurrent
    /// clients of the bundle layout can leave them: the shorter ones.
    fn find_among_stale(&self, found: &BTreeSet<&'t BString>) -> Vec<&'t BString> {
        let stays = |name: &BString| !self.pruned.contains(name) && !found.contains(name);
        let is_stale = |name: &&BString| {
            stays(name)
                && !self.wanted.contains_key(*name)
                && self.can_set_aside(name.as_bstr())
                && conflicting_refs(self.target, name.as_bstr())
                    .filter_map(|other| self.target.get_key_value(other))
                    .any(|(other, _)| other.len() > name.len() && stays(other))
        };
        self.target.keys().filter(is_stale).collect()
    }

    fn can_set_aside(&self, name: &BStr) -> bool {
        self.sets_aside && (self.selects)(name) && !is_stale(name)
    }

    fn reason(&self, other: &BString) -> String {
        let remedy = if (self.selects)(other.as_bstr()) {
            "delete or rename it there, or mirror with `\"prune\": true`"
        } else {
            "the mapping does not select it: delete or rename it there"
        };
        format!(
            "`{other}` of the target is in the way, because a repository cannot have both; hint: \
             {remedy}"
        )
    }
}

#[cfg(test)]
mod tests;
