//! Splits content into parts of an upload.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use super::LfsBody;
use crate::error::Result;

/// Splits content into parts.
pub(super) struct PartReader {
    content: LfsBody,
    rest: BytesMut,
}

impl PartReader {
    pub(super) fn new(content: LfsBody) -> Self {
        Self {
            content,
            rest: BytesMut::new(),
        }
    }

    /// Returns the next `size` bytes, or fewer at the end.
    pub(super) async fn next(&mut self, size: usize) -> Result<Bytes> {
        while self.rest.len() < size {
            let Some(bytes) = self.content.next().await.transpose()? else {
                break;
            };
            self.rest.extend_from_slice(&bytes);
        }
        let size = size.min(self.rest.len());
        Ok(self.rest.split_to(size).freeze())
    }
}
