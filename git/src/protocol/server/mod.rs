//! The server's side of git's protocol: upload-pack, receive-pack and upload-archive over any
//! [`Repository`], for stock git clients.
//!
//! | file | job |
//! |---|---|
//! | `repository` | the traits of a repository that is served |
//! | `connection` | packets of a client, and packets to it |
//! | `advertisement` | refs and capabilities of versions 0 and 1, capabilities of version 2 |
//! | `upload_pack` | serves fetches; commands of version 2 |
//! | `needs`, `ls_refs` | parse the requests |
//! | `negotiation` | common commits, and the boundary of shallow histories |
//! | `send_pack` | chooses the objects and sends the pack |
//! | `receive_pack`, `push_commands` | serves pushes |
//! | `upload_archive`, `archive_arguments` | serves `git archive --remote` |
//!
//! A service reads from any [`AsyncRead`](tokio::io::AsyncRead) and writes to any
//! [`AsyncWrite`](tokio::io::AsyncWrite): a pipe to git (`connect` of a remote helper), or a
//! socket (`git://`).
//!
//! **Errors.** A failure is reported to the client (an `ERR` packet, which git shows as `fatal:
//! remote error: ..`, or side band 3) and returned. A client that closes the connection between
//! two requests is not an error.
//!
//! **Hostile clients.** A request has at most [`MAX_REQUEST_BYTES`], a packet at most 64 KiB.
//! Memory: the lines of one request, 64 KiB in each direction, the memory of the [database] that
//! the repository opens, 40 bytes for each ref and each common commit, and 200 for each commit
//! that the negotiation or the computation of a shallow boundary visits.
//!
//! [database]: crate::odb

mod advertisement;
mod archive_arguments;
mod connection;
mod ls_refs;
mod needs;
mod negotiation;
mod push_commands;
mod receive_pack;
mod repository;
mod send_pack;
mod upload_archive;
mod upload_pack;

pub use advertisement::ProtocolVersion;
pub use archive_arguments::{ARCHIVE_FORMATS, ArchiveArguments, ArchiveFormat};
pub use connection::MAX_REQUEST_BYTES;
pub use receive_pack::{ReceivePackOptions, receive_pack};
pub use repository::{PushReceiver, ReceiveCapabilities, ReceivedPush, RefSnapshot, Repository};
pub use upload_archive::{
    ArchiveBody, ArchiveOptions, ArchivePiece, ArchiveSource, TreeArchiver, serve_archive, tree_of,
    upload_archive,
};
pub use upload_pack::{UploadPackOptions, upload_pack};
