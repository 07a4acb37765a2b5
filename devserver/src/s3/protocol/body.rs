//! Streams bytes between connections and the disk, never whole in memory.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::Extensions;
use s3s::dto::StreamingBlob;
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{S3Request, S3Result, s3_error};
use tokio::sync::mpsc;

use crate::s3::store::{Algorithm, Bucket, Error, Reader, Sealed};

use super::Progress;
use super::claims::DeclaredChecksums;
use super::error::blocking;

/// Bytes that are read from the disk at once.
const CHUNK_BYTES: usize = 256 * 1024;

enum Message {
    Data(Bytes),
    End,
}

/// Writes a body to a blob and verifies it. On any error, and when the connection
/// closes, the blob is removed.
pub(super) async fn receive<T>(
    bucket: Arc<Bucket>,
    body: Option<StreamingBlob>,
    request: &S3Request<T>,
    also: Option<Algorithm>,
) -> S3Result<Sealed> {
    let claims = DeclaredChecksums::of(&request.headers)?;
    let algorithm = claims.algorithm().or(also);
    let (sender, mut receiver) = mpsc::channel(8);
    let writing = blocking(&request.extensions, move || {
        let mut staged = bucket.stage(algorithm)?;
        loop {
            match receiver.blocking_recv() {
                Some(Message::Data(bytes)) => staged.write(&bytes)?,
                Some(Message::End) => return staged.seal(),
                None => return Err(Error::Incomplete),
            }
        }
    });
    let sending = async {
        if let Some(mut body) = body {
            while let Some(chunk) = body.next().await {
                let Ok(bytes) = chunk else {
                    // Dropping the sender drops the blob.
                    drop(sender);
                    return Err(broken(&claims, &request.extensions));
                };
                if sender.send(Message::Data(bytes)).await.is_err() {
                    return Ok(()); // The writer failed, and returns the reason.
                }
            }
        }
        let _ = sender.send(Message::End).await;
        Ok(())
    };
    let (sent, written) = futures_util::future::join(sending, writing).await;
    sent?;
    let mut sealed = written?;
    claims.verify(&mut sealed, request.trailing_headers.as_ref())?;
    Ok(sealed)
}

fn broken(claims: &DeclaredChecksums, extensions: &Extensions) -> s3s::S3Error {
    let cut = extensions
        .get::<Arc<Progress>>()
        .is_some_and(|progress| progress.cut.load(Ordering::Relaxed));
    if cut {
        s3_error!(IncompleteBody, "The connection ended within the body")
    } else {
        claims.broken()
    }
}

/// Reads a range of an object: at once when it is small, else piece by piece.
pub(super) async fn send(
    extensions: &Extensions,
    mut reader: Reader,
    range: Range<u64>,
) -> S3Result<StreamingBlob> {
    let length =
        usize::try_from(range.end - range.start).map_err(|error| s3_error!(error, InvalidRange))?;
    let first = length.min(CHUNK_BYTES);
    let (mut reader, first) = blocking(extensions, move || {
        let read = reader
            .seek(SeekFrom::Start(range.start))
            .and_then(|_| read_exact(&mut reader, first));
        match read {
            Ok(bytes) => Ok((reader, bytes)),
            Err(source) => Err(Error::Io {
                action: "reading a blob",
                source,
            }),
        }
    })
    .await?;
    if first.len() == length {
        return Ok(StreamingBlob::from(s3s::Body::from(first)));
    }
    let (sender, receiver) = mpsc::channel(4);
    let mut left = length - first.len();
    tokio::task::spawn_blocking(move || {
        if sender.blocking_send(Ok(first)).is_err() {
            return;
        }
        while left > 0 {
            let chunk = read_exact(&mut reader, left.min(CHUNK_BYTES));
            left -= chunk.as_ref().map_or(left, Bytes::len);
            if sender.blocking_send(chunk).is_err() {
                return; // The client went away.
            }
        }
    });
    Ok(StreamingBlob::new(Outgoing {
        receiver,
        left: length,
    }))
}

fn read_exact(reader: &mut Reader, length: usize) -> std::io::Result<Bytes> {
    let mut buffer = vec![0; length];
    reader.read_exact(&mut buffer)?;
    Ok(buffer.into())
}

/// Stream of an object's pieces.
struct Outgoing {
    receiver: mpsc::Receiver<std::io::Result<Bytes>>,
    left: usize,
}

impl Stream for Outgoing {
    type Item = Result<Bytes, crate::http_body::BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(context).map(|item| {
            let item = item?;
            if let Ok(bytes) = &item {
                self.left -= bytes.len().min(self.left);
            }
            Some(item.map_err(Into::into))
        })
    }
}

impl ByteStream for Outgoing {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.left)
    }
}
