//! git-lfs's batch API as JSON, and how long an action is good for.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Pointer;
use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;
use crate::git::smart_http::Address;

/// The media type of requests and answers.
pub(super) const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

/// An action is not begun so shortly before it expires.
const LEEWAY: Duration = Duration::from_secs(5);

/// What is asked for.
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

/// The body of a request.
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
        objects: pointers.iter().map(asked).collect(),
        hash_algo: "sha256",
    };
    serde_json::to_vec(&request).expect("because it is plain text and numbers")
}

/// The body of a request to verify an upload.
pub(super) fn verification(pointer: &Pointer) -> Vec<u8> {
    serde_json::to_vec(&asked(pointer)).expect("because it is plain text and a number")
}

fn asked(pointer: &Pointer) -> ObjectRequest<'_> {
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

/// A request that a server wants to be made.
#[derive(Debug, Clone)]
pub(super) struct Action {
    pub(super) to: Address,
    pub(super) headers: HeaderMap,
    /// Whether the server says that it needs no login beside `headers`.
    pub(super) authenticated: bool,
    /// The body is to be sent in chunks, without its length.
    pub(super) chunked: bool,
    expires: Option<Instant>,
}

impl Action {
    pub(super) fn is_expired(&self) -> bool {
        self.expires.is_some_and(|at| at < Instant::now() + LEEWAY)
    }
}

/// What a server says of an object.
pub(super) struct ObjectResponse {
    /// What to do, by name; nothing where nothing is to be done.
    pub(super) actions: HashMap<&'static str, Action>,
}

/// Reads an answer: what is said of each of `pointers`, in their order.
pub(super) fn parse(
    server: &Address,
    pointers: &[Pointer],
    body: &[u8],
) -> Result<Vec<Result<ObjectResponse>>> {
    let response: Response = serde_json::from_slice(body).map_err(|error| {
        let message = format!("{server} does not answer as an LFS server");
        Error::new(ErrorKind::Config, message).with_source(error)
    })?;
    let basic = |name: &Option<String>, known: &str| {
        name.as_ref()
            .is_none_or(|name| name.is_empty() || name == known)
    };
    if !basic(&response.transfer, "basic") || !basic(&response.hash_algo, "sha256") {
        return Err(Error::new(
            ErrorKind::Config,
            format!("{server} wants a way of transfer that was not offered to it"),
        ));
    }
    let mut told: HashMap<String, ObjectJson> = HashMap::new();
    for object in response.objects {
        told.entry(object.oid.clone()).or_insert(object);
    }
    let offers = pointers.iter().map(|pointer| {
        let object = told.get(&pointer.oid).ok_or_else(|| {
            let message = format!("{server} says nothing of LFS object {}", pointer.oid);
            Error::new(ErrorKind::Transport, message)
        })?;
        offer(server, pointer, object)
    });
    Ok(offers.collect())
}

fn offer(server: &Address, pointer: &Pointer, object: &ObjectJson) -> Result<ObjectResponse> {
    if let Some(failure) = &object.error {
        let (code, said) = (failure.code, escaped_excerpt(failure.message.as_bytes()));
        let kind = match code {
            404 | 410 => ErrorKind::NotFound,
            401 | 403 => ErrorKind::AccessDenied,
            409 => ErrorKind::Conflict,
            429 => ErrorKind::Throttled,
            408 | 500.. => ErrorKind::Transport,
            _ => ErrorKind::Config,
        };
        let message = format!("{server} says of LFS object {}: {code} {said}", pointer.oid);
        return Err(Error::new(kind, message));
    }
    let mut actions = HashMap::new();
    for name in ["download", "upload", "verify"] {
        if let Some(told) = object.actions.as_ref().and_then(|all| all.get(name)) {
            let action = action(server, told, object.authenticated == Some(true));
            let named = |error: Error| error.context(format!("LFS object {}", pointer.oid));
            actions.insert(name, action.map_err(named)?);
        }
    }
    Ok(ObjectResponse { actions })
}

fn action(server: &Address, told: &ActionJson, authenticated: bool) -> Result<Action> {
    let bad = |what: &str| {
        Error::new(
            ErrorKind::Corrupt,
            format!("{server} names {what} that is not valid"),
        )
    };
    let to = Address::new(&told.href).map_err(|error| bad("an address").with_source(error))?;
    if server.url().is_secure() && !to.url().is_secure() {
        return Err(Error::new(
            ErrorKind::Transport,
            format!("{server} leads from `https` to `http`, at {to}"),
        ));
    }
    let mut headers = HeaderMap::new();
    let mut chunked = false;
    for (name, value) in told.header.iter().flatten() {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| bad("a header"))?;
        // How a body is framed is not the server's to say, but for this.
        if name == header::TRANSFER_ENCODING {
            chunked = value == "chunked";
            continue;
        }
        if [header::CONTENT_LENGTH, header::HOST, header::CONNECTION].contains(&name) {
            continue;
        }
        let mut value = HeaderValue::try_from(value).map_err(|_| bad("a header"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(Action {
        to,
        headers,
        authenticated,
        chunked,
        expires: expires(told, Timestamp::now()),
    })
}

/// Until when an action is good; seconds go before a time, as with git-lfs.
fn expires(told: &ActionJson, now: Timestamp) -> Option<Instant> {
    let seconds = match (told.expires_in, &told.expires_at) {
        (Some(seconds), _) if seconds != 0 => seconds,
        (_, Some(at)) => {
            let at: Timestamp = at.parse().ok()?;
            // What is long past is Go's way to say "never".
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
        let one = pointer('a');
        let body = format!(
            r#"{{"transfer":"basic","objects":[{{"oid":"{}","size":3{object}}}]}}"#,
            one.oid
        );
        parse(&server(), &[one], body.as_bytes())?.remove(0)
    }

    #[test]
    fn a_request_is_what_git_lfs_sends() {
        let body = request(Operation::Download, &[pointer('a')]);
        let expected = format!(
            r#"{{"operation":"download","transfers":["basic"],"objects":[{{"oid":"{}","size":3}}],"hash_algo":"sha256"}}"#,
            "a".repeat(64)
        );
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    #[test]
    fn errors_of_objects_have_kinds() {
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
    fn actions_are_read_and_hostile_ones_are_refused() {
        let action = |text: &str| {
            let offer = answer(&format!(r#","actions":{{"download":{{{text}}}}}"#))?;
            Ok::<_, Error>(offer.actions["download"].clone())
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
        let silent = parse(&server(), &[pointer('b')], br#"{"objects":[]}"#).unwrap();
        let error = silent.into_iter().next().unwrap().err().unwrap();
        assert_eq!(
            error.kind(),
            ErrorKind::Transport,
            "it says nothing of the object"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn actions_expire_as_git_lfs_has_it() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let at = |expires_in, expires_at: Option<&str>| {
            let told = ActionJson {
                href: String::new(),
                header: None,
                expires_in,
                expires_at: expires_at.map(str::to_owned),
            };
            expires(&told, now).map(|at| at.saturating_duration_since(Instant::now()).as_secs())
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
