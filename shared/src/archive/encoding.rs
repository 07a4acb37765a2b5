//! Encodings of text in a work tree and in commits, under git's names.
//!
//! UTF-16 and UTF-32 in all of git's spellings, ISO-8859-1 and US-ASCII are encoded here, and
//! the others by `encoding_rs` (ISO-8859-2 to -16, windows-125x, KOI8, SHIFT-JIS, EUC-JP,
//! EUC-KR, GBK, GB18030, Big5). git uses the C library, which supports more. As with git, the
//! bytes are unchanged if the encoding is unknown or cannot express the text.

use encoding_rs::EncoderResult;

/// An encoding other than UTF-8.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Encoding {
    Utf16 { big: bool, mark: bool },
    Utf32 { big: bool, mark: bool },
    Latin1,
    Ascii,
    Other(&'static encoding_rs::Encoding),
}

/// Returns the encoding that git calls `name`; `None` for UTF-8 and for an unknown one.
pub(super) fn encoding_named(name: &str) -> Option<Encoding> {
    let name = name.to_ascii_uppercase();
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
        return known;
    }
    match name.as_str() {
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
    }
}

/// Encodes text from UTF-8 to the encoding that git calls `name`; `None` for an unknown encoding,
/// and for text that it cannot express.
pub(super) fn encode_as(name: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    encode(bytes, encoding_named(name)?)
}

/// Encodes `bytes` from UTF-8 to `encoding`; `None` when that is not possible.
pub(super) fn encode(bytes: &[u8], encoding: Encoding) -> Option<Vec<u8>> {
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
