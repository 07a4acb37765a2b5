//! The bytes of a new bundle, as far as possible copied inside S3 from an old one.
//!
//! The new pack is the old pack's entries, byte for byte, then the new entries. Offsets between
//! entries do not change, so deltas stay valid. New are the header of the bundle, the header of
//! the pack (its count of objects) and the trailer, for which all bytes are read once and
//! hashed: from the pack cache where it has the old pack, else from S3.
//!
//! S3 requires parts of at least 5 MiB. So the first part is the headers and as many of the old
//! entries as that takes; then parts are copied; the new entries are the last part, which may
//! be short. Where nothing would be left to copy, everything is sent. Parts are sent and copied
//! while the next parts are made.
//!
//! A bundle without an old one whose pack is the received one, as it is, is copied from the
//! temporary object of the latter ([`super::spooled_pack`]).

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::{try_join, try_join3};
use tokio::sync::mpsc;

use super::bundle_reader::OpenBundle;
use super::indexed_bundle::{IndexedBundle, ObjectIdSet};
use super::keys::BundleFile;
use super::lock::LockCheck;
use super::options::{BundleLocation, BundleOptions};
use super::parts::{FIRST_PART, Parts, copied_parts, copy, copy_range, send_parts};
use super::spooled_pack::SpooledPack;
use crate::blocking;
use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::git::bundle::Header;
use crate::git::odb::{Database, PackOptions, ReceiverObjects, indexed_pack};
use crate::git::pack::{FileHasher, Index, PACK_HEADER_BYTES, pack_header};
use crate::git::{HashKind, ObjectId};
use crate::pack_cache::{CachedPack, EntryWriter, PackExtension, WrittenEntries};
use crate::storage::multipart::MultipartWriter;

/// Number of bytes of an old pack that are hashed at once.
const HASH_CHUNK_BYTES: u64 = 8 << 20;
/// Pieces of at least this length are hashed on a separate thread.
const MIN_THREAD_BYTES: usize = 256 * 1024;

/// Content of a new bundle.
pub(super) enum BundleBody {
    /// A bundle that is copied whole from another ref.
    Copy(Box<OpenBundle>),
    Compose(Box<Composition>),
}

/// Result of uploading the parts of a bundle.
#[derive(Default)]
pub(super) struct UploadedBody {
    pub(super) bytes: u64,
    /// The bundle's pack, for the pack cache once the bundle is published.
    pub(super) extension: Option<PackExtension>,
}

impl BundleBody {
    /// Uploads all parts. Stops when `check` fails.
    pub(super) async fn send(
        &self,
        upload: &MultipartWriter,
        check: LockCheck<'_>,
    ) -> Result<UploadedBody> {
        match self {
            Self::Copy(bundle) => {
                let range = 0..bundle.file.size_bytes;
                copy(upload, bundle, range, FIRST_PART, check).await?;
                Ok(UploadedBody::default())
            }
            Self::Compose(composition) => composition.send(upload, check).await,
        }
    }

    /// Returns the bundle of which this one is composed.
    pub(super) fn base_file(&self) -> Option<&BundleFile> {
        match self {
            Self::Copy(_) => None,
            Self::Compose(composition) => Some(&composition.base.as_ref()?.bundle.file),
        }
    }

    /// Returns the bundle that was published as `file`, with its pack in the cache if `cached`
    /// or the base is; `None` for a copy, because its objects were not read.
    pub(super) fn into_indexed(
        self,
        location: &Arc<BundleLocation>,
        file: BundleFile,
        cached: Option<Arc<CachedPack>>,
    ) -> Result<Option<IndexedBundle>> {
        let Self::Compose(composition) = self else {
            return Ok(None);
        };
        let objects = composition.object_ids();
        let Composition {
            header,
            base,
            objects: added,
            ..
        } = *composition;
        // Without new objects the pack is the base's.
        let base = base.filter(|_| added.is_empty());
        let cached = cached.or_else(|| base?.cached.clone());
        let bundle = OpenBundle {
            location: Arc::clone(location),
            file,
            pack_start: header.write()?.len() as u64,
            header,
            pack_id: None,
        };
        Ok(Some(IndexedBundle::written(bundle, objects, cached)))
    }
}

