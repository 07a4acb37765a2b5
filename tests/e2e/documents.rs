//! Every command in the documents is run by a test, or marked as needing an account; and
//! links lead somewhere.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use branchline_tests::environment::{LIFECYCLE, Setup, TestEnvironment, UPDATE, built_programs};
use branchline_tests::template::Template;
use serde_json::json;

use super::reference::{COMMAND_LINE, top};

/// Mark of a command that calls AWS: at its end, or on the first line of its block.
const MARK: &str = "# needs an account";

/// A document: its path below the project's top folder, and its text.
struct Document {
    path: String,
    text: String,
}

fn documents() -> Result<Vec<Document>> {
    let mut paths = vec![
        "README.md".to_owned(),
        "ARCHITECTURE.md".to_owned(),
        "CHANGELOG.md".to_owned(),
        "CONTRIBUTING.md".to_owned(),
        "SECURITY.md".to_owned(),
        "events/README.md".to_owned(),
        "examples/README.md".to_owned(),
    ];
    for entry in std::fs::read_dir(top().join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // The plots of the benchmarks are in a folder.
        let is_document = std::path::Path::new(&name)
            .extension()
            .is_some_and(|extension| extension == "md");
        paths.extend(is_document.then(|| format!("docs/{name}")));
    }
    let read = |path: String| {
        let text = std::fs::read_to_string(top().join(&path)).context(path.clone())?;
        Ok(Document { path, text })
    };
    paths.into_iter().map(read).collect()
}

impl Document {
    /// The code blocks, as their language and body.
    fn blocks(&self) -> Vec<(&str, &str)> {
        let mut blocks = Vec::new();
        let mut rest = self.text.as_str();
        while let Some((_, after)) = rest.split_once("\n```") {
            let (language, body) = after.split_once('\n').expect("a block has a body");
            let (body, after) = body.split_once("```").expect("a block ends");
            blocks.push((language, body));
            rest = after;
        }
        blocks
    }

    /// Returns the texts between backticks within a line.
    fn spans(&self) -> Vec<String> {
        let mut outside = String::new();
        let mut inside = false;
        for line in self.text.lines() {
            if line.starts_with("```") {
                inside = !inside;
            } else if !inside {
                outside.push_str(line);
                outside.push(' ');
            }
        }
        let spans = outside.split('`').skip(1).step_by(2);
        spans.map(str::to_owned).collect()
    }
}

/// A block of commands.
struct Shell {
    path: String,
    body: String,
}

impl Shell {
    fn needs_an_account(&self) -> bool {
        self.body.starts_with(MARK)
    }

    /// Returns the commands of the block, and for each whether it is marked.
    fn commands(&self) -> Vec<(String, bool)> {
        let joined = self.body.replace("\\\n", " ");
        let whole = self.needs_an_account();
        let lines = joined
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        let command = |line: &str| {
            let (command, comment) = line.split_once(" #").unwrap_or((line, ""));
            let words: Vec<&str> = command.split_whitespace().collect();
            (
                words.join(" "),
                whole || format!("#{comment}").starts_with(MARK),
            )
        };
        lines
            .filter(|line| !line.trim().is_empty())
            .map(command)
            .collect()
    }
}

fn shells() -> Result<Vec<Shell>> {
    let mut shells = Vec::new();
    for document in documents()? {
        for (language, body) in document.blocks() {
            // Blocks of commands are known by their language; these are the other languages.
            ensure!(
                ["sh", "json", "python", "text", "mermaid", ""].contains(&language),
                "{}: a block of `{language}`",
                document.path
            );
            if language == "sh" {
                shells.push(Shell {
                    path: document.path.clone(),
                    body: body.to_owned(),
                });
            }
        }
    }
    ensure!(shells.len() > 10, "they are found");
    Ok(shells)
}

