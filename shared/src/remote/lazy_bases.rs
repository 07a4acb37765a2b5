//! Objects of a target as the bases of thin packs, opened with the first request for one.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;

use crate::error::Result;
use crate::git::ObjectId;
use crate::git::object::ObjectKind;
use crate::git::pack::Bases;

/// Opens the objects.
type Open = Box<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Bases>>> + Send + Sync>;

/// Bases that are opened when the first is needed.
pub(super) struct LazyBases {
    open: Open,
    opened: OnceCell<Arc<dyn Bases>>,
}

impl LazyBases {
    pub(super) fn new<F>(open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Arc<dyn Bases>>> + Send + 'static,
    {
        Self {
            open: Box::new(move || Box::pin(open())),
            opened: OnceCell::new(),
        }
    }
}

#[async_trait]
impl Bases for LazyBases {
    async fn base(&self, id: ObjectId) -> crate::git::Result<Option<(ObjectKind, Bytes)>> {
        let opened = self.opened.get_or_try_init(|| (self.open)()).await?;
        opened.base(id).await
    }
}
