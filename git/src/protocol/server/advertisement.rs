//! Refs and capabilities that a server advertises before the client's first request.

use std::fmt::Write as _;

use bstr::BString;
use tokio::io::AsyncWrite;

use super::connection::PacketWriter;
use super::repository::RefSnapshot;
use crate::error::Result;
use crate::refs::Head;
use crate::{AGENT, HashKind, ObjectId};

/// A version of the protocol, as a client asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum ProtocolVersion {
    /// Version 0.
    #[default]
    V0,
    /// Version 1: version 0 after one line more.
    V1,
    /// Version 2.
    V2,
}

impl ProtocolVersion {
    /// Returns the version that the value of `GIT_PROTOCOL`, or the extra parameters of a `git://`
    /// request, ask for: the highest of `version=<n>`, separated by colons.
    pub fn requested(parameters: &str) -> Self {
        let versions = parameters.split(':').filter_map(|parameter| {
            match parameter.strip_prefix("version=")? {
                "1" => Some(Self::V1),
                "2" => Some(Self::V2),
                _ => None,
            }
        });
        versions.max().unwrap_or_default()
    }
}

/// The capabilities of upload-pack in versions 0 and 1.
const UPLOAD_PACK: &str = "multi_ack thin-pack side-band side-band-64k ofs-delta shallow \
     deepen-since deepen-not deepen-relative no-progress include-tag multi_ack_detailed \
     allow-tip-sha1-in-want allow-reachable-sha1-in-want filter";

/// Writes the refs and the capabilities of upload-pack in version 0 or 1.
pub(super) async fn upload_pack_refs<W>(
    writer: &mut PacketWriter<W>,
    version: ProtocolVersion,
    snapshot: &RefSnapshot,
) -> Result<()>
where
    W: AsyncWrite + Send + Unpin,
{
    let mut capabilities = UPLOAD_PACK.to_owned();
    if let (Some(Head::Symbolic(target)), Some(_)) = (&snapshot.head, snapshot.head_id()) {
        write!(capabilities, " symref=HEAD:{target}").expect("because a string accepts all text");
    }
    let mut lines = Vec::with_capacity(snapshot.refs.len() + 1);
    if let Some(id) = snapshot.head_id() {
        lines.push((id, BString::from("HEAD")));
        if let Some(Head::Symbolic(name)) = &snapshot.head
            && let Some(peeled) = snapshot.refs.get(name).and_then(|target| target.peeled)
        {
            lines.push((peeled, BString::from("HEAD^{}")));
        }
    }
    for (name, target) in &snapshot.refs {
        lines.push((target.id, name.clone()));
        if let Some(peeled) = target.peeled {
            lines.push((peeled, [name.as_slice(), b"^{}"].concat().into()));
        }
    }
    write_refs(writer, version, lines, snapshot.hash, &capabilities).await
}

/// Writes refs, of which the first carries the capabilities.
pub(super) async fn write_refs<W>(
    writer: &mut PacketWriter<W>,
    version: ProtocolVersion,
    mut lines: Vec<(ObjectId, BString)>,
    hash: HashKind,
    capabilities: &str,
) -> Result<()>
where
    W: AsyncWrite + Send + Unpin,
{
    if version == ProtocolVersion::V1 {
        writer.line("version 1\n");
    }
    if lines.is_empty() {
        lines.push((ObjectId::null(hash), "capabilities^{}".into()));
    }
    let mut capabilities = Some(capabilities);
    for (id, name) in lines {
        let mut line = format!("{id} ").into_bytes();
        line.extend_from_slice(&name);
        if let Some(capabilities) = capabilities.take() {
            line.push(0);
            line.extend_from_slice(capabilities.as_bytes());
            line.extend_from_slice(format!(" object-format={hash} agent={AGENT}").as_bytes());
        }
        line.push(b'\n');
        writer.line(line);
        writer.send_if_full().await?;
    }
    writer.flush_packet();
    writer.send().await
}

/// Writes the capabilities of upload-pack in version 2.
pub(super) async fn upload_pack_v2<W>(writer: &mut PacketWriter<W>, hash: HashKind) -> Result<()>
where
    W: AsyncWrite + Send + Unpin,
{
    writer.line("version 2\n");
    writer.line(format!("agent={AGENT}\n"));
    writer.line("ls-refs=unborn\n");
    writer.line("fetch=shallow wait-for-done filter ref-in-want sideband-all\n");
    writer.line("server-option\n");
    writer.line(format!("object-format={hash}\n"));
    writer.flush_packet();
    writer.send().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_that_a_client_asks_for_is_served() {
        for (parameters, version) in [
            ("", ProtocolVersion::V0),
            ("version=2", ProtocolVersion::V2),
            ("version=1:version=2:version=3", ProtocolVersion::V2),
            ("other:version=1", ProtocolVersion::V1),
            ("version=9", ProtocolVersion::V0),
        ] {
            assert_eq!(
                ProtocolVersion::requested(parameters),
                version,
                "{parameters}"
            );
        }
    }
}
