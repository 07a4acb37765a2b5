//! Errors, as a user sees them.

use branchline_core::Error;
use branchline_core::aws::{CredentialSetup, Profiles, is_credentials_failure};

use crate::exit::ExitStatus;

/// Replaces the hint of an error about credentials by the command that renews those of the
/// profile; `None` stands for the profile that `AWS_PROFILE` names.
pub(crate) async fn explain(error: Error, profile: Option<&str>) -> Error {
    if !is_credentials_failure(&error) {
        return error;
    }
    let Ok(profiles) = Profiles::load().await else {
        return error;
    };
    let profile = profile.unwrap_or(profiles.selected()).to_owned();
    let hint = match profiles.setup(&profile) {
        CredentialSetup::Sso => format!("sign in by `aws sso login --profile {profile}`"),
        CredentialSetup::Login => format!("sign in by `aws login --profile {profile}`"),
        CredentialSetup::Process => {
            format!("run the `credential_process` of the profile `{profile}` to see its error")
        }
        CredentialSetup::Role => {
            format!("check the role and its source in the profile `{profile}`")
        }
        CredentialSetup::Other => return error,
    };
    error.with_hint(hint)
}

/// Formats an error as one line without control characters.
pub(crate) fn one_line(error: &Error) -> String {
    let report = error.report();
    let lines = report.split(['\n', '\r']).map(str::trim);
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    let text = lines.join(" ");
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Prints why arguments were not accepted, or the help that they ask for.
pub(crate) fn usage(error: &clap::Error) -> ExitStatus {
    // Help and version go to standard output, and are not failures.
    let _ = error.print();
    if error.use_stderr() {
        ExitStatus::Usage
    } else {
        ExitStatus::Done
    }
}

#[cfg(test)]
mod tests {
    use branchline_core::ErrorKind;

    use super::*;

    #[test]
    fn an_error_is_one_line() {
        let error = Error::new(ErrorKind::Config, "a\r\n\n  b\u{1b}[31m").with_hint("c");
        assert_eq!(one_line(&error), "a b[31m; hint: c");
    }
}
