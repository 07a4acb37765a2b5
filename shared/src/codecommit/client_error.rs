//! Conversion of CodeCommit's errors.

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::aws::{ApiCall, SdkFailure};
use crate::error::{Error, ErrorKind};
use crate::name::RepositoryName;

/// Converts the error of a request for something in `repository`, which may be missing
/// itself.
pub(super) fn convert_in<E>(
    error: &SdkError<E, HttpResponse>,
    call: &ApiCall,
    repository: &RepositoryName,
) -> Error
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    let failure = SdkFailure::of(error);
    if failure.code() == "RepositoryDoesNotExistException" {
        return failure
            .into_error(
                ErrorKind::NotFound,
                format!("repository `{repository}` does not exist"),
            )
            .with_hint("check its name, the region and the account");
    }
    convert(error, call)
}

/// Converts CodeCommit's errors (API reference, "Errors" of each operation).
pub(super) fn convert<E>(error: &SdkError<E, HttpResponse>, call: &ApiCall) -> Error
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    let failure = SdkFailure::of(error);
    let subject = &call.subject;
    let missing = |failure: SdkFailure, hint: &str| {
        failure
            .into_error(ErrorKind::NotFound, format!("{subject} does not exist"))
            .with_hint(hint)
    };
    match failure.code() {
        "RepositoryDoesNotExistException" => {
            missing(failure, "check its name, the region and the account")
        }
        "RepositoryNameExistsException" => {
            failure.into_error(ErrorKind::Conflict, format!("{subject} exists already"))
        }
        "RepositoryLimitExceededException" => failure
            .into_error(
                ErrorKind::Config,
                format!("{subject} exceeds the account's quota of repositories"),
            )
            .with_hint("delete repositories, or request a higher quota from AWS"),
        "BranchDoesNotExistException" => missing(failure, "it was deleted, or never pushed"),
        "CommitDoesNotExistException" | "CommitIdDoesNotExistException" => {
            missing(failure, "push the commit; an empty repository has none")
        }
        "FolderDoesNotExistException" | "PathDoesNotExistException" => {
            missing(failure, "the commit's tree has no such folder")
        }
        "BlobIdDoesNotExistException" => missing(failure, "the repository has no such object"),
        "FileTooLargeException" => failure
            .into_error(
                ErrorKind::FileTooLarge,
                format!("{subject} is larger than the 6 MiB that the CodeCommit API serves"),
            )
            .with_hint("only git can read it"),
        "EncryptionKeyAccessDeniedException" => failure
            .into_error(
                ErrorKind::AccessDenied,
                format!("the KMS key of {subject} cannot be used"),
            )
            .with_hint("grant `kms:Decrypt` on the repository's key to the caller's role"),
        "EncryptionKeyDisabledException"
        | "EncryptionKeyNotFoundException"
        | "EncryptionKeyUnavailableException"
        | "EncryptionKeyInvalidIdException"
        | "EncryptionKeyInvalidUsageException" => failure
            .into_error(
                ErrorKind::Config,
                format!("the KMS key of {subject} cannot be used"),
            )
            .with_hint("enable the key, or configure another key for the repository"),
        "MaximumRepositoryTriggersExceededException" => failure
            .into_error(
                ErrorKind::Config,
                format!("{subject} are more than a repository can have"),
            )
            .with_hint("the maximum is 10; remove triggers, or let one cover more branches"),
        "MaximumBranchesExceededException" => failure
            .into_error(
                ErrorKind::Config,
                format!("one of {subject} names more branches than a trigger can"),
            )
            .with_hint("a trigger can name 10 branches; without names it covers all"),
        code if code.starts_with("InvalidRepositoryTrigger")
            || code.starts_with("RepositoryTrigger") =>
        {
            failure.into_error(
                ErrorKind::Config,
                format!("CodeCommit does not accept {subject}"),
            )
        }
        _ => failure.into_common_error(call),
    }
}
