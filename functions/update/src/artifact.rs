//! Where an artifact lies and what is written beside its bytes.

use std::collections::BTreeMap;

use branchline_core::Result;
use branchline_core::codecommit::Commit;
use branchline_core::name::{BranchName, BucketName, CommitId, ObjectKey, RepositoryName};
use branchline_core::storage::{ObjectHead, encode_rfc2047};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use crate::config::{Config, KeyTemplate};

/// The tag that carries the id of the execution that was started on an artifact.
pub(crate) const EXECUTION_TAG: &str = "branchline-execution";
/// The tag that carries the pipeline of that execution.
pub(crate) const PIPELINE_TAG: &str = "branchline-pipeline";

pub(crate) const REPOSITORY: &str = "branchline-repository";
pub(crate) const BRANCH: &str = "branchline-branch";
const COMMIT: &str = "branchline-commit";
const SETTINGS: &str = "branchline-settings";
pub(crate) const FILES: &str = "branchline-files";
/// What CodePipeline shows as the summary of an S3 source's revision.
const SUMMARY: &str = "codepipeline-artifact-revision-summary";

/// The most bytes of user metadata, names and values together (S3 user guide, "Working
/// with object metadata").
const MAX_METADATA_BYTES: usize = 2048;

/// Counts what changes the bytes of an archive of the same commit.
const FORMAT: u32 = 1;

/// Where an artifact lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct S3Location {
    pub(crate) bucket: BucketName,
    pub(crate) key: ObjectKey,
}

impl S3Location {
    /// A key of its own for a temporary object, which starts as the artifact's.
    pub(crate) fn temporary_key(&self) -> Result<ObjectKey> {
        /// The longest key of S3, in bytes.
        const LONGEST: usize = 1024;
        let end = format!(".pack-{:016x}", rand::random::<u64>());
        let mut start = self.key.as_str();
        while start.len() + end.len() > LONGEST {
            let mut letters = start.chars();
            letters.next_back();
            start = letters.as_str();
        }
        ObjectKey::new(&format!("{start}{end}"))
    }
}

impl std::fmt::Display for S3Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

/// What an artifact is of: equal origins have equal bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArtifactIdentity {
    // Keys name the commit and not the branch: branches at one commit share an artifact.
    any_branch: bool,
    repository: String,
    branch: String,
    commit: String,
    settings: String,
}

impl ArtifactIdentity {
    pub(crate) fn new(
        config: &Config,
        key: &KeyTemplate,
        repository: &RepositoryName,
        branch: &BranchName,
        commit: CommitId,
    ) -> Self {
        let settings = format!("{FORMAT}\0{}\0{}", config.commit_info, config.prefix);
        Self {
            any_branch: key.has_commit() && !key.has_branch(),
            repository: repository.to_string(),
            branch: branch_text(branch),
            commit: commit.to_string(),
            settings: hex::encode(&Sha256::digest(settings)[..8]),
        }
    }

    /// Whether `head` describes an artifact of this origin.
    pub(crate) fn matches(&self, head: &ObjectHead) -> bool {
        let user = &head.metadata.user;
        [
            (REPOSITORY, &self.repository),
            (BRANCH, &self.branch),
            (COMMIT, &self.commit),
            (SETTINGS, &self.settings),
        ]
        .into_iter()
        .all(|(name, value)| user.get(name) == Some(value) || (name == BRANCH && self.any_branch))
    }

    /// The commit of an artifact of the same branch.
    pub(crate) fn previous_commit(&self, head: &ObjectHead) -> Option<CommitId> {
        let user = &head.metadata.user;
        let is_same = user.get(REPOSITORY) == Some(&self.repository)
            && user.get(BRANCH) == Some(&self.branch);
        let commit = user.get(COMMIT).filter(|_| is_same)?;
        (*commit != self.commit)
            .then(|| CommitId::new(commit).ok())
            .flatten()
    }