/// Why a command that is not marked is known to work; an error where nothing runs it.
fn proof(command: &str) -> Result<&'static str> {
    let requirements = std::fs::read_to_string(top().join("xtask/requirements-deploy.txt"))?;
    let packages = |list: &str| {
        let pinned = |name: &str| requirements.contains(&format!("\n{name}=="));
        list.split_whitespace().all(pinned)
    };
    if let Some(words) = command.strip_prefix("cargo xtask ") {
        understood(words)?;
        named_things_exist(words)?;
        return Ok("the task runs what the tests run, and takes these options");
    }
    if command.strip_prefix("pip install ").is_some_and(packages) {
        return Ok("`cargo xtask test` makes an environment of these packages");
    }
    Ok(match command {
        "pip install --no-index --find-links dist branchline" | "branchline install" => {
            "wheel::the_package_mirrors_clones_and_archives_without_rust"
        }
        "branchline template --out stack" => {
            "wheel::the_written_stack_is_valid_and_has_its_functions"
        }
        "cargo build --bins" => "`cargo xtask test` does it",
        "python3 -m venv venv && . venv/bin/activate" => "`cargo xtask test` makes such ones",
        "sam build" => "`cargo xtask package` does it",
        "sam build --config-env team" => {
            "deployment::each_environment_has_a_few_overrides_that_no_rule_refuses"
        }
        _ if is_of_the_command_line(command) => {
            "git_remote_s3::documented_commands::the_documented_commands_work_in_their_order"
        }
        _ if terminal_commands().contains(&command.to_owned()) => {
            "terminal::document::the_commands_of_the_document_work_in_their_order"
        }
        _ if command.starts_with("target/debug/branchline-dev serve ") => {
            "reference::the_development_server_starts_by_the_command_that_is_given"
        }
        _ => anyhow::bail!("`{command}`: no test runs it, and it is not marked `{MARK}`"),
    })
}

/// Returns the commands of `docs/terminal.md` without their spaces, all of which a test runs.
fn terminal_commands() -> Vec<String> {
    let commands = super::terminal::document::commands().into_iter();
    let words = commands.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    words.collect()
}

/// Returns whether a command is in the first block of the document about the command line, which
/// a test runs.
fn is_of_the_command_line(command: &str) -> bool {
    let mut lines = COMMAND_LINE.lines().skip_while(|line| *line != "```sh");
    lines.any(|line| line == command)
}

/// Fails unless `cargo xtask` accepts these words. `[..]` are optional, and capitals are
/// placeholders of values.
fn understood(words: &str) -> Result<()> {
    let words: Vec<&str> = words
        .split(|c: char| c.is_whitespace() || matches!(c, '[' | ']' | '`'))
        .filter(|word| !word.is_empty())
        .collect();
    let is_name = |word: &&&str| {
        let mut letters = word.chars();
        letters.all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
    };
    let task: Vec<&str> = words.iter().take_while(is_name).copied().collect();
    ensure!(!task.is_empty(), "`cargo xtask {words:?}` names a task");
    let help = Command::new(built_programs().join("xtask"))
        .args(&task)
        .arg("--help")
        .output()?;
    let text = String::from_utf8(help.stdout)?;
    ensure!(help.status.success(), "there is no task {task:?}");
    ensure!(
        text.contains(&format!("Usage: cargo xtask {}", task.join(" "))),
        "{task:?} is a task: {text}"
    );
    for option in words.iter().filter(|word| word.starts_with("--")) {
        ensure!(text.contains(option), "{task:?} takes no {option}");
    }
    Ok(())
}

/// Fails if a command names a package, a test or a fuzz target that does not exist.
fn named_things_exist(words: &str) -> Result<()> {
    match words.split_whitespace().collect::<Vec<_>>()[..] {
        ["test", "--package", package, ref filter @ ..] => {
            let folder = match package.trim_start_matches("branchline-") {
                "core" => "shared".to_owned(),
                "dev" => "devserver".to_owned(),
                name @ ("lifecycle" | "migration" | "update") => format!("functions/{name}"),
                name => name.to_owned(),
            };
            let folder = top().join(folder);
            let manifest =
                std::fs::read_to_string(folder.join("Cargo.toml")).context(words.to_owned())?;
            let has_name = manifest.contains(&format!("\nname = \"{package}\"\n"));
            ensure!(has_name, "`{words}`: there is no package of this name");
            for name in filter {
                ensure!(has_test(&folder, name)?, "`{words}`: no test is called so");
            }
        }
        ["fuzz", "--seconds", _, target] => {
            let program = top().join(format!("fuzz/fuzz_targets/{target}.rs"));
            ensure!(program.is_file(), "`{words}`: there is no such target");
        }
        _ => {}
    }
    Ok(())
}

