//! `fetch`: objects of a remote into the local repository.

use branchline_core::git::ObjectId;
use branchline_core::remote::{PackRequest, Remote};
use branchline_core::{Error, ErrorKind, Result};
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;

use super::options::Options;
use crate::local_git;

/// Fetches the objects of `wants` that the local repository does not have.
pub(super) async fn fetch(
    remote: &dyn Remote,
    mut wants: Vec<ObjectId>,
    options: Options,
) -> Result<()> {
    wants.sort_unstable();
    wants.dedup();
    // Its commits have not all that they need, so that nothing may be left out.
    let haves = if local_git::is_incomplete().await? {
        Vec::new()
    } else {
        local_git::tips().await?
    };
    let source = remote.source(&[]).await?;
    let request = PackRequest {
        wants,
        haves,
        thin: true,
        offset_deltas: true,
    };
    let mut pack = source.fetch(&request).await?;
    let mut indexing = local_git::index_pack(options.progress)?;
    let mut stdin = indexing
        .stdin
        .take()
        .expect("because the command was started with a pipe");
    while let Some(chunk) = pack.next().await {
        let chunk = chunk.map_err(Error::from)?;
        if let Err(error) = stdin.write_all(&chunk).await {
            drop(stdin);
            local_git::finish(indexing, "index-pack").await?;
            let message = "`git index-pack` ended early";
            return Err(Error::new(ErrorKind::Internal, message).with_source(error));
        }
    }
    drop(stdin);
    local_git::finish(indexing, "index-pack").await
}
