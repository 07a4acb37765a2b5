//! Converts a blob to the bytes of an archive: git's conversions to the work tree (`ident`, line
//! ends, `working-tree-encoding`, in this order), then `export-subst`.
//!
//! A filter driver needs a configuration that names a program; without one the bytes are
//! unchanged, as with git. Only `filter=lfs` is known, to `lfs_files`.

use std::borrow::Cow;

use gix_filter::eol;

use super::attributes::{AttributeMatch, AttributeState};
use super::encoding::{Encoding, encode, encoding_named};
use super::export_subst::{self, SubstitutionContext};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;

/// The conversions of a file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Conversion {
    ident: bool,
    eol: eol::AttributesDigest,
    encoding: Option<Encoding>,
    // A pointer of git LFS stands for its object.
    lfs: bool,
    subst: bool,
}

/// Way to convert a large file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum LargeConversion {
    /// In pieces, because only line ends may change.
    LineEnds(eol::AttributesDigest),
    /// In memory, because of the named attribute.
    InMemory(&'static str),
}

/// The distinct conversions of a tree; files refer to them by index.
#[derive(Debug)]
pub(super) struct Conversions(Vec<Conversion>);

/// Index of the conversion that changes nothing.
pub(super) const UNCHANGED: u32 = 0;

impl Conversion {
    /// Changes nothing.
    pub(super) const NONE: Self = Self {
        ident: false,
        eol: eol::AttributesDigest::Binary,
        encoding: None,
        lfs: false,
        subst: false,
    };

    /// Reads the conversions of the file at `path` from its attributes. `with_lfs` says that
    /// pointers of git LFS become their objects.
    ///
    /// # Errors
    /// `Config` where git fails.
    pub(super) fn new(found: &AttributeMatch, path: &str, with_lfs: bool) -> Result<Self> {
        Ok(Self {
            ident: found.ident,
            eol: line_ends(found),
            encoding: encoding(found, path)?,
            lfs: with_lfs
                && matches!(&found.filter, AttributeState::Value(filter) if filter == "lfs"),
            subst: found.export_subst,
        })
    }

    /// Returns these conversions without `export-subst`.
    pub(super) fn without_subst(self) -> Self {
        Self {
            subst: false,
            ..self
        }
    }

    /// Returns the conversion of an object of git LFS, which is not text in the repository.
    pub(super) fn of_lfs_object(self) -> Self {
        Self {
            subst: self.subst,
            ..Self::NONE
        }
    }

    /// Returns whether a pointer of git LFS stands for its object.
    pub(super) fn is_lfs(&self) -> bool {
        self.lfs
    }

    /// Returns whether the bytes of every blob are unchanged.
    pub(super) fn is_identity(&self) -> bool {
        let configuration = eol::Configuration::default();
        !self.ident
            && !self.lfs
            && !self.subst
            && self.encoding.is_none()
            && self.eol.to_eol(configuration) != Some(eol::Mode::CrLf)
    }

    /// Returns whether the bytes depend on the commit (`export-subst`).
    pub(super) fn substitutes(&self) -> bool {
        self.subst
    }

    /// Returns the way to convert a large file.
    pub(super) fn of_large_file(&self) -> LargeConversion {
        if self.subst {
            LargeConversion::InMemory("export-subst")
        } else if self.encoding.is_some() {
            LargeConversion::InMemory("working-tree-encoding")
        } else if self.ident {
            LargeConversion::InMemory("ident")
        } else {
            LargeConversion::LineEnds(self.eol)
        }
    }

    /// Converts the blob `id`.
    pub(super) fn apply<'a>(
        &self,
        id: ObjectId,
        bytes: &'a [u8],
        context: SubstitutionContext<'_>,
    ) -> Result<Cow<'a, [u8]>> {
        let mut bytes = Cow::Borrowed(bytes);
        if self.ident
            && let Some(changed) = expand_ident(&bytes, id)
        {
            bytes = Cow::Owned(changed);
        }
        let mut buffer = Vec::new();
        let changed =
            eol::convert_to_worktree(&bytes, self.eol, &mut buffer, eol::Configuration::default())
                .map_err(|error| {
                    Error::new(ErrorKind::Internal, "line ends cannot be converted")
                        .with_source(error.to_string())
                })?;
        if changed {
            bytes = Cow::Owned(buffer);
        }
        if let Some(encoding) = self.encoding
            && !bytes.is_empty()
        {
            if let Some(encoded) = encode(&bytes, encoding) {
                bytes = Cow::Owned(encoded);
            } else {
                tracing::warn!(
                    blob.id = %id,
                    ?encoding,
                    "the file cannot be encoded in its working-tree-encoding, and is archived unchanged"
                );
            }
        }
        if self.subst
            && let Some(changed) = export_subst::expand(&bytes, context)?
        {
            bytes = Cow::Owned(changed);
        }
        Ok(bytes)
    }
}

