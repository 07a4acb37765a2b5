//! Converts a blob to the bytes of an archive: git's conversions to the work tree (`ident`, line
//! ends, `working-tree-encoding`, in this order), then `export-subst`.
//!
//! A filter driver (`filter=lfs`) needs a configuration that names a program; without one the
//! bytes are unchanged, as with git.
//!
//! # Encodings
//! UTF-16 and UTF-32 in all of git's spellings, ISO-8859-1 and US-ASCII are encoded here, and
//! the others by `encoding_rs` (ISO-8859-2 to -16, windows-125x, KOI8, SHIFT-JIS, EUC-JP,
//! EUC-KR, GBK, GB18030, Big5). git uses the C library, which supports more. As with git, the
//! bytes are unchanged if the encoding is unknown or cannot express the text.

use std::borrow::Cow;

use encoding_rs::EncoderResult;
use gix_filter::eol;

use super::attributes::{AttributeMatch, State};
use super::export_subst;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::Commit;

/// The conversions of a file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Conversion {
    ident: bool,
    eol: eol::AttributesDigest,
    encoding: Option<Encoding>,
    subst: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Encoding {
    Utf16 { big: bool, mark: bool },
    Utf32 { big: bool, mark: bool },
    Latin1,
    Ascii,
    Other(&'static encoding_rs::Encoding),
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
        subst: false,
    };

    /// Reads the conversions of the file at `path` from its attributes.
    ///
    /// # Errors
    /// `Config` where git fails.
    pub(super) fn new(found: &AttributeMatch, path: &str) -> Result<Self> {
        Ok(Self {
            ident: found.ident,
            eol: line_ends(found),
            encoding: encoding(found, path)?,
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

    /// Returns whether the bytes of every blob are unchanged.
    pub(super) fn is_identity(&self) -> bool {
        let configuration = eol::Configuration::default();
        !self.ident
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
        commit: &Commit,
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
            && let Some(changed) = export_subst::expand(&bytes, commit)?
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
    let text = |state: &State| match state {
        State::Set => Some(Digest::Text),
        State::Unset => Some(Digest::Binary),
        State::Value(value) if value == "input" => Some(Digest::TextInput),
        State::Value(value) if value == "auto" => Some(Digest::TextAuto),
        State::Value(_) | State::Unspecified => None,
    };
    let crlf = match &found.eol {
        State::Value(value) if value == "crlf" => Some(true),
        State::Value(value) if value == "lf" => Some(false),
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
    let name = match &found.encoding {
        State::Unspecified | State::Unset => return Ok(None),
        State::Set => {
            return Err(Error::new(
                ErrorKind::Config,
                format!("`{path}` has the attribute `working-tree-encoding` without a value"),
            )
            .with_hint("name an encoding in .gitattributes: `working-tree-encoding=UTF-16`"));
        }
        State::Value(name) => name.to_string().to_ascii_uppercase(),
    };
    if let Some(utf) = name.strip_prefix("UTF") {
        let known = match utf.strip_prefix('-').unwrap_or(utf) {
            "16" | "16LE-BOM" => Some(Encoding::Utf16 {
                big: false,
                mark: true,
            }),
            "16BE-BOM" => Some(Encoding::Utf16 {
                big: true,
                mark: true,
            }),
            "16LE" => Some(Encoding::Utf16 {
                big: false,
                mark: false,
            }),
            "16BE" => Some(Encoding::Utf16 {
                big: true,
                mark: false,
            }),
            "32" => Some(Encoding::Utf32 {
                big: false,
                mark: true,
            }),
            "32LE" => Some(Encoding::Utf32 {
                big: false,
                mark: false,
            }),
            "32BE" => Some(Encoding::Utf32 {
                big: true,
                mark: false,
            }),
            _ => None,
        };
        return Ok(known);
    }
    Ok(match name.as_str() {
        "ISO-8859-1" | "ISO8859-1" | "ISO_8859-1" | "LATIN1" | "LATIN-1" | "L1" => {
            Some(Encoding::Latin1)
        }
        "US-ASCII" | "ASCII" | "ANSI_X3.4-1968" => Some(Encoding::Ascii),
        // encoding_rs reads these names as windows-125x, as browsers do.
        "ISO-8859-9" | "ISO8859-9" | "LATIN5" | "ISO-8859-11" | "TIS-620" | "" => None,
        name => encoding_rs::Encoding::for_label_no_replacement(name.as_bytes())
            .filter(|encoding| {
                *encoding != encoding_rs::UTF_8
                    && *encoding != encoding_rs::UTF_16LE
                    && *encoding != encoding_rs::UTF_16BE
                    && *encoding != encoding_rs::X_USER_DEFINED
            })
            .map(Encoding::Other),
    })
}

/// Encodes `bytes` from UTF-8 to `encoding`; `None` when that is not possible.
fn encode(bytes: &[u8], encoding: Encoding) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mark = |wanted: bool| wanted.then_some('\u{feff}');
    match encoding {
        Encoding::Utf16 { big, mark: wanted } => {
            let mut units = [0; 2];
            let mut encoded = Vec::with_capacity(2 * bytes.len() + 2);
            for letter in mark(wanted).into_iter().chain(text.chars()) {
                for unit in letter.encode_utf16(&mut units) {
                    encoded.extend(if big {
                        unit.to_be_bytes()
                    } else {
                        unit.to_le_bytes()
                    });
                }
            }
            Some(encoded)
        }
        Encoding::Utf32 { big, mark: wanted } => {
            let mut encoded = Vec::with_capacity(4 * bytes.len() + 4);
            for letter in mark(wanted).into_iter().chain(text.chars()) {
                let unit = u32::from(letter);
                encoded.extend(if big {
                    unit.to_be_bytes()
                } else {
                    unit.to_le_bytes()
                });
            }
            Some(encoded)
        }
        Encoding::Latin1 => text
            .chars()
            .map(|letter| u8::try_from(letter).ok())
            .collect(),
        Encoding::Ascii => text.is_ascii().then(|| bytes.to_vec()),
        Encoding::Other(encoding) => {
            // encoding_rs maps unassigned bytes to control characters, whereas iconv fails.
            let windows = encoding.name().starts_with("windows-");
            if windows && text.chars().any(|c| ('\u{80}'..='\u{9f}').contains(&c)) {
                return None;
            }
            let mut encoder = encoding.new_encoder();
            let size = encoder.max_buffer_length_from_utf8_without_replacement(text.len())?;
            let mut bytes = Vec::with_capacity(size);
            let (result, _) =
                encoder.encode_from_utf8_to_vec_without_replacement(text, &mut bytes, true);
            (result == EncoderResult::InputEmpty).then_some(bytes)
        }
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
