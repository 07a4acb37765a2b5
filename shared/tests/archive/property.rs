//! Random trees under random `.gitattributes`.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::compare::agree_at;
use super::git::{Item, Repo};

/// Kind of an entry.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    File,
    Executable,
    Link,
    Submodule,
}

fn rules() -> impl Strategy<Value = String> {
    let pattern = prop::sample::select(vec![
        "*", "*.a", "a", "a/", "/a", "b/*", "a/**", "**/b", "b/**/c", "c*", "[ab]", "[!a]", "?",
        "/b/a", "\"a\"", "a.b", "*b*", "\\a", "!a", "é", "é/", "**", "*/a", "a/b/", "/*", "[a",
        "a\\", "b/", "**/a/",
    ]);
    let attribute = prop::sample::select(vec![
        "export-ignore",
        "-export-ignore",
        "!export-ignore",
        "export-subst",
        "-export-subst",
        "text",
        "-text",
        "text=auto",
        "!text",
        "eol=crlf",
        "eol=lf",
        "ident",
        "-ident",
        "binary",
        "crlf",
        "-crlf",
        "crlf=input",
        "working-tree-encoding=UTF-16",
        "m",
        "-m",
        "!m",
    ]);
    let line = (pattern, prop::collection::vec(attribute, 1..4))
        .prop_map(|(pattern, attributes)| format!("{pattern} {}\n", attributes.join(" ")));
    let macros = prop::sample::select(vec![
        "",
        "[attr]m export-ignore\n",
        "[attr]m text eol=crlf -ident\n",
    ]);
    (macros, prop::collection::vec(line, 0..6))
        .prop_map(|(first, lines)| first.to_owned() + &lines.concat())
}

fn tree() -> impl Strategy<Value = Vec<(String, Kind, Vec<u8>)>> {
    let part = prop::sample::select(vec!["a", "b", "c", "a.b", "ab", "x.a", "é"]);
    let path = prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"));
    let kind = prop_oneof![
        6 => Just(Kind::File),
        1 => Just(Kind::Executable),
        1 => Just(Kind::Link),
        1 => Just(Kind::Submodule)
    ];
    let bytes = prop::sample::select(vec![
        "",
        "a\nb\n",
        "a\r\nb\n",
        "$Id$\n",
        "$Id: x y $ $Id: x $\n",
        "$Format:%H %an %s$\n",
        "a\0b\n",
        "é\n",
        "a\rb\n",
    ]);
    prop::collection::vec(
        (path, kind, bytes.prop_map(|text| text.as_bytes().to_vec())),
        0..14,
    )
}

/// Entries of a commit by path.
pub(crate) type Files = Vec<(String, Kind, Vec<u8>)>;

/// Returns a strategy for the entries of commits, which have `.gitattributes`.
pub(crate) fn commits() -> impl Strategy<Value = Files> {
    let nested = prop::sample::select(vec!["a", "b", "a/b", "c/a"]);
    let nested = prop::collection::vec((nested, rules()), 0..3);
    (tree(), rules(), nested).prop_map(|(tree, root, nested)| {
        // Skips a path that is a file and a folder (a D/F conflict).
        let mut paths: Files = Vec::new();
        let rules = nested.into_iter().map(|(folder, rules)| {
            let path = format!("{folder}/.gitattributes");
            (path, Kind::File, rules.into_bytes())
        });
        for (path, kind, bytes) in tree.into_iter().chain(rules) {
            let conflicts = paths.iter().any(|(known, ..)| {
                *known == path
                    || known.starts_with(&format!("{path}/"))
                    || path.starts_with(&format!("{known}/"))
            });
            if !conflicts {
                paths.push((path, kind, bytes));
            }
        }
        paths.push((".gitattributes".into(), Kind::File, root.into_bytes()));
        paths
    })
}

/// Commits `files` to `repo`; returns the commit's id.
pub(crate) fn commit(repo: &Repo, files: &Files) -> String {
    let items: Vec<_> = files
        .iter()
        .map(|(path, kind, bytes)| {
            let item = match kind {
                Kind::File => Item::File(bytes),
                Kind::Executable => Item::Executable(bytes),
                Kind::Link => Item::Link(bytes),
                Kind::Submodule => Item::Submodule,
            };
            (path.as_bytes(), item)
        })
        .collect();
    repo.commit(b"random\n", &items)
}

#[test]
fn random_trees_are_archived_as_by_git() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&commits(), |files| {
            let repo = Repo::new();
            let commit = commit(&repo, &files);
            runtime.block_on(agree_at(repo.path(), &commit, "p/"));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}
