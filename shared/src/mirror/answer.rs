//! The result of one mapping in plain data, as it is serialized for people and programs.

use std::collections::BTreeMap;

use bstr::BString;
use serde::Serialize;

use super::{ForcedUpdate, MirrorPreview, MirrorStats};
use crate::error::{Error, ErrorKind};
use crate::git::escaped_excerpt;
use crate::remote::Head;

/// Progress of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MappingStatus {
    /// The target's selected refs equal the source's.
    Complete,
    /// The deadline came first: an equal request resumes from here.
    Incomplete,
    /// See the error.
    Failed,
}

impl MappingStatus {
    /// Returns the name, as in the answer.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        }
    }
}

/// Result of one mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MappingAnswer {
    /// The source's URL, without a user or password.
    pub source: String,
    /// The target's URL, without a user or password.
    pub target: String,
    /// Progress.
    pub status: MappingStatus,
    /// Refs by outcome.
    pub refs: RefCounts,
    /// Number of objects sent.
    pub objects: u64,
    /// Bytes of packs sent.
    pub bytes: u64,
    /// Git LFS objects, which are not counted in `objects` and `bytes`.
    pub lfs: LfsCounts,
    /// Refs that a reader should know of, by name: set aside, moved by force, kept, or ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Changes that a run would make; only of a request with `plan`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanAnswer>,
    /// The error and its hint, without a user or password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Number of refs by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct RefCounts {
    /// Refs that were created.
    pub created: u64,
    /// Refs that were moved.
    pub updated: u64,
    /// Updated refs whose move was not a fast-forward.
    pub forced: u64,
    /// Refs that were deleted.
    pub deleted: u64,
    /// Refs that were equal already.
    pub unchanged: u64,
    /// Refs that the target or the mapping rejected, deletions too.
    pub rejected: u64,
    /// Refs that were set aside, because they were in the way of others.
    pub set_aside: u64,
}

/// Number of git LFS objects by outcome.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct LfsCounts {
    /// Objects copied.
    pub objects: u64,
    /// Bytes of the copied objects.
    pub bytes: u64,
    /// Objects that the target lacks, because the source does not provide them.
    pub missing: u64,
    /// Objects left out, because one side cannot store LFS objects.
    pub left_out: u64,
    /// Ids of the first 20 missing objects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_oids: Vec<String>,
    /// Ids of the first 20 objects that were left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out_oids: Vec<String>,
}

/// The refs that would be changed; at most 100 names of each kind, while the
/// counts are complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanAnswer {
    /// Refs that would be created.
    pub created: Vec<String>,
    /// Refs that would be moved.
    pub updated: Vec<String>,
    /// Updates that are not fast-forwards, with former and new ids.
    pub forced: BTreeMap<String, String>,
    /// Refs that would be deleted.
    pub deleted: Vec<String>,
    /// Refs that would be set aside, with their new names.
    pub set_aside: BTreeMap<String, String>,
    /// Refs that would be rejected, with the reasons.
    pub rejected: BTreeMap<String, String>,
    /// The ref or the commit that `HEAD` would name, if it would change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
}

/// Maximum number of names of each kind in a plan.
const MAX_PLANNED_REFS: usize = 100;
/// Maximum number of rejected refs that an error names.
const MAX_NAMED_REFS: usize = 10;
/// Maximum number of warnings of one mapping.
const MAX_WARNINGS: usize = 20;

impl PlanAnswer {
    fn new(preview: &MirrorPreview) -> Self {
        let listed = |names: &[BString]| -> Vec<String> {
            let names = names.iter().take(MAX_PLANNED_REFS);
            names.map(|name| escaped_excerpt(name)).collect()
        };
        let stats = &preview.stats;
        Self {
            created: listed(&preview.created),
            updated: listed(&preview.updated),
            forced: mapped(stats.forced.iter(), |forced| {
                format!("{} -> {}", forced.old, forced.new)
            }),
            deleted: listed(&preview.deleted),
            set_aside: mapped(stats.set_aside.iter(), |kept| escaped_excerpt(kept)),
            rejected: mapped(stats.rejected.iter(), String::clone),
            head: preview.head.as_ref().map(|head| match head {
                Head::Symbolic(name) => escaped_excerpt(name),
                Head::Detached(id) => id.to_string(),
            }),
        }
    }
}

