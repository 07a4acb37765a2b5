//! Compares both sides of a mapping after it was mirrored.

use branchline_core::Result;
use branchline_core::git::escaped_excerpt;
use branchline_core::mirror::{Comparison, MirrorTask, compare};
use branchline_core::remote::open::OpenRemote;
use serde_json::{Value, json};

/// Maximum number of differing refs that are printed.
const MAX_REFS: usize = 20;

/// Opens both remotes again and compares them.
///
/// # Errors
/// Failures to read a side.
pub(super) async fn verify(
    remotes: &dyn OpenRemote,
    task: &MirrorTask,
    memory: usize,
) -> Result<Comparison> {
    let (source, target) = tokio::try_join!(
        remotes.open(&task.source, memory),
        remotes.open(&task.target, memory)
    )?;
    compare(&*source, &*target, &task.refs).await
}

/// Returns a comparison as lines for people.
pub(super) fn lines(comparison: &Comparison) -> Vec<String> {
    let Comparison {
        equal_refs,
        different_refs,
        source_objects,
        target_objects,
        ..
    } = comparison;
    let mut lines = vec![if comparison.is_equal() {
        format!(
            "  verified: {equal_refs} refs and {source_objects} objects are equal on both sides"
        )
    } else {
        format!(
            "  not equal: {equal_refs} refs are equal and {} differ; {source_objects} objects are \
             reachable at the source, {target_objects} at the target",
            different_refs.len()
        )
    }];
    let id = |id: Option<_>| id.map_or_else(|| "missing".to_owned(), |id| format!("{id}"));
    let named = different_refs.iter().take(MAX_REFS);
    lines.extend(
        named.map(|different: &branchline_core::mirror::RefDifference| {
            let name = escaped_excerpt(&different.name);
            let (source, target) = (id(different.source), id(different.target));
            format!("  {name}: {source} at the source, {target} at the target")
        }),
    );
    if different_refs.len() > MAX_REFS {
        lines.push(format!("  and {} more", different_refs.len() - MAX_REFS));
    }
    lines
}

/// Returns a comparison as JSON.
pub(super) fn json(comparison: &Comparison) -> Value {
    let different = comparison.different_refs.iter().map(|different| {
        json!({
            "ref": escaped_excerpt(&different.name),
            "source": different.source.map(|id| id.to_string()),
            "target": different.target.map(|id| id.to_string()),
        })
    });
    json!({
        "equal": comparison.is_equal(),
        "equal_refs": comparison.equal_refs,
        "different_refs": different.collect::<Vec<_>>(),
        "objects": {
            "source": comparison.source_objects,
            "target": comparison.target_objects,
        },
    })
}
