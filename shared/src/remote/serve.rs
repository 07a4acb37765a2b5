//! Remotes as repositories that git clients fetch from and push to: [`ServedRemote`] over
//! [`branchline_git::server`](crate::git::server).
//!
//! Every remote whose objects can be read one by one is served: S3 in both layouts, and local
//! repositories. A remote that only sends packs (a git server) is refused.

use std::sync::Arc;

use async_trait::async_trait;
use bstr::BString;
use tokio::sync::Mutex;

use super::{
    ATOMIC_FAILURE, Head, IncomingOptions, IncomingPack, PackBody, PackRequest, Push, RefOutcome,
    RefUpdate, Remote, Snapshot, Source, Target, conflicting_ref, is_branch,
};
use crate::error::{Error, ErrorKind, Result};
use crate::git::odb::{Database, DatabaseOptions};
use crate::git::pack::PackLimits;
use crate::git::server::{
    PushReceiver, ReceiveCapabilities, ReceivedPush, RefSnapshot, Repository,
};
use crate::git::{HashKind, ObjectId};

/// The most attempts to update refs that other writers change at the same time.
const MAX_ATTEMPTS: u32 = 10;

/// The reason for which a ref that another writer has changed is rejected, in git's words.
const STALE: &str = "fetch first";

/// Options of a [`ServedRemote`].
#[derive(Debug, Clone, Default)]
pub struct ServeOptions {
    /// Limits of receiving packs.
    pub limits: PackLimits,
    /// Serves a location where nothing is stored as an empty repository, instead of
    /// `NotFound`.
    pub missing_is_empty: bool,
    /// The branch that the client has checked out: the `HEAD` of an empty repository, if it is
    /// pushed.
    pub client_head: Option<BString>,
}

/// A remote that is served to a git client.
pub struct ServedRemote {
    remote: Arc<dyn Remote>,
    options: ServeOptions,
    // The source that was opened last, with the prefix of its refs.
    opened: Mutex<Option<(BString, Arc<dyn Source>)>>,
}

impl std::fmt::Debug for ServedRemote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServedRemote")
            .field("remote", &self.remote.to_string())
            .finish_non_exhaustive()
    }
}

impl ServedRemote {
    /// Serves `remote`. Its refs are read when a client asks for them, once for a connection.
    pub fn new(remote: Arc<dyn Remote>, options: ServeOptions) -> Self {
        Self {
            remote,
            options,
            opened: Mutex::default(),
        }
    }

    /// Returns a source whose refs include those that start with `prefix`; `None` when nothing
    /// is stored.
    async fn source(&self, prefix: &BString) -> Result<Option<Arc<dyn Source>>> {
        let mut opened = self.opened.lock().await;
        if let Some((covered, source)) = &*opened
            && prefix.starts_with(covered)
        {
            return Ok(Some(Arc::clone(source)));
        }
        let all = std::slice::from_ref(prefix);
        let prefixes = if prefix.is_empty() { &[] } else { all };
        let source: Arc<dyn Source> = match self.remote.source(prefixes).await {
            Ok(source) => source.into(),
            // An error of the service, such as a missing bucket, has a code.
            Err(error)
                if self.options.missing_is_empty
                    && error.kind() == ErrorKind::NotFound
                    && error.aws_code().is_none() =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        *opened = Some((prefix.clone(), Arc::clone(&source)));
        Ok(Some(source))
    }

    /// Returns the source that was opened last, or one with all refs.
    async fn last_source(&self) -> Result<Option<(bool, Arc<dyn Source>)>> {
        if let Some((prefix, source)) = &*self.opened.lock().await {
            return Ok(Some((prefix.is_empty(), Arc::clone(source))));
        }
        let source = self.source(&BString::default()).await?;
        Ok(source.map(|source| (true, source)))
    }

    async fn database(&self, ids: &[ObjectId]) -> Result<Arc<Database>> {
        let Some((has_all_refs, source)) = self.last_source().await? else {
            return empty_database();
        };
        let database = match self.open_database(&*source, ids).await {
            Err(error) if has_moved_on(&error) => match self.reopened().await? {
                Some(source) => self.open_database(&*source, ids).await?,
                None => return Err(error),
            },
            opened => opened?,
        };
        let mut is_complete = true;
        for id in ids {
            is_complete &= has_all_refs || database.contains(*id).await?;
        }
        if is_complete {
            return Ok(database);
        }
        match self.source(&BString::default()).await? {
            Some(source) => self.open_database(&*source, ids).await,
            None => Ok(database),
        }
    }

    /// Opens the remote again, because another writer has replaced objects since it was opened.
    async fn reopened(&self) -> Result<Option<Arc<dyn Source>>> {
        *self.opened.lock().await = None;
        self.source(&BString::default()).await
    }

    async fn open_database(&self, source: &dyn Source, ids: &[ObjectId]) -> Result<Arc<Database>> {
        source.objects(ids).await?.ok_or_else(|| {
            let message = format!("{} only sends packs, and cannot be served", self.remote);
            Error::new(ErrorKind::Config, message).with_hint("use its own URL with git")
        })
    }
}

/// Returns whether the objects that refs named may have been moved by another writer.
fn has_moved_on(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound)
}

