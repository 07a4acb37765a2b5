//! Layers of the workspace, and the arrows that point up.

use std::collections::BTreeSet;

use super::model::Workspace;
use super::resolve;

/// Rooms of the core crate, the lowest layer first. A room imports from its own layer and
/// from those below.
const LAYERS: [&[&str]; 6] = [
    &[
        "arn",
        "background",
        "blocking",
        "error",
        "filter",
        "git",
        "log",
        "metrics",
        "name",
        "os",
        "pattern",
        "retry",
        "settings",
    ],
    &[
        "aws",
        "codecommit",
        "event",
        "event_bus",
        "function",
        "kms",
        "pipeline",
        "role",
        "secret",
        "storage",
    ],
    &["lfs", "pack_cache"],
    &["remote"],
    &["archive", "mirror", "trigger"],
    &["lambda", "testkit"],
];

/// Rooms that do not know each other, although they are on one layer.
const STRANGERS: [&str; 5] = ["archive", "mirror", "trigger", "lambda", "testkit"];

/// The adapter by which a bundle remote makes archives: the only file of `archive` that
/// knows `remote`.
const ARCHIVE_ADAPTER: &str = "shared/src/archive/bundle_archives.rs";

/// Files that use a room which their package does not otherwise know, each with its reason.
const EXCEPTIONS: [(&str, &str, &str); 1] = [(
    "devserver/src/cli/triggers.rs",
    "trigger",
    "the command previews the plan that the lifecycle function makes",
)];

/// Functions whose decisions the command line shows, and makes at a terminal.
const SHOWN_FUNCTIONS: [&str; 2] = ["branchline_lifecycle", "branchline_update"];

/// Returns true if `file` may use types of AWS SDKs.
pub(crate) fn is_sdk_adapter(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    file.starts_with("shared/src/aws/") || name.starts_with("client") || file.contains("/client/")
}

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

/// Returns each import that points up, or aside where that is not allowed.
pub(crate) fn violations(workspace: &Workspace) -> Vec<String> {
    let mut violations = BTreeSet::new();
    for package in &workspace.crates {
        for reference in &package.references {
            let path = &reference.path;
            let Some(to) = resolve::resolve(workspace, package, &reference.module, path) else {
                continue;
            };
            let from_room = reference.module.first().map_or("", String::as_str);
            let to_room = to.module.first().map_or("", String::as_str);
            let why = if to.package.name == "branchline_core" {
                if package.name == "branchline_core" {
                    inside_core(&reference.file, from_room, to_room)
                } else if !package.is_for_tests() {
                    into_core(&package.name, &reference.file, to_room)
                } else {
                    None
                }
            } else {
                between_crates(&package.name, &to.package.name, package.is_for_tests())
            };
            if let Some(why) = why {
                violations.insert(format!("{} -> {}: {why}", reference.file, to.file));
            }
        }
    }
    violations.into_iter().collect()
}

fn inside_core(file: &str, from: &str, to: &str) -> Option<String> {
    if from == to || from.is_empty() || to.is_empty() {
        return None;
    }
    let Some(own) = layer(from) else {
        return Some(format!("`{from}` has no layer in this test"));
    };
    let Some(other) = layer(to) else {
        return Some(format!("`{to}` has no layer in this test"));
    };
    if from == "archive" && to == "remote" && file != ARCHIVE_ADAPTER {
        return Some("only the adapter for bundles knows `remote`".to_owned());
    }
    if other > own {
        return Some(format!("`{from}` is below `{to}`"));
    }
    let strangers = STRANGERS.contains(&from) && STRANGERS.contains(&to) && own == other;
    strangers.then(|| format!("`{from}` and `{to}` do not know each other"))
}

fn into_core(package: &str, file: &str, to: &str) -> Option<String> {
    if to == "testkit" {
        return Some("services in memory are for tests".to_owned());
    }
    let decides = ["archive", "mirror", "trigger"].contains(&to);
    let excepted = |(of, room, _): &(&str, &str, &str)| *of == file && *room == to;
    (package == "branchline_dev" && decides && !EXCEPTIONS.iter().any(excepted))
        .then(|| "the development server shares formats, not decisions".to_owned())
}

fn between_crates(from: &str, to: &str, from_tests: bool) -> Option<String> {
    let same = from == to;
    let is_shown = from == "branchline" && SHOWN_FUNCTIONS.contains(&to);
    let allowed = same || from_tests || is_shown || to == "branchline_git";
    (!allowed).then(|| format!("`{from}` does not know `{to}`"))
}
