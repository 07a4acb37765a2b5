//! URLs of repositories.

use branchline_git::smart_http::RepositoryUrl;

/// Parses the URL of a repository.
pub fn repository_url(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(url) = RepositoryUrl::new(text) else {
        return;
    };
    let shown = url.to_string();
    assert_eq!(format!("{url:?}"), shown, "no other form shows more");
    assert!(
        !shown.contains('@') || url.path().contains('@'),
        "no user is shown"
    );
    let again = RepositoryUrl::new(&shown).expect("because it was a URL before");
    assert!(again.credentials().is_none(), "no password is shown");
    assert_eq!(again.to_string(), shown, "what is shown stays");
    assert_eq!(
        (again.host(), again.port(), again.path(), again.is_secure()),
        (url.host(), url.port(), url.path(), url.is_secure()),
        "URLs come back"
    );
    let uri: http::Uri = shown.parse().expect("because it was a URL before");
    if let Some(port) = uri.port() {
        assert_eq!(
            port.as_str().parse().ok(),
            Some(url.port()),
            "the shown port is the parsed port"
        );
    }
}
