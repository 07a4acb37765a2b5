//! Checks size and SHA-256 of a stream.

use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::{LfsBody, Pointer};
use crate::error::{Error, ErrorKind, Result};

/// Checks that `content` has the size and SHA-256 of `pointer`.
///
/// The last chunk is withheld until they match, so that a streaming writer never completes
/// a wrong object.
///
/// The stream fails with `Corrupt` as soon as it has too many bytes, and at its end when it
/// has too few or its hash does not match.
pub fn verify_stream(pointer: &Pointer, content: LfsBody) -> LfsBody {
    let state = State {
        pointer: pointer.clone(),
        content,
        hasher: Sha256::new(),
        received: 0,
        withheld: None,
        ended: false,
    };
    Box::pin(futures_util::stream::try_unfold(state, State::next))
}

struct State {
    pointer: Pointer,
    content: LfsBody,
    hasher: Sha256,
    received: u64,
    withheld: Option<Bytes>,
    ended: bool,
}

impl State {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        if self.ended {
            return Ok(None);
        }
        while let Some(bytes) = self.content.next().await.transpose()? {
            if bytes.is_empty() {
                continue;
            }
            self.received += bytes.len() as u64;
            if self.received > self.pointer.size_bytes {
                return Err(self.mismatch("more bytes were received"));
            }
            self.hasher.update(&bytes);
            if let Some(before) = self.withheld.replace(bytes) {
                return Ok(Some((before, self)));
            }
        }
        self.ended = true;
        if self.received < self.pointer.size_bytes {
            return Err(self.mismatch("fewer bytes were received"));
        }
        let hash = hex::encode(std::mem::take(&mut self.hasher).finalize());
        if hash != self.pointer.oid {
            return Err(self.mismatch("the SHA-256 of its content does not match"));
        }
        Ok(self.withheld.take().map(|last| (last, self)))
    }

    fn mismatch(&self, found: &str) -> Error {
        mismatch(&self.pointer, found)
    }
}

/// Makes the error for a content that does not match its pointer.
pub(super) fn mismatch(pointer: &Pointer, found: &str) -> Error {
    let Pointer { oid, size_bytes } = pointer;
    Error::new(
        ErrorKind::Corrupt,
        format!("LFS object {oid} should have {size_bytes} bytes, but {found}"),
    )
    .with_hint("the source stores another content under this name: push the object again")
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn pointer(content: &[u8]) -> Pointer {
        Pointer {
            oid: hex::encode(Sha256::digest(content)),
            size_bytes: content.len() as u64,
        }
    }

    fn pieces(pieces: &[&'static str]) -> LfsBody {
        let pieces: Vec<Result<Bytes>> = pieces
            .iter()
            .map(|piece| Ok(Bytes::from_static(piece.as_bytes())))
            .collect();
        Box::pin(stream::iter(pieces))
    }

    async fn read_all(mut content: LfsBody) -> (Vec<u8>, Option<ErrorKind>) {
        let mut out = Vec::new();
        while let Some(piece) = content.next().await {
            match piece {
                Ok(bytes) => out.extend_from_slice(&bytes),
                Err(error) => return (out, Some(error.kind())),
            }
        }
        (out, None)
    }

    #[tokio::test]
    async fn a_correct_object_is_passed_unchanged() {
        for (text, split) in [
            ("hello", &["hel", "", "lo"][..]),
            ("x", &["x"]),
            ("", &[]),
            ("", &[""]),
        ] {
            let passed = read_all(verify_stream(&pointer(text.as_bytes()), pieces(split))).await;
            assert_eq!(passed, (text.as_bytes().to_vec(), None));
        }
    }

    #[tokio::test]
    async fn a_wrong_object_is_never_completed() {
        let corrupt = Some(ErrorKind::Corrupt);
        let hello = pointer(b"hello");
        for (sent, passed) in [
            (&["hel", "l"][..], "hel"),
            (&["hel", "lO"], "hel"),
            (&["hell", "O"], "hell"),
            (&["hellO"], ""),
            (&["hel", "lo", "o"], "hel"),
            (&[], ""),
        ] {
            let got = read_all(verify_stream(&hello, pieces(sent))).await;
            assert_eq!(got, (passed.into(), corrupt), "{sent:?}");
        }
        let endless = stream::repeat_with(|| Ok(Bytes::from_static(b"aa")));
        let (out, kind) = read_all(verify_stream(&hello, Box::pin(endless))).await;
        assert!(
            out.len() < 5 && kind == corrupt,
            "the stream fails when the size is exceeded"
        );
    }
}
