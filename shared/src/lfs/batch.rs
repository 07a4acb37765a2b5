//! git-lfs's batch API as JSON, and the expiry of actions.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Pointer;
use crate::error::{Error, ErrorKind, Result};
use crate::git::foreign_message;
use crate::git::smart_http::Address;

/// Media type of requests and answers.
pub(super) const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

/// An action is treated as expired this long before its expiry.
const EXPIRY_MARGIN: Duration = Duration::from_secs(5);

/// Operation of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Operation {
    Download,
    Upload,
}

#[derive(Serialize)]
struct ObjectRequest<'a> {
    oid: &'a str,
    size: u64,
}

/// Formats the body of a batch request.
pub(super) fn request(operation: Operation, pointers: &[Pointer]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Request<'a> {
        operation: Operation,
        transfers: [&'static str; 1],
        objects: Vec<ObjectRequest<'a>>,
        hash_algo: &'static str,
    }
    let request = Request {
        operation,
        transfers: ["basic"],
        objects: pointers.iter().map(object_request).collect(),
        hash_algo: "sha256",
    };
    serde_json::to_vec(&request).expect("because it is plain text and numbers")
}

/// Formats the body of a request to verify an upload.
pub(super) fn verification(pointer: &Pointer) -> Vec<u8> {
    serde_json::to_vec(&object_request(pointer)).expect("because it is plain text and a number")
}

fn object_request(pointer: &Pointer) -> ObjectRequest<'_> {
    ObjectRequest {
        oid: &pointer.oid,
        size: pointer.size_bytes,
    }
}

#[derive(Deserialize)]
struct Response {
    transfer: Option<String>,
    objects: Vec<ObjectJson>,
    hash_algo: Option<String>,
}

