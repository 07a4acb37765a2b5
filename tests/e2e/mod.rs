//! One module a subject; a test below sees that none is forgotten.

mod conformance;
mod demo;
mod faults;
mod lifecycle;
mod peers;
mod readme;
mod update;

#[test]
fn every_file_is_a_module() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e");
    let own = include_str!("mod.rs");
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let name = entry.expect("it is readable").file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".rs")) else {
            continue;
        };
        assert!(
            name == "mod" || own.contains(&format!("mod {name};")),
            "{name} is forgotten"
        );
    }
}
