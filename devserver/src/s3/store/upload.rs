//! Multipart uploads, from start to completion.

use std::collections::BTreeMap;

use md5::{Digest as _, Md5};

use super::blob::{Sealed, Segment};
use super::bucket::Bucket;
use super::checksum::{Algorithm, Checksum, Kind, base64, composite, full_object};
use super::error::{Error, Result};
use super::index::Index;
use super::journal::Record;
use super::multipart::{MultipartUpload, StoredPart};
use super::object::{
    Attributes, Head, Object, Precondition, PutOptions, Version, check_key, check_tags,
};

/// Minimum size of a part except the last, in bytes.
const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;

/// A part in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartInfo {
    /// Number, from 1.
    pub number: u32,
    /// Entity tag, without quotes.
    pub etag: String,
    /// Size in bytes.
    pub size: u64,
    /// Time of arrival, in seconds since the epoch.
    pub last_modified: i64,
    /// Checksum, in base64.
    pub checksum: Option<(Algorithm, String)>,
}

impl PartInfo {
    fn of(number: u32, part: &StoredPart) -> Self {
        Self {
            number,
            etag: hex::encode(part.md5),
            size: part.size,
            last_modified: part.modified,
            checksum: part
                .asked
                .and_then(|algorithm| Some((algorithm, base64(part.digest(algorithm)?)))),
        }
    }
}

/// A multipart upload in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadInfo {
    /// Upload id.
    pub id: String,
    /// Key of the object to create.
    pub key: String,
    /// Start, in seconds since the epoch.
    pub initiated: i64,
    /// Algorithm and type of the checksum, as requested at the start.
    pub checksum: Option<(Algorithm, Kind)>,
    /// Attributes that are stored with the bytes.
    pub attributes: Attributes,
    /// Parts, in order.
    pub parts: Vec<PartInfo>,
}

fn info(id: &str, upload: &MultipartUpload) -> UploadInfo {
    UploadInfo {
        id: id.to_owned(),
        key: upload.key.clone(),
        initiated: upload.initiated,
        checksum: upload.checksum,
        attributes: upload.attributes.clone(),
        parts: upload
            .parts
            .iter()
            .map(|(number, part)| PartInfo::of(*number, part))
            .collect(),
    }
}

/// A part as the completing client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPart {
    /// Number.
    pub number: u32,
    /// Entity tag, without quotes.
    pub etag: String,
    /// Checksums, in base64.
    pub checksums: Vec<(Algorithm, String)>,
}

/// Options of completing an upload.
#[derive(Debug, Clone, Default)]
pub struct Completion {
    /// The parts, in ascending order.
    pub parts: Vec<NamedPart>,
    /// Preconditions.
    pub precondition: Precondition,
    /// The object's checksums as the client expects them.
    pub checksums: Vec<(Algorithm, String)>,
    /// The object's size as the client expects it.
    pub size: Option<u64>,
}

