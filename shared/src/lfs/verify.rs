//! Size and SHA-256 of what passes.

use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::{LfsBody, Pointer};
use crate::error::{Error, ErrorKind, Result};

/// `content`, held to what `pointer` says.
///
/// The last bytes come only when all of it was right, so that who writes as it comes never
/// writes the whole of something else.
///
/// The stream fails with `Corrupt` as soon as there is too much, and at the end when there
/// is too little or the hash is another.
pub fn verify_stream(pointer: &Pointer, content: LfsBody) -> LfsBody {
    let state = State {
        pointer: pointer.clone(),
        content,
        hasher: Sha256::new(),
        arrived: 0,
        held: None,
        ended: false,
    };
    Box::pin(futures_util::stream::try_unfold(state, State::next))
}

struct State {
    pointer: Pointer,
    content: LfsBody,
    hasher: Sha256,
    arrived: u64,
    held: Option<Bytes>,
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
            self.arrived += bytes.len() as u64;
            if self.arrived > self.pointer.size_bytes {
                return Err(self.wrong("more bytes"));
            }
            self.hasher.update(&bytes);
            if let Some(before) = self.held.replace(bytes) {
                return Ok(Some((before, self)));
            }
        }
        self.ended = true;
        if self.arrived < self.pointer.size_bytes {
            return Err(self.wrong("fewer bytes"));
        }
        let hash = hex::encode(std::mem::take(&mut self.hasher).finalize());
        if hash != self.pointer.oid {
            return Err(self.wrong("other bytes"));
        }
        Ok(self.held.take().map(|last| (last, self)))
    }

    fn wrong(&self, what: &str) -> Error {
        let Pointer { oid, size_bytes } = &self.pointer;
        Error::new(
            ErrorKind::Corrupt,
            format!("LFS object {oid} of {size_bytes} bytes came with {what}"),
        )
        .with_hint("the source holds something else under its name: push the object anew")
    }
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

    async fn all(mut content: LfsBody) -> (Vec<u8>, Option<ErrorKind>) {
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
    async fn what_is_right_passes() {
        for (text, split) in [
            ("hello", &["hel", "", "lo"][..]),
            ("x", &["x"]),
            ("", &[]),
            ("", &[""]),
        ] {
            let passed = all(verify_stream(&pointer(text.as_bytes()), pieces(split))).await;
            assert_eq!(passed, (text.as_bytes().to_vec(), None));
        }
    }

    #[tokio::test]
    async fn what_is_wrong_never_passes_whole() {
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
            let got = all(verify_stream(&hello, pieces(sent))).await;
            assert_eq!(got, (passed.into(), corrupt), "{sent:?}");
        }
        let endless = stream::repeat_with(|| Ok(Bytes::from_static(b"aa")));
        let (out, kind) = all(verify_stream(&hello, Box::pin(endless))).await;
        assert!(out.len() < 5 && kind == corrupt, "it stops at the size");
    }
}
