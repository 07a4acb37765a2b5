//! Fields of a request, deserialized with errors that name the path of a field.

use serde::Deserialize;
use serde_json::Value;

use super::RequestOrigin;
use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;

/// Maximum number of characters of a message about a field, which may repeat the request.
const MAX_MESSAGE_CHARS: usize = 300;

/// Deserializes the JSON object that is at `path` of the request.
///
/// # Errors
/// That of [`invalid_field`].
pub(super) fn read_fields<'a, T: Deserialize<'a>>(
    origin: RequestOrigin,
    path: &str,
    value: &'a Value,
) -> Result<T> {
    if !value.is_object() {
        return Err(invalid_field(origin, path, "it must be an object"));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let below = error.path().to_string();
        let field = match (path, below.as_str()) {
            (path, ".") => path.to_owned(),
            ("", below) => below.to_owned(),
            (path, below) => format!("{path}.{below}"),
        };
        let message = without_values(&error.inner().to_string());
        let printable: String = message
            .chars()
            .take(MAX_MESSAGE_CHARS)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        invalid_field(origin, &escaped_excerpt(field.as_bytes()), &printable)
    })
}

/// Removes quoted values from serde's message, which may be a URL with a password: `invalid type:
/// string "..", expected a boolean`.
fn without_values(message: &str) -> String {
    match (message.find('"'), message.rfind('"')) {
        (Some(first), Some(last)) if first < last => {
            format!("{}..{}", &message[..=first], &message[last..])
        }
        _ => message.to_owned(),
    }
}

/// Returns the error about the field at a path of the request: `InvalidEvent` in an event, `Config`
/// at a terminal.
pub(super) fn invalid_field(origin: RequestOrigin, path: &str, why: &str) -> Error {
    match origin {
        RequestOrigin::Event => Error::new(
            ErrorKind::InvalidEvent,
            format!("field `{path}` of the event: {why}"),
        ),
        RequestOrigin::Terminal { .. } => Error::new(ErrorKind::Config, format!("`{path}`: {why}")),
    }
}
