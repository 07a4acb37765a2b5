//! Lines of git-lfs's protocol for transfer agents: one JSON object for each event and each answer.
//!
//! git-lfs sends `init`, then transfers, each after the answer to the one before, then `terminate`.
//! Fields that are not known are ignored. See git-lfs's `docs/custom-transfers.md`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Pointer;
use super::pointer::parse_oid;
use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;

/// Direction of transfers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransferDirection {
    /// From the store into the repository.
    Download,
    /// From the repository into the store.
    Upload,
}

/// An event that git-lfs sends to its agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvent {
    /// The first event: what follows, and the remote, by its name or its URL.
    Init {
        /// Direction of all transfers that follow.
        direction: TransferDirection,
        /// Name or URL of the remote.
        remote: String,
    },
    /// The transfer of an object.
    Transfer(TransferEvent),
    /// The last event.
    Terminate,
}

/// An event that requests the transfer of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferEvent {
    /// Direction of the transfer.
    pub direction: TransferDirection,
    /// Id of the object as it was sent, for the answer.
    pub oid: String,
    /// Path of the object's content, for an upload.
    pub path: Option<PathBuf>,
    size: Option<i64>,
}

impl TransferEvent {
    /// Returns the object.
    ///
    /// # Errors
    /// `Config` for an id or a size that is not one of LFS.
    pub fn pointer(&self) -> Result<Pointer> {
        let invalid = |what: &str, found: &str| {
            let found = escaped_excerpt(found.as_bytes());
            let message = format!("git-lfs named an object by the {what} `{found}`");
            Error::new(ErrorKind::Config, message)
        };
        let oid = parse_oid(self.oid.as_bytes())
            .ok_or_else(|| invalid("id", &self.oid).with_hint("an id is a SHA-256 in hex"))?;
        let size = self.size.and_then(|size| u64::try_from(size).ok());
        let size_bytes = size.ok_or_else(|| {
            let found = self.size.map_or_else(String::new, |size| size.to_string());
            invalid("size", &found).with_hint("a size is a number of bytes")
        })?;
        Ok(Pointer {
            oid: oid.to_owned(),
            size_bytes,
        })
    }
}

#[derive(Deserialize)]
struct Line {
    event: String,
    operation: Option<TransferDirection>,
    remote: Option<String>,
    oid: Option<String>,
    size: Option<i64>,
    path: Option<PathBuf>,
}

impl AgentEvent {
    /// Parses a line.
    ///
    /// # Errors
    /// `Config` for a line that is not an event, with an excerpt of the line.
    pub fn parse(line: &[u8]) -> Result<Self> {
        let invalid = |reason: &str| {
            let shown = escaped_excerpt(line);
            let message = format!("`{shown}` is not an event of git-lfs: {reason}");
            Error::new(ErrorKind::Config, message).with_hint("this program is started by git-lfs")
        };
        let line: Line = serde_json::from_slice(line)
            .map_err(|error| invalid("it is not the JSON of one").with_source(error))?;
        let direction = match line.event.as_str() {
            "terminate" => return Ok(Self::Terminate),
            "init" => {
                let direction = line
                    .operation
                    .ok_or_else(|| invalid("its `operation` is neither `upload` nor `download`"))?;
                let remote = line.remote.ok_or_else(|| invalid("it has no `remote`"))?;
                return Ok(Self::Init { direction, remote });
            }
            "download" => TransferDirection::Download,
            "upload" => TransferDirection::Upload,
            _ => return Err(invalid("its name is not known")),
        };
        let oid = line.oid.ok_or_else(|| invalid("it has no `oid`"))?;
        if direction == TransferDirection::Upload && line.path.is_none() {
            return Err(invalid("it has no `path`"));
        }
        Ok(Self::Transfer(TransferEvent {
            direction,
            oid,
            path: line.path,
            size: line.size,
        }))
    }
}

/// An answer of an agent to git-lfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentAnswer<'a> {
    /// `init` succeeded.
    Ready,
    /// `init` failed with this code and message.
    NotReady(u16, &'a str),
    /// Bytes of an object that were transferred until now, and since the last answer.
    Progress {
        /// Id of the object.
        oid: &'a str,
        /// Bytes until now.
        so_far: u64,
        /// Bytes since the last answer.
        since_last: u64,
    },
    /// An upload is complete.
    Uploaded(&'a str),
    /// A download is complete, into a file that git-lfs moves.
    Downloaded(&'a str, &'a Path),
    /// A transfer failed with this message.
    Failed(&'a str, &'a str),
}

/// Code of a failure, as other agents send it for all failures.
const FAILURE: u16 = 2;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AnswerJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_so_far: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_since_last: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<FailureJson<'a>>,
}

#[derive(Serialize)]
struct FailureJson<'a> {
    code: u16,
    message: &'a str,
}