/// Returns whether a file of Rust below `folder` has a function whose name contains `part`.
fn has_test(folder: &Path, part: &str) -> Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if has_test(&path, part)? {
                return Ok(true);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path)?;
            let mut names = text.lines().filter_map(|line| line.split_once("fn "));
            if names.any(|(_, rest)| rest.split('(').next().unwrap_or_default().contains(part)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[test]
fn every_command_is_run_by_a_test_or_marked_as_needing_an_account() -> Result<()> {
    let mut run = 0;
    for shell in shells()? {
        for (command, marked) in shell.commands() {
            if !marked {
                proof(&command).with_context(|| shell.path.clone())?;
                run += 1;
            }
        }
    }
    assert!(run >= 6, "{run} commands are run");
    Ok(())
}

#[test]
fn an_untested_command_is_found() {
    let shell = Shell {
        path: "x.md".to_owned(),
        body: "# a comment\ngit push \\\n  origin # never run\nsam deploy # needs an account\n"
            .into(),
    };
    let commands = shell.commands();
    let wanted = [("git push origin", false), ("sam deploy", true)];
    assert_eq!(
        commands,
        wanted.map(|(words, marked)| (words.to_owned(), marked))
    );
    for unknown in [
        "git push origin",
        "sam build --use-container",
        "pip install requests",
        "cargo xtask publish",
        "cargo xtask demo --fast",
        "cargo xtask test --package branchline-none",
        "cargo xtask test --package branchline-update a_name_that_no_test_has",
        "cargo xtask fuzz --seconds 1 none",
    ] {
        assert!(proof(unknown).is_err(), "{unknown}");
    }
}

/// Tasks of `cargo xtask`, in the prose of the documents.
#[test]
fn tasks_that_are_mentioned_are_there() -> Result<()> {
    let mut mentioned = 0;
    for document in documents()? {
        for span in document.spans() {
            if let Some(words) = span.strip_prefix("cargo xtask ") {
                understood(words).with_context(|| document.path.clone())?;
                mentioned += 1;
            }
        }
    }
    assert!(mentioned > 8, "{mentioned} mentions");
    Ok(())
}

/// Runs a program on a text, and returns what it prints.
fn answer(command: &mut Command, input: &str) -> Result<String> {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = child.spawn()?;
    let mut stdin = child.stdin.take().context("it is piped")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}\n{input}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn every_block_of_commands_is_one_that_bash_reads() -> Result<()> {
    for shell in shells()? {
        answer(Command::new("bash").arg("-n"), &shell.body).with_context(|| shell.path.clone())?;
    }
    Ok(())
}

/// The commands of the AWS CLI in a block, as words; what the shell would fill in is text.
fn aws_commands(body: &str) -> Vec<Vec<String>> {
    let body = body.replace("\\\n", " ");
    let mut commands = Vec::new();
    for (at, _) in body.match_indices("aws ") {
        let before = body[..at].chars().next_back();
        if !before.is_none_or(|c| c.is_whitespace() || c == '(') {
            continue;
        }
        let mut words = vec![String::new()];
        let mut quote = None;
        for letter in body[at + "aws ".len()..].chars() {
            match (quote, letter) {
                (None, '\'' | '"') => quote = Some(letter),
                (Some(open), _) if open == letter => quote = None,
                (None, ';' | ')' | '|' | '&' | '\n') => break,
                (None, '#') if words.last().is_some_and(String::is_empty) => break,
                (None, letter) if letter.is_whitespace() => words.push(String::new()),
                (_, letter) => {
                    let word = words.last_mut().expect("there is one");
                    word.push(letter);
                }
            }
        }
        words.retain(|word| !word.is_empty());
        commands.push(words);
    }
    commands
}

#[test]
fn aws_commands_are_read_as_the_shell_reads_them() {
    let body = "x=$(aws sqs receive-message --query 'a b[?c==`d`]' --queue-url \"$q\") &&\n\
                f() { aws s3 cp a.json \\\n  \"s3://$(output Bucket)/k\"; }\n";
    let wanted = [
        &[
            "sqs",
            "receive-message",
            "--query",
            "a b[?c==`d`]",
            "--queue-url",
            "$q",
        ][..],
        &["s3", "cp", "a.json", "s3://$(output Bucket)/k"],
    ];
    assert_eq!(aws_commands(body), wanted);
}

/// They need an account to be carried out, and none to be checked: the AWS CLI builds the
/// request of each, and it is not sent.
#[test]
fn commands_that_need_an_account_are_accepted_by_the_aws_cli() -> Result<()> {
    let Some(environment) = std::env::var_os("BRANCHLINE_VENV").map(PathBuf::from) else {
        eprintln!("skipped: BRANCHLINE_VENV is not set; `cargo xtask test` makes that environment");
        return Ok(());
    };
    let mut commands = Vec::new();
    for shell in shells()? {
        for words in aws_commands(&shell.body) {
            ensure!(
                shell.needs_an_account() || shell.body.contains(&format!("  {MARK}")),
                "{}: {words:?} calls AWS",
                shell.path
            );
            commands.push(words);
        }
    }
    assert!(commands.len() > 10, "they are found: {commands:?}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/commands.py");
    let mut python = Command::new(environment.join("bin/python"));
    let refused = answer(python.arg(script), &json!(commands).to_string())?;
    assert_eq!(refused.trim(), "", "the AWS CLI takes every command");
    Ok(())
}

#[test]
fn outputs_that_commands_read_are_the_templates() -> Result<()> {
    let template = Template::load()?;
    let outputs: BTreeSet<&str> = template.section("Outputs")?.map(|(name, _)| name).collect();
    let mut read = 0;
    for shell in shells()? {
        // Besides the function's own definition.
        for rest in shell.body.split("$(output ").skip(1) {
            let name = rest.split(')').next().unwrap_or_default();
            assert!(
                name.starts_with('"') || outputs.contains(name),
                "{}: {name}",
                shell.path
            );
            read += 1;
        }
        for rest in shell.body.split("\nagain ").skip(1) {
            let name = rest.lines().next().unwrap_or_default();
            assert!(outputs.contains(name), "{}: {name}", shell.path);
        }
    }
    assert!(read > 5, "{read} are read");
    Ok(())
}

/// The anchor that a git host makes of a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_lead_to_files_and_headings_that_are_there() -> Result<()> {
    let documents = documents()?;
    let mut seen = 0;
    for document in &documents {
        for rest in document.text.split("](").skip(1) {
            let link = rest.split(')').next().context("a link ends")?;
            if link.starts_with("http") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let folder = top().join(&document.path);
            let folder = folder.parent().context("a document is in a folder")?;
            let place = if file.is_empty() {
                top().join(&document.path)
            } else {
                folder.join(file)
            };
            assert!(place.exists(), "{}: {link}", document.path);
            if !heading.is_empty() {
                let text = std::fs::read_to_string(&place)?;
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor(line) == heading),
                    "{}: {link}",
                    document.path
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} links");
    Ok(())
}

/// "A test sends each file to the functions that this table names." What migration accepts, its own
/// tests read, because its servers do not exist.
#[tokio::test(flavor = "multi_thread")]
async fn every_example_event_is_accepted_by_the_functions_that_the_table_names() -> Result<()> {
    let stage = TestEnvironment::start(Setup::default()).await?;
    let own = std::fs::read_to_string(top().join("functions/migration/src/request/tests.rs"))?;
    let table = std::fs::read_to_string(top().join("events/README.md"))?;
    let mut listed = BTreeSet::new();
    for row in rows(&table, "# Events")? {
        let [file, functions, _] = row.as_slice() else {
            anyhow::bail!("three cells: {row:?}");
        };
        let (_, path) = file.split_once("](").context("the file is a link")?;
        let path = path.trim_end_matches(')');
        let event =
            serde_json::from_str(&std::fs::read_to_string(top().join("events").join(path))?)?;
        for function in functions.split(", ") {
            let name = path.trim_end_matches(".json");
            let is_accepted = match function {
                UPDATE | LIFECYCLE => {
                    let answer = stage.call(function, &event).await;
                    let error = answer.err();
                    error.is_none_or(|error| error["errorType"] != "branchline.InvalidEvent")
                }
                _ => own.contains(&format!("\"{name}\"")),
            };
            assert!(is_accepted, "{function} accepts {path}");
        }
        listed.insert(path.to_owned());
    }
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(top().join("events"))? {
        files.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    files.remove("README.md");
    assert_eq!(listed, files, "each file has its row");
    Ok(())
}

/// The rows of a table, as cells.
fn rows<'a>(text: &'a str, heading: &str) -> Result<Vec<Vec<&'a str>>> {
    let (_, below) = text.split_once(heading).context("the heading is there")?;
    let rows = below.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|')).skip(2);
    Ok(rows
        .map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect())
}

