//! The capabilities that CodeCommit advertises, and the check of a client against them.

use super::pkt_line::{self, Packet};

/// git's two services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GitService {
    UploadPack,
    ReceivePack,
}

impl GitService {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "git-upload-pack" => Some(Self::UploadPack),
            "git-receive-pack" => Some(Self::ReceivePack),
            _ => None,
        }
    }

    /// Returns the service's name, `git-upload-pack`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }

    /// Returns the git command, `upload-pack`.
    pub(super) fn command(self) -> &'static str {
        match self {
            Self::UploadPack => "upload-pack",
            Self::ReceivePack => "receive-pack",
        }
    }

    /// Capabilities of CodeCommit, as its answers list them.
    pub(super) fn capabilities(self) -> &'static [&'static str] {
        match self {
            Self::UploadPack => &[
                "multi_ack_detailed",
                "shallow",
                "side-band-64k",
                "thin-pack",
                "allow-tip-sha1-in-want",
                "allow-reachable-sha1-in-want",
            ],
            Self::ReceivePack => &["report-status", "delete-refs", "side-band-64k"],
        }
    }

    /// Returns the first capability of `asked` that is not offered.
    pub(super) fn unoffered<'a>(self, asked: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let offered = self.capabilities();
        let mut asked = asked;
        asked.find(|capability| !capability.is_empty() && !offered.contains(capability))
    }
}

/// Rewrites git's own advertisement (of `--http-backend-info-refs`) to CodeCommit's:
/// the same refs, CodeCommit's capabilities. `None` if `own` has another shape.
pub(super) fn rewrite(service: GitService, own: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(own.len() + 64);
    pkt_line::write(
        &mut out,
        format!("# service={}\n", service.name()).as_bytes(),
    );
    pkt_line::flush(&mut out);
    let (first, used) = match pkt_line::take(own).ok()?? {
        (Packet::Line(line), used) => (line, used),
        (Packet::Flush, _) => return None,
    };
    let end = first.iter().position(|byte| *byte == 0)?;
    let mut line = first.get(..=end)?.to_vec();
    line.extend_from_slice(service.capabilities().join(" ").as_bytes());
    line.push(b'\n');
    pkt_line::write(&mut out, &line);
    out.extend_from_slice(own.get(used..)?);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_capabilities_of_the_first_line_change() {
        let mut own = Vec::new();
        pkt_line::write(&mut own, b"1111 HEAD\0multi_ack ofs-delta agent=git/2\n");
        pkt_line::write(&mut own, b"1111 refs/heads/main\n");
        pkt_line::flush(&mut own);
        let rewritten = rewrite(GitService::UploadPack, &own).unwrap();
        assert_eq!(
            String::from_utf8(rewritten).unwrap(),
            "001e# service=git-upload-pack\n0000\
             00751111 HEAD\0multi_ack_detailed shallow side-band-64k thin-pack \
             allow-tip-sha1-in-want allow-reachable-sha1-in-want\n\
             00191111 refs/heads/main\n0000"
        );
        assert_eq!(rewrite(GitService::UploadPack, b"0000"), None);
        assert_eq!(rewrite(GitService::UploadPack, b""), None);
    }
}
