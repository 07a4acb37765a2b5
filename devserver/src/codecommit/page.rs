//! Continuation tokens: opaque to clients, checked when they are sent back.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::aws_json::ApiError;

/// Packs `value` into a token.
pub(crate) fn token<T: Serialize>(value: &T) -> Result<String, ApiError> {
    let json = serde_json::to_vec(value).map_err(ApiError::internal)?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

/// Unpacks a token, or returns `InvalidContinuationTokenException`.
pub(crate) fn parse<T: DeserializeOwned>(token: &str) -> Result<T, ApiError> {
    URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok())
        .ok_or_else(invalid)
}

/// Creates the error for a token that the called operation did not make.
pub(crate) fn invalid() -> ApiError {
    ApiError::new(
        "InvalidContinuationTokenException",
        "The specified continuation token is not valid",
    )
}

/// Returns one page of names after `after`, and the token of the next page.
///
/// A token holds the last name, so that names added or removed in between shift nothing.
pub(crate) fn by_name(
    sorted: Vec<String>,
    token_in: Option<&str>,
    size: usize,
) -> Result<(Vec<String>, Option<String>), ApiError> {
    let after: Option<String> = token_in.map(parse).transpose()?;
    let mut names = sorted
        .into_iter()
        .skip_while(|name| after.as_ref().is_some_and(|after| name <= after));
    let page: Vec<String> = names.by_ref().take(size.max(1)).collect();
    let next = match (names.next(), page.last()) {
        (Some(_), Some(last)) => Some(token(last)?),
        _ => None,
    };
    Ok((page, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_stay_correct_while_names_are_added_and_removed() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let (page, next) = by_name(names(&["a", "b", "c"]), None, 2).unwrap();
        assert_eq!(page, ["a", "b"]);
        let (page, next) = by_name(names(&["a", "aa", "c"]), next.as_deref(), 2).unwrap();
        assert_eq!(
            (page, next),
            (names(&["c"]), None),
            "`b` was the last one seen"
        );
        assert_eq!(
            by_name(Vec::new(), Some("%"), 2).unwrap_err().code,
            "InvalidContinuationTokenException"
        );
    }
}
