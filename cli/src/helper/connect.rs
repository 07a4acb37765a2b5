//! `connect`: git's own protocol over standard input and output.

use std::sync::Arc;

use branchline_core::archive::ServedArchives;
use branchline_core::git::HashKind;
use branchline_core::git::date::LocalTime;
use branchline_core::git::server::{
    ProtocolVersion, ReceivePackOptions, UploadPackOptions, receive_pack, upload_archive,
    upload_pack,
};
use branchline_core::remote::Remote;
use branchline_core::remote::serve::{ServeOptions, ServedRemote};
use bstr::{BStr, BString, ByteSlice as _};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::local_git;

/// A service of git's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// `git-upload-pack`: fetches.
    UploadPack,
    /// `git-receive-pack`: pushes.
    ReceivePack,
    /// `git-upload-archive`: `git archive --remote`.
    UploadArchive,
}

/// Properties of the local repository that the services need.
#[derive(Debug, Clone, Default)]
pub(super) struct Client {
    /// Hash function of the object ids; `None` where a clone is about to adopt the remote's.
    hash: Option<HashKind>,
    /// Branch that is checked out; for pushes only.
    head: Option<BString>,
}

impl Service {
    /// Returns the service of a name; `None` for a name that is not known.
    pub(super) fn named(name: &BStr) -> Option<Self> {
        match name.as_bytes() {
            b"git-upload-pack" => Some(Self::UploadPack),
            b"git-receive-pack" => Some(Self::ReceivePack),
            b"git-upload-archive" => Some(Self::UploadArchive),
            _ => None,
        }
    }

    /// Reads what the service needs to know about the local repository, if there is one.
    pub(super) async fn client(self) -> Client {
        match self {
            // Refs that are not there yet mean a clone.
            Self::UploadArchive => Client::default(),
            Self::UploadPack if !local_git::has_refs().await.unwrap_or(false) => Client::default(),
            Self::UploadPack => Client {
                hash: local_git::object_format().await.ok(),
                head: None,
            },
            Self::ReceivePack => {
                let (hash, head) = tokio::join!(local_git::object_format(), local_git::head());
                Client {
                    hash: hash.ok(),
                    head,
                }
            }
        }
    }

    /// Serves the remote until the client ends.
    ///
    /// # Errors
    /// The first failure, which git has shown to the user.
    pub(super) async fn serve(
        self,
        remote: Arc<dyn Remote>,
        client: Client,
        version: ProtocolVersion,
        input: impl AsyncRead + Send + Unpin + 'static,
        output: impl AsyncWrite + Send + Unpin,
    ) -> branchline_core::git::Result<()> {
        let options = ServeOptions {
            missing_is_empty: true,
            client_head: client.head,
            ..ServeOptions::default()
        };
        let served = ServedRemote::new(remote, options);
        match self {
            Self::UploadArchive => {
                let archiver = ServedArchives::new(LocalTime::now());
                upload_archive(&served, &archiver, input, output).await
            }
            Self::UploadPack => {
                let options = UploadPackOptions {
                    client_hash: client.hash,
                };
                upload_pack(&served, version, input, output, &options).await
            }
            Self::ReceivePack => {
                let options = ReceivePackOptions {
                    client_hash: client.hash,
                    input_ends: true,
                    set_head_hint: None,
                };
                receive_pack(
                    &served,
                    version.min(ProtocolVersion::V1),
                    input,
                    output,
                    &options,
                )
                .await
            }
        }
    }
}
