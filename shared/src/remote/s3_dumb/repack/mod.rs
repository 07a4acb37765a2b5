//! Merges small packs with a new one, and deletes merged packs later.
//!
//! | file | job |
//! |---|---|
//! | `geometric` | selects the packs to merge |
//! | `merge` | merges packs entry by entry |

pub(super) mod merge;

mod geometric;

use self::geometric::merge_count;
use self::merge::{MergeInput, merge};
use super::DumbOptions;
use super::keys::{ObjectRole, RepositoryKeys};
use super::publish::{PackToPublish, upload_staged};
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::object::{ObjectKind, id_of};
use crate::git::pack::{Index, PackWriter};
use crate::remote::dumb_files::odb::{Indexes, PackFile};
use crate::remote::dumb_files::pack_list::{PackList, PackSize};
use crate::storage::spool::Spool;

/// Returns the listed packs to merge with a new one, the largest first. Packs of more than
/// `max_bytes` are not merged.
pub(super) fn select_packs(list: &PackList, new: PackSize, max_bytes: u64) -> Vec<ObjectId> {
    if new.bytes > max_bytes {
        return Vec::new();
    }
    let small = list
        .sizes
        .iter()
        .filter(|(_, size)| size.bytes <= max_bytes);
    let mut packs: Vec<(u64, Option<ObjectId>)> =
        small.map(|(id, size)| (size.objects, Some(*id))).collect();
    packs.push((new.objects, None));
    packs.sort_unstable();
    let objects: Vec<u64> = packs.iter().map(|(objects, _)| *objects).collect();
    packs.truncate(merge_count(&objects));
    packs.into_iter().rev().filter_map(|(_, id)| id).collect()
}

/// Merges the listed packs `old` with a new one.
pub(super) async fn merge_packs(
    keys: &RepositoryKeys,
    options: &DumbOptions,
    list: &PackList,
    indexes: &mut Indexes,
    old: &[ObjectId],
    new: PackToPublish<'_>,
) -> Result<(Index, Spool)> {
    let hash = new.index.hash();
    let mut read = Vec::new();
    for id in old {
        let bytes = PackFile {
            files: keys.files(),
            pack: *id,
        };
        read.push((indexes.read(keys, hash, *id).await?, bytes));
    }
    let mut packs: Vec<MergeInput<'_>> = read
        .iter()
        .map(|(index, bytes)| MergeInput {
            index,
            size: list.sizes.get(&bytes.pack).map_or(0, |size| size.bytes),
            bytes,
        })
        .collect();
    packs.push(MergeInput {
        index: new.index,
        size: new.spool.size_bytes(),
        bytes: new.spool,
    });
    merge(hash, &packs, upload_staged(keys, options.memory / 2)?).await
}

/// Makes a pack of the objects of `packed` and one of random content, and so of another id: the files
/// of `packed` may be deleted at any time.
pub(super) async fn with_other_id(
    keys: &RepositoryKeys,
    options: &DumbOptions,
    packed: PackToPublish<'_>,
) -> Result<(Index, Spool)> {
    let hash = packed.index.hash();
    let content = format!("branchline {:032x}\n", rand::random::<u128>());
    let id = id_of(hash, ObjectKind::Blob, content.as_bytes())?;
    let mut pack = PackWriter::new(hash, 1);
    pack.object(id, ObjectKind::Blob, content.as_bytes());
    let (bytes, index) = pack.finish()?;
    let mut added = upload_staged(keys, options.memory / 2)?;
    added.push(bytes).await?;
    let added = added.finish().await?;
    let packs = [(packed.index, packed.spool), (&index, &added)];
    let packs = packs.map(|(index, spool)| MergeInput {
        index,
        size: spool.size_bytes(),
        bytes: spool,
    });
    merge(hash, &packs, upload_staged(keys, options.memory / 2)?).await
}

/// Deletes packs that were superseded or pruned longer ago than the grace period. A failure is only
/// logged, because the next run retries.
pub(super) async fn delete_superseded(
    keys: &RepositoryKeys,
    options: &DumbOptions,
    list: &mut PackList,
) {
    let now = (options.clock)();
    let grace = options.grace_seconds();
    list.drop_deleted(now, grace);
    for id in list.expired(now, grace) {
        let (index, pack) = (ObjectRole::Index(id), ObjectRole::Pack(id));
        let deleted = tokio::try_join!(keys.delete(&index), keys.delete(&pack));
        match deleted {
            Ok(_) => list.mark_deleted(id, now),
            Err(error) => tracing::warn!(
                remote = %keys,
                pack.id = %id,
                error = %error.report(),
                "a superseded pack could not be deleted"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_packs_of_known_size_are_merged() {
        let id = |n: u8| ObjectId::from_bytes_or_panic(&[n; 20]);
        let size = |objects, bytes| PackSize { objects, bytes };
        let mut list = PackList::default();
        list.add(id(1), size(3, 30), &[], 0);
        list.add(id(2), size(5, 50), &[], 0);
        list.add(id(3), size(5, 5000), &[], 0);
        list.packs.push(id(4));
        assert_eq!(select_packs(&list, size(4, 40), 100), [id(2), id(1)]);
        assert!(
            select_packs(&list, size(4, 400), 100).is_empty(),
            "the new one is large"
        );
        assert_eq!(select_packs(&list, size(1, 10), 100), [id(2), id(1)]);
        assert!(select_packs(&PackList::default(), size(1, 10), 100).is_empty());
    }
}