fn mapped<'a, T: 'a>(
    refs: impl Iterator<Item = (&'a BString, &'a T)>,
    shown: impl Fn(&T) -> String,
) -> BTreeMap<String, String> {
    let refs = refs.take(MAX_PLANNED_REFS);
    refs.map(|(name, value)| (escaped_excerpt(name), shown(value)))
        .collect()
}

impl MappingAnswer {
    /// Builds the answer from the counts and the error of a mirroring.
    pub fn new(source: String, target: String, stats: &MirrorStats, error: Option<&Error>) -> Self {
        Self {
            source,
            target,
            status: if error.is_some() {
                MappingStatus::Failed
            } else if stats.complete {
                MappingStatus::Complete
            } else {
                MappingStatus::Incomplete
            },
            refs: RefCounts {
                created: stats.created,
                updated: stats.updated,
                forced: stats.forced.len() as u64,
                deleted: stats.deleted,
                unchanged: stats.unchanged,
                rejected: stats.rejected.len() as u64,
                set_aside: stats.set_aside.len() as u64,
            },
            objects: stats.objects,
            bytes: stats.bytes,
            lfs: LfsCounts {
                objects: stats.lfs.objects,
                bytes: stats.lfs.bytes,
                missing: stats.lfs.missing,
                left_out: stats.lfs.left_out,
                missing_oids: stats.lfs.missing_oids.clone(),
                left_out_oids: stats.lfs.left_out_oids.clone(),
            },
            warnings: warnings(stats),
            plan: None,
            error: error.map(Error::report),
        }
    }

    /// Adds the plan of a request that only previews; its warnings are in the plan.
    #[must_use]
    pub fn with_plan(mut self, preview: Option<&MirrorPreview>) -> Self {
        if let Some(preview) = preview {
            self.plan = Some(PlanAnswer::new(preview));
            self.warnings = ignored_refs_warning(&preview.stats).into_iter().collect();
        }
        self
    }
}

/// Describes the refs that a reader should know of, although the mapping did not fail: at most
/// [`MAX_WARNINGS`] of them by name.
fn warnings(stats: &MirrorStats) -> Vec<String> {
    let mut all = ref_warnings(stats);
    let mut warnings: Vec<String> = all.by_ref().take(MAX_WARNINGS).collect();
    let more = all.count();
    if more > 0 {
        warnings.push(format!("and {more} more refs like these"));
    }
    warnings.extend(ignored_refs_warning(stats));
    warnings
}

/// Describes the refs for which an answer has no place, for the log. An answer names the first
/// `MAX_WARNINGS`.
pub fn unanswered_ref_warnings(stats: &MirrorStats) -> impl Iterator<Item = String> {
    ref_warnings(stats).skip(MAX_WARNINGS)
}

/// Describes the refs that were set aside, moved by force, or not deleted.
fn ref_warnings(stats: &MirrorStats) -> impl Iterator<Item = String> {
    let set_aside = stats.set_aside.iter().map(|(name, kept)| {
        let (name, kept) = (escaped_excerpt(name), escaped_excerpt(kept));
        format!("`{name}` was in the way of another ref and is kept as `{kept}`")
    });
    let forced = stats
        .forced
        .iter()
        .map(|(name, ForcedUpdate { old, new })| {
            let name = escaped_excerpt(name);
            format!("`{name}` was moved by force from {old} to {new}, which does not contain it")
        });
    let undeleted = stats.undeleted.iter().map(|name| {
        let reason = stats.rejected.get(name).map_or("", String::as_str);
        let name = escaped_excerpt(name);
        format!("`{name}` was not deleted: {reason}")
    });
    set_aside.chain(forced).chain(undeleted)
}

fn ignored_refs_warning(stats: &MirrorStats) -> Option<String> {
    let ignored = &stats.ignored;
    let names: Vec<String> = ignored
        .names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    let rest = ignored.count - names.len() as u64;
    let rest = if rest > 0 {
        format!(" and {rest} more")
    } else {
        String::new()
    };
    (ignored.count > 0).then(|| {
        format!(
            "the source lists {} refs under names that git does not allow, and they are left \
             out: {}{rest}",
            ignored.count,
            names.join(", ")
        )
    })
}

/// Describes a mapping in an error, including what was done before it.
pub fn describe(answer: &MappingAnswer, stats: &MirrorStats) -> String {
    let mut name = format!("{} -> {}", answer.source, answer.target);
    let did = [
        ("created", stats.created, "refs"),
        ("updated", stats.updated, "refs"),
        ("forced", stats.forced.len() as u64, "of them"),
        ("deleted", stats.deleted, "refs"),
        ("sent", stats.objects, "objects"),
        ("copied", stats.lfs.objects, "LFS objects"),
    ];
    let did = did.iter().filter(|(_, count, _)| *count > 0);
    let did: Vec<String> = did
        .map(|(verb, count, what)| format!("{verb} {count} {what}"))
        .collect();
    if !did.is_empty() {
        name.extend([" (", &did.join(", "), ")"]);
    }
    name
}