/// A bundle that is made of another bundle and new objects, or of new objects only.
pub(super) struct Composition {
    pub(super) hash: HashKind,
    pub(super) header: Header,
    pub(super) base: Option<Arc<IndexedBundle>>,
    /// Objects that are not in `base`.
    pub(super) objects: Vec<ObjectId>,
    pub(super) database: Arc<Database>,
    /// Objects of `base` that deltas may depend on.
    pub(super) known: Option<Arc<ReceiverObjects>>,
    /// Pack of exactly `objects`, without a `base`, that is copied inside S3.
    pub(super) spooled: Option<Arc<SpooledPack>>,
    pub(super) options: BundleOptions,
}

impl Composition {
    fn object_ids(&self) -> ObjectIdSet {
        if let Some(spooled) = &self.spooled {
            return ObjectIdSet::of_index(spooled.index.clone());
        }
        let base = self.base.as_ref().map(|base| base.objects.clone());
        base.unwrap_or_default().with(&self.objects)
    }

    fn pack_header(&self) -> Result<[u8; 12]> {
        let old = self.base.as_ref().map_or(0, |base| base.objects.len());
        let count = u32::try_from(old + self.objects.len()).map_err(|_| {
            let message = "a bundle would have more objects than a pack can have";
            Error::new(ErrorKind::FileTooLarge, message)
        })?;
        Ok(pack_header(count))
    }

    /// Sends the header and the start of the spooled pack, and copies the rest.
    async fn send_spooled(
        &self,
        spooled: &SpooledPack,
        upload: &MultipartWriter,
        check: LockCheck<'_>,
    ) -> Result<UploadedBody> {
        let mut part = self.header.write()?;
        // With those that were sent to the temporary object.
        let bytes = part.len() as u64 + spooled.size_bytes;
        let missing = self.options.min_part_bytes.saturating_sub(part.len()) as u64;
        let rest = missing.min(spooled.size_bytes)..spooled.size_bytes;
        part.extend_from_slice(&spooled.start(rest.start).await?);
        let first = async {
            check()?;
            upload.part(FIRST_PART, part.into()).await
        };
        let copies = async {
            if rest.is_empty() {
                return Ok(());
            }
            let source = (&spooled.place.bucket, &spooled.place.key, None);
            copy_range(upload, &self.options, source, rest, FIRST_PART + 1, check).await
        };
        try_join(first, copies).await?;
        Ok(UploadedBody {
            bytes,
            extension: spooled.extension(),
        })
    }

    async fn send(&self, upload: &MultipartWriter, check: LockCheck<'_>) -> Result<UploadedBody> {
        if let Some(spooled) = &self.spooled {
            return self.send_spooled(spooled, upload, check).await;
        }
        let (sender, parts) = mpsc::channel(1);
        let sending = send_parts(upload, parts, &self.options, check);
        let mut parts = Parts::new(sender, &self.options, self.header.write()?.as_slice());
        let header = self.pack_header()?;
        parts.push(&header).await?;
        let mut hasher = FileHasher::new(self.hash);
        hasher.update(&header);
        let Some(base) = &self.base else {
            let making = self.build_parts(None, 0..0, hasher, parts);
            return Ok(try_join(sending, making).await?.1);
        };
        let entries = base.bundle.entries();
        let min_part_bytes = self.options.min_part_bytes as u64;
        let first = min_part_bytes.saturating_sub(parts.pending_bytes() as u64);
        let rest = entries.end.min(entries.start.saturating_add(first))..entries.end;
        if rest.end - rest.start < min_part_bytes {
            let making = self.build_parts(Some(base), entries.end..entries.end, hasher, parts);
            return Ok(try_join(sending, making).await?.1);
        }
        let copies = copy(upload, &base.bundle, rest.clone(), FIRST_PART + 1, check);
        let making = self.build_parts(Some(base), rest, hasher, parts);
        Ok(try_join3(sending, copies, making).await?.2)
    }