fn empty_database() -> Result<Arc<Database>> {
    let database = Database::new(HashKind::Sha1, [], None, DatabaseOptions::default())?;
    Ok(Arc::new(database))
}

/// Returns the longest prefix of all full ref names that start with one of `prefixes`.
fn common_prefix(prefixes: &[BString]) -> BString {
    let mut common: Option<&[u8]> = None;
    for prefix in prefixes {
        if b"HEAD".starts_with(prefix) || b"refs/".starts_with(prefix) {
            // The ref that `HEAD` names may have any name.
            return BString::default();
        }
        if !prefix.starts_with(b"refs/") {
            continue;
        }
        let shared = common.unwrap_or(prefix).iter().zip(prefix.iter());
        let length = shared.take_while(|(left, right)| left == right).count();
        common = Some(&prefix[..length]);
    }
    match common {
        Some(common) if common.len() > b"refs/".len() => common.into(),
        _ => BString::default(),
    }
}

fn ref_snapshot(snapshot: &Snapshot) -> RefSnapshot {
    RefSnapshot {
        hash: snapshot.hash,
        refs: snapshot.refs.clone(),
        head: snapshot.head.clone(),
    }
}

#[async_trait]
impl Repository for ServedRemote {
    async fn refs(&self, prefixes: &[BString]) -> crate::git::Result<RefSnapshot> {
        let source = self.source(&common_prefix(prefixes)).await?;
        Ok(match source {
            Some(source) => {
                let mut snapshot = ref_snapshot(source.snapshot());
                source.peel_tags(&mut snapshot.refs).await;
                snapshot
            }
            None => ref_snapshot(&Snapshot::empty(HashKind::Sha1)),
        })
    }

    async fn objects(&self, ids: &[ObjectId]) -> crate::git::Result<Arc<Database>> {
        Ok(self.database(ids).await?)
    }

    async fn fetch(&self, request: &PackRequest) -> crate::git::Result<PackBody> {
        if let Some((_, source)) = self.last_source().await? {
            return match source.fetch(request).await {
                Err(error) if has_moved_on(&error) => match self.reopened().await? {
                    Some(source) => Ok(source.fetch(request).await?),
                    None => Err(error.into()),
                },
                fetched => Ok(fetched?),
            };
        }
        Err(Error::new(ErrorKind::NotFound, format!("{} is empty", self.remote)).into())
    }

    async fn push_receiver(&self) -> crate::git::Result<Box<dyn PushReceiver>> {
        let target = self.remote.target().await?;
        Ok(Box::new(ServedTarget {
            remote: Arc::clone(&self.remote),
            snapshot: ref_snapshot(target.snapshot()),
            target,
            options: self.options.clone(),
        }))
    }
}

