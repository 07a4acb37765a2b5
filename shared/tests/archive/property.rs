//! Random trees under random `.gitattributes`.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::compare::agree_at;
use super::git::{Item, Repo};

#[derive(Debug, Clone)]
enum Kind {
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

#[test]
fn random_trees_are_archived_as_by_git() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cases = (
        tree(),
        rules(),
        prop::collection::vec(
            (prop::sample::select(vec!["a", "b", "a/b", "c/a"]), rules()),
            0..3,
        ),
    );
    let config = Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&cases, |(tree, root, nested)| {
            let repo = Repo::new();
            // Skips a path that is a file and a folder (a D/F conflict).
            let mut paths: Vec<(String, Kind, Vec<u8>)> = Vec::new();
            let files = tree
                .into_iter()
                .chain(nested.into_iter().map(|(folder, rules)| {
                    (
                        format!("{folder}/.gitattributes"),
                        Kind::File,
                        rules.into_bytes(),
                    )
                }));
            for (path, kind, bytes) in files {
                let conflicts = paths.iter().any(|(known, ..)| {
                    *known == path
                        || known.starts_with(&format!("{path}/"))
                        || path.starts_with(&format!("{known}/"))
                });
                if !conflicts {
                    paths.push((path, kind, bytes));
                }
            }
            paths.push((
                ".gitattributes".into(),
                Kind::File,
                root.clone().into_bytes(),
            ));
            let items: Vec<_> = paths
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
            let commit = repo.commit(b"random\n", &items);
            runtime.block_on(agree_at(repo.path(), &commit, "p/"));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}
