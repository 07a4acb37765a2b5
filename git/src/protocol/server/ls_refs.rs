//! The command `ls-refs` of version 2.

use bstr::{BString, ByteSlice as _};
use tokio::io::AsyncWrite;

use super::connection::PacketWriter;
use super::repository::RefSnapshot;
use crate::ObjectId;
use crate::error::Result;
use crate::refs::Head;
use crate::{corrupt, escaped_excerpt};

/// The most prefixes that are applied; a client that sends more gets all refs, as from git.
const MAX_PREFIXES: usize = 65_536;

/// The arguments of `ls-refs`.
#[derive(Debug, Default)]
pub(super) struct LsRefs {
    peel: bool,
    symrefs: bool,
    unborn: bool,
    prefixes: Vec<BString>,
}

impl LsRefs {
    /// Parses an argument.
    pub(super) fn add(&mut self, line: &[u8]) -> Result<()> {
        match line {
            b"peel" => self.peel = true,
            b"symrefs" => self.symrefs = true,
            b"unborn" => self.unborn = true,
            _ => {
                let prefix = line.strip_prefix(b"ref-prefix ").ok_or_else(|| {
                    corrupt(format!("unexpected line: '{}'", escaped_excerpt(line)))
                })?;
                if self.prefixes.len() < MAX_PREFIXES {
                    self.prefixes.push(prefix.into());
                }
            }
        }
        Ok(())
    }

    /// Returns the prefixes of the refs to list; none for all refs.
    pub(super) fn prefixes(&self) -> &[BString] {
        match self.prefixes.len() {
            MAX_PREFIXES => &[],
            _ => &self.prefixes,
        }
    }

    /// Writes the refs with one of the prefixes.
    pub(super) async fn answer<W>(
        &self,
        snapshot: &RefSnapshot,
        writer: &mut PacketWriter<W>,
    ) -> Result<()>
    where
        W: AsyncWrite + Send + Unpin,
    {
        let mut prefixes: Vec<&[u8]> = self.prefixes().iter().map(|name| name.as_slice()).collect();
        prefixes.sort_unstable();
        // Without prefixes of which another one is a prefix, only the greatest prefix that is not
        // greater than a name can be a prefix of it.
        prefixes.dedup_by(|longer, shorter| longer.starts_with(shorter));
        let matches = |name: &[u8]| {
            let end = prefixes.partition_point(|prefix| *prefix <= name);
            prefixes.is_empty() || end > 0 && name.starts_with(prefixes[end - 1])
        };
        if matches(b"HEAD") {
            let target = match &snapshot.head {
                Some(Head::Symbolic(name)) => Some(name),
                _ => None,
            };
            let symref = target.filter(|_| self.symrefs).map(|name| name.as_bstr());
            if let Some(id) = snapshot.head_id() {
                let peeled = target.and_then(|name| snapshot.refs.get(name)?.peeled);
                self.line(writer, &id.to_string(), b"HEAD", symref, peeled);
            } else if self.unborn && symref.is_some() {
                self.line(writer, "unborn", b"HEAD", symref, None);
            }
        }
        for (name, target) in &snapshot.refs {
            if matches(name) {
                self.line(writer, &target.id.to_string(), name, None, target.peeled);
                writer.send_if_full().await?;
            }
        }
        writer.flush_packet();
        writer.send().await
    }

    fn line<W>(
        &self,
        writer: &mut PacketWriter<W>,
        id: &str,
        name: &[u8],
        symref: Option<&bstr::BStr>,
        peeled: Option<ObjectId>,
    ) where
        W: AsyncWrite + Send + Unpin,
    {
        let mut line = [id.as_bytes(), b" ", name].concat();
        if let Some(target) = symref {
            line.extend_from_slice(b" symref-target:");
            line.extend_from_slice(target);
        }
        if let Some(peeled) = peeled.filter(|_| self.peel) {
            line.extend_from_slice(format!(" peeled:{peeled}").as_bytes());
        }
        line.push(b'\n');
        writer.line(line);
    }
}
