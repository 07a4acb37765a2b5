//! Input that starts with choices for its own use.

use branchline_git::HashKind;

/// Takes choices from the front of the input, and zeros after its end.
pub(crate) struct ByteSource<'a>(&'a [u8]);

impl<'a> ByteSource<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// Takes a length from 1 to 256.
    pub(crate) fn piece(&mut self) -> usize {
        usize::from(self.byte()) + 1
    }

    pub(crate) fn hash(&mut self) -> HashKind {
        if self.byte() & 1 == 0 {
            HashKind::Sha1
        } else {
            HashKind::Sha256
        }
    }

    /// Takes up to `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Takes the bytes before `separator`, and drops the separator; takes all bytes when there
    /// is none.
    pub(crate) fn until(&mut self, separator: &[u8]) -> &'a [u8] {
        let at = self
            .0
            .windows(separator.len())
            .position(|window| window == separator);
        let Some(at) = at else {
            return std::mem::take(&mut self.0);
        };
        let taken = &self.0[..at];
        self.0 = &self.0[at + separator.len()..];
        taken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}
