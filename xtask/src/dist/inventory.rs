//! The crates in the released programs: a bill of materials, and the notices of their licences.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::target::Target;
use super::{VERSION, programs, python};
use crate::process::{cargo, output, workspace};

/// A crate of another project, or of this one.
#[derive(Debug)]
struct Crate {
    name: String,
    version: String,
    license: String,
    description: Option<String>,
    authors: Vec<String>,
    repository: Option<String>,
    /// Folder of the sources.
    folder: PathBuf,
    /// Whether the crate is of this project.
    is_own: bool,
    /// Ids of the crates that are linked into this one.
    uses: BTreeSet<String>,
}

impl Crate {
    /// Returns the package URL, which names the crate in a bill of materials.
    fn purl(&self) -> String {
        format!(
            "pkg:cargo/{}@{}",
            self.name,
            self.version.replace('+', "%2B")
        )
    }
}

/// The crates of all programs, by their ids.
#[derive(Debug)]
pub(super) struct Inventory {
    crates: BTreeMap<String, Crate>,
    /// Checksums of packages, by name and version, as the registry has them.
    checksums: BTreeMap<(String, String), String>,
}

impl Inventory {
    /// Reads the crates that are linked into the programs for these targets.
    pub(super) fn read(targets: &[Target]) -> Result<Self> {
        let mut inventory = Self {
            crates: BTreeMap::new(),
            checksums: checksums()?,
        };
        for target in targets {
            let mut metadata = cargo();
            metadata.args(["metadata", "--format-version", "1", "--locked"]);
            metadata.args(["--filter-platform", target.triple()]);
            let text = output(&mut metadata)?;
            let metadata = serde_json::from_str(&text).context("cargo's metadata")?;
            inventory.add(&metadata)?;
        }
        Ok(inventory)
    }

