//! Structure of the workspace, proved on its sources: arrows point down, files do not import
//! each other in circles, names are unique, texts keep the house's rules, no file is
//! forgotten. Each test lists all violations at once.

mod circles;
mod layers;
mod model;
mod resolve;
mod texts;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use model::{Crate, Workspace};

/// Types that other files use and that share their name with another of the same crate, each with
/// its reason.
const SHARED_NAMES: [(&str, &str, &str); 2] = [
    (
        "xtask",
        "Arguments",
        "each is named with its module: `bench::Arguments`",
    ),
    ("branchline", "Signals", "one for each system"),
];

fn assert_none(violations: &[String], rule: &str) {
    let number = violations.len();
    assert!(
        violations.is_empty(),
        "{rule}; {number} violations:\n{}\n",
        violations.join("\n")
    );
}

#[test]
fn files_of_a_product_import_each_other_without_circles() {
    let workspace = Workspace::read();
    let mut violations = Vec::new();
    let products = workspace
        .crates
        .iter()
        .filter(|package| !package.is_for_tests());
    for package in products {
        let edges = resolve::edges(&workspace, package);
        for circle in circles::circles(&edges) {
            let files: Vec<&str> = circle.iter().map(String::as_str).collect();
            violations.push(format!("circle of {}:", files.join(", ")));
            for ((from, to), names) in &edges {
                if circle.contains(from) && circle.contains(to) {
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    violations.push(format!("    {from} -> {to}: {}", names.join(", ")));
                }
            }
        }
    }
    assert_none(&violations, "files do not import each other in a circle");
}

#[test]
fn modules_import_only_from_layers_below() {
    let violations = layers::violations(&Workspace::read());
    assert_none(&violations, "arrows point down");
}

#[test]
fn sdk_types_are_used_only_in_adapters() {
    let workspace = Workspace::read();
    let mut violations = BTreeSet::new();
    for package in &workspace.crates {
        for reference in &package.references {
            let root = reference.path.first().map_or("", String::as_str);
            if root.starts_with("aws_sdk_") && !layers::is_sdk_adapter(&reference.file) {
                violations.insert(format!("{}: {root}", reference.file));
            }
        }
    }
    let violations: Vec<String> = violations.into_iter().collect();
    assert_none(
        &violations,
        "AWS SDK types are in `aws/` and `*/client*.rs`",
    );
}

/// A program that enables no service's feature, such as a fuzz target, builds no SDK. A build of
/// the whole workspace enables all of them and would not notice.
#[test]
fn adapters_are_compiled_only_with_the_feature_of_their_service() {
    let mut violations = Vec::new();
    let files = model::source_files().into_iter();
    for file in files.filter(|file| file.starts_with("shared/src/")) {
        let text = fs::read_to_string(model::root().join(&file));
        let text = text.expect("because the file was listed");
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2) {
            let [above, line] = pair else { continue };
            let declared = line
                .trim_start_matches("pub ")
                .trim_start_matches("pub(crate) ");
            let is_adapter = declared.starts_with("mod client") && declared.ends_with(';');
            if is_adapter && !above.starts_with("#[cfg(feature = ") {
                violations.push(format!("{file}: {line}"));
            }
        }
    }
    assert_none(&violations, "a client of AWS is behind a feature");
}

#[test]
fn types_that_other_files_use_have_different_names() {
    let mut violations = Vec::new();
    for package in &Workspace::read().crates {
        let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, file) in &package.public_types {
            places.entry(name).or_default().push(file);
        }
        for (name, files) in places {
            let excepted = SHARED_NAMES
                .iter()
                .any(|(of, excepted, _)| *of == package.name && *excepted == name);
            if files.len() > 1 && !excepted {
                violations.push(format!("{}: {name} in {}", package.name, files.join(", ")));
            }
        }
    }
    assert_none(
        &violations,
        "a name that other files use means one type of a crate",
    );
}

#[test]
fn docs_begin_with_a_verb_or_a_noun() {
    let mut found = Vec::new();
    for file in model::source_files() {
        found.extend(texts::docs_that_begin_with_a_question_word(&file));
    }
    // The rule is of style, and a few exceptions read well.
    if found.len() >= 50 {
        assert_none(
            &found,
            "fewer than 50 docs begin with What, Who, Which, Where or How",
        );
    }
}

#[test]
fn messages_say_is_not() {
    let mut violations = Vec::new();
    for package in &Workspace::read().crates {
        violations.extend(texts::odd_negations(package));
    }
    assert_none(
        &violations,
        "a message says \"is not a ..\" and \"does not match ..\"",
    );
}

#[test]
fn every_source_file_is_reached_by_a_mod() {
    let reached: BTreeSet<String> = model::compiled_files();
    let all = model::source_files().into_iter();
    let forgotten: Vec<String> = all.filter(|file| !reached.contains(file)).collect();
    assert_none(&forgotten, "a file that no `mod` declares is not compiled");
}

#[test]
fn products_use_test_support_only_in_their_tests() {
    let is_product = |package: &&Crate| !package.is_for_tests();
    let mut violations = Vec::new();
    for package in Workspace::read().crates.iter().filter(is_product) {
        let manifest = package.folder.join("Cargo.toml");
        let manifest = fs::read_to_string(manifest).expect("because cargo read it, too");
        let mut section = "";
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            }
            if line.starts_with("branchline-test-support") && section != "[dev-dependencies]" {
                violations.push(format!("{}: {section}", package.name));
            }
        }
    }
    assert_none(&violations, "test-support is a dev-dependency of products");
}
