//! Small packs merged with the one that arrives, and what is left of them removed later.

use super::DumbOptions;
use super::geometry::to_merge;
use super::keys::{ObjectRole, RepositoryKeys};
use super::merge::{Whole, merge};
use super::odb::{Indexes, S3PackBytes};
use super::pack_list::{PackList, PackSize};
use super::publish::{PackToPublish, upload_staged};
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::pack::Index;
use crate::name::ObjectKey;
use crate::remote::Spool;
use crate::storage::Precondition;

/// A staged pack older than this belongs to nobody any more, in seconds.
const STAGED_FOR: i64 = 24 * 60 * 60;

/// The listed packs that are to be merged with a new one, the largest first.
pub(super) fn select_packs(list: &PackList, fresh: PackSize, largest: u64) -> Vec<ObjectId> {
    if fresh.bytes > largest {
        return Vec::new();
    }
    let small = list.sizes.iter().filter(|(_, size)| size.bytes <= largest);
    let mut packs: Vec<(u64, Option<ObjectId>)> =
        small.map(|(id, size)| (size.objects, Some(*id))).collect();
    packs.push((fresh.objects, None));
    packs.sort_unstable();
    let objects: Vec<u64> = packs.iter().map(|(objects, _)| *objects).collect();
    packs.truncate(to_merge(&objects));
    packs.into_iter().rev().filter_map(|(_, id)| id).collect()
}

/// Merges listed packs and a new one.
pub(super) async fn merge_packs(
    place: &RepositoryKeys,
    options: &DumbOptions,
    list: &PackList,
    indexes: &mut Indexes,
    old: &[ObjectId],
    fresh: PackToPublish<'_>,
) -> Result<(Index, Spool)> {
    let hash = fresh.index.hash();
    let mut read = Vec::new();
    for id in old {
        let bytes = S3PackBytes {
            place: place.clone(),
            pack: *id,
        };
        read.push((indexes.read(place, hash, *id).await?, bytes));
    }
    let mut packs: Vec<Whole<'_>> = read
        .iter()
        .map(|(index, bytes)| Whole {
            index,
            size: list.sizes.get(&bytes.pack).map_or(0, |size| size.bytes),
            bytes,
        })
        .collect();
    packs.push(Whole {
        index: fresh.index,
        size: fresh.spool.size_bytes(),
        bytes: fresh.spool,
    });
    merge(hash, &packs, upload_staged(place, options.memory / 2)?).await
}

/// Removes packs that were superseded long ago. What fails is only logged, and done
/// another time.
pub(super) async fn delete_superseded(
    place: &RepositoryKeys,
    options: &DumbOptions,
    list: &mut PackList,
) {
    let now = (options.clock)();
    let grace = i64::try_from(options.grace.as_secs()).unwrap_or(i64::MAX);
    list.drop_deleted(now, grace);
    for id in list.expired(now, grace) {
        let (index, pack) = (ObjectRole::Index(id), ObjectRole::Pack(id));
        let gone = tokio::try_join!(place.delete(&index), place.delete(&pack));
        match gone {
            Ok(_) => list.deleted(id, now),
            Err(error) => tracing::warn!(
                remote = %place,
                pack.id = %id,
                error = %error.report(),
                "a superseded pack could not be removed"
            ),
        }
    }
}

/// Removes staged packs that were left behind. What fails is only logged.
pub(super) async fn delete_staged_orphans(place: &RepositoryKeys, options: &DumbOptions) {
    let now = (options.clock)();
    let prefix = place.staged_prefix();
    let done = async {
        let page = place.store.list(&place.bucket, &prefix, None, None).await?;
        for found in page.objects {
            if now.saturating_sub(found.last_modified) > STAGED_FOR {
                let always = Precondition::None;
                let key: &ObjectKey = &found.key;
                place.store.delete(&place.bucket, key, &always).await?;
            }
        }
        Ok::<_, crate::Error>(())
    };
    if let Err(error) = done.await {
        tracing::warn!(
            remote = %place,
            error = %error.report(),
            "abandoned packs could not be removed"
        );
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
