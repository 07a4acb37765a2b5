//! A pack that may not have more than so many bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt as _;

use crate::error::{Error, ErrorKind};
use crate::remote::PackBody;

/// Raised when a pack had too many bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Flag(Arc<AtomicBool>);

impl Flag {
    pub(super) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A pack that fails on its way as soon as it has too many bytes, so that nobody takes it
/// in.
pub(super) struct Limited {
    body: PackBody,
    most: Option<u64>,
    flag: Flag,
}

impl Limited {
    pub(super) fn new(body: PackBody, most: Option<u64>) -> Self {
        Self {
            body,
            most,
            flag: Flag::default(),
        }
    }

    pub(super) fn flag(&self) -> Flag {
        self.flag.clone()
    }

    pub(super) fn into_body(self) -> PackBody {
        let Some(most) = self.most else {
            return self.body;
        };
        let flag = self.flag;
        let mut seen = 0_u64;
        self.body
            .map(move |chunk| {
                let chunk = chunk?;
                seen += chunk.len() as u64;
                if seen > most {
                    flag.0.store(true, Ordering::Relaxed);
                    let message = format!("a batch has more than {most} bytes");
                    return Err(Error::new(ErrorKind::FileTooLarge, message));
                }
                Ok(chunk)
            })
            .boxed()
    }
}
