//! Location, identity and metadata of an artifact.

use std::collections::BTreeMap;

use branchline_core::Result;
use branchline_core::arn::Origin;
use branchline_core::git::object::Commit;
use branchline_core::name::{BranchName, BucketName, CommitId, ObjectKey, RepositoryName};
use branchline_core::pipeline::{REVISION_SUMMARY, revision_summary};
use branchline_core::storage::{ObjectHead, encode_rfc2047};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use crate::config::{Config, PipelineSource};
use crate::key_template::KeyTemplate;
use crate::ref_kind::RefKind;

/// The tag with the id of the execution that was started on an artifact.
pub(crate) const EXECUTION_TAG: &str = "branchline-execution";
/// The tag with the pipeline whose execution was started on an artifact.
pub(crate) const PIPELINE_TAG: &str = "branchline-pipeline";

/// Metadata and tag with the hashes of the pipelines that are to be started on an artifact.
pub(crate) const PIPELINES: &str = "branchline-pipelines";

const REPOSITORY: &str = "branchline-repository";
const BRANCH: &str = "branchline-branch";
/// In place of the branch, what else was archived: `refs/tags/v1.0`, `commit/<id>`, `pull/12`.
const REFERENCE: &str = "branchline-ref";
const COMMIT: &str = "branchline-commit";
const SETTINGS: &str = "branchline-settings";
pub(crate) const FILES: &str = "branchline-files";
/// Region and account of the function that made the artifact.
const ORIGIN: &str = "branchline-origin";
/// Time when the repository was first seen, in seconds since the epoch.
const SINCE: &str = "branchline-since";
/// `true` if the branch is older than that, and was not pushed since.
const EXISTING: &str = "branchline-existing";

/// Maximum size of user metadata, names and values together, in bytes (S3 user guide, "Working
/// with object metadata").
const MAX_METADATA_BYTES: usize = 2048;

/// Maximum length of a revision summary, in bytes. CodePipeline allows 2,048 characters, but
/// lists show few.
const MAX_SUMMARY_BYTES: usize = 256;

/// Number of hexadecimal digits of a commit id in a revision summary.
const ABBREVIATED_DIGITS: usize = 7;

/// Version of the archive format; incremented when the bytes for the same commit change.
const FORMAT_VERSION: u32 = 1;

/// Origin of an artifact in time, as its metadata record it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Provenance {
    /// Time when the repository was first seen, in seconds since the epoch.
    pub(crate) since: i64,
    /// Whether the branch is older, and no push was seen since.
    pub(crate) is_existing: bool,
}

/// Bucket and key of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct S3Location {
    pub(crate) bucket: BucketName,
    pub(crate) key: ObjectKey,
}

impl S3Location {
    /// Returns a random key for a temporary object, with the artifact's key as its start.
    pub(crate) fn temporary_key(&self) -> Result<ObjectKey> {
        /// Maximum length of a key in S3, in bytes.
        const MAX_KEY_BYTES: usize = 1024;
        let end = format!(".pack-{:016x}", rand::random::<u64>());
        let mut start = self.key.as_str();
        while start.len() + end.len() > MAX_KEY_BYTES {
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

/// Identity of an artifact: equal identities give equal bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArtifactIdentity {
    // The key names the commit but not the branch, so branches at one commit share an artifact.
    any_branch: bool,
    repository: String,
    // Metadata that name what was archived, and their value.
    name_of: &'static str,
    branch: String,
    commit: String,
    settings: String,
    origin: Option<String>,
}

impl ArtifactIdentity {
    pub(crate) fn new(
        config: &Config,
        key: &KeyTemplate,
        repository: &RepositoryName,
        branch: &BranchName,
        kind: &RefKind,
        commit: CommitId,
        origin: Option<&Origin>,
    ) -> Self {
        let mut settings = match config.source {
            PipelineSource::S3 => format!(
                "{FORMAT_VERSION}\0{}\0{}",
                config.commit_info, config.prefix
            ),
            PipelineSource::CodeCommit => "marker".to_owned(),
        };
        // Only what differs from the default, so that existing artifacts stay as they are.
        if !config.export_ignore {
            settings.push_str("\0export-ignore=false");
        }
        if config.submodules {
            settings.push_str("\0submodules=true");
        }
        if let Some(lfs) = &config.lfs {
            settings.push_str("\0lfs=");
            settings.push_str(&lfs.identity());
        }
        Self {
            any_branch: key.has_commit() && !key.has_branch(),
            repository: repository.to_string(),
            name_of: name_of(kind),
            branch: name_text(&kind.label(branch)),
            commit: commit.to_string(),
            settings: hex::encode(&Sha256::digest(settings)[..8]),
            origin: origin.map(Origin::to_string),
        }
    }

    /// Returns the region and account of `head` if it is an artifact of another account or
    /// region, which is never replaced.
    pub(crate) fn foreign_origin<'h>(&self, head: &'h ObjectHead) -> Option<&'h str> {
        let made_in = origin_of(head)?;
        let own = self.origin.as_deref()?;
        (made_in != own).then_some(made_in)
    }

