//! The documents are held to their word: promises, settings, errors and commands.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use branchline_core::ErrorKind;
use branchline_tests::environment::built_programs;

pub(super) const COMMAND_LINE: &str = include_str!("../../docs/git-on-s3.md");
pub(super) const DEVELOPMENT_SERVER: &str = include_str!("../../docs/development-server.md");
pub(super) const PROMISES: &str = include_str!("../../docs/promises.md");
pub(super) const REFERENCE: &str = include_str!("../../docs/reference.md");

/// The project's top folder.
pub(super) fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate is in the workspace")
}

/// The rows of the table of a document under a heading, as cells.
pub(super) fn table<'a>(document: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, below) = document.split_once(heading).expect("the heading is there");
    let rows = below.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect()
}

#[test]
fn every_promise_is_quoted_above_its_test() {
    let promises = table(PROMISES, "# Promises");
    assert!(promises.len() >= 8, "the table is found");
    for row in promises {
        let file = top().join(row[1].trim_matches('`'));
        let text =
            std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        let quoted = format!("/// \"{}\"\n#[", row[0]);
        let at = text.find(&quoted).map(|at| &text[at + quoted.len()..]);
        let is_test = |rest: &str| rest.starts_with("test]") || rest.starts_with("tokio::test");
        assert!(at.is_some_and(is_test), "{file:?} quotes: {}", row[0]);
    }
}

/// The names of settings that these files read.
fn settings(files: &[&str]) -> BTreeSet<String> {
    let is_name = |text: &&str| {
        (text.len() >= 8 || *text == "SSE")
            && text.chars().all(|c| matches!(c, 'A'..='Z' | '_'))
            // Lambda sets those.
            && !text.starts_with("AWS_LAMBDA_")
            && *text != "AWS_REGION"
    };
    let mut names = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(top().join(file)).expect("the file is there");
        names.extend(
            text.split('"')
                .skip(1)
                .step_by(2)
                .filter(is_name)
                .map(str::to_owned),
        );
    }
    names
}

#[test]
fn every_setting_is_in_its_functions_table_and_none_else() {
    let of_update = ["functions/update/src/config.rs", "shared/src/pattern.rs"];
    let of_lifecycle = [
        "functions/lifecycle/src/config.rs",
        "shared/src/pattern.rs",
        "shared/src/trigger/policy.rs",
    ];
    let of_migration = ["functions/migration/src/config.rs"];
    for (heading, files) in [
        ("### Settings of update", &of_update[..]),
        ("### Settings of lifecycle", &of_lifecycle[..]),
        ("### Settings of migration", &of_migration[..]),
    ] {
        let rows = table(REFERENCE, heading);
        let names = rows.iter().flat_map(|row| row[0].split(", "));
        let documented: BTreeSet<String> = names
            .map(|name| name.trim_matches('`').to_owned())
            .collect();
        assert_eq!(documented, settings(files), "{heading}");
    }
}

#[test]
fn the_list_of_error_types_is_the_list_of_kinds() {
    let (_, list) = REFERENCE
        .split_once("`errorType` is `branchline.` and one\nof ")
        .expect("the reference lists the error types");
    let (list, _) = list.split_once('.').expect("because a sentence ends");
    let listed: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    let kinds = ErrorKind::ALL.map(ErrorKind::name);
    assert_eq!(
        listed, kinds,
        "the reference lists each kind, in their order"
    );
}

#[test]
fn the_development_server_starts_by_the_command_that_is_given() {
    let (_, block) = DEVELOPMENT_SERVER
        .split_once("# The development server\n\n```sh\n")
        .expect("it is there");
    let (block, _) = block.split_once("```").expect("the block ends");
    let command = block.replace("\\\n", " ");
    let line = command
        .lines()
        .find(|line| line.contains(" serve "))
        .expect("it serves");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let programs = built_programs();
    let words: Vec<String> = line
        .split_whitespace()
        .map(|word| word.replace("target/debug", programs.to_str().expect("the path is text")))
        .collect();
    let mut server = Command::new(&words[0])
        .args(&words[1..])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let lines = BufReader::new(server.stdout.take().expect("it is piped")).lines();
    let endpoint = lines
        .map_while(Result::ok)
        .find(|line| line.contains("http://127.0.0.1:"));
    server.kill().expect("it still runs");
    server.wait().expect("it ends");
    assert!(endpoint.is_some(), "it tells where it listens");
    assert!(
        folder.path().join("dev").is_dir(),
        "it keeps its data in the folder that was named"
    );
}