impl Bucket {
    /// Starts an upload; returns its id. The options' precondition is ignored.
    pub fn begin(
        &self,
        key: &str,
        options: PutOptions,
        checksum: Option<(Algorithm, Kind)>,
    ) -> Result<String> {
        check_key(key)?;
        check_tags(&options.tags)?;
        options.attributes.check()?;
        match checksum {
            Some((algorithm @ (Algorithm::Sha1 | Algorithm::Sha256), Kind::FullObject)) => {
                return Err(Error::InvalidRequest(format!(
                    "The FULL_OBJECT checksum type cannot be used with the {} checksum algorithm.",
                    algorithm.name().to_ascii_lowercase()
                )));
            }
            Some((Algorithm::Crc64Nvme, Kind::Composite)) => {
                return Err(Error::InvalidRequest(
                    "The COMPOSITE checksum type cannot be used with the crc64nvme checksum algorithm.".into(),
                ));
            }
            _ => {}
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let mut writer = self.writer()?;
        self.commit(
            &mut writer,
            vec![Record::Begin {
                id: id.clone(),
                upload: MultipartUpload {
                    key: key.to_owned(),
                    initiated: super::now(),
                    attributes: options.attributes,
                    tags: options.tags,
                    checksum,
                    parts: BTreeMap::new(),
                },
            }],
        )?;
        Ok(id)
    }

    /// Describes an upload.
    pub fn upload(&self, key: &str, id: &str) -> Result<UploadInfo> {
        let index = self.index();
        find(&index, key, id).map(|upload| info(id, upload))
    }

    /// Lists the open uploads, by key and then by age.
    pub fn uploads(&self) -> Vec<UploadInfo> {
        let mut uploads: Vec<_> = self
            .index()
            .uploads
            .iter()
            .map(|(id, upload)| info(id, upload))
            .collect();
        uploads.sort_by(|a, b| (&a.key, a.initiated, &a.id).cmp(&(&b.key, b.initiated, &b.id)));
        uploads
    }

    /// Makes a blob a part of an upload, replacing an earlier one of that number.
    pub fn put_part(&self, key: &str, id: &str, number: u32, sealed: Sealed) -> Result<PartInfo> {
        if !(1..=10_000).contains(&number) {
            return Err(Error::InvalidArgument(
                "Part number must be an integer between 1 and 10000, inclusive".into(),
            ));
        }
        let mut writer = self.writer()?;
        let expected = find(&self.index(), key, id)?.checksum;
        if let Some((expected, _)) = expected
            && sealed.asked != Some(expected)
        {
            return Err(Error::InvalidRequest(format!(
                "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
                expected.name().to_ascii_lowercase(),
                sealed.asked.map_or("null".to_owned(), |actual| actual
                    .name()
                    .to_ascii_lowercase()),
            )));
        }
        let part = StoredPart {
            md5: sealed.md5,
            size: sealed.size,
            blob: sealed.guard.id().to_owned(),
            modified: super::now(),
            digests: sealed.digests,
            asked: sealed.asked,
        };
        let answer = PartInfo::of(number, &part);
        self.commit(
            &mut writer,
            vec![Record::Part {
                upload: id.to_owned(),
                number,
                part,
            }],
        )?;
        sealed.guard.keep();
        Ok(answer)
    }

    /// Aborts an upload.
    pub fn abort(&self, key: &str, id: &str) -> Result<()> {
        let mut writer = self.writer()?;
        find(&self.index(), key, id)?;
        self.commit(
            &mut writer,
            vec![Record::Abort {
                upload: id.to_owned(),
            }],
        )
    }

    /// Creates the object from an upload's parts. Repeated for an upload that is already
    /// this object, the answer is the same, because clients repeat requests whose answer was
    /// lost.
    pub fn complete(&self, key: &str, id: &str, completion: &Completion) -> Result<Head> {
        let mut writer = self.writer()?;
        let record = {
            let index = self.index();
            let upload = match find(&index, key, id) {
                Ok(upload) => upload,
                Err(error) => return completed(&index, key, id, completion).ok_or(error),
            };
            let object = assemble(id, upload, completion)?;
            let current = index.current(key).map(|(_, object)| object.etag.as_str());
            completion.precondition.check(key, current)?;
            Record::Put {
                key: key.to_owned(),
                version: Version {
                    id: index.next_version_id(),
                    modified: super::now(),
                    object: Some(object),
                },
                upload: Some(id.to_owned()),
            }
        };
        self.commit(&mut writer, vec![record])?;
        self.written(key)
    }
}

fn find<'a>(index: &'a Index, key: &str, id: &str) -> Result<&'a MultipartUpload> {
    index
        .uploads
        .get(id)
        .filter(|upload| upload.key == key)
        .ok_or_else(|| Error::NoSuchUpload(id.to_owned()))
}

fn completed(index: &Index, key: &str, id: &str, completion: &Completion) -> Option<Head> {
    let (version, object) = index.keys.get(key)?.iter().find_map(|version| {
        let object = version.object.as_ref()?;
        (object.upload.as_deref() == Some(id)).then_some((version, object))
    })?;
    let digests: Option<Vec<_>> = completion
        .parts
        .iter()
        .map(|part| hex::decode(&part.etag).ok())
        .collect();
    (etag(digests?.iter().map(Vec::as_slice)) == object.etag)
        .then(|| Head::new(key, version, object, index.versioning))
}

