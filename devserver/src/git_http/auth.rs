//! Basic credentials, checked by the `SigV4` scheme "GIT".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use branchline_core::codecommit::git_credentials::{Endpoint, split_username, verify};
use http::{HeaderMap, header};
use jiff::Timestamp;

use crate::account::Account;

/// Result of checking a request's `Authorization` header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// The header is missing: the client should ask its user.
    None,
    /// The header is invalid; the reason is logged and not sent to the client.
    Refused(String),
    /// The header is valid.
    Principal(String),
}

/// Checks `headers` for `path` (`/v1/repos/<name>`).
pub(super) fn identify(
    headers: &HeaderMap,
    path: &str,
    account: &Account,
    now: Timestamp,
) -> Identity {
    let Some(authorization) = headers.get(header::AUTHORIZATION) else {
        return Identity::None;
    };
    match check(authorization.as_bytes(), headers, path, account, now) {
        Ok(principal_arn) => Identity::Principal(principal_arn),
        Err(why) => Identity::Refused(why),
    }
}

fn check(
    authorization: &[u8],
    headers: &HeaderMap,
    path: &str,
    account: &Account,
    now: Timestamp,
) -> Result<String, String> {
    let basic = std::str::from_utf8(authorization)
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .map(|(_, encoded)| encoded.trim());
    let decoded = basic
        .and_then(|encoded| STANDARD.decode(encoded).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or("the Authorization header holds no Basic credentials")?;
    let (username, password) = decoded
        .split_once(':')
        .ok_or("the Basic credentials have no password")?;
    let (access_key_id, session_token) = split_username(username);
    let known = account
        .find(access_key_id)
        .ok_or("the access key id is unknown")?;
    if known.session_token.as_deref() != session_token {
        return Err("the session token is not the access key's".to_owned());
    }
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .ok_or("the Host header is missing")?;
    // AWS's credential helper signs the host without its port; a client that was given
    // its endpoint by hand may have signed both.
    let bare = host.rsplit_once(':').map_or(host, |(name, port)| {
        let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
        if is_port { name } else { host }
    });
    let verdict = |host| {
        let endpoint = Endpoint {
            region: &account.region,
            host,
            path,
        };
        verify(&known.secret_access_key, &endpoint, password, now)
    };
    verdict(bare)
        .or_else(|error| {
            if bare == host {
                Err(error)
            } else {
                verdict(host)
            }
        })
        .map_err(|error| error.to_string())?;
    Ok(known.principal_arn)
}
