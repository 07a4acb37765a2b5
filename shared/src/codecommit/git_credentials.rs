//! Git passwords made from AWS credentials: the `SigV4` scheme "GIT" that CodeCommit's
//! HTTPS endpoint accepts as Basic authentication.
//!
//! Clients use [`sign`], servers [`verify`]. The time is a parameter, so that a password can
//! be reproduced.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

/// Time for which CodeCommit accepts a password, from the time in the password on.
pub const PASSWORD_LIFETIME: SignedDuration = SignedDuration::from_mins(15);

/// Characters that a URL's userinfo does not escape (RFC 3986, "unreserved").
const USERINFO: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Key that an AWS client signs with.
#[derive(Clone, Copy)]
pub struct SigningKey<'a> {
    /// `AWS_ACCESS_KEY_ID`.
    pub id: &'a str,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret: &'a str,
    /// `AWS_SESSION_TOKEN`, for temporary credentials.
    pub session_token: Option<&'a str>,
}

impl fmt::Debug for SigningKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Repository that a password is valid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// `us-east-1`.
    pub region: &'a str,
    /// Host without its port, `git-codecommit.us-east-1.amazonaws.com`.
    pub host: &'a str,
    /// `/v1/repos/<repository>`.
    pub path: &'a str,
}

/// User name and password for Basic authentication.
#[derive(Clone, PartialEq, Eq)]
pub struct GitCredentials {
    /// Access key id, and `%` with the session token if there is one.
    pub username: String,
    /// Time, `Z` and signature: `20240102T030405Z0f58..`.
    pub password: String,
}

impl GitCredentials {
    /// Formats `username:password`, percent-encoded for a URL.
    pub fn userinfo(&self) -> String {
        format!(
            "{}:{}",
            utf8_percent_encode(&self.username, USERINFO),
            utf8_percent_encode(&self.password, USERINFO)
        )
    }
}

impl fmt::Debug for GitCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the user name, which may contain a session token.
        f.debug_struct("GitCredentials")
            .field("access_key_id", &split_username(&self.username).0)
            .finish_non_exhaustive()
    }
}

/// Reason for refusing a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordError {
    /// The password is not a time, `Z` and 64 hexadecimal digits.
    Malformed,
    /// The password's time is further from now than [`PASSWORD_LIFETIME`].
    Expired,
    /// The password was made with another key, or for another repository, host or region.
    Mismatch,
}

impl fmt::Display for PasswordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the password is not a time and a signature",
            Self::Expired => "the password's time is more than 15 minutes from now",
            Self::Mismatch => "the password was made with another key or for another endpoint",
        })
    }
}

impl std::error::Error for PasswordError {}

/// Makes credentials that are valid for `endpoint` for 15 minutes from `time` on.
pub fn sign(key: &SigningKey<'_>, endpoint: &Endpoint<'_>, time: Timestamp) -> GitCredentials {
    let stamp = time.strftime("%Y%m%dT%H%M%S").to_string();
    let signature = signer(key.secret, endpoint, &stamp).finalize().into_bytes();
    GitCredentials {
        username: match key.session_token {
            Some(token) => format!("{}%{token}", key.id),
            None => key.id.to_owned(),
        },
        password: format!("{stamp}Z{}", hex::encode(signature)),
    }
}

/// Splits a Basic user name into access key id and session token.
pub fn split_username(username: &str) -> (&str, Option<&str>) {
    match username.split_once('%') {
        Some((id, token)) => (id, Some(token)),
        None => (username, None),
    }
}

