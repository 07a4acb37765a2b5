//! Git's formats and its wire protocol, without a git binary, a disk or an AWS crate.
//!
//! | module | |
//! |---|---|
//! | [`object`] | kinds of objects, ids, references, and the loose form |
//! | [`refs`] | refs, `HEAD`, updates of refs and their results |
//! | [`pack`] | packs and their indexes: read, verified, indexed and written in streams |
//! | [`odb`] | an object database over packs that are read by range |
//! | [`bundle`], [`dumb_http`] | other files that hold refs and objects |
//! | [`date`] | dates in options |
//! | [`pkt_line`], [`advertisement`], [`smart_http`] | the client's side of git's protocol |
//! | [`server`] | the server's side: upload-pack, receive-pack, upload-archive |
//!
//! Nothing here opens a connection or a file: storage is behind
//! [`PackBytes`](pack::PackBytes), HTTP behind
//! [`HttpConnector`](smart_http::HttpConnector).
//!
//! All input may come from a hostile peer. Parsers never panic, hold no more than a stated
//! bound, and return [`ErrorKind::Corrupt`] for bytes that contradict their format.

pub mod bundle;
pub mod date;
pub mod dumb_http;
pub mod error;
pub mod object;
pub mod odb;
pub mod pack;
mod protocol;
pub mod refs;

use bstr::{BStr, BString, ByteSlice};
pub use gix_hash::{Kind as HashKind, ObjectId};

pub(crate) use error::corrupt;
pub use error::{Error, ErrorKind, Result};
pub use protocol::{advertisement, pkt_line, server, smart_http};

/// The name and version of this client, in HTTP and in git's `agent` capability.
pub const AGENT: &str = concat!("branchline/", env!("CARGO_PKG_VERSION"));

/// The most bytes that [`escaped_excerpt`] shows.
pub const MAX_EXCERPT_BYTES: usize = 120;

/// Escapes foreign bytes for a message: control characters are escaped, and bytes beyond the
/// first [`MAX_EXCERPT_BYTES`] are replaced by `..`.
pub fn escaped_excerpt(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(MAX_EXCERPT_BYTES)];
    let mut out = String::new();
    for character in String::from_utf8_lossy(cut).chars() {
        match character {
            '"' | '\'' => out.push(character),
            _ => out.extend(character.escape_debug()),
        }
    }
    if cut.len() < bytes.len() {
        out.push_str("..");
    }
    out
}

/// The most characters that [`foreign_message`] shows.
pub const MAX_MESSAGE_CHARS: usize = 200;

/// Makes a server's message printable on one line: control characters and line ends become
/// spaces, and characters beyond the first [`MAX_MESSAGE_CHARS`] are left out.
pub fn foreign_message(bytes: &[u8]) -> String {
    // A character has at most 4 bytes.
    let cut = &bytes[..bytes.len().min(16 * MAX_MESSAGE_CHARS)];
    let text = String::from_utf8_lossy(cut);
    let printable = text.chars().map(|character| {
        // `escape_debug` escapes what is not printable, and also quotes.
        let is_printable = matches!(character, '"' | '\'' | '\\')
            || character.escape_debug().eq(std::iter::once(character));
        if is_printable { character } else { ' ' }
    });
    let printable: String = printable.collect();
    let words = printable.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(MAX_MESSAGE_CHARS).collect()
}

/// Parses an object id of 40 or 64 lower-case or upper-case hexadecimal digits.
pub fn parse_id(hex: &[u8]) -> Result<ObjectId> {
    ObjectId::from_hex(hex)
        .map_err(|_| corrupt(format!("`{}` is not an object id", escaped_excerpt(hex))))
}

/// Validates the name of a ref that a peer sent: `HEAD`, or a full name of at most 4,096
/// bytes that `git check-ref-format` accepts.
///
/// # Errors
/// `Corrupt` for other names, as those with `..`, `.lock` or control characters.
pub fn check_ref_name(name: &BStr) -> Result<BString> {
    let legal = name == "HEAD"
        || (name.starts_with(b"refs/")
            && name.len() <= 4096
            && gix_validate::reference::name(name).is_ok());
    if legal {
        Ok(name.to_owned())
    } else {
        Err(corrupt(format!(
            "`{}` is not a valid ref name",
            escaped_excerpt(name)
        )))
    }
}

/// Splits a line of the form `<id><separator><rest>` into its id and its rest.
///
/// # Errors
/// `Corrupt` for a line of another form.
pub fn split_id(line: &[u8], separator: u8) -> Result<(ObjectId, &[u8])> {
    let at = line
        .find_byte(separator)
        .ok_or_else(|| corrupt(format!("`{}` has no separator", escaped_excerpt(line))))?;
    Ok((parse_id(&line[..at])?, &line[at + 1..]))
}
