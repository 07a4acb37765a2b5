//! Fetches one commit with its tree, and not its history.

use futures_util::StreamExt as _;

use super::demanding;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::smart_http::{FetchRequest, TipNegotiator, UploadPack};
use crate::remote::{PackBody, PackRequest};

/// Fetches all that the commit or tag `id` needs; `None` if the server cannot leave the history out,
/// or refuses a client that does not request all of its capabilities.
///
/// # Errors
/// `NotFound` if the server does not have, or does not send, the object.
pub(super) async fn fetch(server: &UploadPack, id: ObjectId) -> Result<Option<PackBody>> {
    if !server.can_be_shallow() {
        return Ok(None);
    }
    let request = FetchRequest {
        wants: vec![id],
        depth: Some(1),
        offset_deltas: true,
        ..FetchRequest::default()
    };
    let fetched = server.fetch(&request, &mut TipNegotiator::default()).await;
    let error = match fetched {
        Ok(fetched) => return Ok(Some(fetched.pack.into_stream().boxed())),
        Err(error) => Error::from(error),
    };
    if error.kind() == ErrorKind::NotFound {
        let message = format!("{} does not send {id}", server.client().url());
        return Err(Error::new(ErrorKind::NotFound, message).with_source(error));
    }
    let wanted = PackRequest {
        offset_deltas: true,
        ..PackRequest::default()
    };
    if demanding::may_demand(server, &wanted, &error) {
        Ok(None)
    } else {
        Err(error)
    }
}
