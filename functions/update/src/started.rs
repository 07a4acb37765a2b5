//! Tags of an artifact: the pipelines that were started on it, and what was compared since.
//!
//! | tag | value |
//! |---|---|
//! | `branchline-execution` | id of the newest execution |
//! | `branchline-pipeline` | pipeline of that execution |
//! | `branchline-started`, `branchline-started-2`, .. | other pipelines that were started, with spaces between them |
//! | `branchline-pipelines` | hashes of the pipelines to start, where the artifact's metadata do not have them |
//! | `branchline-compared` | commit up to which no change matched a filter, and the digest of the filters |

use std::collections::BTreeSet;

use branchline_core::name::CommitId;
use branchline_core::storage::{ObjectHead, Tags};
use branchline_core::{Error, ErrorKind, Result};

use crate::artifact::{EXECUTION_TAG, PIPELINE_TAG, PIPELINES};
use crate::filters::StartTarget;

const STARTED_TAG: &str = "branchline-started";
const COMPARED_TAG: &str = "branchline-compared";

/// Maximum length of a tag's value in characters (S3 user guide, "Categorizing your storage
/// using tags").
const MAX_VALUE_CHARS: usize = 256;

/// Maximum number of tags of an object.
const MAX_TAGS: usize = 10;

/// Value of [`PIPELINES`] for no pipeline, because an empty value may be lost.
const NONE: &str = "none";

/// Returns the names of the pipelines that were started.
pub(crate) fn started_pipelines(tags: &Tags) -> BTreeSet<String> {
    let others = tags.iter().filter(|(name, _)| is_started_tag(name));
    let words = others.flat_map(|(_, value)| value.split(' '));
    let newest = tags.get(PIPELINE_TAG).map(String::as_str);
    let newest = newest.filter(|_| tags.contains_key(EXECUTION_TAG));
    let names = words.chain(newest).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

fn is_started_tag(name: &str) -> bool {
    name.strip_prefix(STARTED_TAG).is_some_and(|rest| {
        rest.is_empty()
            || rest
                .strip_prefix('-')
                .is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
    })
}

/// Adds an execution.
///
/// # Errors
/// `Config` if the names of all started pipelines do not fit into ten tags.
pub(crate) fn record_execution(
    tags: &mut Tags,
    target: &StartTarget,
    execution: &str,
) -> Result<()> {
    let mut others = started_pipelines(tags);
    others.remove(target.tag_name.as_str());
    tags.retain(|name, _| !is_started_tag(name));
    tags.insert(EXECUTION_TAG.to_owned(), execution.to_owned());
    tags.insert(PIPELINE_TAG.to_owned(), target.tag_name.clone());
    let mut values: Vec<String> = Vec::new();
    for name in others {
        match values.last_mut() {
            Some(value) if value.len() + 1 + name.len() <= MAX_VALUE_CHARS => {
                value.push(' ');
                value.push_str(&name);
            }
            _ => values.push(name),
        }
    }
    for (at, value) in values.into_iter().enumerate() {
        let name = match at {
            0 => STARTED_TAG.to_owned(),
            at => format!("{STARTED_TAG}-{}", at + 1),
        };
        tags.insert(name, value);
    }
    if tags.len() > MAX_TAGS {
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "the names of the pipelines that were started need {} tags of the artifact, and an \
                 object has at most {MAX_TAGS}",
                tags.len()
            ),
        )
        .with_hint("shorten the pipelines' names, or narrow the filters of `TRIGGERS`"));
    }
    Ok(())
}

/// Returns the value of [`PIPELINES`] for these pipelines.
pub(crate) fn pipeline_hashes<'a>(targets: impl IntoIterator<Item = &'a StartTarget>) -> String {
    let hashes: Vec<&str> = targets
        .into_iter()
        .map(|target| target.pipeline_hash.as_str())
        .collect();
    if hashes.is_empty() {
        return NONE.to_owned();
    }
    hashes.join(" ")
}

/// Returns whether the artifact was made, or chosen later, for this pipeline.
pub(crate) fn is_made_for(head: &ObjectHead, tags: &Tags, target: &StartTarget) -> bool {
    let hashes = tags.get(PIPELINES).or(head.metadata.user.get(PIPELINES));
    hashes.is_some_and(|hashes| hashes.split(' ').any(|hash| hash == target.pipeline_hash))
}

/// Returns the commit up to which no change matched the filters with this digest.
pub(crate) fn compared_commit(tags: &Tags, digest: &str) -> Option<CommitId> {
    let (commit, of) = tags.get(COMPARED_TAG)?.split_once(' ')?;
    (of == digest).then(|| CommitId::new(commit).ok()).flatten()
}

/// Records that no change up to `commit` matched the filters with this digest.
pub(crate) fn set_compared_commit(tags: &mut Tags, commit: CommitId, digest: &str) {
    tags.insert(COMPARED_TAG.to_owned(), format!("{commit} {digest}"));
}

#[cfg(test)]
mod tests {
    use branchline_core::name::PipelineName;

    use super::*;

    fn name(text: &str) -> StartTarget {
        StartTarget::new(PipelineName::new(text).expect("it is valid"), "Source")
    }

    #[test]
    fn every_started_pipeline_is_remembered_beside_the_tags_of_others() {
        let mut tags: Tags = [("team".to_owned(), "a".to_owned())].into();
        let names: Vec<String> = (0..12)
            .map(|n| format!("service-{n:02}-{}", "x".repeat(20)))
            .collect();
        for (at, text) in names.iter().enumerate() {
            assert!(!started_pipelines(&tags).contains(text));
            record_execution(&mut tags, &name(text), &format!("execution-{at}"))
                .expect("there is room");
            assert_eq!(tags[EXECUTION_TAG], format!("execution-{at}"));
            assert_eq!(tags[PIPELINE_TAG], *text);
        }
        assert_eq!(started_pipelines(&tags), names.iter().cloned().collect());
        assert_eq!(tags["team"], "a");
        assert!(tags.values().all(|value| value.len() <= MAX_VALUE_CHARS));
        let before = tags.clone();
        record_execution(&mut tags, &name(&names[11]), "execution-11").expect("there is room");
        assert_eq!(tags, before, "a repeated start changes nothing");
    }

    #[test]
    fn names_that_do_not_fit_into_ten_tags_are_refused() {
        let mut tags = Tags::new();
        let long = |n: usize| name(&format!("{n:03}{}", "x".repeat(97)));
        let failed = (0..40).find_map(|n| record_execution(&mut tags, &long(n), "e").err());
        let error = failed.expect("the room is limited");
        assert_eq!(error.kind(), ErrorKind::Config);
    }

    #[test]
    fn a_compared_commit_counts_for_its_own_filters_only() {
        let mut tags = Tags::new();
        let commit = CommitId::new(&"ab".repeat(20)).expect("it is valid");
        set_compared_commit(&mut tags, commit, "one");
        assert_eq!(compared_commit(&tags, "one"), Some(commit));
        assert_eq!(compared_commit(&tags, "two"), None);
    }
}