    /// Adds the crates of one target.
    fn add(&mut self, metadata: &Value) -> Result<()> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let packages = list(&metadata["packages"]);
        let by_id: BTreeMap<&str, &Value> = packages
            .iter()
            .filter_map(|package| Some((package["id"].as_str()?, package)))
            .collect();
        let mut linked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let used = list(&node["deps"]).into_iter().filter(|dependency| {
                // Those of build scripts and of tests are not in the programs.
                list(&dependency["dep_kinds"])
                    .iter()
                    .any(|kind| kind["kind"].is_null())
            });
            let used = used.filter_map(|dependency| text(&dependency["pkg"]));
            let id = text(&node["id"]).context("a package has an id")?;
            linked.insert(id, used.collect());
        }
        let roots: BTreeSet<&str> = programs::packages().collect();
        let mut open: Vec<String> = by_id
            .iter()
            .filter(|(_, package)| {
                package["name"]
                    .as_str()
                    .is_some_and(|name| roots.contains(name))
            })
            .map(|(id, _)| (*id).to_owned())
            .collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if !seen.insert(id.clone()) {
                continue;
            }
            let package = by_id.get(id.as_str()).context("a package that is used")?;
            let uses = linked.remove(&id).unwrap_or_default();
            open.extend(uses.iter().cloned());
            let manifest = text(&package["manifest_path"]).context("a manifest")?;
            let found = self.crates.entry(id).or_insert_with(|| Crate {
                name: text(&package["name"]).unwrap_or_default(),
                version: text(&package["version"]).unwrap_or_default(),
                // The slash is an old spelling.
                license: text(&package["license"])
                    .unwrap_or_default()
                    .replace('/', " OR "),
                description: text(&package["description"]),
                authors: list(&package["authors"]).iter().filter_map(text).collect(),
                repository: text(&package["repository"]),
                folder: Path::new(&manifest)
                    .parent()
                    .map(Path::to_owned)
                    .unwrap_or_default(),
                is_own: package["source"].is_null(),
                uses: BTreeSet::new(),
            });
            found.uses.extend(uses);
        }
        Ok(())
    }

    /// Returns the crates sorted by name and version.
    fn sorted(&self) -> Vec<&Crate> {
        let mut crates: Vec<_> = self.crates.values().collect();
        crates.sort_by_key(|each| (&each.name, &each.version));
        crates
    }

    /// Writes a bill of materials in the format of `CycloneDX`, and checks it by the schema.
    pub(super) fn write_bill(&self, environment: &Path, path: &Path) -> Result<()> {
        let bill = self.bill();
        let text = serde_json::to_string_pretty(&bill).context("the bill of materials")?;
        std::fs::write(path, text + "\n").context("the bill of materials")?;
        let arguments: [&OsStr; 1] = [path.as_os_str()];
        python(environment, "check_bill.py", &arguments)
    }

    fn bill(&self) -> Value {
        let licenses = |expression: &str| json!([{ "expression": expression }]);
        let component = |each: &&Crate| {
            let mut component = json!({
                "type": "library",
                "bom-ref": each.purl(),
                "name": each.name,
                "version": each.version,
                "licenses": licenses(&each.license),
                "purl": each.purl(),
            });
            if let Some(description) = &each.description {
                component["description"] = description.trim().into();
            }
            let key = (each.name.clone(), each.version.clone());
            if let Some(checksum) = self.checksums.get(&key) {
                component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
            }
            component
        };
        let crates = self.sorted();
        let components: Vec<Value> = crates.iter().map(component).collect();
        let dependency = |each: &&Crate| {
            let uses = each.uses.iter().filter_map(|id| self.crates.get(id));
            let uses: BTreeSet<String> = uses.map(Crate::purl).collect();
            json!({ "ref": each.purl(), "dependsOn": uses })
        };
        let dependencies: Vec<Value> = crates.iter().map(dependency).collect();
        json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {
                "component": {
                    "type": "application",
                    "bom-ref": "branchline-release",
                    "name": "branchline",
                    "version": VERSION,
                    "licenses": licenses("Apache-2.0"),
                },
            },
            "components": components,
            "dependencies": dependencies,
        })
    }

    /// Writes the licences of the crates of other projects, each text once.
    pub(super) fn write_notices(&self, path: &Path) -> Result<()> {
        let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut without = Vec::new();
        for each in self.sorted().into_iter().filter(|each| !each.is_own) {
            let name = format!("{} {} ({})", each.name, each.version, each.license);
            let found = license_texts(&each.folder)?;
            if found.is_empty() {
                let from = match &each.repository {
                    Some(repository) => repository.clone(),
                    None => each.authors.join(", "),
                };
                without.push(format!("{name}, of {from}"));
            }
            for text in found {
                texts.entry(text).or_default().push(name.clone());
            }
        }
        let mut notices = String::from(
            "branchline is licensed under the Apache License 2.0. Its programs contain code of the \
             projects below.\n\nThey also contain Rust's standard library (MIT OR Apache-2.0), and \
             those for musl the C library musl (MIT).\n",
        );
        let mut sections: Vec<_> = texts.into_iter().collect();
        sections.sort_by(|(_, one), (_, other)| one.cmp(other));
        for (text, names) in sections {
            let line = "-".repeat(80);
            let _ = write!(notices, "\n{line}\n{}\n\n{text}\n", names.join("\n"));
        }
        if !without.is_empty() {
            let line = "-".repeat(80);
            let _ = write!(
                notices,
                "\n{line}\nThe packages of these name their licence, and have no text of it:\n\n{}\n",
                without.join("\n")
            );
        }
        std::fs::write(path, notices).context("the notices")
    }
}

