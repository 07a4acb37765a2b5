//! `cargo xtask test -p PACKAGE` compiles no crate that `cargo xtask test` has compiled.

use std::collections::BTreeSet;
use std::process::Command;

/// Returns what cargo prints.
fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(arguments)
        .args(["--locked", "--offline"])
        .output()
        .expect("cargo starts, because it runs this test");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} failed: {errors}");
    String::from_utf8(output.stdout).expect("cargo prints text")
}

/// Returns each crate that tests of these packages compile, with its features.
fn crates(packages: &[&str]) -> BTreeSet<String> {
    let tree = ["tree", "--edges", "normal,build,dev", "--prefix", "none"];
    let arguments = [&tree[..], &["--format", "{p} {f}"], packages].concat();
    let list = cargo(&arguments);
    let lines = list.lines().map(|line| line.trim_end_matches(" (*)"));
    lines.map(str::to_owned).collect()
}

#[test]
fn the_tests_of_one_package_take_the_crates_of_the_whole_workspace() {
    let metadata = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: serde_json::Value =
        serde_json::from_str(&metadata).expect("cargo's metadata is JSON");
    let members = metadata["packages"].as_array().expect("it has packages");
    assert!(members.len() > 8, "the workspace has packages: {members:?}");
    let whole = crates(&["--workspace"]);
    for member in members {
        let name = member["name"].as_str().expect("a package has a name");
        let selected = crates(&["--package", name, "--package", "branchline-features"]);
        let other: Vec<&String> = selected.difference(&whole).collect();
        assert!(
            other.is_empty(),
            "tests of {name} enable other features, which xtask/features/Cargo.toml must name: \
             {other:?}"
        );
    }
}
