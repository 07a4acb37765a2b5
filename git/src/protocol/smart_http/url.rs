//! The URL of a repository, which never shows a password.

use std::fmt;

use http::Uri;
use percent_encoding::percent_decode_str;

use super::Credentials;
use crate::error::{Error, ErrorKind, Result};

/// An `http` or `https` URL of a repository.
///
/// `Display` and `Debug` leave user and password out.
#[derive(Clone, PartialEq, Eq)]
pub struct RepositoryUrl {
    secure: bool,
    // With the port, when it was given.
    authority: String,
    host: String,
    port: u16,
    path: String,
    credentials: Option<Credentials>,
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority, self.path)
    }
}

impl fmt::Debug for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl RepositoryUrl {
    /// Validates `text`: scheme, host, perhaps a port, and a path; perhaps a user and
    /// password, percent-encoded. Query and fragment are refused.
    ///
    /// # Errors
    /// `Config`; the message does not repeat the text, which may hold a password.
    pub fn new(text: &str) -> Result<Self> {
        let refused = |rule: &str| {
            Error::new(
                ErrorKind::Config,
                format!("the URL of a repository is not valid: {rule}"),
            )
        };
        let uri: Uri = text.parse().map_err(|_| refused("it is no URL"))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(refused("it must start with `https://` or `http://`")),
        };
        if uri.query().is_some() || text.contains('#') {
            return Err(refused("it must not have a query or a fragment"));
        }
        let authority = uri.authority().ok_or_else(|| refused("it has no host"))?;
        let (user_info, authority) = match authority.as_str().rsplit_once('@') {
            Some((user_info, rest)) => (Some(user_info), rest),
            None => (None, authority.as_str()),
        };
        let authority = authority.to_ascii_lowercase();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority.as_str(), None),
        };
        if host.is_empty() {
            return Err(refused("it has no host"));
        }
        // `http::Uri` is more lenient than those who connect to what it says.
        if !is_host(host) {
            return Err(refused("its host is no name and no address"));
        }
        let default = if secure { 443 } else { 80 };
        let port = match port {
            None => default,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .map_err(|_| refused("its port is no number up to 65535"))?,
            Some(_) => return Err(refused("its port is no number up to 65535")),
        };
        let credentials = match user_info {
            None => None,
            Some(user_info) => {
                let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
                let decode = |text| {
                    percent_decode_str(text)
                        .decode_utf8()
                        .map_err(|_| refused("its user or password is not UTF-8"))
                };
                Some(Credentials::new(decode(user)?, decode(password)?))
            }
        };
        Ok(Self {
            secure,
            host: host.to_owned(),
            port,
            authority,
            path: uri.path().trim_end_matches('/').to_owned(),
            credentials,
        })
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Whether it is `https`.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// The host, in lower case, without the port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, the scheme's own when none was given.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host, with the port when it was given.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// The path, without a slash at its end.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// User and password of the URL itself.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Whether credentials for `self` may be sent to `other`: the same host and port, or
    /// the same host after a change from `http` to `https`.
    pub(super) fn trusts(&self, other: &Self) -> bool {
        self.host == other.host
            && ((self.secure == other.secure && self.port == other.port)
                || (other.secure && !self.secure && self.port == 80 && other.port == 443))
    }

    /// A URL below this one.
    pub(super) fn below(&self, path: &str) -> String {
        format!("{self}/{path}")
    }

    /// Where the repository is, when asking `asked` was answered with `location`.
    ///
    /// Git's rule: what was asked for must end the same, and what goes before it is the
    /// repository.
    pub(super) fn redirected(&self, location: &str, asked: &str) -> Result<Self> {
        let refused = |why: &str| {
            Error::new(ErrorKind::Transport, format!("{self} redirects {why}"))
                .with_hint("use the URL to which it redirects, if you trust it")
        };
        let absolute = if location.starts_with('/') && !location.starts_with("//") {
            format!("{}://{}{location}", self.scheme(), self.authority)
        } else {
            location.to_owned()
        };
        let base = absolute
            .strip_suffix(asked)
            .and_then(|base| base.strip_suffix('/'))
            .ok_or_else(|| refused("to something that is no repository"))?;
        let url = Self::new(base).map_err(|_| refused("to something that is no repository"))?;
        if url.credentials.is_some() {
            return Err(refused("to a URL with a user"));
        }
        if self.secure && !url.secure {
            return Err(refused("from `https` to `http`"));
        }
        Ok(url)
    }
}

/// Whether it is a name in the DNS, or an address; one of version 6 in brackets.
fn is_host(host: &str) -> bool {
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_read_and_never_shown() {
        let url = RepositoryUrl::new("https://a%40b:p%3Ass@Git.Example:8443/x/y.git/").unwrap();
        assert_eq!(url.to_string(), "https://git.example:8443/x/y.git");
        assert_eq!(format!("{url:?}"), "https://git.example:8443/x/y.git");
        assert_eq!(
            (url.host(), url.port(), url.path()),
            ("git.example", 8443, "/x/y.git")
        );
        let credentials = url.credentials().unwrap();
        assert_eq!(
            (credentials.user(), credentials.password()),
            ("a@b", "p:ss")
        );
        assert!(!format!("{credentials:?}").contains("ss"));
        for text in [
            "https://u:secret@h/?q",
            "ftp://u:secret@h/",
            "https://u:secret@/x",
            "secret",
        ] {
            let report = RepositoryUrl::new(text).unwrap_err().report();
            assert!(!report.contains("secret"), "{report}");
        }
    }

    #[test]
    fn hosts_and_ports_are_what_is_connected_to() {
        for (text, host, port) in [
            ("https://H_1.example/r", "h_1.example", 443),
            ("http://127.0.0.1:8080/r", "127.0.0.1", 8080),
            ("https://u@[::1]:8443/r", "[::1]", 8443),
            ("https://[::1]/r", "[::1]", 443),
        ] {
            let url = RepositoryUrl::new(text).unwrap();
            assert_eq!((url.host(), url.port()), (host, port));
        }
        for text in [
            "https://h:70000/r",
            "https://h:/r",
            "https://h:8x/r",
            "https://[::1/r",
            "https://[h]/r",
            "https://[@1:1]:84/r",
            "https://h$x/r",
            "https://:443/r",
        ] {
            let refused = RepositoryUrl::new(text).map(|url| url.to_string());
            assert!(refused.is_err(), "{text}: {refused:?}");
        }
    }

    #[test]
    fn redirects_follow_gits_rule() {
        let url = RepositoryUrl::new("https://h/a").unwrap();
        let asked = "info/refs?service=git-upload-pack";
        let to = |location: &str| url.redirected(location, asked);
        let moved = to("https://other/b/info/refs?service=git-upload-pack").unwrap();
        assert_eq!(moved.to_string(), "https://other/b");
        assert!(!url.trusts(&moved), "another host gets no credentials");
        let moved = to("/c.git/info/refs?service=git-upload-pack").unwrap();
        assert_eq!(moved.to_string(), "https://h/c.git");
        assert!(url.trusts(&moved));
        for location in [
            "http://h/a/info/refs?service=git-upload-pack",
            "https://h/login",
            "https://u:p@h/a/info/refs?service=git-upload-pack",
            "file:///etc/info/refs?service=git-upload-pack",
            "",
        ] {
            assert!(to(location).is_err(), "{location} is refused");
        }
        let plain = RepositoryUrl::new("http://h/a").unwrap();
        assert!(plain.trusts(&url) && !url.trusts(&plain));
    }
}