fn etag<'a>(digests: impl Iterator<Item = &'a [u8]>) -> String {
    let mut md5 = Md5::new();
    let mut count = 0;
    for digest in digests {
        md5.update(digest);
        count += 1;
    }
    format!("{}-{count}", hex::encode(md5.finalize()))
}

/// Checks the client's list against the received parts, and creates the object.
fn assemble(id: &str, upload: &MultipartUpload, completion: &Completion) -> Result<Object> {
    if completion.parts.is_empty() {
        return Err(Error::MalformedXml(
            "You must specify at least one part".into(),
        ));
    }
    if !completion.parts.is_sorted_by(|a, b| a.number < b.number) {
        return Err(Error::InvalidPartOrder);
    }
    let mut chosen = Vec::with_capacity(completion.parts.len());
    for named in &completion.parts {
        let part = upload
            .parts
            .get(&named.number)
            .filter(|part| hex::encode(part.md5) == named.etag)
            .ok_or(Error::InvalidPart(named.number))?;
        check_named(upload, named, part)?;
        chosen.push((named.number, part));
    }
    if let Some((number, part)) = chosen[..chosen.len() - 1]
        .iter()
        .find(|(_, part)| part.size < MIN_PART_BYTES)
    {
        return Err(Error::EntityTooSmall {
            number: *number,
            size: part.size,
        });
    }
    let size = chosen.iter().map(|(_, part)| part.size).sum();
    if completion.size.is_some_and(|expected| expected != size) {
        return Err(Error::InvalidRequest(format!(
            "The provided 'x-amz-mp-object-size' header value does not match what was computed: {size}"
        )));
    }
    let checksum = whole_checksum(upload.checksum, &chosen);
    for (algorithm, expected) in &completion.checksums {
        let agrees = checksum.as_ref().is_some_and(|checksum| {
            // The number of parts behind a composite checksum may be left out.
            let bare = checksum.value.split('-').next();
            checksum.algorithm == *algorithm
                && (checksum.value == *expected || bare == Some(expected.as_str()))
        });
        if !agrees {
            return Err(Error::BadDigest(algorithm.name().into()));
        }
    }
    let segments = chosen
        .iter()
        .map(|(_, part)| Segment {
            blob: part.blob.clone(),
            size: part.size,
        })
        .collect();
    Ok(Object {
        etag: etag(chosen.iter().map(|(_, part)| &part.md5[..])),
        size,
        segments,
        upload: Some(id.to_owned()),
        attributes: upload.attributes.clone(),
        tags: upload.tags.clone(),
        checksum,
    })
}

fn check_named(upload: &MultipartUpload, named: &NamedPart, part: &StoredPart) -> Result<()> {
    for (algorithm, given) in &named.checksums {
        let stored = part.digest(*algorithm).map(base64);
        if stored.as_ref() != Some(given) {
            return Err(Error::InvalidPart(named.number));
        }
    }
    if let Some((algorithm, Kind::Composite)) = upload.checksum
        && !named.checksums.iter().any(|(given, _)| *given == algorithm)
    {
        return Err(Error::InvalidRequest(format!(
            "The upload was created using a {} checksum. The complete request must include the checksum for each part. It was missing for part {} in the request.",
            algorithm.name().to_ascii_lowercase(),
            named.number
        )));
    }
    Ok(())
}

fn whole_checksum(
    asked: Option<(Algorithm, Kind)>,
    parts: &[(u32, &StoredPart)],
) -> Option<Checksum> {
    let (algorithm, kind) = asked.unwrap_or((Algorithm::Crc64Nvme, Kind::FullObject));
    match kind {
        Kind::Composite => composite(
            algorithm,
            parts.iter().map(|(_, part)| part.digest(algorithm)),
        ),
        Kind::FullObject => full_object(
            algorithm,
            parts
                .iter()
                .map(|(_, part)| (part.digest(algorithm), part.size)),
        ),
    }
}