/// Checks a password against the secret of its user, in constant time.
pub fn verify(
    secret: &str,
    endpoint: &Endpoint<'_>,
    password: &str,
    now: Timestamp,
) -> Result<(), PasswordError> {
    let (stamp, signature) = password.split_once('Z').ok_or(PasswordError::Malformed)?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(signature, &mut bytes).map_err(|_| PasswordError::Malformed)?;
    let time = parse_stamp(stamp).ok_or(PasswordError::Malformed)?;
    if now.duration_since(time).abs() > PASSWORD_LIFETIME {
        return Err(PasswordError::Expired);
    }
    signer(secret, endpoint, stamp)
        .verify_slice(&bytes)
        .map_err(|_| PasswordError::Mismatch)
}

fn parse_stamp(stamp: &str) -> Option<Timestamp> {
    let shape = stamp.len() == 15
        && stamp.bytes().enumerate().all(|(at, byte)| {
            if at == 8 {
                byte == b'T'
            } else {
                byte.is_ascii_digit()
            }
        });
    if !shape {
        return None;
    }
    let civil = DateTime::strptime("%Y%m%dT%H%M%S", stamp).ok()?;
    Some(civil.to_zoned_datetime(TimeZone::UTC).ok()?.timestamp())
}

/// Computes the HMAC over the string to sign; `stamp` has no `Z`.
fn signer(secret: &str, endpoint: &Endpoint<'_>, stamp: &str) -> Hmac<Sha256> {
    let canonical = canonical_request(endpoint);
    let date = stamp.get(..8).unwrap_or(stamp);
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{stamp}\n{date}/{}/codecommit/aws4_request\n{}",
        endpoint.region,
        hex::encode(Sha256::digest(canonical))
    );
    let mut key = hmac(format!("AWS4{secret}").as_bytes(), date);
    for part in [endpoint.region, "codecommit", "aws4_request"] {
        key = hmac(&key.finalize().into_bytes(), part);
    }
    hmac(&key.finalize().into_bytes(), &to_sign)
}

/// Formats the request to sign: no query, one header, and no hash of a body.
fn canonical_request(endpoint: &Endpoint<'_>) -> String {
    format!("GIT\n{}\n\nhost:{}\n\nhost\n", endpoint.path, endpoint.host)
}

