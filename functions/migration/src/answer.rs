//! The answer: one entry for each mapping, with counts.

use branchline_core::mirror::MirrorStats;
use branchline_core::{Error, ErrorKind};
use serde::Serialize;

/// Answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// `complete` if all mappings are complete, else `incomplete`.
    pub status: Status,
    /// Mappings in the order of the request.
    pub mappings: Vec<MappingAnswer>,
}

/// Progress of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The target's selected refs equal the source's.
    Complete,
    /// The deadline came first: an equal request resumes from here.
    Incomplete,
    /// See the error.
    Failed,
}

/// Result of one mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MappingAnswer {
    /// The source's URL, without a user or password.
    pub source: String,
    /// The target's URL, without a user or password.
    pub target: String,
    /// Progress.
    pub status: Status,
    /// Refs by outcome.
    pub refs: RefCounts,
    /// Number of objects sent.
    pub objects: u64,
    /// Bytes of packs sent.
    pub bytes: u64,
    /// Git LFS objects, which are not counted in `objects` and `bytes`.
    pub lfs: LfsCounts,
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
    /// Refs that were deleted.
    pub deleted: u64,
    /// Refs that were equal already.
    pub unchanged: u64,
    /// Refs that the target rejected.
    pub rejected: u64,
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
}

/// Maximum number of rejected refs that an error names.
const MAX_NAMED_REFS: usize = 10;

impl MappingAnswer {
    /// Builds the answer from the counts and the error of a mirroring.
    pub(crate) fn new(
        source: String,
        target: String,
        stats: &MirrorStats,
        error: Option<&Error>,
    ) -> Self {
        Self {
            source,
            target,
            status: if error.is_some() {
                Status::Failed
            } else if stats.complete {
                Status::Complete
            } else {
                Status::Incomplete
            },
            refs: RefCounts {
                created: stats.created,
                updated: stats.updated,
                deleted: stats.deleted,
                unchanged: stats.unchanged,
                rejected: stats.rejected.len() as u64,
            },
            objects: stats.objects,
            bytes: stats.bytes,
            lfs: LfsCounts {
                objects: stats.lfs.objects,
                bytes: stats.lfs.bytes,
                missing: stats.lfs.missing,
                left_out: stats.lfs.left_out,
                missing_oids: stats.lfs.missing_oids.clone(),
            },
            error: error.map(Error::report),
        }
    }
}

/// Describes a mapping in an error, including what was done before it.
pub(crate) fn describe(answer: &MappingAnswer, stats: &MirrorStats) -> String {
    let mut name = format!("{} -> {}", answer.source, answer.target);
    let did = [
        ("created", stats.created, "refs"),
        ("updated", stats.updated, "refs"),
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

/// Returns the error of a mapping whose target rejected refs, with the target's reasons.
pub(crate) fn rejected_refs_error(stats: &MirrorStats) -> Option<Error> {
    if stats.rejected.is_empty() {
        return None;
    }
    let mut named: Vec<String> = stats
        .rejected
        .iter()
        .take(MAX_NAMED_REFS)
        .map(|(name, reason)| format!("`{name}`: {reason}"))
        .collect();
    if stats.rejected.len() > MAX_NAMED_REFS {
        named.push(format!(
            "and {} more",
            stats.rejected.len() - MAX_NAMED_REFS
        ));
    }
    let message = format!(
        "the target refused {} refs: {}",
        stats.rejected.len(),
        named.join("; ")
    );
    Some(Error::new(ErrorKind::Conflict, message))
}

#[cfg(test)]
mod tests {
    use branchline_core::lfs::TransferReport;

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
                left_out: 0,
            },
            ..MirrorStats::default()
        };
        let answer = MappingAnswer::new("a".into(), "b".into(), &stats, None);
        assert_eq!(answer.status, Status::Complete);
        let json = serde_json::to_value(&answer.lfs).expect("because an answer is plain data");
        let expected = serde_json::json!({
            "objects": 2, "bytes": 30, "missing": 1, "left_out": 0,
            "missing_oids": ["0a".repeat(32)],
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
                + r#""deleted":0,"unchanged":1,"rejected":1},"objects":7,"bytes":512,"#
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
        assert!(
            rejected_refs_error(&stats).is_none(),
            "no rejected ref, no error"
        );
    }
}
