//! The git credential helper (git's documentation, "gitcredentials").

use std::collections::BTreeMap;
use std::io::BufRead as _;

use anyhow::Context as _;
use branchline_core::codecommit::git_credentials::{Endpoint, SigningKey, sign};

/// Answers git on standard output. Only `get` has an answer, because passwords are computed
/// and not stored.
pub(super) fn run(operation: &str) -> anyhow::Result<()> {
    if operation != "get" {
        return Ok(());
    }
    let lines: Result<Vec<String>, _> = std::io::stdin().lock().lines().collect();
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    print!("{}", answer(&lines?, variable)?);
    Ok(())
}

fn answer(lines: &[String], variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<String> {
    let asked: BTreeMap<&str, &str> = lines
        .iter()
        .filter_map(|line| line.split_once('='))
        .collect();
    let host = asked.get("host").context("git named no host")?;
    let path = asked.get("path").context(
        "git named no path; set `credential.UseHttpPath` to true, since a password opens one \
         repository",
    )?;
    let need =
        |name: &str| variable(name).with_context(|| format!("the variable {name} is not set"));
    let region = variable("AWS_REGION")
        .or_else(|| variable("AWS_DEFAULT_REGION"))
        .context("neither AWS_REGION nor AWS_DEFAULT_REGION is set")?;
    let (id, secret) = (need("AWS_ACCESS_KEY_ID")?, need("AWS_SECRET_ACCESS_KEY")?);
    let token = variable("AWS_SESSION_TOKEN");
    let credentials = sign(
        &SigningKey {
            id: &id,
            secret: &secret,
            session_token: token.as_deref(),
        },
        &Endpoint {
            region: &region,
            host: host.split(':').next().unwrap_or(host),
            path: &format!("/{}", path.trim_matches('/')),
        },
        jiff::Timestamp::now(),
    );
    Ok(format!(
        "username={}\npassword={}\n",
        credentials.username, credentials.password
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_setting_is_named() {
        let asked: Vec<String> = ["protocol=http", "host=127.0.0.1:1", "path=v1/repos/r"]
            .map(String::from)
            .into();
        let error = answer(&asked, |_| None).unwrap_err().to_string();
        assert!(error.contains("AWS_REGION"), "{error}");
        let error = answer(&asked[..2], |_| None).unwrap_err().to_string();
        assert!(error.contains("UseHttpPath"), "{error}");
        let given = answer(&asked, |name| Some(format!("value-of-{name}"))).unwrap();
        assert!(
            given.starts_with("username=value-of-AWS_ACCESS_KEY_ID%value-of-AWS_SESSION_TOKEN\n"),
            "{given}"
        );
    }
}