fn hmac(key: &[u8], text: &str) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key).expect("because HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMO: Endpoint<'_> = Endpoint {
        region: "us-east-1",
        host: "git-codecommit.us-east-1.amazonaws.com",
        path: "/v1/repos/MyDemoRepo",
    };
    const HELPER: Endpoint<'_> = Endpoint {
        region: "us-west-2",
        host: "git-codecommit.us-west-2.amazonaws.com",
        path: "/v1/repos/test_repo",
    };

    fn demo_key(session_token: Option<&'static str>) -> SigningKey<'static> {
        SigningKey {
            id: "AKIDEXAMPLE",
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            session_token,
        }
    }

    fn helper_key(session_token: Option<&'static str>) -> SigningKey<'static> {
        SigningKey {
            id: "access",
            secret: "secret",
            session_token,
        }
    }

    fn demo_time() -> Timestamp {
        "2024-01-02T03:04:05Z".parse().unwrap()
    }

    fn helper_time() -> Timestamp {
        "2017-12-24T11:53:20Z".parse().unwrap()
    }

    const DEMO_PASSWORD: &str =
        "20240102T030405Z0f588bef74e2ac4b70b72a0ebf8baa7cf6bcc51c76b85e8a76837044b6fb5ade";

    #[test]
    fn the_canonical_request_hashes_as_botocore_hashes_it() {
        assert_eq!(
            hex::encode(Sha256::digest(canonical_request(&DEMO))),
            "956504f984c57eae87a4d346014b4f0ecfc62a9cc354b2434e0408ec253be706"
        );
    }

    #[test]
    fn the_password_equals_botocores() {
        let made = sign(&demo_key(None), &DEMO, demo_time());
        assert_eq!(made.username, "AKIDEXAMPLE");
        assert_eq!(made.password, DEMO_PASSWORD);
    }

    #[test]
    fn a_session_token_is_part_of_the_user_name_and_percent_encoded_in_urls() {
        let made = sign(&demo_key(Some("SESSION/TOKEN+==")), &DEMO, demo_time());
        assert_eq!(made.username, "AKIDEXAMPLE%SESSION/TOKEN+==");
        assert_eq!(
            made.userinfo(),
            format!("AKIDEXAMPLE%25SESSION%2FTOKEN%2B%3D%3D:{DEMO_PASSWORD}")
        );
        let made = sign(&helper_key(Some("token")), &HELPER, helper_time());
        assert!(
            made.userinfo().starts_with("access%25token:"),
            "git-remote-codecommit writes the token so"
        );
        assert_eq!(
            made.password,
            sign(&helper_key(None), &HELPER, helper_time()).password,
            "the token does not enter the signature"
        );
    }

    #[test]
    fn the_password_equals_git_remote_codecommits() {
        let made = sign(&helper_key(None), &HELPER, helper_time());
        assert_eq!(
            made.password,
            "20171224T115320Zb6df2d758a8023b2f000a546417007b65494f3ce8ad0300fd45fcfa173f1959a"
        );
    }

    #[test]
    fn the_password_for_another_host_equals_git_remote_codecommits() {
        let endpoint = Endpoint {
            host: "land.called.honahlee",
            ..HELPER
        };
        let made = sign(&helper_key(None), &endpoint, helper_time());
        assert_eq!(
            made.password,
            "20171224T115320Za14a37a53035bbceb6e1748247b143124fe7326cdffd3d418236a592ce6158a0"
        );
    }

    #[test]
    fn a_password_is_refused_for_another_endpoint_secret_or_time() {
        let secret = demo_key(None).secret;
        let check = |secret: &str, endpoint: &Endpoint<'_>, seconds: i64| {
            let now = demo_time() + SignedDuration::from_secs(seconds);
            verify(secret, endpoint, DEMO_PASSWORD, now)
        };
        assert_eq!(check(secret, &DEMO, 0), Ok(()));
        assert_eq!(check(secret, &DEMO, 900), Ok(()));
        assert_eq!(check(secret, &DEMO, 901), Err(PasswordError::Expired));
        assert_eq!(check(secret, &DEMO, -901), Err(PasswordError::Expired));
        assert_eq!(check("other", &DEMO, 0), Err(PasswordError::Mismatch));
        for endpoint in [
            Endpoint {
                region: "eu-west-1",
                ..DEMO
            },
            Endpoint {
                host: "127.0.0.1",
                ..DEMO
            },
            Endpoint {
                path: "/v1/repos/Other",
                ..DEMO
            },
        ] {
            assert_eq!(check(secret, &endpoint, 0), Err(PasswordError::Mismatch));
        }
    }

    #[test]
    fn a_malformed_password_is_not_a_mismatch() {
        for password in [
            "",
            "secret",
            "Z",
            "20240102T030405Z",
            "20240102T030405Z0f58",
            "20240102T030405",
            "20241302T030405Z0f588bef74e2ac4b70b72a0ebf8baa7cf6bcc51c76b85e8a76837044b6fb5ade",
            "+0240102T030405Z0f588bef74e2ac4b70b72a0ebf8baa7cf6bcc51c76b85e8a76837044b6fb5ade",
        ] {
            assert_eq!(
                verify("secret", &DEMO, password, demo_time()),
                Err(PasswordError::Malformed),
                "`{password}` is malformed"
            );
        }
    }

    #[test]
    fn debug_prints_no_secret() {
        let key = demo_key(Some("SESSION"));
        let made = sign(&key, &DEMO, demo_time());
        let shown = format!("{key:?} {made:?}");
        assert!(
            shown.contains("AKIDEXAMPLE"),
            "the key id is shown: {shown}"
        );
        for secret in ["wJalr", "SESSION", "0f588bef"] {
            assert!(!shown.contains(secret), "`{secret}` is in {shown}");
        }
    }
}
