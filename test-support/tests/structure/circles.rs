//! Circles of a directed graph.

use std::collections::{BTreeMap, BTreeSet};

use super::resolve::Edges;

/// Returns the sets of files that reach each other, of at least two files each.
pub(crate) fn circles(edges: &Edges) -> Vec<BTreeSet<String>> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges.keys() {
        next.entry(from).or_default().push(to);
    }
    let reach: BTreeMap<&str, BTreeSet<&str>> = next
        .keys()
        .map(|&from| (from, reachable(from, &next)))
        .collect();
    let mut circles: Vec<BTreeSet<String>> = Vec::new();
    for (from, reached) in &reach {
        let back = |to: &&&str| reach.get(**to).is_some_and(|of_to| of_to.contains(from));
        let circle: BTreeSet<String> = reached
            .iter()
            .filter(back)
            .map(|file| (*file).to_owned())
            .collect();
        if circle.len() > 1 && !circles.contains(&circle) {
            circles.push(circle);
        }
    }
    circles
}

fn reachable<'a>(from: &'a str, next: &BTreeMap<&'a str, Vec<&'a str>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(file) = open.pop() {
        for &to in next.get(file).into_iter().flatten() {
            if reached.insert(to) {
                open.push(to);
            }
        }
    }
    reached
}

#[test]
fn two_files_that_import_each_other_are_a_circle() {
    let edge = |from: &str, to: &str| ((from.to_owned(), to.to_owned()), BTreeSet::new());
    let edges: Edges = [
        edge("a", "b"),
        edge("b", "c"),
        edge("c", "b"),
        edge("c", "d"),
    ]
    .into();
    assert_eq!(circles(&edges), [["b".to_owned(), "c".to_owned()].into()]);
}
