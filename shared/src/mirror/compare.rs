//! Compares two remotes after a mirroring: ref by ref, and by the number of reachable objects.

use bstr::BString;
use futures_util::StreamExt as _;

use super::RefSelection;
use super::stale_ref::is_stale;
use super::temporary_tag::is_temporary;
use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::git::ObjectId;
use crate::git::odb::reachable_objects;
use crate::git::pack::PACK_HEADER_BYTES;
use crate::remote::{Head, PackRequest, Remote, Source};

/// Differences between the selected refs of two remotes, and the numbers of their objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Comparison {
    /// Number of refs that are equal.
    pub equal_refs: u64,
    /// Refs that differ, or that one side lacks.
    pub different_refs: Vec<RefDifference>,
    /// `HEAD` of the source.
    pub source_head: Option<Head>,
    /// `HEAD` of the target.
    pub target_head: Option<Head>,
    /// Objects that are reachable from the selected refs of the source.
    pub source_objects: u64,
    /// Objects that are reachable from the selected refs of the target.
    pub target_objects: u64,
}

/// A ref with two values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefDifference {
    /// Full name.
    pub name: BString,
    /// Id at the source, if it has the ref.
    pub source: Option<ObjectId>,
    /// Id at the target, if it has the ref.
    pub target: Option<ObjectId>,
}

impl Comparison {
    /// Returns true if both sides have equal refs, with equally many objects.
    pub fn is_equal(&self) -> bool {
        self.different_refs.is_empty() && self.source_objects == self.target_objects
    }
}

/// Compares the selected refs of two remotes. Refs that were set aside, and temporary tags, are
/// ignored.
///
/// # Errors
/// Failures to read a side.
pub async fn compare(
    source: &dyn Remote,
    target: &dyn Remote,
    refs: &RefSelection,
) -> Result<Comparison> {
    let prefixes = refs.prefixes();
    let (source, target) = tokio::try_join!(source.source(&prefixes), target.source(&prefixes))?;
    let selected = |side: &dyn Source| {
        let refs_of_side = side.snapshot().refs.iter();
        let refs_of_side = refs_of_side.filter(|(name, _)| {
            let name = name.as_ref();
            refs.selects(name) && !is_stale(name) && !is_temporary(name)
        });
        let refs_of_side = refs_of_side.map(|(name, value)| (name.clone(), value.id));
        refs_of_side.collect::<std::collections::BTreeMap<_, _>>()
    };
    let (of_source, of_target) = (selected(&*source), selected(&*target));
    let mut comparison = Comparison {
        source_head: source.snapshot().head.clone(),
        target_head: target.snapshot().head.clone(),
        ..Comparison::default()
    };
    let mut names: Vec<_> = of_source.keys().chain(of_target.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (source, target) = (of_source.get(name).copied(), of_target.get(name).copied());
        if source == target {
            comparison.equal_refs += 1;
        } else {
            comparison.different_refs.push(RefDifference {
                name: name.clone(),
                source,
                target,
            });
        }
    }
    (comparison.source_objects, comparison.target_objects) = tokio::try_join!(
        count_objects(&*source, of_source.into_values().collect()),
        count_objects(&*target, of_target.into_values().collect()),
    )?;
    Ok(comparison)
}

/// Counts the objects that are reachable from `tips`: in the source's database, else as the server
/// announces them at the start of a pack.
async fn count_objects(source: &dyn Source, mut tips: Vec<ObjectId>) -> Result<u64> {
    tips.sort_unstable();
    tips.dedup();
    if tips.is_empty() {
        return Ok(0);
    }
    if let Some(database) = source.objects(&tips).await? {
        let found = reachable_objects(&database, &tips, &[]).await?;
        return Ok(found.objects.len() as u64);
    }
    let request = PackRequest {
        wants: tips,
        haves: Vec::new(),
        thin: false,
        offset_deltas: true,
    };
    let mut body = source.fetch(&request).await?;
    let mut header = Vec::new();
    while (header.len() as u64) < PACK_HEADER_BYTES {
        let chunk = body.next().await.transpose()?;
        let chunk = chunk.ok_or_else(|| corrupt("a pack ends within its header"))?;
        header.extend_from_slice(&chunk);
    }
    match (&header[..4], header[8..12].try_into()) {
        (b"PACK", Ok(count)) => Ok(u32::from_be_bytes(count).into()),
        _ => Err(Error::new(
            ErrorKind::Corrupt,
            "a pack does not start with `PACK`",
        )),
    }
}