#[test]
fn the_example_of_costs_is_calculated_correctly() -> Result<()> {
    let text = std::fs::read_to_string(top().join("docs/deploy.md"))?;
    let number = |cell: &str| -> Result<f64> {
        let digits = cell
            .split(' ')
            .next()
            .unwrap_or_default()
            .replace(['$', ',', '*'], "");
        digits
            .parse()
            .with_context(|| format!("`{cell}` is a number"))
    };
    let mut together = 0.0;
    let rows = rows(&text, "## Costs, with an example")?;
    let (last, items) = rows.split_last().context("there are rows")?;
    for row in items {
        let [what, amount, price, documented] = row.as_slice() else {
            anyhow::bail!("four cells: {row:?}");
        };
        let cost = number(amount)? * number(price)?;
        assert_eq!(format!("${cost:.2}"), *documented, "{what}");
        together += number(documented)?;
    }
    assert_eq!(format!("**${together:.2}**"), last[3], "the sum");

    let template = std::fs::read_to_string(top().join("template.yaml"))?;
    let (_, alarms) = template
        .split_once("# --- Observability ---")
        .context("alarms")?;
    let watched = alarms.matches(" MetricName: ").count();
    let alarms = alarms.matches("Type: AWS::CloudWatch::Alarm").count();
    let counted = format!("| {alarms} alarms over {watched} metrics | {watched} |");
    assert!(text.contains(&counted), "{counted}");
    Ok(())
}
