//! Help, manual pages and completions, which are generated from the commands.

use anyhow::Result;

use super::super::git_remote_s3::environment::Terminal;

/// The commands that have examples.
const COMMANDS: [&[&str]; 12] = [
    &["archive"],
    &["completions"],
    &["doctor", "stack"],
    &["install"],
    &["man"],
    &["migrate"],
    &["mirror"],
    &["remote", "init"],
    &["start"],
    &["status"],
    &["triggers"],
    &["template"],
];

#[tokio::test]
async fn every_command_has_help_with_examples_and_a_manual_page() -> Result<()> {
    let terminal = Terminal::start().await?;
    let help = terminal.run("branchline", &["--help"]).await?.done();
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {} ", command[0])), "{help}");
        let help = terminal
            .run("branchline", &[command, &["--help"]].concat())
            .await?
            .done();
        assert!(help.contains("Examples:\n"), "{command:?}: {help}");
        assert!(help.contains("\n  branchline "), "{command:?}: {help}");
    }
    terminal
        .run("branchline", &["man", "--out", "man1"])
        .await?
        .done();
    for command in COMMANDS {
        let page = format!("man1/branchline-{}.1", command.join("-"));
        let page = std::fs::read_to_string(terminal.path(&page))?;
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
    }
    let page = terminal.run("branchline", &["man"]).await?.done();
    assert!(page.contains(".TH branchline 1"), "{page}");
    Ok(())
}

#[tokio::test]
async fn completions_are_accepted_by_their_shell() -> Result<()> {
    let terminal = Terminal::start().await?;
    for shell in ["bash", "zsh", "fish"] {
        let script = terminal
            .run("branchline", &["completions", shell])
            .await?
            .done();
        for word in ["archive", "migrate", "mirror", "prune"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let line = "source <(branchline completions bash); \
                COMP_WORDS=(branchline mir) COMP_CWORD=1; \
                _branchline branchline mir branchline; echo ${COMPREPLY[@]}";
    let completed = terminal.run("bash", &["-c", line]).await?.done();
    assert_eq!(completed, "mirror\n");
    let refused = terminal.run("branchline", &["completions", "none"]).await?;
    assert!(refused.failed(2).contains("possible values"));
    Ok(())
}

#[tokio::test]
async fn colours_need_a_terminal_and_respect_no_color() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let piped = terminal.run("branchline", &["mirror", "--none"]).await?;
    assert!(!piped.failed(2).contains('\u{1b}'));
    if std::process::Command::new("script")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("skipped: `script` is not installed");
        return Ok(());
    }
    terminal.set("TERM", Some("xterm"));
    let shown = |name: &'static str| ["--quiet", "--command", "branchline mirror --none", name];
    terminal.run("script", &shown("colours")).await?;
    let text = std::fs::read_to_string(terminal.path("colours"))?;
    assert!(text.contains('\u{1b}'), "{text:?}");
    terminal.set("NO_COLOR", Some("1"));
    terminal.run("script", &shown("plain")).await?;
    let text = std::fs::read_to_string(terminal.path("plain"))?;
    assert!(
        text.contains("--none") && !text.contains('\u{1b}'),
        "{text:?}"
    );
    Ok(())
}
