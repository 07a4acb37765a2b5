//! Runs the tool whose name the program has.

use std::path::Path;

use crate::exit::ExitStatus;
use crate::invocation::Invocation;
use crate::log::Verbosity;
use crate::names::{Applet, NAMES};
use crate::{codecommit, commands, helper, lfs, manage, migrate, mirror};

/// Chooses the applet, and removes `--as NAME` from the arguments.
///
/// # Errors
/// The name that is not known.
fn choose(invocation: &mut Invocation) -> Result<Applet, String> {
    let arguments = &mut invocation.arguments;
    let first = arguments.get(1).and_then(|text| text.to_str());
    let named = match first {
        Some("--as") => {
            arguments.remove(1);
            if arguments.len() < 2 {
                return Err(String::new());
            }
            Some(arguments.remove(1))
        }
        Some(text) if text.starts_with("--as=") => {
            let name = text["--as=".len()..].into();
            arguments.remove(1);
            Some(name)
        }
        _ => None,
    };
    if let Some(name) = named {
        return Applet::named(&name).ok_or_else(|| name.to_string_lossy().into_owned());
    }
    let program = arguments.first().map(Path::new);
    let name = program.and_then(Path::file_name);
    Ok(name.and_then(Applet::named).unwrap_or(Applet::Branchline))
}

/// Runs the applet that the arguments name.
pub(crate) async fn run(mut invocation: Invocation, verbosity: Verbosity) -> ExitStatus {
    match choose(&mut invocation) {
        Ok(Applet::Branchline) => Box::pin(commands::run(invocation)).await,
        Ok(Applet::IncrementalRepoMigration) => {
            Box::pin(migrate::script::run_script(&invocation)).await
        }
        Ok(Applet::MirrorGitToS3) => Box::pin(mirror::python::run(&invocation)).await,
        Ok(Applet::GitRemoteS3) => Box::pin(helper::run(&invocation, &verbosity)).await,
        Ok(Applet::GitRemoteCodeCommit) => Box::pin(codecommit::run(&invocation)).await,
        Ok(Applet::GitLfsS3) => Box::pin(lfs::run(&invocation)).await,
        Ok(Applet::GitS3) => Box::pin(manage::run_git_s3(&invocation)).await,
        Ok(Applet::CodeCommitCredential) => {
            Box::pin(codecommit::run_credential_helper(&invocation)).await
        }
        Err(name) => {
            let names: Vec<_> = NAMES.iter().map(|(name, ..)| format!("`{name}`")).collect();
            eprintln!(
                "error: `--as` needs the name of an applet, not `{}`; hint: use one of {}",
                name.escape_debug(),
                names.join(", ")
            );
            ExitStatus::Usage
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn chosen(arguments: &[&str]) -> (Result<Applet, String>, Vec<String>) {
        let mut invocation = Invocation {
            arguments: arguments.iter().map(Into::into).collect(),
            variables: HashMap::new(),
            program: None,
        };
        let applet = choose(&mut invocation);
        let rest = invocation.arguments.into_iter().skip(1);
        let rest = rest.map(|text| text.to_string_lossy().into_owned());
        (applet, rest.collect())
    }

    #[test]
    fn the_name_of_the_program_or_the_option_chooses_the_applet() {
        for (arguments, applet, rest) in [
            (
                &["branchline", "install"][..],
                Applet::Branchline,
                &["install"][..],
            ),
            (
                &["/x/git-remote-s3", "o", "s3://b/p"],
                Applet::GitRemoteS3,
                &["o", "s3://b/p"],
            ),
            (
                &["git-remote-s3+zip", "o", "u"],
                Applet::GitRemoteS3,
                &["o", "u"],
            ),
            (
                &["branchline", "--as", "git-remote-s3", "o"],
                Applet::GitRemoteS3,
                &["o"],
            ),
            (
                &["git-remote-s3", "--as=branchline"],
                Applet::Branchline,
                &[],
            ),
            (
                &["mirror-git-to-s3", "--help"],
                Applet::MirrorGitToS3,
                &["--help"],
            ),
            (
                &["branchline", "--as=incremental-repo-migration", "-c"],
                Applet::IncrementalRepoMigration,
                &["-c"],
            ),
            (&["renamed"], Applet::Branchline, &[]),
            (&[], Applet::Branchline, &[]),
        ] {
            let (found, left) = chosen(arguments);
            assert_eq!(found, Ok(applet), "{arguments:?}");
            assert_eq!(left, rest, "{arguments:?}");
        }
        for arguments in [
            &["branchline", "--as"][..],
            &["branchline", "--as", "git-remote-s4"],
        ] {
            assert!(chosen(arguments).0.is_err(), "{arguments:?}");
        }
    }
}