/// Returns the texts of the licences and notices in a package.
fn license_texts(folder: &Path) -> Result<Vec<String>> {
    let shown = folder.display();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("`{shown}`"))? {
        let entry = entry.with_context(|| format!("`{shown}`"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_license(&name) && entry.path().is_file() {
            names.push(name);
        }
    }
    names.sort();
    let read = |name: &String| {
        let bytes =
            std::fs::read(folder.join(name)).with_context(|| format!("`{shown}/{name}`"))?;
        let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
        Ok(text.trim().to_owned())
    };
    names.iter().map(read).collect()
}

/// Returns whether a file of this name has a licence or a notice.
fn is_license(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let starts = [
        "LICENSE",
        "LICENCE",
        "COPYING",
        "COPYRIGHT",
        "NOTICE",
        "UNLICENSE",
    ];
    starts.iter().any(|start| upper.starts_with(start)) && !upper.contains(".RS")
}

/// Reads the checksums of packages from `Cargo.lock`.
fn checksums() -> Result<BTreeMap<(String, String), String>> {
    let text = std::fs::read_to_string(workspace().join("Cargo.lock")).context("Cargo.lock")?;
    Ok(checksums_in(&text))
}

fn checksums_in(lock: &str) -> BTreeMap<(String, String), String> {
    let mut checksums = BTreeMap::new();
    for block in lock.split("[[package]]") {
        let value = |key: &str| {
            let start = format!("{key} = \"");
            let mut lines = block.lines();
            lines.find_map(|line| Some(line.strip_prefix(&start)?.trim_end_matches('"').to_owned()))
        };
        if let (Some(name), Some(version), Some(checksum)) =
            (value("name"), value("version"), value("checksum"))
        {
            checksums.insert((name, version), checksum);
        }
    }
    checksums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_known_by_their_names() {
        for name in [
            "LICENSE",
            "LICENSE-MIT",
            "license.txt",
            "COPYING",
            "NOTICE",
            "UNLICENSE",
        ] {
            assert!(is_license(name), "{name}");
        }
        for name in ["README.md", "licenses.rs", "Cargo.toml"] {
            assert!(!is_license(name), "{name}");
        }
    }

    #[test]
    fn checksums_are_those_of_the_lock_file() {
        let lock = "version = 4\n\n[[package]]\nname = \"own\"\nversion = \"1.0.0\"\n\n\
                    [[package]]\nname = \"other\"\nversion = \"2.0.0\"\nsource = \"registry\"\n\
                    checksum = \"ab\"\n";
        let found = checksums_in(lock);
        assert_eq!(found.len(), 1);
        assert_eq!(found[&("other".to_owned(), "2.0.0".to_owned())], "ab");
    }

    #[test]
    fn crates_of_tests_and_builds_are_not_in_the_bill() -> Result<()> {
        let package = |id: &str, name: &str, source: Value| {
            json!({ "id": id, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0",
                    "manifest_path": format!("/{name}/Cargo.toml"), "source": source,
                    "authors": [], "description": null, "repository": null })
        };
        let uses = |id: &str, kind: Value| json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [
                package("own", "branchline", Value::Null),
                package("used", "used", "registry".into()),
                package("tested", "tested", "registry".into()),
                package("built", "built", "registry".into()),
                package("unused", "unused", "registry".into()),
            ],
            "resolve": { "nodes": [
                { "id": "own", "deps": [
                    uses("used", Value::Null), uses("tested", "dev".into()),
                    uses("built", "build".into()),
                ] },
                { "id": "used", "deps": [] },
            ] },
        });
        let mut inventory = Inventory {
            crates: BTreeMap::new(),
            checksums: BTreeMap::from([(("used".to_owned(), "1.0.0".to_owned()), "ab".to_owned())]),
        };
        inventory.add(&metadata)?;
        let bill = inventory.bill();
        let names = bill["components"].as_array().context("components")?;
        let names: Vec<_> = names
            .iter()
            .filter_map(|each| each["name"].as_str())
            .collect();
        assert_eq!(names, ["branchline", "used"]);
        assert_eq!(bill["components"][1]["hashes"][0]["content"], "ab");
        assert_eq!(
            bill["components"][1]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
        assert_eq!(
            bill["dependencies"][0]["dependsOn"],
            json!(["pkg:cargo/used@1.0.0"])
        );
        Ok(())
    }
}
