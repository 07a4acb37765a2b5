//! The bucket after a mirror, as a listing.

use std::collections::BTreeSet;

use insta::assert_snapshot;

use crate::fixture::*;

/// Replaces ids of packs, which depend on git's version.
fn without_ids(line: &str) -> String {
    match line.split_once("pack-") {
        Some((before, rest)) => {
            let end = rest.rfind('.').map_or("", |dot| &rest[dot..]);
            format!("{before}pack-ID{end}")
        }
        None => line.to_owned(),
    }
}

#[tokio::test]
async fn a_mirror_in_the_dumb_layout_writes_refs_last() {
    let fixture = MigrationFixture::new();
    let from = source();
    fixture.add("one.git", &from);
    let event = request(&[all_refs("https://git.test/one.git", "s3://mirrors/one.git")]);
    fixture.run(event).await.expect("the mirror succeeds");
    let journal = fixture.store.journal();
    let mut seen = BTreeSet::new();
    let journal: Vec<String> = journal
        .iter()
        .map(|line| without_ids(line))
        .filter(|line| seen.insert(line.clone()))
        .collect();
    assert_snapshot!(journal.join("\n"), @r"
    put mirrors/one.git/objects/pack/pack-ID.pack
    put mirrors/one.git/objects/pack/pack-ID.idx
    put mirrors/one.git/objects/info/packs
    put mirrors/one.git/info/refs
    put mirrors/one.git/HEAD
    ");
}