    /// The user metadata of a new artifact, but for [`FILES`], for which it leaves room.
    pub(crate) fn metadata(&self, commit: &Commit) -> BTreeMap<String, String> {
        let mut user: BTreeMap<_, _> = [
            (REPOSITORY, self.repository.clone()),
            (BRANCH, self.branch.clone()),
            (COMMIT, self.commit.clone()),
            (SETTINGS, self.settings.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let taken: usize = user
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let files = FILES.len() + u64::MAX.to_string().len();
        let room = MAX_METADATA_BYTES.saturating_sub(taken + files + SUMMARY.len());
        user.insert(SUMMARY.to_owned(), revision_summary(commit, room));
        user
    }
}

/// How many files an artifact holds, as its metadata says.
pub(crate) fn files(head: &ObjectHead) -> Option<u64> {
    head.metadata.user.get(FILES)?.parse().ok()
}

/// `<abbreviated id> <subject>`, as git's `%h %s`, in at most `room` bytes.
fn revision_summary(commit: &Commit, room: usize) -> String {
    /// CodePipeline's `revisionSummary` has at most 2,048 characters, but a list shows few.
    const LONGEST: usize = 256;
    let id = commit.commit_id.to_string();
    let lines = commit.message.trim_start().lines();
    let subject: Vec<&str> = lines
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let text = format!("{} {}", &id[..7], subject.join(" "));
    encode_rfc2047(&text, room.min(LONGEST))
}

/// A branch's name as metadata keeps it to the letter: S3 decodes and encodes other than
/// ASCII values as it likes, so those bytes are percent-encoded.
fn branch_text(branch: &BranchName) -> String {
    /// Leaves room for the summary. Such a name has hundreds of letters beyond ASCII.
    const LONGEST: usize = 1024;
    const PLAIN: &AsciiSet = &CONTROLS.add(b'%');
    let text = utf8_percent_encode(branch.as_str(), PLAIN).to_string();
    if text.len() > LONGEST {
        return format!(
            "{HASHED_BRANCH_PREFIX}{}",
            hex::encode(Sha256::digest(branch.as_str()))
        );
    }
    text
}

/// What stands in front of the hash of a branch's name; no name has a colon.
const HASHED_BRANCH_PREFIX: &str = "sha256:";

/// Undoes [`branch_text`], unless only a hash was kept.
pub(crate) fn decode_branch(text: &str) -> Option<BranchName> {
    if text.starts_with(HASHED_BRANCH_PREFIX) {
        return None;
    }
    let name = percent_decode_str(text).decode_utf8().ok()?;
    BranchName::new(&name).ok()
}

#[cfg(test)]
mod tests {
    use branchline_core::codecommit::Signature;
    use branchline_core::name::TreeId;

    use super::*;

    fn commit(message: &str) -> Commit {
        let ana = Signature {
            name: "Ana".into(),
            email: "ana@example.com".into(),
            date: "0 +0000".into(),
        };
        Commit {
            commit_id: CommitId::new(&"ab".repeat(20)).expect("it is valid"),
            tree_id: TreeId::new(&"cd".repeat(20)).expect("it is valid"),
            parents: Vec::new(),
            message: message.into(),
            author: ana.clone(),
            committer: ana,
            additional_data: String::new(),
        }
    }

    #[test]
    fn a_summary_is_the_short_id_and_the_subject() {
        assert_eq!(
            revision_summary(&commit("Fix it\n\nBecause."), 256),
            "abababa Fix it"
        );
        assert_eq!(
            revision_summary(&commit("\n\nTwo\nlines\n\nx"), 256),
            "abababa Two lines"
        );
        assert_eq!(revision_summary(&commit(""), 256), "abababa");
        assert_eq!(
            revision_summary(&commit("a\tb\x07\r\nc"), 256),
            "abababa a b  c"
        );
    }

    #[test]
    fn a_branch_is_read_back_to_the_letter() {
        for name in ["main", "feature/x", "größe/日本", "100%", "%41", "a'b\"c"] {
            let branch = BranchName::new(name).expect("it is valid");
            let text = branch_text(&branch);
            assert!(
                text.bytes().all(|byte| matches!(byte, b' '..=b'~')),
                "{text}"
            );
            assert_eq!(decode_branch(&text), Some(branch));
        }
        let long = BranchName::new(&"日".repeat(256)).expect("it is valid");
        assert_eq!(
            decode_branch(&branch_text(&long)),
            None,
            "only a hash is kept"
        );
    }

    #[test]
    fn the_longest_branch_leaves_metadata_within_its_limit() {
        let branch = BranchName::new(&"é".repeat(256)).expect("it is valid");
        let config = Config::read(&[("ARTIFACT_BUCKET", "abc")].into_iter().collect());
        let repository = RepositoryName::new(&"r".repeat(100)).expect("it is valid");
        let commit = commit(&"é".repeat(500));
        let config = config.expect("it is valid");
        let origin =
            ArtifactIdentity::new(&config, &config.key, &repository, &branch, commit.commit_id);
        let mut user = origin.metadata(&commit);
        user.insert(FILES.to_owned(), u64::MAX.to_string());
        let bytes: usize = user
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        assert!(bytes <= MAX_METADATA_BYTES, "{bytes}");
    }
}
