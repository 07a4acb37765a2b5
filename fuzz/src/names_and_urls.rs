//! URLs of remotes, names, globs and events, which the core parses.

use branchline_core::event::{MAX_REFERENCES, parse};
use branchline_core::filter::{PathMatch, parse_triggers};
use branchline_core::name::{
    BranchName, BucketName, CommitId, KeyPrefix, ObjectKey, PipelineName, RefName, RepositoryName,
};
use branchline_core::pattern::BranchPatterns;
use branchline_core::remote::url::RemoteUrl;

use crate::byte_source::ByteSource;
use crate::url::repository_url;

/// Parses the URL of a remote of any kind.
pub fn remote_url(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(url) = RemoteUrl::new(text) else {
        return;
    };
    let shown = url.to_string();
    assert_eq!(format!("{url:?}"), shown, "no other form shows more");
    match &url {
        RemoteUrl::Http(url) => repository_url(url.to_string().as_bytes()),
        RemoteUrl::Local(_) => {}
        RemoteUrl::CodeCommit(_) | RemoteUrl::S3(_) => {
            let again = RemoteUrl::new(&shown).expect("because it was a URL before");
            assert_eq!(again.to_string(), shown, "what is shown stays");
            let profile = match again {
                RemoteUrl::CodeCommit(url) => url.profile,
                RemoteUrl::S3(url) => url.profile,
                _ => panic!("`{shown}` became another kind of remote"),
            };
            assert_eq!(profile, None, "no profile is shown");
        }
    }
}

/// Parses all names that are valid by construction.
pub fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(branch) = BranchName::new(text) {
        assert_eq!(
            branch.to_ref().branch(),
            Some(branch.clone()),
            "{branch} comes back"
        );
        assert_eq!(
            RefName::new(branch.to_ref().as_str()).ok(),
            Some(branch.to_ref())
        );
    }
    if let Ok(name) = RefName::new(text) {
        assert!(
            !name
                .as_str()
                .chars()
                .any(|c| c.is_ascii_control() || c == ' '),
            "a ref has no control characters"
        );
        assert!(!name.as_str().contains(".."), "a ref name is not a range");
        assert!(
            name.as_str().strip_suffix(".lock").is_none(),
            "a ref name does not end as a lock"
        );
    }
    if let Ok(key) = ObjectKey::new(text) {
        assert!(
            !key.as_str().split('/').any(|part| part == ".."),
            "a key does not leave its prefix"
        );
    }
    if let Ok(prefix) = KeyPrefix::new(text) {
        let prefix = prefix.as_str();
        assert!(
            prefix.is_empty() || prefix.ends_with('/'),
            "a prefix is a folder"
        );
        let again = KeyPrefix::new(prefix).expect("because it is one");
        assert_eq!(again.as_str(), prefix, "a prefix stays what it is");
    }
    if let Ok(id) = CommitId::new(text) {
        assert!(id.to_string().eq_ignore_ascii_case(text), "ids come back");
    }
    let _ = RepositoryName::new(text);
    let _ = BucketName::new(text);
    let _ = PipelineName::new(text);
}

/// Matches globs. The lines of the input: include, exclude, and a branch.
pub fn patterns(bytes: &[u8]) {
    let mut choices = ByteSource::new(bytes);
    let [include, exclude] = [(); 2].map(|()| std::str::from_utf8(choices.until(b"\n")));
    let (Ok(include), Ok(exclude)) = (include, exclude) else {
        return;
    };
    let Ok(patterns) = BranchPatterns::new(include, exclude) else {
        return;
    };
    let Ok(branch) = std::str::from_utf8(choices.rest()) else {
        return;
    };
    let Ok(branch) = BranchName::new(branch) else {
        return;
    };
    let matches = patterns.matches(&branch);
    let included = BranchPatterns::new(include, "").is_ok_and(|only| only.matches(&branch));
    let excluded = BranchPatterns::new(exclude, "").is_ok_and(|only| only.matches(&branch));
    assert_eq!(matches, included && !excluded, "exclusion wins");
}

/// Parses filters of pipelines, and matches a name. The input: the name, a line end, and JSON.
pub fn triggers(bytes: &[u8]) {
    let mut choices = ByteSource::new(bytes);
    let name = std::str::from_utf8(choices.until(b"\n"));
    let (Ok(name), Ok(json)) = (name, std::str::from_utf8(choices.rest())) else {
        return;
    };
    match parse_triggers(json) {
        Ok(triggers) => {
            let repository = RepositoryName::new("demo").expect("because it is valid");
            for trigger in &triggers {
                let decision = trigger.match_branch(&repository, name);
                let is_never = decision == PathMatch::Never;
                assert!(!(is_never && decision.accepts(name)), "never is never");
                trigger.matches_tag(&repository, name);
                trigger.match_pull_request(&repository, name, None);
            }
        }
        Err(error) => assert!(
            !error.report().chars().any(|c| c.is_control() && c != '\n'),
            "an error can be shown: {:?}",
            error.report()
        ),
    }
}

/// Parses events of all shapes, as JSON.
pub fn event(bytes: &[u8]) {
    let Ok(event) = serde_json::from_slice(bytes) else {
        return;
    };
    let Ok(requests) = parse(&event) else { return };
    assert!(!requests.is_empty(), "an event asks for something");
    assert!(
        requests.len() <= MAX_REFERENCES,
        "an event asks for a bounded number of things"
    );
    for error in requests.iter().filter_map(|request| request.as_ref().err()) {
        assert!(
            !error.report().chars().any(|c| c.is_control() && c != '\n'),
            "an error can be shown: {:?}",
            error.report()
        );
    }
}