    /// Builds the sent parts: everything but the `copied` range, which is only hashed.
    async fn build_parts(
        &self,
        base: Option<&Arc<IndexedBundle>>,
        copied: Range<u64>,
        mut hasher: FileHasher,
        mut parts: Parts,
    ) -> Result<UploadedBody> {
        if let Some(base) = base {
            let start = base.bundle.entries().start;
            hasher = hash_entries(base, start..copied.start, hasher, Some(&mut parts)).await?;
            if !copied.is_empty() {
                parts.flush().await?;
                if parts.number != FIRST_PART {
                    let message = "the start of a bundle takes more than one part";
                    return Err(Error::new(ErrorKind::Internal, message));
                }
                parts.number += copied_parts(&self.options, &copied)?;
                hasher = hash_entries(base, copied, hasher, None).await?;
            }
        }
        let mut new = None;
        if !self.objects.is_empty() {
            new = self.write_new_entries(&mut hasher, &mut parts).await?;
        }
        let pack = hasher.finish();
        parts.push(pack.as_slice()).await?;
        parts.flush().await?;
        Ok(UploadedBody {
            bytes: parts.sent_bytes,
            extension: new.map(|(written, index)| PackExtension {
                base: base.and_then(|base| base.cached.clone()),
                written,
                index,
                pack,
                replaces_base: false,
            }),
        })
    }

    /// Returns a cache writer for the new entries; only if there is no base or the base is
    /// cached, because an extension needs its base.
    fn cache_writer(&self) -> Option<EntryWriter> {
        let cache = self.options.pack_cache.as_ref()?;
        let is_base_cached = |base: &Arc<IndexedBundle>| base.cached.is_some();
        let can_cache = self.base.as_ref().is_none_or(is_base_cached);
        can_cache.then(|| cache.writer(0))
    }

    /// Writes the entries of the new objects; returns those in the cache and their index.
    async fn write_new_entries(
        &self,
        hasher: &mut FileHasher,
        parts: &mut Parts,
    ) -> Result<Option<(WrittenEntries, Index)>> {
        let options = PackOptions {
            known: self.known.clone(),
            offset_deltas: true,
        };
        let objects = self.objects.iter().copied();
        let (mut stream, index) = indexed_pack(&self.database, objects, options)?;
        let mut writer = self.cache_writer();
        let trailer = self.hash.len_in_bytes();
        let mut skip = usize::try_from(PACK_HEADER_BYTES).expect("because 12 fits");
        let mut pending = BytesMut::new();
        while let Some(bytes) = stream.next().await {
            pending.extend_from_slice(&bytes?);
            let skipped = skip.min(pending.len());
            let _ = pending.split_to(skipped);
            skip -= skipped;
            if pending.len() > trailer {
                let entries = pending.split_to(pending.len() - trailer).freeze();
                hasher.update(&entries);
                parts.push(&entries).await?;
                if let Some(writer) = &mut writer {
                    writer.push(entries).await;
                }
            }
        }
        if pending.len() != trailer || skip > 0 {
            return Err(corrupt("the pack of the new objects was cut off"));
        }
        let written = match writer {
            Some(writer) => writer.finish().await,
            None => None,
        };
        Ok(written.zip(index.await.ok()))
    }
}

/// Reads old entries, at `range` of the bundle, and hashes them; sends them if there are
/// `parts`.
async fn hash_entries(
    base: &IndexedBundle,
    range: Range<u64>,
    mut hasher: FileHasher,
    mut parts: Option<&mut Parts>,
) -> Result<FileHasher> {
    let start = base.bundle.pack_start;
    let range = range.start - start..range.end - start;
    let pieces = (range.end - range.start).div_ceil(HASH_CHUNK_BYTES);
    let bytes = &base.bytes;
    let mut pieces = futures_util::stream::iter(0..pieces)
        .map(|piece| {
            let from = range.start + piece * HASH_CHUNK_BYTES;
            bytes.read_range(from..range.end.min(from + HASH_CHUNK_BYTES))
        })
        .buffered(3);
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        if let Some(parts) = &mut parts {
            parts.push(&piece).await?;
        }
        hasher = hash(hasher, piece).await?;
    }
    Ok(hasher)
}

/// Hashes on a separate thread, unless the bytes are few.
async fn hash(mut hasher: FileHasher, bytes: Bytes) -> Result<FileHasher> {
    if bytes.len() < MIN_THREAD_BYTES {
        hasher.update(&bytes);
        return Ok(hasher);
    }
    blocking::run(move || {
        hasher.update(&bytes);
        hasher
    })
    .await
}
