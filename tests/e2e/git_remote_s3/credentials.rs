//! Credentials, regions, endpoints and settings, as people configure them.

use anyhow::Result;
use branchline_test_support::moto::Moto;

use super::environment::{BUCKET, Terminal, url};

#[tokio::test]
async fn a_profile_in_the_url_takes_precedence_over_keys_in_the_environment() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let (id, secret) = (
        terminal.variable("AWS_ACCESS_KEY_ID").to_owned(),
        terminal.variable("AWS_SECRET_ACCESS_KEY").to_owned(),
    );
    std::fs::create_dir(terminal.path(".aws"))?;
    let keys = format!("aws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    std::fs::write(terminal.path(".aws/credentials"), format!("[work]\n{keys}"))?;
    let script = format!(
        "#!/bin/sh\necho '{{\"Version\": 1, \"AccessKeyId\": \"{id}\", \"SecretAccessKey\": \
         \"{secret}\"}}'\n"
    );
    std::fs::write(terminal.path("keys.sh"), script)?;
    std::fs::write(
        terminal.path(".aws/config"),
        format!(
            "[profile program]\ncredential_process = sh {home}/keys.sh\n\
             [profile failing]\ncredential_process = sh {home}/missing.sh\n\
             [profile sso]\nsso_session = s\nsso_account_id = 111122223333\nsso_role_name = r\n\
             [sso-session s]\nsso_region = us-east-1\nsso_start_url = https://x.awsapps.com/start\n",
            home = terminal.home().display()
        ),
    )?;
    terminal.set("AWS_SECRET_ACCESS_KEY", Some("wrong"));
    let at = |profile: &str| format!("s3://{profile}{BUCKET}/team/r");
    let refused = terminal.git(&["ls-remote", &at("")]).await?.failed(128);
    assert!(
        refused.contains("does not accept the credentials"),
        "{refused}"
    );
    for profile in ["work@", "program@"] {
        terminal.git(&["ls-remote", &at(profile)]).await?.done();
    }
    // A remote's setting does the same, and the profile of the URL takes precedence over it.
    terminal.git(&["init", "--quiet", "repo"]).await?.done();
    terminal
        .git(&["-C", "repo", "remote", "add", "origin", &at("")])
        .await?
        .done();
    terminal
        .git(&["-C", "repo", "config", "remote.origin.s3-profile", "work"])
        .await?
        .done();
    terminal
        .git(&["-C", "repo", "ls-remote", "origin"])
        .await?
        .done();
    terminal
        .git(&["-C", "repo", "remote", "set-url", "origin", &at("failing@")])
        .await?
        .done();
    let said = terminal
        .git(&["-C", "repo", "ls-remote", "origin"])
        .await?
        .failed(128);
    assert!(
        said.contains("hint: run the `credential_process`"),
        "{said}"
    );
    let said = terminal.git(&["ls-remote", &at("sso@")]).await?.failed(128);
    assert!(
        said.contains("hint: sign in by `aws sso login --profile sso`"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn the_endpoint_and_the_form_of_the_url_can_be_those_of_one_remote() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let endpoint = terminal.variable("AWS_ENDPOINT_URL").to_owned();
    terminal.set("AWS_ENDPOINT_URL", Some("http://127.0.0.1:1"));
    terminal.git(&["init", "--quiet", "repo"]).await?.done();
    terminal
        .git(&["-C", "repo", "remote", "add", "origin", &url("r")])
        .await?
        .done();
    for (key, value) in [
        ("s3-endpoint", endpoint.as_str()),
        ("s3-path-style", "true"),
        ("s3-region", "us-east-1"),
    ] {
        let key = format!("remote.origin.{key}");
        terminal
            .git(&["-C", "repo", "config", &key, value])
            .await?
            .done();
    }
    terminal
        .git(&["-C", "repo", "ls-remote", "origin"])
        .await?
        .done();
    Ok(())
}

#[tokio::test]
async fn a_role_is_assumed_through_a_profile() -> Result<()> {
    let Some(moto) = Moto::start()? else {
        return Ok(());
    };
    let terminal = Terminal::on(moto)?;
    std::fs::create_dir(terminal.path(".aws"))?;
    std::fs::write(
        terminal.path(".aws/config"),
        "[profile base]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = secret\n\
         [profile role]\nsource_profile = base\nregion = us-east-1\n\
         role_arn = arn:aws:iam::123456789012:role/r\n",
    )?;
    let url = format!("s3://role@{BUCKET}/team/r");
    terminal.git(&["ls-remote", &url]).await?.done();
    Ok(())
}