#[derive(Deserialize)]
struct ObjectJson {
    oid: String,
    #[serde(default)]
    authenticated: Option<bool>,
    #[serde(default)]
    actions: Option<BTreeMap<String, ActionJson>>,
    #[serde(default)]
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct ActionJson {
    href: String,
    #[serde(default)]
    header: Option<BTreeMap<String, String>>,
    #[serde(default)]
    expires_in: Option<i64>,
    #[serde(default)]
    expires_at: Option<String>,
}

#[derive(Deserialize)]
struct ObjectError {
    code: i64,
    #[serde(default)]
    message: String,
}

/// Request that a server tells the client to make.
#[derive(Debug, Clone)]
pub(super) struct Action {
    pub(super) to: Address,
    pub(super) headers: HeaderMap,
    /// The request needs no credentials in addition to `headers`.
    pub(super) authenticated: bool,
    /// The body is sent in chunks, without its length.
    pub(super) chunked: bool,
    expires: Option<Instant>,
}

impl Action {
    pub(super) fn is_expired(&self) -> bool {
        self.expires
            .is_some_and(|at| at < Instant::now() + EXPIRY_MARGIN)
    }
}

/// Answer for one object.
pub(super) struct ObjectResponse {
    /// Actions by name; empty where none is needed.
    pub(super) actions: HashMap<&'static str, Action>,
}

/// Parses an answer; returns the result for each of `pointers`, in their order.
pub(super) fn parse(
    server: &Address,
    pointers: &[Pointer],
    body: &[u8],
) -> Result<Vec<Result<ObjectResponse>>> {
    let response: Response = serde_json::from_slice(body).map_err(|error| {
        let message = format!("{server} did not answer as an LFS server");
        Error::new(ErrorKind::Config, message).with_source(error)
    })?;
    let is_supported = |name: &Option<String>, supported: &str| {
        name.as_ref()
            .is_none_or(|name| name.is_empty() || name == supported)
    };
    if !is_supported(&response.transfer, "basic") || !is_supported(&response.hash_algo, "sha256") {
        return Err(Error::new(
            ErrorKind::Config,
            format!("{server} chose a transfer or hash that was not offered"),
        ));
    }
    let mut objects: HashMap<String, ObjectJson> = HashMap::new();
    for object in response.objects {
        objects.entry(object.oid.clone()).or_insert(object);
    }
    let answers = pointers.iter().map(|pointer| {
        let object = objects.get(&pointer.oid).ok_or_else(|| {
            let message = format!("{server} did not answer for LFS object {}", pointer.oid);
            Error::new(ErrorKind::Transport, message)
        })?;
        object_response(server, pointer, object)
    });
    Ok(answers.collect())
}

fn object_response(
    server: &Address,
    pointer: &Pointer,
    object: &ObjectJson,
) -> Result<ObjectResponse> {
    if let Some(failure) = &object.error {
        let (code, text) = (failure.code, foreign_message(failure.message.as_bytes()));
        let kind = match code {
            404 | 410 => ErrorKind::NotFound,
            401 | 403 => ErrorKind::AccessDenied,
            409 => ErrorKind::Conflict,
            429 => ErrorKind::Throttled,
            408 | 500.. => ErrorKind::Transport,
            _ => ErrorKind::Config,
        };
        let message = format!("{server} refused LFS object {}: {code} {text}", pointer.oid);
        return Err(Error::new(kind, message));
    }
    let mut actions = HashMap::new();
    for name in ["download", "upload", "verify"] {
        if let Some(json) = object
            .actions
            .as_ref()
            .and_then(|actions| actions.get(name))
        {
            let action = action(server, json, object.authenticated == Some(true));
            let with_object = |error: Error| error.context(format!("LFS object {}", pointer.oid));
            actions.insert(name, action.map_err(with_object)?);
        }
    }
    Ok(ObjectResponse { actions })
}

fn action(server: &Address, json: &ActionJson, authenticated: bool) -> Result<Action> {
    let invalid = |noun: &str| {
        Error::new(
            ErrorKind::Corrupt,
            format!("{server} sent an invalid {noun}"),
        )
    };
    let to = Address::new(&json.href).map_err(|error| invalid("address").with_source(error))?;
    if server.url().is_secure() && !to.url().is_secure() {
        return Err(Error::new(
            ErrorKind::Transport,
            format!("{server} redirects from `https` to `http`, at {to}"),
        ));
    }
    let mut headers = HeaderMap::new();
    let mut chunked = false;
    for (name, value) in json.header.iter().flatten() {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| invalid("header"))?;
        // The client decides on the framing of a body, except for chunks.
        if name == header::TRANSFER_ENCODING {
            chunked = value == "chunked";
            continue;
        }
        if [header::CONTENT_LENGTH, header::HOST, header::CONNECTION].contains(&name) {
            continue;
        }
        let mut value = HeaderValue::try_from(value).map_err(|_| invalid("header"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(Action {
        to,
        headers,
        authenticated,
        chunked,
        expires: expires(json, Timestamp::now()),
    })
}

/// Returns the expiry of an action; seconds take precedence over a time, as in git-lfs.
fn expires(json: &ActionJson, now: Timestamp) -> Option<Instant> {
    let seconds = match (json.expires_in, &json.expires_at) {
        (Some(seconds), _) if seconds != 0 => seconds,
        (_, Some(at)) => {
            let at: Timestamp = at.parse().ok()?;
            // Go's zero time means that the action does not expire.
            if at < Timestamp::UNIX_EPOCH {
                return None;
            }
            at.as_second().saturating_sub(now.as_second())
        }
        _ => return None,
    };
    let left = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Instant::now().checked_add(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Address {
        Address::new("https://h/r.git/info/lfs/objects/batch").unwrap()
    }

    fn pointer(digit: char) -> Pointer {
        Pointer {
            oid: digit.to_string().repeat(64),
            size_bytes: 3,
        }
    }

    fn answer(object: &str) -> Result<ObjectResponse> {
        let pointer = pointer('a');
        let body = format!(
            r#"{{"transfer":"basic","objects":[{{"oid":"{}","size":3{object}}}]}}"#,
            pointer.oid
        );
        parse(&server(), &[pointer], body.as_bytes())?.remove(0)
    }

    #[test]
    fn a_request_equals_that_of_git_lfs() {
        let body = request(Operation::Download, &[pointer('a')]);
        let expected = format!(
            r#"{{"operation":"download","transfers":["basic"],"objects":[{{"oid":"{}","size":3}}],"hash_algo":"sha256"}}"#,
            "a".repeat(64)
        );
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    #[test]
    fn codes_of_objects_become_kinds() {
        for (code, kind) in [
            (404, ErrorKind::NotFound),
            (410, ErrorKind::NotFound),
            (422, ErrorKind::Config),
            (403, ErrorKind::AccessDenied),
            (429, ErrorKind::Throttled),
            (503, ErrorKind::Transport),
        ] {
            let object = format!(r#","error":{{"code":{code},"message":"it\u0007 says no"}}"#);
            let error = answer(&object).err().unwrap();
            assert_eq!(error.kind(), kind, "{code}");
            assert!(error.to_string().contains(&"a".repeat(64)), "{error}");
            assert!(!error.to_string().contains('\u{7}'), "{error}");
        }
    }

    #[test]
    fn valid_actions_are_parsed_and_hostile_ones_are_refused() {
        let action = |text: &str| {
            let response = answer(&format!(r#","actions":{{"download":{{{text}}}}}"#))?;
            Ok::<_, Error>(response.actions["download"].clone())
        };
        let found = action(
            r#""href":"https://o/x?sig=s","header":{"Authorization":"A","Host":"evil",
               "Content-Length":"1","Transfer-Encoding":"chunked"}"#,
        )
        .unwrap();
        assert_eq!(found.to.to_string(), "https://o/x");
        assert_eq!((found.headers.len(), found.chunked), (1, true));
        assert!(
            !format!("{found:?}").contains("\"A\""),
            "headers are secrets"
        );
        for text in [
            r#""href":"http://h/x""#,
            r#""href":"file:///etc/passwd""#,
            r#""href":"""#,
            r#""href":"https://h/x","header":{"A":"b\r\nC: d"}"#,
            r#""href":"https://h/x","header":{"A b":"c"}"#,
        ] {
            assert!(action(text).is_err(), "{text}");
        }
        for text in ["", "null", "[]", "<html>", r#"{"objects":1}"#] {
            let error = parse(&server(), &[pointer('a')], text.as_bytes()).err();
            assert_eq!(error.unwrap().kind(), ErrorKind::Config, "{text}");
        }
        for text in [r#""transfer":"tus""#, r#""hash_algo":"sha512""#] {
            let body = format!(r#"{{{text},"objects":[]}}"#);
            assert!(parse(&server(), &[], body.as_bytes()).is_err(), "{text}");
        }
        let incomplete = parse(&server(), &[pointer('b')], br#"{"objects":[]}"#).unwrap();
        let error = incomplete.into_iter().next().unwrap().err().unwrap();
        assert_eq!(
            error.kind(),
            ErrorKind::Transport,
            "the object is missing in the answer"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn actions_expire_as_in_git_lfs() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let at = |expires_in, expires_at: Option<&str>| {
            let json = ActionJson {
                href: String::new(),
                header: None,
                expires_in,
                expires_at: expires_at.map(str::to_owned),
            };
            expires(&json, now).map(|at| at.saturating_duration_since(Instant::now()).as_secs())
        };
        assert_eq!(at(None, None), None);
        assert_eq!(at(Some(0), None), None);
        assert_eq!(at(Some(60), Some("2023-11-14T22:13:21Z")), Some(60));
        assert_eq!(at(Some(-1), None), Some(0));
        assert_eq!(at(None, Some("2023-11-14T22:14:20Z")), Some(60));
        assert_eq!(at(Some(0), Some("2023-11-14T23:14:20+01:00")), Some(60));
        assert_eq!(at(None, Some("2020-01-01T00:00:00Z")), Some(0));
        assert_eq!(at(None, Some("0001-01-01T00:00:00Z")), None);
        assert_eq!(at(None, Some("soon")), None);
        assert_eq!(at(Some(i64::MAX), None), None);
    }
}