    /// Returns true when `head` describes an artifact of this identity.
    pub(crate) fn matches(&self, head: &ObjectHead) -> bool {
        let user = &head.metadata.user;
        [
            (REPOSITORY, &self.repository),
            (self.name_of, &self.branch),
            (COMMIT, &self.commit),
            (SETTINGS, &self.settings),
        ]
        .into_iter()
        .all(|(name, value)| {
            user.get(name) == Some(value) || (name == self.name_of && self.any_branch)
        })
    }

    /// Returns true when `head` describes an artifact of the same branch, at any commit.
    pub(crate) fn is_of_branch(&self, head: &ObjectHead) -> bool {
        let user = &head.metadata.user;
        user.get(REPOSITORY) == Some(&self.repository)
            && user.get(self.name_of) == Some(&self.branch)
    }

    /// Returns the name of what `head` was made of, if that is of another kind: a branch where
    /// this is a tag.
    pub(crate) fn other_kind<'h>(&self, head: &'h ObjectHead) -> Option<&'h str> {
        let other = if self.name_of == BRANCH {
            REFERENCE
        } else {
            BRANCH
        };
        let user = &head.metadata.user;
        let is_same_repository = user.get(REPOSITORY) == Some(&self.repository);
        let name = user.get(other).map(String::as_str);
        name.filter(|_| is_same_repository && !self.any_branch)
    }

    /// Returns true when another branch at the same commit can have the same artifact.
    pub(crate) fn is_of_any_branch(&self) -> bool {
        self.any_branch
    }

    /// Returns true when `head` describes an artifact that was made with the same settings.
    pub(crate) fn has_settings_of(&self, head: &ObjectHead) -> bool {
        head.metadata.user.get(SETTINGS) == Some(&self.settings)
    }

    /// Returns the commit of `head` when it describes an artifact of the same branch at another
    /// commit.
    pub(crate) fn previous_commit(&self, head: &ObjectHead) -> Option<CommitId> {
        let user = &head.metadata.user;
        let commit = user.get(COMMIT).filter(|_| self.is_of_branch(head))?;
        (*commit != self.commit)
            .then(|| CommitId::new(commit).ok())
            .flatten()
    }

    /// Returns the commit of `head` when it describes an artifact of any branch of the
    /// repository that this account and region made.
    pub(crate) fn commit_of(&self, head: &ObjectHead) -> Option<CommitId> {
        let user = &head.metadata.user;
        let is_same =
            user.get(REPOSITORY) == Some(&self.repository) && self.foreign_origin(head).is_none();
        let commit = user.get(COMMIT).filter(|_| is_same)?;
        CommitId::new(commit).ok()
    }

    /// Returns the user metadata of a new artifact, with room for [`FILES`]; `pipelines` are the
    /// hashes of the pipelines that it is made for.
    pub(crate) fn metadata(
        &self,
        commit: &Commit,
        provenance: Provenance,
        pipelines: Option<&str>,
    ) -> BTreeMap<String, String> {
        let mut user: BTreeMap<_, _> = [
            (REPOSITORY, self.repository.clone()),
            (self.name_of, self.branch.clone()),
            (COMMIT, self.commit.clone()),
            (SETTINGS, self.settings.clone()),
            (SINCE, provenance.since.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if provenance.is_existing {
            user.insert(EXISTING.to_owned(), "true".to_owned());
        }
        user.extend(
            self.origin
                .clone()
                .map(|origin| (ORIGIN.to_owned(), origin)),
        );
        user.extend(pipelines.map(|hashes| (PIPELINES.to_owned(), hashes.to_owned())));
        let used_bytes: usize = user
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let files = FILES.len() + u64::MAX.to_string().len();
        let room = MAX_METADATA_BYTES.saturating_sub(used_bytes + files + REVISION_SUMMARY.len());
        let id = commit.id.to_hex_with_len(ABBREVIATED_DIGITS).to_string();
        let summary = revision_summary(&id, commit);
        let summary = encode_rfc2047(&summary, room.min(MAX_SUMMARY_BYTES));
        user.insert(REVISION_SUMMARY.to_owned(), summary);
        user
    }
}

/// Returns the commit of an artifact of `repository`.
pub(crate) fn commit_in(head: &ObjectHead, repository: &RepositoryName) -> Option<CommitId> {
    let user = &head.metadata.user;
    let is_of_repository = |name: &&String| name.as_str() == repository.as_str();
    user.get(REPOSITORY).filter(is_of_repository)?;
    CommitId::new(user.get(COMMIT)?).ok()
}

/// Returns the region and account of the function that made an artifact, if it is recorded.
pub(crate) fn origin_of(head: &ObjectHead) -> Option<&str> {
    head.metadata.user.get(ORIGIN).map(String::as_str)
}

/// Returns true if an artifact is of another account or region than `origin`.
pub(crate) fn is_of_other_origin(head: &ObjectHead, origin: Option<&Origin>) -> bool {
    let own = origin.map(Origin::to_string);
    matches!((origin_of(head), own), (Some(made_in), Some(own)) if made_in != own)
}

/// Returns the time when the repository of an artifact was first seen, in seconds since the
/// epoch; 0 for an artifact of a version that did not record it.
pub(crate) fn since(head: &ObjectHead) -> i64 {
    let since = head.metadata.user.get(SINCE);
    since.and_then(|since| since.parse().ok()).unwrap_or(0)
}

/// Returns true if the branch of an artifact is older than the stack, and was not pushed since.
pub(crate) fn is_existing(head: &ObjectHead) -> bool {
    head.metadata.user.contains_key(EXISTING)
}

/// Returns the branch of an artifact; `None` for an object of another writer.
pub(crate) fn branch_of(head: &ObjectHead) -> Option<(RepositoryName, BranchName)> {
    let user = &head.metadata.user;
    let repository = RepositoryName::new(user.get(REPOSITORY)?).ok()?;
    let branch = decode_branch(user.get(BRANCH)?)?;
    Some((repository, branch))
}

/// Returns whether an artifact, of whatever kind, is of `repository`.
pub(crate) fn is_of_repository(head: &ObjectHead, repository: &RepositoryName) -> bool {
    let recorded = head.metadata.user.get(REPOSITORY);
    recorded.is_some_and(|recorded| recorded == repository.as_str())
}

/// Returns the label of what an artifact was made of, if that is not a branch: `refs/tags/v1.0`,
/// `commit/<id>`, `pull/12`.
pub(crate) fn reference_of(head: &ObjectHead) -> Option<String> {
    let text = head.metadata.user.get(REFERENCE)?;
    let name = percent_decode_str(text).decode_utf8().ok()?;
    Some(name.into_owned())
}

/// Returns whether an artifact was made of what a task with this kind and label is about.
pub(crate) fn is_made_of(head: &ObjectHead, kind: &RefKind, label: &str) -> bool {
    let recorded = head.metadata.user.get(name_of(kind));
    recorded.is_some_and(|recorded| *recorded == name_text(label))
}

/// Returns the name of the metadata that name something of `kind`.
fn name_of(kind: &RefKind) -> &'static str {
    match kind {
        RefKind::Branch => BRANCH,
        RefKind::Tag(_) | RefKind::Commit(_) | RefKind::PullRequest { .. } => REFERENCE,
    }
}

