//! History of an object database.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::{Ancestor, AnnotatedTag, History};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::{Commit, ObjectKind};
use crate::git::odb::Database;
use crate::git::server::RefSnapshot;

/// Refs of a repository, and a database with their objects.
pub struct DatabaseHistory {
    objects: Arc<Database>,
    refs: RefSnapshot,
    peeled: OnceCell<Arc<RefSnapshot>>,
}

impl fmt::Debug for DatabaseHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseHistory")
            .field("objects", &self.objects)
            .field("refs", &self.refs.refs.len())
            .finish_non_exhaustive()
    }
}

impl DatabaseHistory {
    /// Reads the history of `refs` from `objects`. Tags whose peeled ids are not in `refs` are
    /// peeled as far as the database has them.
    pub fn new(objects: Arc<Database>, refs: RefSnapshot) -> Self {
        Self {
            objects,
            refs,
            peeled: OnceCell::new(),
        }
    }

    async fn peel(&self) -> Result<Arc<RefSnapshot>> {
        let mut refs = self.refs.clone();
        for (name, value) in &mut refs.refs {
            if value.peeled.is_some() || !name.starts_with(b"refs/tags/") {
                continue;
            }
            match self.objects.peel(value.id).await.map_err(Error::from) {
                Ok((peeled, _)) => value.peeled = (peeled != value.id).then_some(peeled),
                // The archived commit does not need the tag.
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Arc::new(refs))
    }
}

/// Returns whether an object, or one that it names, is missing.
fn is_missing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt)
}

#[async_trait]
impl History for DatabaseHistory {
    async fn refs(&self) -> Result<Arc<RefSnapshot>> {
        let refs = self.peeled.get_or_try_init(|| self.peel());
        refs.await.map(Arc::clone)
    }

    async fn commit(&self, id: ObjectId) -> Result<Ancestor> {
        let Some((ObjectKind::Commit, content)) = self.objects.read(id).await? else {
            let message = format!("the history is not complete: commit {id} is missing");
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        let commit = Commit::decode(id, &content)?;
        Ok(Ancestor {
            time: commit.committer.seconds().unwrap_or(0),
            parents: commit.parents,
        })
    }

    async fn tag(&self, id: ObjectId, _peeled: ObjectId) -> Result<Option<AnnotatedTag>> {
        Ok(match self.objects.read(id).await? {
            Some((ObjectKind::Tag, content)) => AnnotatedTag::decode(&content),
            _ => None,
        })
    }

    fn abbreviated(&self, id: ObjectId, digits: Option<usize>) -> String {
        self.objects.abbreviated_to(id, digits)
    }
}