/// A remote that receives one push.
struct ServedTarget {
    remote: Arc<dyn Remote>,
    target: Box<dyn Target>,
    snapshot: RefSnapshot,
    options: ServeOptions,
}

#[async_trait]
impl PushReceiver for ServedTarget {
    fn snapshot(&self) -> &RefSnapshot {
        &self.snapshot
    }

    fn capabilities(&self) -> ReceiveCapabilities {
        let capabilities = self.target.capabilities();
        ReceiveCapabilities {
            atomic: self.target.is_atomic(),
            thin: capabilities.thin,
            offset_deltas: capabilities.offset_deltas,
        }
    }

    async fn receive(&mut self, push: ReceivedPush) -> crate::git::Result<Vec<RefOutcome>> {
        let ReceivedPush {
            updates,
            pack,
            atomic,
        } = push;
        let new = updates.iter().find_map(|update| Some(update.new?.id));
        let options = IncomingOptions {
            hash: new.map_or(self.snapshot.hash, |id| id.kind()),
            limits: self.options.limits,
            scanner: None,
            commits: None,
        };
        let incoming = |body| IncomingPack::new(body, &options).ending_with_trailer();
        let outcomes = self.update(&updates, pack.map(incoming), atomic).await?;
        Ok(outcomes)
    }

