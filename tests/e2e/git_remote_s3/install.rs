//! `branchline install`.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use serde_json::Value;

use super::environment::{Terminal, url};

/// A terminal with the program alone in `programs`, and git's global configuration in a file.
async fn terminal() -> Result<Terminal> {
    let mut terminal = Terminal::start().await?;
    let programs = terminal.path("programs");
    std::fs::create_dir(&programs)?;
    let built = branchline_tests::environment::built_programs().join("branchline");
    let program = programs.join("branchline");
    std::fs::hard_link(&built, &program).or_else(|_| std::fs::copy(&built, &program).map(drop))?;
    std::fs::remove_dir_all(terminal.path("bin"))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", programs.display());
    terminal.set("PATH", Some(&path));
    let config = terminal.path(".gitconfig").display().to_string();
    std::fs::write(&config, "")?;
    terminal.set("GIT_CONFIG_GLOBAL", Some(&config));
    Ok(terminal)
}

async fn install(terminal: &Terminal, arguments: &[&str]) -> Result<Value> {
    let program = terminal.path("programs/branchline").display().to_string();
    let arguments = [&["install", "--json"], arguments].concat();
    let printed = terminal.run(&program, &arguments).await?.done();
    Ok(serde_json::from_str(&printed)?)
}

#[tokio::test]
async fn what_was_installed_is_used_by_git_and_removed_again() -> Result<()> {
    let terminal = terminal().await?;
    let links = [
        "git-remote-s3",
        "git-remote-s3+zip",
        "git-remote-codecommit",
        "git-lfs-s3",
        "git-s3",
        "mirror-git-to-s3",
        "incremental-repo-migration",
    ]
    .map(|name| terminal.path("programs").join(name));
    let report = install(&terminal, &[]).await?;
    for (at, link) in links.iter().enumerate() {
        assert_eq!(std::fs::read_link(link)?.to_str(), Some("branchline"));
        let reported = &report["links"][at];
        assert_eq!(reported["result"], "created", "{report}");
        assert_eq!(reported["git_runs"], link.display().to_string(), "{report}");
    }
    terminal.git(&["ls-remote", &url("r")]).await?.done();
    let config = std::fs::read_to_string(terminal.path(".gitconfig"))?;
    assert_eq!(config.matches("allow = always").count(), 3, "{config}");
    // git-lfs finds its agent for `s3://`, and for no other remote.
    assert!(config.contains("path = git-lfs-s3"), "{config}");
    assert!(config.contains("[lfs \"https://s3\"]"), "{config}");
    assert!(!config.contains("[lfs]"), "{config}");

    let report = install(&terminal, &[]).await?;
    assert_eq!(report["links"][0]["result"], "unchanged", "{report}");
    assert_eq!(report["settings"][0]["result"], "unchanged", "{report}");
    assert!(
        terminal
            .path(".local/state/branchline/install.json")
            .is_file()
    );

    let report = install(&terminal, &["--uninstall"]).await?;
    assert_eq!(report["links"][1]["result"], "removed", "{report}");
    assert_eq!(report["settings"][1]["result"], "removed", "{report}");
    assert!(links.iter().all(|link| !link.exists()));
    let config = std::fs::read_to_string(terminal.path(".gitconfig"))?;
    assert!(!config.contains("always"), "{config}");
    assert!(!config.contains("git-lfs-s3"), "{config}");
    assert!(
        !terminal
            .path(".local/state/branchline/install.json")
            .exists()
    );
    let report = install(&terminal, &["--uninstall"]).await?;
    assert_eq!(report["links"], serde_json::json!([]), "{report}");
    Ok(())
}

#[tokio::test]
async fn another_program_is_replaced_only_by_force_and_one_in_the_way_is_named() -> Result<()> {
    let mut terminal = terminal().await?;
    let program = terminal.path("programs/branchline").display().to_string();
    let other = terminal.path("programs/git-remote-s3");
    let write = |path: &std::path::Path| -> Result<()> {
        std::fs::write(path, "#!/bin/sh\n")?;
        Ok(std::fs::set_permissions(
            path,
            std::fs::Permissions::from_mode(0o755),
        )?)
    };
    write(&other)?;
    let said = terminal.run(&program, &["install"]).await?.failed(1);
    assert!(
        said.contains("belongs to a different program") && said.contains("--force"),
        "{said}"
    );
    assert!(
        !terminal.path("programs/git-remote-s3+zip").exists(),
        "nothing is written"
    );
    assert_eq!(std::fs::read_to_string(terminal.path(".gitconfig"))?, "");

    // One that comes first in PATH.
    let first = terminal.path("first");
    std::fs::create_dir(&first)?;
    write(&first.join("git-remote-s3"))?;
    let path = format!("{}:{}", first.display(), terminal.variable("PATH"));
    terminal.set("PATH", Some(&path));
    let report = install(&terminal, &["--force"]).await?;
    assert_eq!(report["links"][0]["result"], "replaced", "{report}");
    let runs = first.join("git-remote-s3").display().to_string();
    assert_eq!(report["links"][0]["git_runs"], runs, "{report}");

    // A setting of the user stays.
    terminal
        .git(&["config", "--global", "protocol.s3.allow", "user"])
        .await?
        .done();
    let report = install(&terminal, &["--uninstall"]).await?;
    assert_eq!(report["settings"][0]["result"], "unchanged", "{report}");
    assert_eq!(report["settings"][0]["value"], "user", "{report}");

    let elsewhere = first.display().to_string();
    let report = install(&terminal, &["--force", "--dir", &elsewhere]).await?;
    let link = std::fs::read_link(first.join("git-remote-s3"))?;
    assert!(link.is_absolute(), "{link:?}, {report}");
    let said = terminal
        .run(&program, &["install", "--dir", "missing"])
        .await?
        .failed(1);
    assert!(said.contains("`missing` is not a directory"), "{said}");
    Ok(())
}
