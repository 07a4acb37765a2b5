//! What the function answers.

use branchline_core::mirror::MirrorStats;
use branchline_core::{Error, ErrorKind};
use serde::Serialize;

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// `complete` when all mappings are.
    pub status: Status,
    /// Each mapping, in the order of the request.
    pub mappings: Vec<MappingAnswer>,
}

/// How far a mapping came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The target is as the source was.
    Complete,
    /// The time was over: the same request goes on from here.
    Incomplete,
    /// The error says why.
    Failed,
}

/// What became of a mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MappingAnswer {
    /// The source's URL, without a user or password.
    pub source: String,
    /// The target's URL, without a user or password.
    pub target: String,
    /// How far it came.
    pub status: Status,
    /// Counts of refs.
    pub refs: Refs,
    /// Objects that were sent.
    pub objects: u64,
    /// Bytes of packs that were sent.
    pub bytes: u64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Counts of refs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Refs {
    /// Refs that are new.
    pub created: u64,
    /// Refs that moved.
    pub updated: u64,
    /// Refs that were deleted.
    pub deleted: u64,
    /// Refs that were as they should be.
    pub unchanged: u64,
    /// Refs that the target refused.
    pub rejected: u64,
}

/// How many refused refs an error names.
const SHOWN: usize = 10;

impl MappingAnswer {
    /// What was done, and why it failed if it did.
    pub(crate) fn new(
        source: String,
        target: String,
        outcome: &MirrorStats,
        error: Option<&Error>,
    ) -> Self {
        Self {
            source,
            target,
            status: if error.is_some() {
                Status::Failed
            } else if outcome.complete {
                Status::Complete
            } else {
                Status::Incomplete
            },
            refs: Refs {
                created: outcome.created,
                updated: outcome.updated,
                deleted: outcome.deleted,
                unchanged: outcome.unchanged,
                rejected: outcome.rejected.len() as u64,
            },
            objects: outcome.objects,
            bytes: outcome.bytes,
            error: error.map(Error::report),
        }
    }
}

/// A mapping as its error names it: with what was done all the same.
pub(crate) fn describe(answer: &MappingAnswer, outcome: &MirrorStats) -> String {
    let mut name = format!("{} -> {}", answer.source, answer.target);
    let did = [
        ("created", outcome.created, "refs"),
        ("updated", outcome.updated, "refs"),
        ("deleted", outcome.deleted, "refs"),
        ("sent", outcome.objects, "objects"),
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

/// The failure of a mapping some of whose refs the target refused, in its words.
pub(crate) fn rejected_refs_error(outcome: &MirrorStats) -> Option<Error> {
    if outcome.rejected.is_empty() {
        return None;
    }
    let mut named: Vec<String> = outcome
        .rejected
        .iter()
        .take(SHOWN)
        .map(|(name, reason)| format!("`{name}`: {reason}"))
        .collect();
    if outcome.rejected.len() > SHOWN {
        named.push(format!("and {} more", outcome.rejected.len() - SHOWN));
    }
    let message = format!(
        "the target refused {} refs: {}",
        outcome.rejected.len(),
        named.join("; ")
    );
    Some(Error::new(ErrorKind::Conflict, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_ref_fails_its_mapping_in_the_servers_words() {
        let mut outcome = MirrorStats {
            complete: true,
            created: 3,
            unchanged: 1,
            objects: 7,
            bytes: 512,
            ..MirrorStats::default()
        };
        let rejected = &mut outcome.rejected;
        rejected.insert("refs/heads/main".into(), "protected branch".into());
        let error = rejected_refs_error(&outcome);
        let answer = MappingAnswer::new("a".into(), "b".into(), &outcome, error.as_ref());
        let json = serde_json::to_string(&answer).expect("it is plain data");
        assert_eq!(
            json,
            r#"{"source":"a","target":"b","status":"failed","refs":{"created":3,"updated":0,"#
                .to_owned()
                + r#""deleted":0,"unchanged":1,"rejected":1},"objects":7,"bytes":512,"#
                + r#""error":"the target refused 1 refs: `refs/heads/main`: protected branch"}"#
        );
        let name = describe(&answer, &outcome);
        assert_eq!(name, "a -> b (created 3 refs, sent 7 objects)");
        let rejected = &mut outcome.rejected;
        rejected.extend((0..30).map(|n| (format!("refs/x/{n:02}").into(), "no".to_owned())));
        let error = rejected_refs_error(&outcome)
            .expect("refs were refused")
            .to_string();
        assert!(error.contains("refused 31 refs") && error.ends_with("and 21 more"));
        outcome.rejected.clear();
        assert!(
            rejected_refs_error(&outcome).is_none(),
            "nothing was refused"
        );
    }
}