    async fn complete_interrupted(&mut self) {
        let names: Vec<BString> = self.snapshot.refs.keys().cloned().collect();
        let head = self.missing_head();
        let target = &mut self.target;
        let completed = async {
            target.repair(&names).await?;
            if head.is_some() {
                let push = Push {
                    head,
                    ..Push::default()
                };
                target.push_each(push).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = completed.await {
            tracing::info!(
                error = %error.report(),
                "what an interrupted push left was not completed"
            );
        }
    }
}

impl ServedTarget {
    /// Updates refs, again from the start as long as other writers change other refs meanwhile.
    async fn update(
        &mut self,
        updates: &[RefUpdate],
        mut pack: Option<IncomingPack>,
        atomic: bool,
    ) -> Result<Vec<RefOutcome>> {
        let mut attempt = 1;
        loop {
            let mut outcomes = self.known_outcomes(updates, atomic, attempt > 1);
            let pending = updates.iter().zip(&outcomes);
            let pending = pending.filter(|(_, outcome)| outcome.is_none());
            let changes: Vec<RefUpdate> = pending.map(|(update, _)| update.clone()).collect();
            if changes.is_empty() {
                return Ok(outcomes.into_iter().flatten().collect());
            }
            let push = Push {
                head: self.new_head(&changes),
                changes,
                pack: pack.take(),
                atomic,
                ..Push::default()
            };
            let results = match self.target.push_each(push).await {
                // The objects are stored already, so that no pack is needed any more.
                Err(error) if error.kind() == ErrorKind::Conflict && attempt < MAX_ATTEMPTS => {
                    tracing::debug!(error = %error.report(), "refs have changed: reading them");
                    attempt += 1;
                    self.target = self.remote.target().await?;
                    continue;
                }
                results => results?,
            };
            let mut results = results.into_iter();
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_none()) {
                *outcome = Some(match results.next() {
                    Some((_, Ok(outcome))) => outcome,
                    Some((_, Err(error))) => RefOutcome::Rejected(match error.kind() {
                        ErrorKind::Conflict => format!("{STALE} ({})", error.report()),
                        _ => error.report(),
                    }),
                    None => RefOutcome::Unknown,
                });
            }
            return Ok(outcomes.into_iter().flatten().collect());
        }
    }

    /// Returns the outcome of each update that is known from the refs as they were read last:
    /// a rejection, or, when an earlier attempt may have been carried out, success.
    fn known_outcomes(
        &self,
        updates: &[RefUpdate],
        atomic: bool,
        is_repeated: bool,
    ) -> Vec<Option<RefOutcome>> {
        let refs = &self.target.snapshot().refs;
        let mut after = refs.clone();
        for update in updates.iter().filter(|update| update.new.is_none()) {
            after.remove(&update.name);
        }
        let mut outcome = |update: &RefUpdate| {
            let name = &update.name;
            let current = refs.get(name).map(|target| target.id);
            if is_repeated && current == update.new.map(|new| new.id) {
                return Some(RefOutcome::Done);
            }
            if current != update.old {
                return Some(RefOutcome::Rejected(STALE.to_owned()));
            }
            let new = update.new?;
            if let Some(other) = conflicting_ref(&after, name.as_ref()) {
                return Some(RefOutcome::Rejected(format!(
                    "cannot lock ref '{name}': '{other}' exists; cannot create '{name}'"
                )));
            }
            after.insert(name.clone(), new);
            None
        };
        let mut outcomes: Vec<Option<RefOutcome>> = updates.iter().map(&mut outcome).collect();
        let is_rejected = |outcome: &Option<_>| matches!(outcome, Some(RefOutcome::Rejected(_)));
        if atomic && outcomes.iter().any(is_rejected) {
            for outcome in &mut outcomes {
                outcome.get_or_insert_with(|| RefOutcome::Rejected(ATOMIC_FAILURE.to_owned()));
            }
        }
        outcomes
    }

    /// Returns the value of `HEAD` for a repository with branches and without `HEAD`.
    fn missing_head(&self) -> Option<Head> {
        if self.snapshot.head.is_some() {
            return None;
        }
        let names = self.snapshot.refs.keys();
        let branches: Vec<&BString> = names.filter(|name| is_branch(name)).collect();
        self.choose_head(&branches)
    }

    /// Returns the value of `HEAD` for a repository without branches: the branch that it names
    /// already, or one of those that are pushed.
    fn new_head(&self, changes: &[RefUpdate]) -> Option<Head> {
        let snapshot = self.target.snapshot();
        if snapshot.refs.keys().any(is_branch) {
            return None;
        }
        let pushed = changes.iter().filter(|change| change.new.is_some());
        let pushed: Vec<&BString> = pushed
            .map(|change| &change.name)
            .filter(|name| is_branch(name))
            .collect();
        if let Some(Head::Symbolic(name)) = &snapshot.head
            && pushed.contains(&name)
        {
            return None;
        }
        self.choose_head(&pushed)
    }

    /// Chooses the branch of `HEAD`: the one that the client has checked out, `main`, `master`, or
    /// the first one.
    fn choose_head(&self, branches: &[&BString]) -> Option<Head> {
        let usual = ["refs/heads/main", "refs/heads/master"];
        let own = branches
            .iter()
            .find(|name| Some(**name) == self.options.client_head.as_ref());
        let named = own.or_else(|| {
            branches
                .iter()
                .find(|name| usual.iter().any(|usual| ***name == *usual))
        });
        let head = Head::Symbolic((*named.or(branches.first())?).clone());
        self.target.accepts_head(&head).then_some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_prefix_includes_every_ref_that_one_of_the_prefixes_names() {
        let common = |prefixes: &[&str]| {
            let prefixes: Vec<BString> = prefixes.iter().map(|name| (*name).into()).collect();
            common_prefix(&prefixes).to_string()
        };
        assert_eq!(common(&[]), "");
        assert_eq!(common(&["refs/heads/"]), "refs/heads/");
        assert_eq!(common(&["refs/heads/a", "refs/heads/ab"]), "refs/heads/a");
        assert_eq!(common(&["refs/heads/", "refs/tags/"]), "");
        assert_eq!(common(&["HEAD", "refs/heads/"]), "");
        assert_eq!(common(&["main", "refs/heads/main"]), "refs/heads/main");
        assert_eq!(common(&["re", "refs/heads/main"]), "");
    }
}
