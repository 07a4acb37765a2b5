//! Definitions and names of functions.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::account::Account;

/// The definition of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionConfig {
    /// Name: 1 to 64 of `[A-Za-z0-9_-]`.
    pub name: String,
    /// The executable that speaks the Runtime API.
    pub bootstrap: PathBuf,
    /// Environment variables of the function's configuration.
    pub environment: BTreeMap<String, String>,
    /// Timeout of an invocation: 1 to 1,800 seconds (shorter ones serve tests).
    pub timeout: Duration,
    /// `AWS_LAMBDA_FUNCTION_MEMORY_SIZE` in MB; reported, not enforced.
    pub memory_mb: u32,
    /// Maximum number of environments at once: `Some(0)` throttles every invocation.
    pub reserved_concurrency: Option<u32>,
    /// Name of the CloudFormation stack that the function's tags name.
    pub stack: Option<String>,
}

impl FunctionConfig {
    /// Creates a function with this product's usual settings: 60 seconds, 512 MB.
    pub fn new(name: impl Into<String>, bootstrap: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            bootstrap: bootstrap.into(),
            environment: BTreeMap::new(),
            timeout: Duration::from_mins(1),
            memory_mb: 512,
            reserved_concurrency: None,
            stack: None,
        }
    }

    /// Checks the definition as `CreateFunction` would.
    ///
    /// Errors: a sentence that names the function and what is wrong with it.
    pub fn validate(&self) -> Result<(), String> {
        let Self { name, .. } = self;
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            return Err(format!(
                "invalid function name `{name}`: use 1 to 64 letters, digits, `-` and `_`"
            ));
        }
        if self.timeout.is_zero() || self.timeout > Duration::from_mins(30) {
            return Err(format!(
                "function `{name}`: the timeout must be 1 to 1800 seconds"
            ));
        }
        if !(128..=10_240).contains(&self.memory_mb) {
            return Err(format!(
                "function `{name}`: the memory must be 128 to 10240 MB"
            ));
        }
        if let Some(variable) = self
            .environment
            .keys()
            .find(|key| is_reserved(key) || key.is_empty() || key.contains(['=', '\0']))
        {
            return Err(format!(
                "function `{name}`: Lambda sets or refuses the variable `{variable}` itself"
            ));
        }
        if !self.bootstrap.is_file() {
            return Err(format!(
                "function `{name}`: the file `{}` does not exist; build it first",
                self.bootstrap.display()
            ));
        }
        Ok(())
    }
}

/// Variables that Lambda does not let a function's configuration set (developer guide,
/// "Defined runtime environment variables"), as far as this server sets them.
fn is_reserved(variable: &str) -> bool {
    matches!(
        variable,
        "_HANDLER"
            | "AWS_REGION"
            | "AWS_DEFAULT_REGION"
            | "AWS_ACCESS_KEY_ID"
            | "AWS_SECRET_ACCESS_KEY"
            | "AWS_SESSION_TOKEN"
            | "LAMBDA_TASK_ROOT"
    ) || variable.starts_with("AWS_LAMBDA_")
}

/// A function as a request names it: name, partial ARN or ARN, each with an optional
/// qualifier.
///
/// Aliases and versions are not distinguished: every qualifier runs the same code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionRef {
    /// The function's name.
    pub name: String,
    /// `live`, `3` or `$LATEST`, when one was given.
    pub qualifier: Option<String>,
}

impl FunctionRef {
    /// Parses `text`; `None` if it does not name a function of this account and region.
    pub fn parse(text: &str, account: &Account) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let here = |region: &str, id: &str| region == account.region && id == account.id;
        let (name, qualifier) = match parts.as_slice() {
            [name] => (*name, None),
            [name, qualifier] => (*name, Some(*qualifier)),
            [id, "function", name] if *id == account.id => (*name, None),
            [id, "function", name, qualifier] if *id == account.id => (*name, Some(*qualifier)),
            ["arn", _, "lambda", region, id, "function", name] if here(region, id) => (*name, None),
            ["arn", _, "lambda", region, id, "function", name, qualifier] if here(region, id) => {
                (*name, Some(*qualifier))
            }
            _ => return None,
        };
        let legal = |part: &str| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '$'))
        };
        (legal(name) && qualifier.is_none_or(legal)).then(|| Self {
            name: name.to_owned(),
            qualifier: qualifier.map(str::to_owned),
        })
    }

    /// Returns the ARN under which the function was invoked, qualifier included.
    pub fn arn(&self, account: &Account) -> String {
        let arn = account.function_arn(&self.name);
        match &self.qualifier {
            Some(qualifier) => format!("{arn}:{qualifier}"),
            None => arn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_arns_lead_to_the_same_function() {
        let account = Account::new("123456789012", "eu-west-1");
        for (text, qualifier) in [
            ("update", None),
            ("update:live", Some("live")),
            ("123456789012:function:update", None),
            (
                "arn:aws:lambda:eu-west-1:123456789012:function:update",
                None,
            ),
            (
                "arn:aws:lambda:eu-west-1:123456789012:function:update:$LATEST",
                Some("$LATEST"),
            ),
        ] {
            let found = FunctionRef::parse(text, &account).unwrap();
            assert_eq!(found.name, "update");
            assert_eq!(found.qualifier.as_deref(), qualifier, "{text}");
        }
        for text in [
            "arn:aws:lambda:us-east-1:123456789012:function:update",
            "arn:aws:sns:eu-west-1:123456789012:topic",
            "999999999999:function:update",
            "a/b",
            "",
        ] {
            assert_eq!(FunctionRef::parse(text, &account), None, "{text}");
        }
    }

    #[test]
    fn a_definition_that_lambda_would_refuse_is_refused() {
        let good = FunctionConfig::new("update", std::env::current_exe().unwrap());
        assert_eq!(good.validate(), Ok(()));
        let with = |change: fn(&mut FunctionConfig)| {
            let mut config = good.clone();
            change(&mut config);
            config.validate().unwrap_err()
        };
        assert!(with(|f| f.name = "a b".into()).contains("invalid function name"));
        assert!(with(|f| f.timeout = Duration::from_secs(1801)).contains("1800 seconds"));
        assert!(with(|f| f.memory_mb = 64).contains("128 to 10240"));
        assert!(with(|f| f.bootstrap = "/nowhere/bootstrap".into()).contains("build it first"));
        assert!(
            with(|f| {
                f.environment.insert("AWS_REGION".into(), "x".into());
            })
            .contains("`AWS_REGION`")
        );
    }
}
