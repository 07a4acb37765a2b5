//! Git's formats and its wire protocol, without a git binary, a disk or a service.
//!
//! - [`object`]: kinds of objects, their ids, what they refer to, and the loose form.
//! - [`pack`]: packs and their indexes: read, verified, indexed and written in streams.
//! - [`bundle`], [`dumb_http`]: the other forms in which refs and objects lie in files.
//! - [`pkt_line`], [`advertisement`], [`smart_http`]: talking to a git server.
//!
//! May use the words ([`crate::error`]), the hash functions of `gix-hash`, and, in
//! [`smart_http`] alone, the HTTP connector that the AWS clients use.
//!
//! Everything that is read here may come from a hostile peer. Parsers never panic, hold
//! no more than a stated bound, and answer [`ErrorKind::Corrupt`] for bytes that
//! contradict their format.

pub mod advertisement;
pub mod bundle;
pub mod dumb_http;
pub mod object;
pub mod odb;
pub mod pack;
pub mod pkt_line;
pub mod smart_http;

use bstr::{BStr, BString, ByteSlice};
pub use gix_hash::{Kind as HashKind, ObjectId};

use crate::error::{Error, ErrorKind, Result};

/// What this client calls itself, in HTTP and in git's `agent` capability.
pub const AGENT: &str = concat!("branchline/", env!("CARGO_PKG_VERSION"));

/// The error for bytes that contradict their format.
pub(crate) fn corrupt(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

/// Foreign bytes as they may be shown: printable, and at most 120 bytes of them.
pub fn escaped_excerpt(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(120)];
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

/// Parses an object id of 40 or 64 lower-case or upper-case hexadecimal digits.
pub(crate) fn parse_id(hex: &[u8]) -> Result<ObjectId> {
    ObjectId::from_hex(hex)
        .map_err(|_| corrupt(format!("`{}` is no object id", escaped_excerpt(hex))))
}

/// Validates the name of a ref that a peer gave: `HEAD`, or a full name that
/// `git check-ref-format` accepts. `..`, `.lock` and control characters end here.
pub(crate) fn check_ref_name(name: &BStr) -> Result<BString> {
    let legal = name == "HEAD"
        || (name.starts_with(b"refs/")
            && name.len() <= 4096
            && gix_validate::reference::name(name).is_ok());
    if legal {
        Ok(name.to_owned())
    } else {
        Err(corrupt(format!(
            "`{}` is no name of a ref",
            escaped_excerpt(name)
        )))
    }
}

/// Takes the id off a line that must have the shape `<id><separator><rest>`.
pub(crate) fn split_id(line: &[u8], separator: u8) -> Result<(ObjectId, &[u8])> {
    let at = line
        .find_byte(separator)
        .ok_or_else(|| corrupt(format!("`{}` has no separator", escaped_excerpt(line))))?;
    Ok((parse_id(&line[..at])?, &line[at + 1..]))
}
