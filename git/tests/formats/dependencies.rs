//! The dependencies of the package.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Reads the dependencies of each package from `Cargo.lock`, by name.
fn locked_dependencies() -> BTreeMap<String, Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    let text = std::fs::read_to_string(path).unwrap();
    let mut packages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in text.split("[[package]]").skip(1) {
        let (head, dependencies) = package
            .split_once("dependencies = [")
            .unwrap_or((package, ""));
        let name = head.split('"').nth(1).unwrap();
        let dependencies = dependencies
            .split(']')
            .next()
            .unwrap_or_default()
            .split('"')
            .skip(1)
            .step_by(2)
            // A version follows the name where the lock has several.
            .map(|dependency| dependency.split(' ').next().unwrap().to_owned());
        let known = packages.entry(name.to_owned()).or_default();
        known.extend(dependencies);
    }
    packages
}

/// Reads the dependencies of the package itself, without those of its tests, which
/// `Cargo.lock` does not tell apart.
fn own_dependencies() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once("\n[dependencies]\n").unwrap();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_package_depends_on_no_aws_crate() {
    let packages = locked_dependencies();
    let mut reached = BTreeSet::new();
    let mut pending = own_dependencies();
    while let Some(name) = pending.pop() {
        if reached.insert(name.clone()) {
            pending.extend(packages[&name].iter().cloned());
        }
    }
    assert!(reached.contains("gix-object"), "the lock was read");
    let aws: Vec<_> = reached
        .iter()
        .filter(|name| name.starts_with("aws-"))
        .collect();
    assert!(aws.is_empty(), "branchline-git depends on {aws:?}");
}
