//! URLs of repositories, whose text form never contains a password.

use std::fmt;

use http::Uri;
use percent_encoding::percent_decode_str;

use super::credentials::Credentials;
use crate::error::{Error, ErrorKind, Result};

/// An `http` or `https` URL of a repository.
///
/// `Display` and `Debug` omit user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct RepositoryUrl {
    secure: bool,
    // With the port, if the URL has one.
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
    /// Parses a scheme, an optional percent-encoded user and password, a host, an optional
    /// port, and a path.
    ///
    /// # Errors
    /// `Config` for other texts, and for a query or a fragment. The message does not repeat
    /// `text`, which may contain a password.
    pub fn new(text: &str) -> Result<Self> {
        let refused = |rule: &str| {
            Error::new(
                ErrorKind::Config,
                format!("the URL of a repository is not valid: {rule}"),
            )
        };
        let uri: Uri = text.parse().map_err(|_| refused("not a URL"))?;
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
        // `http::Uri` accepts hosts that connectors do not.
        if !is_host(host) {
            return Err(refused("the host is invalid"));
        }
        let default = if secure { 443 } else { 80 };
        let port = match port {
            None => default,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .map_err(|_| refused("the port must be 0 to 65535"))?,
            Some(_) => return Err(refused("the port must be 0 to 65535")),
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

    /// Returns `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Returns whether the scheme is `https`.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Returns the host in lower case, without the port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns whether the host is this machine by its name or address, where plain HTTP is
    /// safe.
    pub fn is_loopback(&self) -> bool {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// Returns the port, or the default port of the scheme.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the host, with the port if the URL has one.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns the path, without a slash at its end.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the user and password of the URL.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Returns whether scheme, host and port are equal.
    pub fn is_same_server(&self, other: &Self) -> bool {
        self.secure == other.secure && self.host == other.host && self.port == other.port
    }

    /// Returns whether credentials for `self` may be sent to `other`: to an equal host and
    /// port, or to an equal host after a change from `http` to `https`.
    pub(super) fn trusts(&self, other: &Self) -> bool {
        self.host == other.host
            && ((self.secure == other.secure && self.port == other.port)
                || (other.secure && !self.secure && self.port == 80 && other.port == 443))
    }

    /// Returns the URL of `path` below this one.
    pub(super) fn below(&self, path: &str) -> String {
        format!("{self}/{path}")
    }

    /// Returns the URL of the repository after a request for `asked` was redirected to
    /// `location`.
    ///
    /// Git's rule: `location` must end with `asked`, and starts with the repository's new URL.
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
            .ok_or_else(|| refused("to a URL that is not a repository's"))?;
        let url = Self::new(base).map_err(|_| refused("to a URL that is not a repository's"))?;
        if url.credentials.is_some() {
            return Err(refused("to a URL with a user"));
        }
        if self.secure && !url.secure {
            return Err(refused("from `https` to `http`"));
        }
        Ok(url)
    }
}

/// Returns whether `host` is a name in the DNS, an IPv4 address, or an IPv6 address in
/// brackets.
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
    fn passwords_are_parsed_and_never_shown() {
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
    fn invalid_hosts_and_ports_are_refused() {
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
        assert!(
            !url.trusts(&moved),
            "credentials are not sent to another host"
        );
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
