//! The model: the repository, the foreign triggers as their owners left them, and the tips
//! that update has seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use branchline_core::codecommit::{Trigger, TriggerEvent};
use branchline_core::name::{BranchName, CommitId, RepositoryName};
use branchline_core::testkit::{CodeCommitOptions, Entry, MemoryCodeCommit};
use branchline_core::trigger::plan::{is_same, partition_owned};
use branchline_core::trigger::{Policy, TriggerMode};
use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};

use super::{BRANCHES, Branch, EXCLUDED, ODD_NAMES};

pub(crate) const REGION: &str = "eu-west-1";
/// Limits of the service: low, so that few branches reach every mode.
pub(crate) const MAX_TRIGGERS: usize = 5;
pub(crate) const MAX_BRANCHES: usize = 3;

pub(crate) fn repository() -> RepositoryName {
    RepositoryName::new("demo").unwrap()
}

pub(crate) struct RepositoryModel {
    pub(crate) policy: Policy,
    pub(crate) service: Arc<MemoryCodeCommit>,
    tips: BTreeMap<Branch, CommitId>,
    seen: BTreeMap<Branch, CommitId>,
    pub(crate) events: Vec<Value>,
    commits: u32,
    odd: BTreeSet<usize>,
    /// Branches whose keys have an artifact of another account.
    pub(crate) foreign_artifacts: BTreeSet<Branch>,
    /// Foreign triggers as their owners left them.
    foreign: BTreeMap<String, Trigger>,
    /// Number of writes of triggers, by all writers.
    version: u64,
    /// `version` at each function's last read.
    read: [u64; 2],
    /// `version` at the last change of each foreign trigger.
    touched: BTreeMap<String, u64>,
    excused: BTreeSet<String>,
    may_return: BTreeSet<String>,
    pub(crate) blind: u32,
    pub(crate) writes: u32,
}

impl RepositoryModel {
    pub(crate) fn new(policy: Policy) -> Self {
        let service = Arc::new(MemoryCodeCommit::with_options(CodeCommitOptions {
            page: 3,
            max_triggers: MAX_TRIGGERS,
            max_branches_per_trigger: MAX_BRANCHES,
            region: REGION.into(),
            unordered: false,
        }));
        service.add_repository(&repository());
        Self {
            policy,
            service,
            tips: BTreeMap::new(),
            seen: BTreeMap::new(),
            events: Vec::new(),
            commits: 0,
            odd: BTreeSet::new(),
            foreign_artifacts: BTreeSet::new(),
            foreign: BTreeMap::new(),
            version: 0,
            read: [0; 2],
            touched: BTreeMap::new(),
            excused: BTreeSet::new(),
            may_return: BTreeSet::new(),
            blind: 0,
            writes: 0,
        }
    }

    // Git users.

    pub(crate) fn push(&mut self, branch: Branch) {
        self.commits += 1;
        let change = [("f", Entry::file(self.commits.to_string()))];
        let tip = self
            .service
            .commit(&repository(), BRANCHES[branch], &change);
        self.moved(branch, tip);
    }

    pub(crate) fn rename(&mut self, from: Branch, to: Branch) {
        if let Some(tip) = self.tips.get(&from).copied().filter(|_| from != to) {
            self.service.set_branch(&repository(), BRANCHES[to], tip);
            self.moved(to, tip);
            self.delete(from);
        }
    }

    pub(crate) fn delete(&mut self, branch: Branch) {
        if self.tips.remove(&branch).is_some() {
            self.service.delete_branch(&repository(), BRANCHES[branch]);
            self.seen.remove(&branch);
            self.events.push(change("referenceDeleted", branch));
        }
    }

    pub(crate) fn push_odd(&mut self, which: usize) {
        if self.odd.insert(which) {
            self.service.add_odd_branch(&repository(), ODD_NAMES[which]);
        }
    }

    fn moved(&mut self, branch: Branch, tip: CommitId) {
        let created = self.tips.insert(branch, tip).is_none();
        if created {
            self.events.push(change("referenceCreated", branch));
        }
        if !self.firing(branch, created).is_empty() {
            self.update_reads_tip(branch);
        }
    }

