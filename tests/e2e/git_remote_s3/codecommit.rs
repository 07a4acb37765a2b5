//! `codecommit://` with stock git on the development server: what git does, and failures.

use anyhow::Result;
use branchline_test_support::git;
use serde_json::json;

use super::environment::Terminal;

/// Starts a terminal with the server's region and the empty repositories `names`.
pub(super) async fn terminal(names: &[&str]) -> Result<Terminal> {
    let mut terminal = Terminal::start().await?;
    let region = terminal.server().account().region.clone();
    terminal.set("AWS_DEFAULT_REGION", Some(&region));
    let endpoint = terminal.server().endpoint();
    terminal.set("CODE_COMMIT_ENDPOINT", Some(&endpoint));
    let server = terminal.server();
    let principal = &server.credentials().principal_arn;
    for name in names {
        let input = json!({ "repositoryName": name });
        let created = server
            .codecommit()
            .call("CreateRepository", input, principal);
        created
            .await
            .map_err(|error| anyhow::anyhow!("{}", error.message))?;
    }
    Ok(terminal)
}

/// The one line that begins with `fatal:` and comes from the helper.
pub(super) fn fatal(said: &str) -> &str {
    let mut lines = said.lines().filter(|line| line.starts_with("fatal: "));
    let line = lines.next().unwrap_or_else(|| panic!("{said}"));
    assert!(!said.contains("panicked"), "{said}");
    line
}

#[tokio::test]
async fn clone_fetch_push_shallow_and_delete_work_in_each_version_of_the_protocol() -> Result<()> {
    let terminal = terminal(&["r"]).await?;
    terminal.repository("work", 8)?;
    let remote = "codecommit://r";
    terminal
        .push(remote, &["main", "side", "v1", "light"])
        .await?
        .done();
    for version in ["0", "1", "2"] {
        let setting = format!("protocol.version={version}");
        let git = async |arguments: &[&str]| -> Result<String> {
            let all = [&["-c", &setting], arguments].concat();
            Ok(terminal.git(&all).await?.done())
        };
        let clone = format!("clone-{version}");
        git(&["clone", "--quiet", remote, &clone]).await?;
        for name in ["main", "v1", "light"] {
            let expected = git::git(&terminal.path("work"), ["rev-parse", name])?;
            let found = git::git(&terminal.path(&clone), ["rev-parse", name])?;
            assert_eq!(found, expected, "{name} with version {version}");
        }
        let shallow = format!("shallow-{version}");
        git(&["clone", "--quiet", "--depth", "2", remote, &shallow]).await?;
        let count = git::git(&terminal.path(&shallow), ["rev-list", "--count", "HEAD"])?;
        assert_eq!(count.trim(), "2");
        git(&["-C", &shallow, "fetch", "--quiet", "--unshallow"]).await?;
        git::git(&terminal.path(&shallow), ["fsck", "--strict"])?;
        let name = format!("new-{version}");
        git::git(&terminal.path(&clone), ["checkout", "--quiet", "-b", &name])?;
        git::commit(&terminal.path(&clone), &[("new", version)], "new")?;
        git(&["-C", &clone, "push", "--quiet", "origin", &name]).await?;
        let listed = git(&["ls-remote", "--heads", remote, &name]).await?;
        let id = git::git(&terminal.path(&clone), ["rev-parse", "HEAD"])?;
        assert_eq!(listed, format!("{id}\trefs/heads/{name}\n"));
        git(&["-C", &clone, "push", "--quiet", "origin", "--delete", &name]).await?;
        assert_eq!(git(&["ls-remote", "--heads", remote, &name]).await?, "");
    }
    Ok(())
}

#[tokio::test]
async fn submodules_are_cloned_once_their_protocol_is_allowed() -> Result<()> {
    let terminal = terminal(&["inner", "outer", "relative"]).await?;
    for name in ["inner", "outer", "relative"] {
        terminal.repository(name, 3)?;
    }
    let (inner, outer) = ("codecommit::us-east-1://inner", "codecommit://outer");
    for (name, url) in [("inner", inner), ("relative", "codecommit://relative")] {
        let push = ["-C", name, "push", "--quiet", url, "main"];
        terminal.git(&push).await?.done();
    }
    let allow = "protocol.codecommit.allow=always";
    let add = [
        "-C",
        "outer",
        "-c",
        allow,
        "submodule",
        "--quiet",
        "add",
        inner,
    ];
    terminal.git(&add).await?.done();
    git::git(
        &terminal.path("outer"),
        ["commit", "--quiet", "--message=submodule"],
    )?;
    let push = ["-C", "outer", "push", "--quiet", outer, "main"];
    terminal.git(&push).await?.done();
    let clone = [
        "-c",
        allow,
        "clone",
        "--quiet",
        "--recurse-submodules",
        outer,
        "clone",
    ];
    terminal.git(&clone).await?.done();
    let id = |path: &str| git::git(&terminal.path(path), ["rev-parse", "HEAD"]);
    assert_eq!(id("clone/inner")?, id("inner")?);
    Ok(())
}

#[tokio::test]
async fn each_failure_is_one_line_with_a_hint() -> Result<()> {
    let mut terminal = terminal(&["r"]).await?;
    let failing = async |terminal: &Terminal, url: &str| -> Result<String> {
        let said = terminal.git(&["ls-remote", url]).await?.failed(128);
        let line = fatal(&said).to_owned();
        assert!(line.contains("hint: "), "{url}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
        Ok(line)
    };
    for (url, part) in [
        ("codecommit://", "a repository's name"),
        ("codecommit://me:hunter2@r", "profile"),
        (
            "codecommit://absent@r",
            "the AWS profile `absent` does not exist",
        ),
        (
            "codecommit::US-EAST-1://r",
            "a region has lower-case letters",
        ),
    ] {
        let line = failing(&terminal, url).await?;
        assert!(line.contains(part), "{url}: {line}");
    }
    let missing = terminal
        .git(&["ls-remote", "codecommit://missing"])
        .await?
        .failed(128);
    assert!(missing.contains("not found"), "{missing}");
    terminal.set("CODE_COMMIT_ENDPOINT", Some("http://codecommit.example"));
    let line = failing(&terminal, "codecommit://r").await?;
    assert!(line.contains("plain HTTP"), "{line}");
    terminal.set("CODE_COMMIT_ENDPOINT", None);
    let line = failing(&terminal, "codecommit::eu-west-9://r").await?;
    assert!(line.contains("the region `eu-west-9`"), "{line}");
    terminal.set("AWS_DEFAULT_REGION", None);
    let line = failing(&terminal, "codecommit://r").await?;
    assert!(line.contains("no AWS region is configured"), "{line}");

    for arguments in [&[][..], &["origin"], &["a", "codecommit://r", "b"]] {
        let said = terminal
            .run("git-remote-codecommit", arguments)
            .await?
            .failed(1);
        assert!(fatal(&said).contains("usage"), "{said}");
    }
    Ok(())
}
