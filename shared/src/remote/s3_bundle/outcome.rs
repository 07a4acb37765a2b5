//! What becomes of refs, noted: later ones of the same opening stand on it.

use std::sync::Arc;

use super::bundle_reader::OpenBundle;
use super::cached_pack::CachedPackReader;
use super::competing::Ref;
use super::compose::CopyBase;
use super::expected_ref::ExpectedRef;
use super::plan::ComposedBundle;
use super::publish::Published;
use super::target::{BundleTarget, PushResults};
use crate::error::{ErrorKind, Result};
use crate::git::bundle::Header;
use crate::git::pack::PackBytes;
use crate::git::refs::RefOutcome;
use crate::git::refs::{Head, RefTarget};
use crate::remote::RefUpdate;
use crate::storage::{Precondition, PutOptions};

/// How many bundles that were just written are remembered, to compose others of.
const MAX_RECENT_BASES: usize = 16;

/// What became of one ref.
pub(super) enum RefResult {
    Published(Box<(Published, Option<ComposedBundle>)>),
    Deleted,
    Rejected(String),
}

impl BundleTarget {
    /// Keeps a copy of what was published.
    pub(super) async fn cache_new_pack(
        &self,
        mut published: Published,
        mut makes: Option<ComposedBundle>,
    ) -> RefResult {
        let copies = self.place.options.copies.as_ref();
        if let Some((copies, addition)) = copies.zip(published.addition.take())
            && let Some(makes) = &mut makes
        {
            makes.copy = copies.insert(addition).await;
        }
        RefResult::Published(Box::new((published, makes)))
    }

    /// Notes what became of a ref.
    ///
    /// # Errors
    /// When the ref has moved and its archive could not be written.
    pub(super) fn record_result(
        &mut self,
        change: &RefUpdate,
        done: RefResult,
        each: &mut PushResults,
    ) -> Result<RefOutcome> {
        let name = &change.name;
        let gone = match (&done, self.find(name)) {
            (RefResult::Rejected(_), _) | (_, None) => Vec::new(),
            (_, Some(found)) => found.seen.files.clone(),
        };
        let (file, makes, archived) = match done {
            RefResult::Rejected(words) => return Ok(RefOutcome::Rejected(words)),
            RefResult::Deleted => (None, None, Ok(())),
            RefResult::Published(published) => {
                let (published, makes) = *published;
                each.bytes += published.sent_bytes;
                (Some(published.file), makes, published.archived)
            }
        };
        self.opened.library.replace(&gone, file.clone());
        self.fresh.retain(|base| !gone.contains(&base.bundle.file));
        let protected = self.find(name).is_some_and(|found| found.seen.protected);
        if archived.is_ok() {
            self.archived.insert(name.clone());
        }
        self.opened.refs.retain(|(other, _)| other != name);
        self.opened.snapshot.refs.remove(name);
        let Some(file) = file else {
            return Ok(RefOutcome::Done);
        };
        let target = RefTarget {
            id: file.id,
            peeled: None,
        };
        self.opened.snapshot.refs.insert(name.clone(), target);
        let found = Ref {
            file: file.clone(),
            seen: ExpectedRef {
                name: name.clone(),
                files: vec![file.clone()],
                protected,
            },
            strays: Vec::new(),
            zip: true,
        };
        self.opened.refs.push((name.clone(), found));
        if let Some(ComposedBundle {
            ids,
            pack_start,
            of,
            copy,
        }) = makes
        {
            let mut header = Header::new(self.hash);
            header.refs.push((file.id, name.clone()));
            let bundle = OpenBundle {
                place: Arc::clone(&self.place),
                file,
                header,
                pack_start,
            };
            // What others were composed of is likely to serve again.
            let used = |base: &CopyBase| Some(&base.bundle.file) == of.as_ref();
            if let Some(at) = self.fresh.iter().position(used) {
                self.fresh[at..].rotate_left(1);
            }
            if self.fresh.len() == MAX_RECENT_BASES {
                self.fresh.remove(0);
            }
            let bytes: Arc<dyn PackBytes> = match &copy {
                Some(copy) => Arc::new(CachedPackReader {
                    copy: Arc::clone(copy),
                    bundle: bundle.clone(),
                }),
                None => Arc::new(bundle.clone()),
            };
            self.fresh.push(CopyBase {
                is_near: copy.is_some(),
                bytes,
                copy,
                bundle,
                ids,
            });
        }
        archived.map(|()| RefOutcome::Done)
    }

    /// Writes `HEAD` if there is none: what the push says, else the first branch pushed.
    pub(super) async fn write_head(
        &mut self,
        head: Option<Head>,
        changes: &[RefUpdate],
        each: &PushResults,
    ) -> Result<()> {
        if self.opened.snapshot.head.is_some() {
            return Ok(());
        }
        let said = match head {
            Some(Head::Symbolic(name)) => Some(name),
            _ => None,
        };
        let there = &self.opened.snapshot.refs;
        let said = said.filter(|name| there.contains_key(name));
        let pushed = || {
            let done = changes.iter().zip(&each.refs);
            let mut names = done.filter_map(|(change, (name, outcome))| {
                let is_there = change.new.is_some() && matches!(outcome, Ok(RefOutcome::Done));
                is_there.then_some(name)
            });
            let first = names.next()?;
            let mut all = std::iter::once(first).chain(names);
            let branch = all.find(|name| name.starts_with(b"refs/heads/"));
            Some(branch.unwrap_or(first).clone())
        };
        let Some(name) = said.or_else(pushed) else {
            return Ok(());
        };
        let options = PutOptions {
            precondition: Precondition::Absent,
            kms_key_id: self.place.options.kms_key_id.clone(),
            ..PutOptions::default()
        };
        let key = self.place.head_key()?;
        let body = bytes::Bytes::from(Vec::from(name.clone()));
        let written = self
            .place
            .store
            .put(&self.place.bucket, &key, body, &options)
            .await;
        match written {
            Ok(_) => {}
            // Another push was faster.
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
        self.opened.snapshot.head = Some(Head::Symbolic(name));
        Ok(())
    }
}