impl Conversions {
    pub(super) fn new() -> Self {
        Self(vec![Conversion::NONE])
    }

    /// Returns the index of `conversion`, and adds it if it is new.
    pub(super) fn intern(&mut self, conversion: Conversion) -> u32 {
        let index = self
            .0
            .iter()
            .position(|known| *known == conversion)
            .unwrap_or_else(|| {
                self.0.push(conversion);
                self.0.len() - 1
            });
        u32::try_from(index).expect("because there are a few hundred combinations at most")
    }

    /// Removes `export-subst` from all conversions.
    pub(super) fn remove_subst(&mut self) {
        for conversion in &mut self.0 {
            *conversion = conversion.without_subst();
        }
    }

    pub(super) fn get(&self, index: u32) -> Conversion {
        self.0[index as usize]
    }
}

/// Combines `text`, `crlf` and `eol` by git's rules for an empty configuration.
fn line_ends(found: &AttributeMatch) -> eol::AttributesDigest {
    use eol::AttributesDigest as Digest;
    let text = |state: &AttributeState| match state {
        AttributeState::Set => Some(Digest::Text),
        AttributeState::Unset => Some(Digest::Binary),
        AttributeState::Value(value) if value == "input" => Some(Digest::TextInput),
        AttributeState::Value(value) if value == "auto" => Some(Digest::TextAuto),
        AttributeState::Value(_) | AttributeState::Unspecified => None,
    };
    let crlf = match &found.eol {
        AttributeState::Value(value) if value == "crlf" => Some(true),
        AttributeState::Value(value) if value == "lf" => Some(false),
        _ => None,
    };
    match (text(&found.text).or_else(|| text(&found.crlf)), crlf) {
        (Some(Digest::Binary), _) | (None, None) => Digest::Binary,
        (Some(Digest::TextAuto), Some(true)) => Digest::TextAutoCrlf,
        (Some(Digest::TextAuto), Some(false)) => Digest::TextAutoInput,
        (_, Some(true)) => Digest::TextCrlf,
        (_, Some(false)) => Digest::TextInput,
        (Some(digest), None) => digest,
    }
}

fn encoding(found: &AttributeMatch, path: &str) -> Result<Option<Encoding>> {
    match &found.encoding {
        AttributeState::Unspecified | AttributeState::Unset => Ok(None),
        AttributeState::Set => Err(Error::new(
            ErrorKind::Config,
            format!("`{path}` has the attribute `working-tree-encoding` without a value"),
        )
        .with_hint("name an encoding in .gitattributes: `working-tree-encoding=UTF-16`")),
        AttributeState::Value(name) => Ok(encoding_named(&name.to_string())),
    }
}

/// Expands `$Id$` and replaces `$Id: ..$`; `None` when there is neither.
///
/// An expansion that contains spaces is unchanged, because another system made it.
fn expand_ident(bytes: &[u8], id: ObjectId) -> Option<Vec<u8>> {
    let mut expanded = Vec::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(dollar) = find(bytes, at, b'$') {
        at = dollar + 1;
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"Id$") {
            at + 3
        } else if rest.starts_with(b"Id:") {
            let Some(close) = find(bytes, at + 3, b'$') else {
                break;
            };
            let inside = &bytes[at + 3..close];
            let space = inside
                .iter()
                .skip(1)
                .position(|&byte| byte == b' ')
                .map(|space| space + 1);
            if inside.contains(&b'\n') || space.is_some_and(|space| space + 1 < inside.len()) {
                continue;
            }
            close + 1
        } else {
            continue;
        };
        expanded.extend_from_slice(&bytes[copied..at]);
        expanded.extend_from_slice(format!("Id: {id} $").as_bytes());
        copied = end;
        at = end;
    }
    if copied == 0 {
        return None;
    }
    expanded.extend_from_slice(&bytes[copied..]);
    Some(expanded)
}

fn find(bytes: &[u8], from: usize, wanted: u8) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.iter()
        .position(|&byte| byte == wanted)
        .map(|at| from + at)
}
