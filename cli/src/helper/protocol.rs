//! Lines of the remote helper protocol.

use branchline_core::git::{ObjectId, check_ref_name, escaped_excerpt};
use branchline_core::{Error, ErrorKind, Result};
use bstr::{BString, ByteSlice as _};

/// Maximum length of a line in bytes; the names of two refs have at most 4,096 each.
pub(super) const MAX_LINE_BYTES: u64 = 64 * 1024;

/// A command of git.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Capabilities,
    List {
        for_push: bool,
    },
    Option {
        name: BString,
        value: BString,
    },
    Fetch(ObjectId),
    Push(PushSpec),
    Connect(BString),
    /// A blank line: the end of a batch, or of the session.
    Blank,
}

/// One ref of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PushSpec {
    /// The ref may lose commits.
    pub(super) force: bool,
    /// Revision in the local repository; `None` to delete the ref.
    pub(super) source: Option<BString>,
    /// Full name of the ref.
    pub(super) destination: BString,
}

impl Command {
    /// Parses a line without its end.
    ///
    /// # Errors
    /// `Config` for a line that is not a known command.
    pub(super) fn parse(line: &[u8]) -> Result<Self> {
        let (word, rest) = line.split_once_str(" ").unwrap_or((line, b""));
        let invalid = || {
            let line = escaped_excerpt(line);
            Error::new(
                ErrorKind::Config,
                format!("`{line}` is not a command of git's remote helper protocol"),
            )
            .with_hint("this program is started by git; see gitremote-helpers(7)")
        };
        Ok(match (word, rest) {
            _ if line.is_empty() => Self::Blank,
            (b"capabilities", b"") => Self::Capabilities,
            (b"list", b"") => Self::List { for_push: false },
            (b"list", b"for-push") => Self::List { for_push: true },
            (b"option", rest) if !rest.is_empty() => {
                let (name, value) = rest.split_once_str(" ").unwrap_or((rest, b""));
                Self::Option {
                    name: name.into(),
                    value: value.into(),
                }
            }
            (b"fetch", rest) => {
                let (id, _) = rest.split_once_str(" ").unwrap_or((rest, b""));
                Self::Fetch(ObjectId::from_hex(id).map_err(|_| invalid())?)
            }
            (b"push", rest) => Self::Push(PushSpec::parse(rest).ok_or_else(invalid)?),
            (b"connect", service) if !service.is_empty() => Self::Connect(service.into()),
            _ => return Err(invalid()),
        })
    }
}

impl PushSpec {
    /// Parses `[+]source:destination`.
    fn parse(text: &[u8]) -> Option<Self> {
        let (force, text) = match text.strip_prefix(b"+") {
            Some(text) => (true, text),
            None => (false, text),
        };
        // A revision may contain a colon, and the name of a ref may not.
        let (source, destination) = text.rsplit_once_str(":")?;
        let destination = check_ref_name(destination.as_bstr()).ok()?;
        Some(Self {
            force,
            source: (!source.is_empty()).then(|| source.into()),
            destination,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_parsed() {
        let id = "1234567890123456789012345678901234567890";
        let push = |force, source: Option<&str>, destination: &str| {
            Command::Push(PushSpec {
                force,
                source: source.map(Into::into),
                destination: destination.into(),
            })
        };
        for (line, command) in [
            ("", Command::Blank),
            ("capabilities", Command::Capabilities),
            ("list", Command::List { for_push: false }),
            ("list for-push", Command::List { for_push: true }),
            (
                "option cas refs/heads/a: x  y",
                Command::Option {
                    name: "cas".into(),
                    value: "refs/heads/a: x  y".into(),
                },
            ),
            (
                &format!("fetch {id} refs/heads/a"),
                Command::Fetch(ObjectId::from_hex(id.as_bytes()).expect("it is hex")),
            ),
            (
                "push +refs/heads/a:refs/heads/b",
                push(true, Some("refs/heads/a"), "refs/heads/b"),
            ),
            ("push HEAD:refs/x", push(false, Some("HEAD"), "refs/x")),
            ("push v1:a:refs/x", push(false, Some("v1:a"), "refs/x")),
            ("push :refs/heads/a", push(false, None, "refs/heads/a")),
            (
                "connect git-upload-pack",
                Command::Connect("git-upload-pack".into()),
            ),
        ] {
            assert_eq!(
                Command::parse(line.as_bytes()).ok(),
                Some(command),
                "{line}"
            );
        }
    }

    #[test]
    fn other_lines_are_refused() {
        for line in [
            " ",
            "capabilities x",
            "list x",
            "option",
            "fetch x y",
            "push",
            "push a",
            "push a:../b",
            "push a:b",
            "connect",
            "import refs/heads/a",
            "\u{1b}[31m",
        ] {
            let error = Command::parse(line.as_bytes()).expect_err(line);
            assert!(!error.report().contains('\u{1b}'), "{line}");
        }
    }
}
