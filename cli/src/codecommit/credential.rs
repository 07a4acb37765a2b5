//! The credential helper (gitcredentials(7)) of git's HTTP helper: signs a password when git asks
//! for one.
//!
//! It answers for the one repository in its argument, and for no other host or path. Nothing is
//! stored, here or by another helper. Git 2.46 and later come back when the server answers that the
//! password is not accepted, because one transfer may take longer than a password lives. They
//! repeat the time of the last signature, so that a key that is not accepted is an error and not
//! an endless repetition.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::time::{SystemTime, UNIX_EPOCH};

use branchline_core::aws::{Aws, AwsOverrides};
use branchline_core::codecommit::git_credential_source::CodeCommitCredentials;
use branchline_core::git::smart_http::{CredentialSource as _, Credentials};
use branchline_core::{Error, ErrorKind, Result};

use super::location::Location;
use crate::connection::http_settings;
use crate::exit::ExitStatus;
use crate::failure::{explain, one_line};
use crate::invocation::Invocation;

/// Name of the applet, which only git's HTTP helper starts.
pub(crate) const NAME: &str = "git-credential-codecommit";
/// Start of the state that git keeps for this helper; the time of the last signature follows, in
/// seconds since 1970, and the number of passwords that were signed shortly after each other.
const SIGNED: &str = "codecommit-signed:";
/// Age in seconds up to which a password cannot have expired before its use.
const MAX_FRESH_SECONDS: u64 = 60;
/// Maximum number of passwords that are signed shortly after each other.
const MAX_FRESH_PASSWORDS: u64 = 2;
/// Largest request of git in bytes.
const MAX_REQUEST_BYTES: u64 = 64 * 1024;

/// A request of git.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    fields: HashMap<String, String>,
    /// Git keeps a state for this helper.
    keeps_state: bool,
    /// The last password, if git asks again.
    last: Option<Signed>,
}

/// A signed password, without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Signed {
    /// Seconds since 1970.
    time: u64,
    /// Number of passwords that were signed shortly after each other, with this one.
    count: u64,
}

impl Signed {
    fn parse(state: &str) -> Option<Self> {
        let (time, count) = state.strip_prefix(SIGNED)?.split_once(':')?;
        Some(Self {
            time: time.parse().ok()?,
            count: count.parse().ok()?,
        })
    }
}

impl Request {
    fn parse(text: &str) -> Self {
        let mut request = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            if key == "capability[]" {
                request.keeps_state |= value == "state";
            } else if key == "state[]" {
                request.last = Signed::parse(value).or(request.last);
            } else {
                request.fields.insert(key.to_owned(), value.to_owned());
            }
        }
        request
    }

    /// Counts the next password, at `now` in seconds since 1970; `None` when the server does not
    /// accept several that were just signed.
    fn next(&self, now: u64) -> Option<Signed> {
        let fresh = self
            .last
            .filter(|last| now.saturating_sub(last.time) < MAX_FRESH_SECONDS);
        let count = fresh.map_or(0, |last| last.count);
        (count < MAX_FRESH_PASSWORDS).then_some(Signed {
            time: now,
            count: count + 1,
        })
    }

    /// Returns whether the password is for the repository at `location`.
    fn is_of(&self, location: &Location) -> bool {
        let is = |key: &str, value: &str| self.fields.get(key).is_some_and(|found| found == value);
        let server = &location.server;
        is("protocol", server.scheme())
            && is("host", server.authority())
            && is("path", server.path().trim_start_matches('/'))
    }
}

/// Answers one request. Arguments: the URL of the repository, and git's operation.
pub(crate) async fn run(invocation: &Invocation) -> ExitStatus {
    let arguments: Vec<_> = invocation.arguments.iter().skip(1).collect();
    let [url, operation] = arguments.as_slice() else {
        eprintln!("fatal: usage: {NAME} URL OPERATION; hint: git starts this program");
        return ExitStatus::Usage;
    };
    if *operation != "get" {
        // Passwords are neither stored nor erased.
        return ExitStatus::Done;
    }
    let mut profile = None;
    let answer = async {
        let location = Location::find(invocation, &url.to_string_lossy()).await?;
        profile.clone_from(&location.url.profile);
        let mut text = String::new();
        let read = std::io::stdin()
            .lock()
            .take(MAX_REQUEST_BYTES)
            .read_to_string(&mut text);
        read.map_err(|error| {
            Error::new(ErrorKind::Transport, "reading from git").with_source(error)
        })?;
        answer(invocation, &location, &Request::parse(&text)).await
    };
    match answer.await {
        Ok(answer) => {
            print!("{answer}");
            ExitStatus::Done
        }
        Err(error) => {
            let error = explain(error, profile.as_deref()).await;
            eprintln!("fatal: {}", one_line(&error));
            // Else git would ask the user for a name and a password.
            println!("quit=1");
            ExitStatus::Failed
        }
    }
}