/// Returns the number of files of an artifact from its metadata.
pub(crate) fn files(head: &ObjectHead) -> Option<u64> {
    head.metadata.user.get(FILES)?.parse().ok()
}

/// Encodes a branch's name for metadata. Bytes other than ASCII are percent-encoded, because S3
/// may change the encoding of such values.
fn name_text(name: &str) -> String {
    /// Maximum length of the encoded name, in bytes, which leaves room for the summary.
    const MAX_TEXT_BYTES: usize = 1024;
    const PLAIN: &AsciiSet = &CONTROLS.add(b'%');
    let text = utf8_percent_encode(name, PLAIN).to_string();
    if text.len() > MAX_TEXT_BYTES {
        return format!(
            "{HASHED_BRANCH_PREFIX}{}",
            hex::encode(Sha256::digest(name))
        );
    }
    text
}

/// Prefix of the hash of a branch's name. A branch's name cannot contain a colon.
const HASHED_BRANCH_PREFIX: &str = "sha256:";

/// Inverse of [`name_text`]; `None` if only a hash was stored.
fn decode_branch(text: &str) -> Option<BranchName> {
    if text.starts_with(HASHED_BRANCH_PREFIX) {
        return None;
    }
    let name = percent_decode_str(text).decode_utf8().ok()?;
    BranchName::new(&name).ok()
}

