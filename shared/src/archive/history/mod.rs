//! Refs and history of a repository, for what is written about a commit from outside of it: the
//! nearest tag, and the refs that name the commit.
//!
//! | file | job |
//! |---|---|
//! | `describe` | finds the nearest tag, as `git describe` |
//! | `database` | reads the history of an object database |
//! | `codecommit` | reads refs by git, and commits over the API of CodeCommit |

mod codecommit;
mod database;
mod describe;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

pub use self::codecommit::CodeCommitHistory;
pub use self::database::DatabaseHistory;
pub use self::describe::{DescribeOptions, describe, tag_of};

use crate::error::Result;
use crate::git::ObjectId;
use crate::git::server::RefSnapshot;

/// Refs and history of a repository.
#[async_trait]
pub trait History: fmt::Debug + Send + Sync {
    /// Lists the refs, with the peeled ids of annotated tags. Read once.
    async fn refs(&self) -> Result<Arc<RefSnapshot>>;

    /// Reads a commit.
    ///
    /// # Errors
    /// `NotFound` for a commit that the repository does not have.
    async fn commit(&self, id: ObjectId) -> Result<Ancestor>;

    /// Reads an annotated tag that peels to `peeled`; `None` if that is not possible.
    async fn tag(&self, id: ObjectId, peeled: ObjectId) -> Result<Option<AnnotatedTag>>;

    /// Abbreviates the id of a commit to at least `digits`, or to the repository's default.
    fn abbreviated(&self, id: ObjectId, digits: Option<usize>) -> String;

    /// Returns the number of requests to CodeCommit so far.
    fn requests(&self) -> u64 {
        0
    }
}

/// A commit of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// The committer's time, in seconds since the epoch.
    pub time: i64,
    /// The parents in their order.
    pub parents: Vec<ObjectId>,
}

/// An annotated tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnotatedTag {
    /// The name in the tag itself, which may differ from that of its ref.
    pub name: String,
    /// The tagger's time, in seconds since the epoch; 0 without one.
    pub time: i64,
}

impl AnnotatedTag {
    /// Decodes the content of a tag; `None` for one without a name.
    fn decode(content: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(content);
        let mut lines = text.lines().take_while(|line| !line.is_empty());
        let name = lines.find_map(|line| line.strip_prefix("tag "))?.to_owned();
        let tagger = lines.find_map(|line| line.strip_prefix("tagger "));
        let date = tagger.and_then(|tagger| tagger.rsplit_once('>'));
        let seconds = date.and_then(|(_, date)| date.trim().split(' ').next()?.parse().ok());
        Some(Self {
            name,
            time: seconds.unwrap_or(0),
        })
    }
}