    /// Owned triggers that a push to the branch fires.
    pub(crate) fn firing(&self, branch: Branch, created: bool) -> Vec<Trigger> {
        let event = if created {
            TriggerEvent::CreateReference
        } else {
            TriggerEvent::UpdateReference
        };
        let mut ours = partition_owned(&self.policy.prefix, &self.triggers()).0;
        ours.retain(|own| {
            let watches =
                own.branches.is_empty() || own.branches.iter().any(|name| name == BRANCHES[branch]);
            watches
                && own.events.contains(&event)
                && own.destination_arn == self.policy.destination.as_str()
        });
        ours
    }

    /// Records that the update function read the branch's tip.
    pub(crate) fn update_reads_tip(&mut self, branch: Branch) {
        if let Some(tip) = self.tips.get(&branch) {
            self.seen.insert(branch, *tip);
        }
    }

    pub(crate) fn is_live(&self, branch: Branch) -> bool {
        self.tips.contains_key(&branch)
    }

    // Other writers of triggers.

    pub(crate) fn set_foreign(&mut self, which: usize, form: usize) {
        let trigger = Trigger {
            name: format!("branchline-mail-{which}"),
            destination_arn: "arn:aws:sns:eu-west-1:111122223333:topic".into(),
            custom_data: Some(format!("form {form}")),
            branches: [vec![], vec!["main".into()]][form % 2].clone(),
            events: vec![TriggerEvent::All],
        };
        let mut all = self.triggers();
        all.retain(|other| other.name != trigger.name);
        if all.len() == MAX_TRIGGERS {
            // The service would reject one more.
            return;
        }
        all.push(trigger.clone());
        self.write_by_hand(all);
        self.touched.insert(trigger.name.clone(), self.version);
        self.foreign.insert(trigger.name.clone(), trigger);
    }

    pub(crate) fn remove_foreign(&mut self, which: usize, function_running: bool) {
        let name = format!("branchline-mail-{which}");
        let mut all = self.triggers();
        let before = all.len();
        all.retain(|other| other.name != name);
        if all.len() < before {
            self.write_by_hand(all);
            self.removed(name, function_running);
        }
    }

    pub(crate) fn clear(&mut self, function_running: bool) {
        self.write_by_hand(Vec::new());
        let names: Vec<_> = self.foreign.keys().cloned().collect();
        for name in names {
            self.removed(name, function_running);
        }
    }

    fn removed(&mut self, name: String, function_running: bool) {
        self.foreign.remove(&name);
        self.touched.insert(name.clone(), self.version);
        if function_running {
            self.may_return.insert(name);
        }
    }

    /// Edits an owned trigger so that it covers less.
    pub(crate) fn spoil(&mut self, which: usize, how: usize) {
        let mut all = self.triggers();
        let prefix = self.policy.prefix.clone();
        let ours: Vec<_> = (0..all.len())
            .filter(|n| prefix.is_ours(&all[*n].name))
            .collect();
        if ours.is_empty() {
            return;
        }
        let at = ours[which % ours.len()];
        match how {
            0 => drop(all.remove(at)),
            1 => all[at].destination_arn.push_str("-old"),
            2 => drop(all[at].events.pop()),
            3 => all[at].branches.truncate(1),
            _ => {
                all.reverse();
                for trigger in &mut all {
                    trigger.branches.reverse();
                }
            }
        }
        all.retain(|trigger| !trigger.events.is_empty());
        self.write_by_hand(all);
    }

    fn write_by_hand(&mut self, triggers: Vec<Trigger>) {
        self.service.set_triggers(&repository(), triggers);
        self.version += 1;
    }

    // The functions.

    pub(crate) fn triggers(&self) -> Vec<Trigger> {
        self.service.triggers(&repository())
    }

    pub(crate) fn function_reads(&mut self, function: usize) {
        self.read[function] = self.version;
    }

