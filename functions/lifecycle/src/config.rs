//! The settings of the `lifecycle` function, read once at initialisation.

use branchline_core::pattern::RepositoryPatterns;
use branchline_core::settings::Settings;
use branchline_core::trigger::Policy;
use branchline_core::{Error, ErrorKind, Result};

/// Settings of the function.
#[derive(Debug, Clone)]
pub struct Config {
    /// `BRANCHES_INCLUDE`, `BRANCHES_EXCLUDE`, `TRIGGER_PREFIX`, `UPDATE_FUNCTION_ARN`,
    /// `TRIGGER_CUSTOM_DATA`: determine the desired triggers.
    pub policy: Policy,
    /// `REPOSITORIES`: selects the repositories of a schedule.
    pub repositories: RepositoryPatterns,
}

impl Config {
    /// Reads the environment variables of `settings`.
    ///
    /// # Errors
    /// `Config`, naming the variable.
    pub fn read(settings: &Settings) -> Result<Self> {
        Ok(Self {
            policy: Policy::read(settings)?,
            repositories: settings
                .optional("REPOSITORIES", RepositoryPatterns::new)?
                .unwrap_or_default(),
        })
    }

    /// Rejects an update function outside the region of the repositories.
    pub fn check_region(&self, region: &str) -> Result<()> {
        let function = &self.policy.destination;
        if function.region() == region {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Config,
            format!(
                "`UPDATE_FUNCTION_ARN` is not valid: `{function}` is in region `{}`, the \
                 repositories are in `{region}`",
                function.region()
            ),
        )
        .with_hint("a trigger calls only its own region: deploy branchline in each"))
    }
}

#[cfg(test)]
mod tests {
    use branchline_core::pattern::BranchPatterns;

    use super::*;

    const ARN: &str = "arn:aws:lambda:eu-west-1:111122223333:function:update";

    fn read(variables: &[(&str, &str)]) -> Result<Config> {
        let needed = std::iter::once(("UPDATE_FUNCTION_ARN", ARN));
        Config::read(&needed.chain(variables.iter().copied()).collect())
    }

    #[test]
    fn the_defaults_cover_everything() {
        let config = read(&[]).expect("because only the ARN is required");
        assert_eq!(config.policy.prefix.as_str(), "branchline");
        assert_eq!(config.policy.branches, BranchPatterns::default());
        assert_eq!(config.policy.custom_data, None);
        assert_eq!(config.repositories, RepositoryPatterns::default());
    }

    #[test]
    fn an_error_names_its_variable() {
        let long = "x".repeat(1001);
        for (name, value) in [
            ("BRANCHES_INCLUDE", "[a"),
            ("BRANCHES_EXCLUDE", "a\\"),
            ("REPOSITORIES", "[r"),
            ("TRIGGER_PREFIX", "a b"),
            ("TRIGGER_CUSTOM_DATA", &long),
            ("UPDATE_FUNCTION_ARN", "update"),
            (
                "UPDATE_FUNCTION_ARN",
                "arn:aws:sns:eu-west-1:111122223333:topic",
            ),
        ] {
            let error = read(&[(name, value)]).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Config);
            let start = format!("`{name}` is not valid: ");
            assert!(error.to_string().starts_with(&start), "{error}");
        }
        let error = Config::read(&Settings::default()).expect_err("the ARN is missing");
        assert!(
            error
                .report()
                .starts_with("`UPDATE_FUNCTION_ARN` is not set; hint:")
        );
    }

    #[test]
    fn a_function_in_another_region_is_refused() {
        let config = read(&[]).expect("because the settings are valid");
        assert!(config.check_region("eu-west-1").is_ok());
        let error = config
            .check_region("us-east-1")
            .expect_err("the function is in another region");
        assert_eq!(error.kind(), ErrorKind::Config);
        for part in ["`UPDATE_FUNCTION_ARN`", "`eu-west-1`", "`us-east-1`"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