#[cfg(test)]
mod tests {
    use branchline_core::git::object::Signature;

    use branchline_core::git::ObjectId;

    use super::*;

    fn id(digits: &str) -> ObjectId {
        let id = CommitId::new(&digits.repeat(20));
        id.expect("it is valid").object_id()
    }

    fn commit(message: &str) -> Commit {
        let ana = Signature {
            name: "Ana".into(),
            email: "ana@example.com".into(),
            date: "0 +0000".into(),
        };
        Commit {
            id: id("ab"),
            tree: id("cd"),
            parents: Vec::new(),
            message: message.into(),
            author: ana.clone(),
            committer: ana,
            extra_headers: String::new(),
        }
    }

    #[test]
    fn a_summary_is_the_short_id_and_the_subject() {
        let summary = |message| {
            let summary = revision_summary("abababa", &commit(message));
            encode_rfc2047(&summary, MAX_SUMMARY_BYTES)
        };
        assert_eq!(summary("Fix it\n\nBecause."), "abababa Fix it");
        assert_eq!(summary("\n\nTwo\nlines\n\nx"), "abababa Two lines");
        assert_eq!(summary(""), "abababa");
        assert_eq!(summary("a\tb\x07\r\nc"), "abababa a b  c");
    }

    #[test]
    fn an_encoded_branch_is_decoded_unchanged() {
        for name in ["main", "feature/x", "größe/日本", "100%", "%41", "a'b\"c"] {
            let branch = BranchName::new(name).expect("it is valid");
            let text = name_text(branch.as_str());
            assert!(
                text.bytes().all(|byte| matches!(byte, b' '..=b'~')),
                "{text}"
            );
            assert_eq!(decode_branch(&text), Some(branch));
        }
        let long = BranchName::new(&"日".repeat(256)).expect("it is valid");
        assert_eq!(
            decode_branch(&name_text(long.as_str())),
            None,
            "only a hash is stored"
        );
    }

    #[test]
    fn the_longest_branch_leaves_metadata_within_its_limit() {
        let branch = BranchName::new(&"é".repeat(256)).expect("it is valid");
        let config = Config::read(&[("ARTIFACT_BUCKET", "abc")].into_iter().collect());
        let repository = RepositoryName::new(&"r".repeat(100)).expect("it is valid");
        let commit = commit(&"é".repeat(500));
        let config = config.expect("it is valid");
        let identity = ArtifactIdentity::new(
            &config,
            &config.key,
            &repository,
            &branch,
            &RefKind::Branch,
            commit.id.into(),
            None,
        );
        let provenance = Provenance {
            since: i64::MAX,
            is_existing: true,
        };
        let pipelines = "0123abcd ".repeat(28);
        let mut user = identity.metadata(&commit, provenance, Some(&pipelines));
        user.insert(FILES.to_owned(), u64::MAX.to_string());
        let bytes: usize = user
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        assert!(bytes <= MAX_METADATA_BYTES, "{bytes}");
    }
}
