//! Stores of LFS objects beside those of the remote itself: of other remotes, of mirrors, and of
//! awslabs' agent.

use std::process::Command;

use anyhow::Result;
use branchline_core::git::HashKind;
use branchline_dev::s3::store::PublicAccess;
use branchline_test_support::file_server::{FileServer, FileServerOptions};
use branchline_test_support::git_server::{GitServer, Response};
use branchline_test_support::lfs_server::LfsServer;
use branchline_test_support::repo::Repo;

use super::super::environment::{BUCKET, Outcome, Terminal, url};
use super::{
    commit, content, delete, git_in, install_git_lfs, lfs_keys, repository, terminal, try_git_in,
};

/// Serves a repository, whose LFS objects another server has.
pub(super) fn serve(repo: &Repo, lfs: &LfsServer) -> GitServer {
    let base = lfs.base();
    GitServer::with(repo, move |seen| {
        if seen.target.contains("/info/lfs/") {
            Response::Redirect(307, format!("{base}{}", seen.target))
        } else {
            Response::Git
        }
    })
}

#[tokio::test]
async fn remotes_in_s3_and_elsewhere_keep_their_own_lfs_objects() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    terminal.run("branchline", &["install"]).await?.done();
    let (repo, lfs) = (Repo::new(HashKind::Sha1), LfsServer::new(&[]));
    let server = serve(&repo, &lfs);
    let lfs_url = format!("{}.git/info/lfs", lfs.url());
    let url = url("r");
    repository(&terminal, "work", &url).await?;
    git_in(
        &terminal,
        "work",
        &["remote", "add", "hosted", &server.url()],
    )
    .await?;
    git_in(
        &terminal,
        "work",
        &["config", "remote.hosted.lfsurl", &lfs_url],
    )
    .await?;
    git_in(&terminal, "work", &["config", "lfs.locksverify", "false"]).await?;
    let said = terminal.command("git-lfs-s3", &["install"]);
    let mut said = said;
    said.current_dir(terminal.path("work"));
    let said = terminal.wait_for(said).await?;
    assert!(said.stderr.contains("warning: remote `hosted`"), "{said:?}");
    assert!(said.done().contains("git-lfs-s3 installed"));

    let ids = commit(&terminal, "work", &[("a.bin", 1000)]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "hosted", "main"]).await?;
    assert_eq!(lfs.objects().into_keys().collect::<Vec<_>>(), ids);
    assert!(lfs_keys(&terminal, "team/r").is_empty());
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    assert_eq!(
        lfs_keys(&terminal, "team/r"),
        [format!("team/r/lfs/{}", ids[0])]
    );
    std::fs::remove_dir_all(terminal.path("work/.git/lfs/objects"))?;
    git_in(&terminal, "work", &["lfs", "fetch", "--all", "hosted"]).await?;
    git_in(&terminal, "work", &["lfs", "fsck"]).await?;
    lfs.assert_content();
    Ok(())
}