/// Returns the error of a mapping with refs that were not created or moved, with the reasons. A
/// refused deletion is a warning.
pub fn rejected_refs_error(stats: &MirrorStats) -> Option<Error> {
    let rejected = stats.rejected.iter();
    let rejected: Vec<_> = rejected
        .filter(|(name, _)| !stats.undeleted.contains(*name))
        .collect();
    if rejected.is_empty() {
        return None;
    }
    let mut named: Vec<String> = rejected
        .iter()
        .take(MAX_NAMED_REFS)
        .map(|(name, reason)| format!("`{name}`: {reason}"))
        .collect();
    if rejected.len() > MAX_NAMED_REFS {
        named.push(format!("and {} more", rejected.len() - MAX_NAMED_REFS));
    }
    let message = format!(
        "the target refused {} refs: {}",
        rejected.len(),
        named.join("; ")
    );
    Some(Error::new(ErrorKind::Rejected, message))
}

#[cfg(test)]
mod tests {
    use crate::lfs::TransferReport;

    use super::*;

    #[test]
    fn missing_lfs_objects_are_counted_and_named_in_a_complete_mapping() {
        let stats = MirrorStats {
            complete: true,
            lfs: TransferReport {
                objects: 2,
                bytes: 30,
                missing: 1,
                missing_oids: vec!["0a".repeat(32)],
                left_out: 1,
                left_out_oids: vec!["0b".repeat(32)],
            },
            ..MirrorStats::default()
        };
        let answer = MappingAnswer::new("a".into(), "b".into(), &stats, None);
        assert_eq!(answer.status, MappingStatus::Complete);
        let json = serde_json::to_value(&answer.lfs).expect("because an answer is plain data");
        let expected = serde_json::json!({
            "objects": 2, "bytes": 30, "missing": 1, "left_out": 1,
            "missing_oids": ["0a".repeat(32)], "left_out_oids": ["0b".repeat(32)],
        });
        assert_eq!(json, expected);
        assert_eq!(describe(&answer, &stats), "a -> b (copied 2 LFS objects)");
    }

    #[test]
    fn a_rejected_ref_fails_its_mapping_with_the_reason_of_the_target() {
        let mut stats = MirrorStats {
            complete: true,
            created: 3,
            unchanged: 1,
            objects: 7,
            bytes: 512,
            ..MirrorStats::default()
        };
        let rejected = &mut stats.rejected;
        rejected.insert("refs/heads/main".into(), "protected branch".into());
        let error = rejected_refs_error(&stats);
        let answer = MappingAnswer::new("a".into(), "b".into(), &stats, error.as_ref());
        let json = serde_json::to_string(&answer).expect("because an answer is plain data");
        assert_eq!(
            json,
            r#"{"source":"a","target":"b","status":"failed","refs":{"created":3,"updated":0,"#
                .to_owned()
                + r#""forced":0,"deleted":0,"unchanged":1,"rejected":1,"set_aside":0},"#
                + r#""objects":7,"bytes":512,"#
                + r#""lfs":{"objects":0,"bytes":0,"missing":0,"left_out":0},"#
                + r#""error":"the target refused 1 refs: `refs/heads/main`: protected branch"}"#
        );
        let name = describe(&answer, &stats);
        assert_eq!(name, "a -> b (created 3 refs, sent 7 objects)");
        let rejected = &mut stats.rejected;
        rejected.extend((0..30).map(|n| (format!("refs/x/{n:02}").into(), "no".to_owned())));
        let error = rejected_refs_error(&stats)
            .expect("refs were refused")
            .to_string();
        assert!(error.contains("refused 31 refs") && error.ends_with("and 21 more"));
        stats.rejected.clear();
        stats
            .rejected
            .insert("refs/heads/old".into(), "it is the default branch".into());
        stats.undeleted.insert("refs/heads/old".into());
        assert_eq!(
            warnings(&stats),
            ["`refs/heads/old` was not deleted: it is the default branch"]
        );
        assert!(
            rejected_refs_error(&stats).is_none(),
            "no rejected ref, no error"
        );
    }
}
