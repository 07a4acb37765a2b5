//! Answer of the function: each mapping's, bounded by what Lambda can return.

use std::collections::BTreeMap;

use branchline_core::answer;
use branchline_core::mirror::{MappingAnswer, MappingStatus};
use serde::Serialize;

/// Answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// `complete` if all mappings are complete, else `incomplete`.
    pub status: MappingStatus,
    /// Number of mappings by status; of several mappings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<BTreeMap<MappingStatus, usize>>,
    /// Mappings in the order of the request; at most [`answer::MAX_ITEMS`], and fewer if they are
    /// large: then those that are incomplete or changed something are first.
    pub mappings: Vec<MappingAnswer>,
}

impl Answer {
    /// Makes the answer of mappings that did not fail, which is never larger than Lambda can
    /// return.
    pub(crate) fn new(mappings: Vec<MappingAnswer>) -> Self {
        let mut counts = BTreeMap::new();
        for mapping in &mappings {
            *counts.entry(mapping.status).or_insert(0) += 1;
        }
        let is_complete = counts
            .keys()
            .all(|status| *status == MappingStatus::Complete);
        Self {
            status: if is_complete {
                MappingStatus::Complete
            } else {
                MappingStatus::Incomplete
            },
            counts: (mappings.len() > 1).then_some(counts),
            mappings: answer::bounded(mappings, importance),
        }
    }
}

/// Returns the place of a mapping in a list that is too long for an answer, the first one least.
fn importance(mapping: &MappingAnswer) -> (bool, bool, bool) {
    let refs = &mapping.refs;
    let changes = refs.created + refs.updated + refs.deleted + refs.rejected + refs.set_aside;
    (
        mapping.status == MappingStatus::Complete,
        mapping.warnings.is_empty(),
        changes + mapping.lfs.objects + mapping.lfs.missing == 0,
    )
}

#[cfg(test)]
mod tests {
    use branchline_core::mirror::MirrorStats;

    use super::*;

    #[test]
    fn an_answer_is_never_larger_than_lambda_returns_and_lists_what_matters_first() {
        let answer_of = |complete: bool, updated: u64, name: &str| {
            let stats = MirrorStats {
                complete,
                updated,
                ..MirrorStats::default()
            };
            MappingAnswer::new(name.to_owned(), "s3://b/p".into(), &stats, None)
        };
        let mut mappings: Vec<_> = (0..1000)
            .map(|_| answer_of(true, 0, &"x".repeat(6000)))
            .collect();
        mappings.push(answer_of(true, 1, "changed"));
        mappings.push(answer_of(false, 0, "incomplete"));
        let answer = Answer::new(mappings);
        assert_eq!(answer.status, MappingStatus::Incomplete);
        let counts = [
            (MappingStatus::Complete, 1001),
            (MappingStatus::Incomplete, 1),
        ];
        assert_eq!(answer.counts, Some(counts.into()));
        let first: Vec<_> = answer.mappings.iter().take(2).map(|m| &*m.source).collect();
        assert_eq!(first, ["incomplete", "changed"]);
        assert!(answer.mappings.len() > 500, "as many as fit");
        let json = serde_json::to_vec(&answer).expect("because an answer is plain data");
        assert!(json.len() < 6_000_000, "{} bytes", json.len());

        let one = Answer::new(vec![answer_of(true, 0, "one")]);
        assert_eq!((one.status, one.counts), (MappingStatus::Complete, None));
    }
}