    /// Records that a function replaces the triggers.
    pub(crate) fn function_writes(&mut self, function: usize) {
        let read = self.read[function];
        self.writes += 1;
        if read != self.version {
            self.blind += 1;
            let unseen = self.touched.iter().filter(|(_, at)| **at > read);
            self.excused.extend(unseen.map(|(name, _)| name.clone()));
        }
        self.version += 1;
    }

    pub(crate) fn excused(&self) -> usize {
        self.excused.len()
    }

    // The checks at the end.

    /// Live selected branches, and their tips.
    pub(crate) fn selected_tips(&self) -> Vec<(&'static str, CommitId)> {
        let selected = self.tips.iter().filter(|(branch, _)| **branch != EXCLUDED);
        selected
            .map(|(branch, tip)| (BRANCHES[*branch], *tip))
            .collect()
    }

    pub(crate) fn check(&self) -> Result<(), TestCaseError> {
        self.check_ours()?;
        self.check_foreign()?;
        if self.blind == 0 {
            for (branch, tip) in self.tips.iter().filter(|(branch, _)| **branch != EXCLUDED) {
                if self.seen.get(branch) != Some(tip) {
                    return fail(format!(
                        "update never saw the tip of `{}`",
                        BRANCHES[*branch]
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_ours(&self) -> Result<(), TestCaseError> {
        let (ours, foreign) = partition_owned(&self.policy.prefix, &self.triggers());
        let live: Vec<_> = self
            .tips
            .keys()
            .filter(|b| **b != EXCLUDED)
            .copied()
            .collect();
        let slots = MAX_TRIGGERS - foreign.len();
        let covers_all = ours.iter().any(|own| own.branches.is_empty());
        let mode = if live.len() <= slots {
            TriggerMode::PerBranch
        } else if live.len() <= slots * MAX_BRANCHES {
            TriggerMode::Packed
        } else {
            TriggerMode::AllBranches
        };
        if covers_all != (mode == TriggerMode::AllBranches) || (covers_all && ours.len() != 1) {
            return fail(format!("{mode:?} is desired, found {ours:?}"));
        }
        if mode == TriggerMode::PerBranch && ours.iter().any(|own| own.branches.len() != 1) {
            return fail(format!(
                "a trigger for each branch is desired, found {ours:?}"
            ));
        }
        let watched: usize = ours.iter().map(|own| own.branches.len()).sum();
        if !covers_all && watched != live.len() {
            return fail(format!("{live:?} are live, found {ours:?}"));
        }
        for branch in live {
            for created in [false, true] {
                if self.firing(branch, created).len() != 1 {
                    return fail(format!(
                        "`{}` must fire exactly one of {ours:?}",
                        BRANCHES[branch]
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_foreign(&self) -> Result<(), TestCaseError> {
        let there = partition_owned(&self.policy.prefix, &self.triggers()).1;
        for (name, trigger) in &self.foreign {
            if !self.excused.contains(name) && !there.iter().any(|found| is_same(found, trigger)) {
                return fail(format!("foreign {trigger:?} is missing: {there:?}"));
            }
        }
        for found in &there {
            let known = self.foreign.contains_key(&found.name)
                || self.excused.contains(&found.name)
                || self.may_return.contains(&found.name);
            if !known {
                return fail(format!(
                    "foreign `{}` was restored after its deletion",
                    found.name
                ));
            }
        }
        Ok(())
    }
}

fn fail(why: String) -> Result<(), TestCaseError> {
    Err(TestCaseError::fail(why))
}

pub(crate) fn number(branch: &BranchName) -> Branch {
    let is = |name: &&str| *name == branch.as_str();
    BRANCHES.iter().position(is).unwrap()
}

/// Builds the EventBridge event about a branch.
fn change(event: &str, branch: Branch) -> Value {
    let name = BRANCHES[branch];
    json!({
        "detail-type": "CodeCommit Repository State Change",
        "source": "aws.codecommit",
        "region": REGION,
        "resources": [format!("arn:aws:codecommit:{REGION}:111122223333:demo")],
        "detail": {
            "event": event,
            "repositoryName": "demo",
            "referenceType": "branch",
            "referenceName": name,
            "referenceFullName": format!("refs/heads/{name}"),
        }
    })
}