#[tokio::test]
async fn a_repository_at_a_git_server_can_have_its_lfs_objects_in_s3() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let (repo, lfs) = (Repo::new(HashKind::Sha1), LfsServer::new(&[]));
    let server = serve(&repo, &lfs);
    let store = format!("s3://{BUCKET}/objects/r");
    repository(&terminal, "work", &server.url()).await?;
    let install = async |at: &str| -> Result<String> {
        let arguments = ["lfs", "install", "--url", store.as_str()];
        let mut command = terminal.command("branchline", &arguments);
        command.current_dir(terminal.path(at));
        Ok(terminal.wait_for(command).await?.done())
    };
    let said = install("work").await?;
    let alias = "https://lfs-alias.git-remote-s3.test/repositories/objects/r";
    assert!(
        said.contains("installed for remote 'origin'") && said.contains(alias),
        "{said}"
    );
    let ids = commit(&terminal, "work", &[("a.bin", 1000)]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    assert_eq!(
        lfs_keys(&terminal, "objects/r"),
        [format!("objects/r/lfs/{}", ids[0])]
    );
    assert!(lfs.objects().is_empty());

    let clone = ["clone", "--quiet", "--no-checkout", &server.url(), "clone"];
    terminal.git(&clone).await?.done();
    install("clone").await?;
    git_in(&terminal, "clone", &["checkout", "--quiet", "main"]).await?;
    let found = std::fs::read(terminal.path("clone/a.bin"))?;
    assert!(found == content("work/a.bin", 1000));

    // Refs are read at the git server, and objects in S3.
    let verify = async |at: &str| {
        let mut command = terminal.command("branchline", &["lfs", "verify", "origin"]);
        command.current_dir(terminal.path(at));
        terminal.wait_for(command).await
    };
    verify("work").await?.done();
    let key = format!("objects/r/lfs/{}", ids[0]);
    delete(&terminal, &key)?;
    let said = verify("work").await?;
    assert!(
        said.stdout.starts_with(&format!("missing {}", ids[0])),
        "{said:?}"
    );
    git_in(&terminal, "work", &["lfs", "push", "--all", "origin"]).await?;
    verify("clone").await?.done();

    // A project can name the store for all of its users.
    terminal.run("branchline", &["install"]).await?.done();
    let shared = format!("[lfs]\n\turl = {store}\n");
    std::fs::write(terminal.path("work/.lfsconfig"), shared)?;
    commit(&terminal, "work", &[]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    let clone = ["clone", "--quiet", &server.url(), "shared"];
    terminal.git(&clone).await?.done();
    let found = std::fs::read(terminal.path("shared/a.bin"))?;
    assert!(found == content("work/a.bin", 1000));
    Ok(())
}

#[tokio::test]
async fn the_lfs_objects_of_a_dumb_mirror_are_read_in_s3_and_over_https() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let url = url("site");
    terminal.init_remote("dumb", &url).await?;
    repository(&terminal, "work", &url).await?;
    let ids = commit(&terminal, "work", &[("a.bin", 1000), ("b.bin", 6 << 20)]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    let key = |id: &String| format!("team/site/lfs/objects/{}/{}/{id}", &id[..2], &id[2..4]);
    let mut keys: Vec<_> = ids.iter().map(key).collect();
    keys.sort();
    assert_eq!(lfs_keys(&terminal, "team/site"), keys, "as in a repository");
    terminal
        .git(&["clone", "--quiet", &url, "clone"])
        .await?
        .done();

    // Stock git clones the mirror from the bucket's web server.
    let access = PublicAccess::Read;
    terminal.server().store().set_public_access(BUCKET, access);
    let endpoint = terminal.variable("AWS_ENDPOINT_URL");
    let below = format!("{endpoint}/{BUCKET}/team");
    let web = format!("{below}/site");
    let install = ["lfs", "install", "--global", "--url", &below];
    let said = terminal.run("branchline", &install).await?.done();
    assert!(said.contains(&below), "{said}");
    terminal
        .git(&["clone", "--quiet", &web, "over-http"])
        .await?
        .done();
    let unset = format!("lfs.{below}.standalonetransferagent");
    let unset = ["config", "--global", "--unset", &unset];
    terminal.git(&unset).await?.done();

    // For one remote.
    let clone = ["clone", "--quiet", "--no-checkout", &web, "one"];
    terminal.git(&clone).await?.done();
    let install = ["lfs", "install", "--remote", "origin", "--url", &web];
    let mut command = terminal.command("branchline", &install);
    command.current_dir(terminal.path("one"));
    terminal.wait_for(command).await?.done();
    git_in(&terminal, "one", &["checkout", "--quiet", "main"]).await?;
    for clone in ["clone", "over-http", "one"] {
        for (name, size) in [("a.bin", 1000), ("b.bin", 6 << 20)] {
            let found = std::fs::read(terminal.path(clone).join(name))?;
            assert!(
                found == content(&format!("work/{name}"), size),
                "{clone}: {name}"
            );
        }
    }
    let verify = ["lfs", "verify", "--content", &web];
    let said = terminal.run("branchline", &verify).await?;
    assert_eq!(said.stderr, "2 LFS objects: 0 missing, 0 wrong\n");
    said.done();
    delete(&terminal, &key(&ids[0]))?;
    let said = terminal.run("branchline", &verify).await?;
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(
        said.stdout.starts_with(&format!("missing {}", ids[0])),
        "{said:?}"
    );

    // Uploads go to the bucket, if the remote names it.
    commit(&terminal, "one", &[("c.bin", 100)]).await?;
    let said = try_git_in(&terminal, "one", &["lfs", "push", "--all", "origin"]).await?;
    assert_ne!(said.status, Some(0), "{said:?}");
    assert!(
        said.stderr.contains("cannot be uploaded to the web server"),
        "{said:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_mirror_at_a_private_web_server_is_read_with_gits_credentials() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    let url = url("site");
    terminal.init_remote("dumb", &url).await?;
    repository(&terminal, "work", &url).await?;
    let ids = commit(&terminal, "work", &[("a.bin", 1000), ("b.bin", 2000)]).await?;
    git_in(&terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    let store = terminal.server().store().clone();
    let options = FileServerOptions {
        // `user:secret`
        authorization: Some("Basic dXNlcjpzZWNyZXQ="),
        ..FileServerOptions::default()
    };
    let server = FileServer::new(options, move |path| {
        let key = format!("team/site/{path}");
        let (_, bytes) = store.get_bytes(BUCKET, &key, None).ok()?;
        Some(bytes.to_vec())
    });
    let verify = ["lfs", "verify", "--content", "--json", &server.url()];
    let said = terminal.run("branchline", &verify).await?.failed(1);
    assert!(
        said.contains("requires a user and a password") && said.contains("credential helper"),
        "{said}"
    );
    let helper = "!printf 'username=user\\npassword=secret\\n'";
    let set = ["config", "--global", "credential.helper", helper];
    terminal.git(&set).await?.done();
    let report = terminal.run("branchline", &verify).await?;
    assert!(!format!("{report:?}").contains("secret"), "{report:?}");
    let report: serde_json::Value = serde_json::from_str(&report.done())?;
    assert_eq!(report["objects"], 2, "{report}");
    assert_eq!(report["missing"], serde_json::json!([]), "{report}");
    // A clone of the mirror by stock git, and its LFS files by the agent.
    let install = ["lfs", "install", "--global", "--url", &server.url()];
    terminal.run("branchline", &install).await?.done();
    let clone = ["clone", "--quiet", &server.url(), "private"];
    terminal.git(&clone).await?.done();
    for (name, size) in [("a.bin", 1000), ("b.bin", 2000)] {
        let found = std::fs::read(terminal.path("private").join(name))?;
        assert!(found == content(&format!("work/{name}"), size), "{name}");
    }
    delete(
        &terminal,
        &format!(
            "team/site/lfs/objects/{}/{}/{}",
            &ids[0][..2],
            &ids[0][2..4],
            ids[0]
        ),
    )?;
    let report = terminal.run("branchline", &verify).await?;
    assert_eq!(report.status, Some(1), "{report:?}");
    let report: serde_json::Value = serde_json::from_str(&report.stdout)?;
    assert_eq!(report["missing"][0]["oid"], ids[0], "{report}");
    Ok(())
}

/// Git and git-lfs that find awslabs' programs; `None` without the Python environment.
async fn python(
    terminal: &Terminal,
    environment: &str,
    directory: &str,
    program: &str,
    arguments: &[&str],
) -> Result<Outcome> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command: Command = terminal.command("env", &[&[program], arguments].concat());
    command
        .current_dir(terminal.path(directory))
        .env("PATH", format!("{environment}/bin:{path}"))
        .env("AWS_DEFAULT_REGION", "us-east-1");
    terminal.wait_for(command).await
}

/// "awslabs' agent and ours transfer LFS objects in one repository."
#[tokio::test]
async fn the_python_agent_and_ours_share_the_objects_of_a_repository() -> Result<()> {
    let Some(terminal) = terminal().await? else {
        return Ok(());
    };
    both_agents(&terminal).await
}

#[tokio::test]
async fn the_python_agent_and_ours_share_objects_on_moto() -> Result<()> {
    if terminal().await?.is_none() {
        return Ok(());
    }
    let Some(mut terminal) = Terminal::on_moto()? else {
        return Ok(());
    };
    install_git_lfs(&mut terminal).await?;
    both_agents(&terminal).await
}

async fn both_agents(terminal: &Terminal) -> Result<()> {
    let Ok(environment) = std::env::var("BRANCHLINE_VENV") else {
        eprintln!("skipped: BRANCHLINE_VENV is not set; `cargo xtask test` makes that environment");
        return Ok(());
    };
    let python = async |directory: &str, program: &str, arguments: &[&str]| {
        python(terminal, &environment, directory, program, arguments).await
    };
    let url = url("shared");
    repository(terminal, "work", &url).await?;
    commit(
        terminal,
        "work",
        &[("ours.bin", 1000), ("large.bin", 9 << 20)],
    )
    .await?;
    git_in(terminal, "work", &["push", "--quiet", "origin", "main"]).await?;
    // Theirs reads what ours wrote.
    let clone = ["clone", "--quiet", "--no-checkout", &url, "theirs"];
    python(".", "git", &clone).await?.done();
    let said = python("theirs", "git-lfs-s3", &["install"]).await?.done();
    assert!(said.contains("git-lfs-s3 installed"), "{said}");
    python("theirs", "git", &["checkout", "--quiet", "main"])
        .await?
        .done();
    let large = std::fs::read(terminal.path("theirs/large.bin"))?;
    assert!(large == content("work/large.bin", 9 << 20));
    // Ours reads what theirs writes, and works with the settings that theirs made.
    let bytes = content("theirs", 5000);
    std::fs::write(terminal.path("theirs/theirs.bin"), &bytes)?;
    for arguments in [
        &["add", "--all"][..],
        &["commit", "--quiet", "--message=theirs"],
        &["push", "--quiet", "origin", "main"],
    ] {
        python("theirs", "git", arguments).await?.done();
    }
    terminal
        .git(&["clone", "--quiet", &url, "again"])
        .await?
        .done();
    assert!(std::fs::read(terminal.path("again/theirs.bin"))? == bytes);
    std::fs::remove_dir_all(terminal.path("theirs/.git/lfs/objects"))?;
    git_in(terminal, "theirs", &["lfs", "fetch", "--all"]).await?;
    git_in(terminal, "theirs", &["lfs", "fsck"]).await?;
    Ok(())
}
