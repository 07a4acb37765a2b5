//! `branchline mirror` of many repositories: files, standard input, whole accounts.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use anyhow::Result;
use branchline_test_support::git;
use serde_json::{Value, json};

use super::super::git_remote_s3::environment::{BUCKET, Terminal};
use super::mirror::refs;

/// Events of a run with `--json`.
fn events(stdout: &str) -> Result<Vec<Value>> {
    let lines = stdout.lines();
    lines.map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_the_mappings_of_an_event_and_one_wrong_field_names_itself() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 4)?;
    let target = |name: &str| format!("s3://{BUCKET}/{name}");
    let file = json!({
        "mappings": [
            { "source": "work", "target": target("a"), "layout": "dumb" },
            { "source": "work", "target": target("b"), "prune": "some" },
            { "source": "work", "target": target("c"), "refs": ["refs/heads/main"] },
        ],
        "batch": { "commits": 10 },
    });
    std::fs::write(terminal.path("mappings.json"), file.to_string())?;
    let run = ["mirror", "--file", "mappings.json", "--layout", "bundle"];
    let done = terminal.run("branchline", &run).await?;
    assert_eq!(done.status, Some(3), "{done:?}");
    assert!(
        done.stderr
            .contains("`mappings[1].prune`: it must be `true`, `false` or `all`"),
        "{done:?}"
    );
    assert!(
        !terminal.keys("a/objects/pack/").is_empty(),
        "its own layout takes precedence"
    );
    assert!(!terminal.keys("c/refs/heads/main/").is_empty());
    assert_eq!(terminal.keys("b"), Vec::<String>::new());

    let json = terminal
        .run("branchline", &[&run[..], &["--json"]].concat())
        .await?;
    let events = events(&json.stdout)?;
    let status = |at: usize| &events[at]["status"];
    assert_eq!(events.len(), 4, "{events:?}");
    let results = events.iter().filter(|event| event["event"] == "result");
    assert_eq!(results.count(), 3);
    assert_eq!(
        (status(3), &events[3]["event"]),
        (&json!("partial"), &json!("end"))
    );

    for (text, part) in [
        ("{", "is not JSON"),
        ("{\"mapping\":[]}", "unknown field `mapping`"),
        (
            "{\"mappings\":[]}",
            "`mappings`: it must have at least one mapping",
        ),
        (
            "{\"mappings\":[{}],\"batch\":{\"commits\":0}}",
            "`batch.commits`",
        ),
    ] {
        std::fs::write(terminal.path("mappings.json"), text)?;
        let failed = terminal.run("branchline", &run[..3]).await?.failed(1);
        assert!(failed.contains(part), "{text}: {failed}");
        assert!(failed.contains("`mappings.json`"), "{failed}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_standard_input_is_mirrored_before_the_list_ends() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 4)?;
    let mut command = terminal.command("branchline", &["mirror", "--file", "-", "--jobs", "2"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let (status, results, errors) = tokio::task::spawn_blocking(move || -> Result<_> {
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().expect("it is piped");
        let stdout = child.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(stdout).lines();
        let mut results = Vec::new();
        for at in 0..3 {
            writeln!(stdin, "work s3://{BUCKET}/line-{at}")?;
            results.push(lines.next().expect("its result comes first")?);
        }
        writeln!(stdin, "\n# nothing\nonly-one-word")?;
        writeln!(stdin, "{{\"source\":\"work\",\"target\":\"last.git\"}}")?;
        drop(stdin);
        for line in lines {
            results.push(line?);
        }
        let output = child.wait_with_output()?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((output.status.code(), results, errors))
    })
    .await??;
    assert_eq!(status, Some(3), "{errors}");
    assert_eq!(results.len(), 4, "{results:?}");
    assert!(
        errors.contains("line 6 of the mappings: it is neither JSON nor"),
        "{errors}"
    );
    assert_eq!(
        refs(&terminal.path("last.git"))?,
        refs(&terminal.path("work"))?
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_mirrored_out_of_codecommit_and_into_it() -> Result<()> {
    let mut terminal = Terminal::start().await?;
    let region = terminal.server().account().region.clone();
    terminal.repository("work", 4)?;
    for name in ["team-a", "team-b", "other"] {
        let branch = format!("of-{name}");
        git::git(
            &terminal.path("work"),
            ["checkout", "--quiet", "-B", &branch],
        )?;
        std::fs::write(
            terminal.path("work/.git/description"),
            format!("About {name}.\n"),
        )?;
        let target = format!("codecommit::{region}://{name}");
        let run = [
            "mirror",
            "work",
            &target,
            "--create",
            "--refs",
            "refs/heads/of-*",
        ];
        terminal.run("branchline", &run).await?.done();
    }
    let pattern = format!("codecommit::{region}://team-*");
    let target = format!("s3://{BUCKET}/all/{{repository}}");
    let run = ["mirror", "--all", &pattern, &target, "--verify"];
    let done = terminal.run("branchline", &run).await?.done();
    assert_eq!(done.matches("verified").count(), 2, "{done}");
    assert!(terminal.keys("all/other").is_empty());

    terminal.set("AWS_REGION", Some(&region));
    let source = format!("s3://{BUCKET}/all/*");
    let run = [
        "mirror",
        "--all",
        &source,
        "codecommit://back-{repository}",
        "--create",
    ];
    terminal.run("branchline", &run).await?.done();
    let codecommit = terminal.server().codecommit();
    for name in ["team-a", "team-b"] {
        let there = codecommit.repository_dir(name).expect("it is there");
        let back = codecommit
            .repository_dir(&format!("back-{name}"))
            .expect("it was created");
        assert_eq!(refs(&there)?, refs(&back)?);
        let head = git::git(&back, ["symbolic-ref", "HEAD"])?;
        assert_eq!(
            head,
            git::git(&there, ["symbolic-ref", "HEAD"])?,
            "the default branch"
        );
    }
    let run = ["mirror", "--all", "codecommit://none-*", &target];
    let none = terminal.run("branchline", &run).await?.failed(1);
    assert!(none.contains("matches no repository"), "{none}");
    let run = ["mirror", "--all", "./*", "copies/{repository}.git"];
    std::fs::create_dir(terminal.path("copies"))?;
    terminal.run("branchline", &run).await?.done();
    assert_eq!(
        refs(&terminal.path("copies/work.git"))?,
        refs(&terminal.path("work"))?
    );
    // Descriptions, too, where both sides have one.
    let run = [
        "mirror",
        "--all",
        "codecommit://team-*",
        "copies/{repository}.git",
    ];
    terminal.run("branchline", &run).await?.done();
    for (name, description) in [("team-a", "About team-a.\n"), ("team-b", "About team-b.\n")] {
        let file = terminal.path(&format!("copies/{name}.git/description"));
        assert_eq!(std::fs::read_to_string(file)?, description);
    }
    Ok(())
}