impl AgentAnswer<'_> {
    /// Formats the answer as a line with its end.
    pub fn to_line(&self) -> Vec<u8> {
        let empty = AnswerJson {
            event: None,
            oid: None,
            path: None,
            bytes_so_far: None,
            bytes_since_last: None,
            error: None,
        };
        let complete = |oid| AnswerJson {
            event: Some("complete"),
            oid: Some(oid),
            path: None,
            bytes_so_far: None,
            bytes_since_last: None,
            error: None,
        };
        let json = match *self {
            Self::Ready => empty,
            Self::NotReady(code, message) => AnswerJson {
                error: Some(FailureJson { code, message }),
                ..empty
            },
            Self::Progress {
                oid,
                so_far,
                since_last,
            } => AnswerJson {
                event: Some("progress"),
                oid: Some(oid),
                bytes_so_far: Some(so_far),
                bytes_since_last: Some(since_last),
                ..empty
            },
            Self::Uploaded(oid) => complete(oid),
            Self::Downloaded(oid, path) => AnswerJson {
                path: Some(path.to_string_lossy()),
                ..complete(oid)
            },
            Self::Failed(oid, message) => AnswerJson {
                error: Some(FailureJson {
                    code: FAILURE,
                    message,
                }),
                ..complete(oid)
            },
        };
        let mut line = serde_json::to_vec(&json).expect("because it is text and numbers");
        line.push(b'\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OID: &str = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";

    #[test]
    fn the_events_of_git_lfs_are_parsed() {
        let init = br#"{"event":"init","operation":"upload","remote":"origin","concurrent":true,"concurrenttransfers":8}"#;
        let parsed = AgentEvent::parse(init).unwrap();
        let expected = AgentEvent::Init {
            direction: TransferDirection::Upload,
            remote: "origin".to_owned(),
        };
        assert_eq!(parsed, expected);
        let upload =
            format!(r#"{{"event":"upload","oid":"{OID}","size":7,"path":"/x/y","action":null}}"#);
        let AgentEvent::Transfer(upload) = AgentEvent::parse(upload.as_bytes()).unwrap() else {
            panic!("it is a transfer");
        };
        assert_eq!(upload.path.as_deref(), Some(Path::new("/x/y")));
        assert_eq!(upload.pointer().unwrap().size_bytes, 7);
        let terminate = AgentEvent::parse(br#"{ "event": "terminate" }"#).unwrap();
        assert_eq!(terminate, AgentEvent::Terminate);
    }

    #[test]
    fn other_lines_are_refused_with_a_reason() {
        for (line, reason) in [
            ("", "JSON"),
            ("{", "JSON"),
            ("[]", "JSON"),
            ("{}", "JSON"),
            (r#"{"event":1}"#, "JSON"),
            (r#"{"event":"verify"}"#, "name"),
            (r#"{"event":"init","remote":"o"}"#, "operation"),
            (
                r#"{"event":"init","operation":"delete","remote":"o"}"#,
                "JSON",
            ),
            (r#"{"event":"init","operation":"upload"}"#, "remote"),
            (r#"{"event":"download"}"#, "oid"),
            (r#"{"event":"upload","oid":"x"}"#, "path"),
        ] {
            let error = AgentEvent::parse(line.as_bytes()).unwrap_err();
            assert!(
                error.report().contains(reason),
                "{line}: {}",
                error.report()
            );
        }
        for (oid, size) in [("../../x", "1"), (OID, "-1"), (OID, "null")] {
            let line = format!(r#"{{"event":"download","oid":"{oid}","size":{size}}}"#);
            let AgentEvent::Transfer(event) = AgentEvent::parse(line.as_bytes()).unwrap() else {
                panic!("it is a transfer");
            };
            assert!(event.pointer().is_err(), "{line}");
        }
    }

    #[test]
    fn answers_are_one_line_each() {
        for (answer, line) in [
            (AgentAnswer::Ready, "{}\n"),
            (
                AgentAnswer::NotReady(32, "no\nway"),
                "{\"error\":{\"code\":32,\"message\":\"no\\nway\"}}\n",
            ),
            (
                AgentAnswer::Progress {
                    oid: "o",
                    so_far: 3,
                    since_last: 2,
                },
                "{\"event\":\"progress\",\"oid\":\"o\",\"bytesSoFar\":3,\"bytesSinceLast\":2}\n",
            ),
            (
                AgentAnswer::Uploaded("o"),
                "{\"event\":\"complete\",\"oid\":\"o\"}\n",
            ),
            (
                AgentAnswer::Downloaded("o", Path::new("/p")),
                "{\"event\":\"complete\",\"oid\":\"o\",\"path\":\"/p\"}\n",
            ),
            (
                AgentAnswer::Failed("o", "m"),
                "{\"event\":\"complete\",\"oid\":\"o\",\"error\":{\"code\":2,\"message\":\"m\"}}\n",
            ),
        ] {
            assert_eq!(String::from_utf8(answer.to_line()).unwrap(), line);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = AgentEvent::parse(&line);
        }

        #[test]
        fn a_changed_event_is_an_event_or_an_error(at in 0..120_usize, byte in any::<u8>()) {
            let line = format!(r#"{{"event":"download","oid":"{OID}","size":12345}}"#);
            let mut line = line.into_bytes();
            let at = at % line.len();
            line[at] = byte;
            if let Ok(AgentEvent::Transfer(event)) = AgentEvent::parse(&line)
                && let Ok(pointer) = event.pointer()
            {
                prop_assert!(pointer.oid.bytes().all(|byte| byte.is_ascii_hexdigit()));
            }
        }
    }
}