async fn answer(invocation: &Invocation, location: &Location, request: &Request) -> Result<String> {
    if !request.is_of(location) {
        return Ok(String::new());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    let Some(next) = request.next(now) else {
        let message = format!("{} does not accept the AWS credentials", location.server);
        return Err(Error::new(ErrorKind::AccessDenied, message)
            .with_hint("check the credentials, the profile and the region of the repository"));
    };
    let aws = Aws::load(AwsOverrides {
        region: Some(location.region.clone()),
        profile: location.url.profile.clone(),
        http: http_settings(invocation)?,
        ..AwsOverrides::default()
    })
    .await?;
    let source = CodeCommitCredentials::new(&aws);
    let signed = source.credentials(&location.server).await?;
    let signed = signed.expect("because CodeCommit's passwords can be signed for any repository");
    Ok(fields(&signed, request.keeps_state.then_some(next)))
}

/// Formats a name and a password for git, and the state if git keeps it.
fn fields(signed: &Credentials, state: Option<Signed>) -> String {
    let mut text = format!(
        "username={}\npassword={}\n",
        signed.user(),
        signed.password()
    );
    if let Some(Signed { time, count }) = state {
        // `continue`: git asks again when the server does not accept the password. Not as
        // `authtype`, which git 2.47 leaves out of the request before a large push.
        write!(
            text,
            "capability[]=state\ncontinue=1\nephemeral=1\nstate[]={SIGNED}{time}:{count}\n"
        )
        .expect("because memory takes all text");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_repository_itself_is_answered_for() {
        let invocation = Invocation {
            arguments: Vec::new(),
            variables: HashMap::new(),
            program: None,
        };
        let location = Location::find(&invocation, "eu-west-1://r").await;
        let location = location.expect("the URL is valid");
        let host = "git-codecommit.eu-west-1.amazonaws.com";
        for (protocol, host, path, expected) in [
            ("https", host, "v1/repos/r", true),
            ("http", host, "v1/repos/r", false),
            ("https", "evil.example", "v1/repos/r", false),
            ("https", host, "v1/repos/other", false),
            ("https", host, "", false),
        ] {
            let text = format!(
                "capability[]=authtype\ncapability[]=state\nprotocol={protocol}\nhost={host}\npath={path}\n"
            );
            let request = Request::parse(&text);
            assert!(request.keeps_state);
            assert_eq!(request.is_of(&location), expected, "{text}");
        }
    }

    #[test]
    fn a_password_is_signed_again_unless_the_last_two_were_just_signed() {
        let next = |state: &str, now| {
            let text = format!("capability[]=state\nstate[]={state}\nstate[]=other:5:6\n");
            Request::parse(&text).next(now).map(|next| next.count)
        };
        assert_eq!(next("", 100), Some(1), "git asks for the first time");
        assert_eq!(next("codecommit-signed:100:1", 101), Some(2));
        assert_eq!(next("codecommit-signed:100:2", 159), None);
        assert_eq!(
            next("codecommit-signed:100:2", 160),
            Some(1),
            "it may have expired"
        );
    }

    #[test]
    fn an_older_git_gets_a_name_and_a_password() {
        let signed = Credentials::new("AKID%TOKEN=", "20240102T030405Z0f");
        assert_eq!(
            fields(&signed, None),
            "username=AKID%TOKEN=\npassword=20240102T030405Z0f\n"
        );
        let state = Signed { time: 7, count: 1 };
        let fields = fields(&signed, Some(state));
        assert!(fields.contains("\ncontinue=1\n"), "{fields}");
        assert!(
            fields.ends_with("\nstate[]=codecommit-signed:7:1\n"),
            "{fields}"
        );
    }
}
