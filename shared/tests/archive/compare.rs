//! Opens two zips and compares them entry by entry.

use std::io::{Cursor, Read as _};
use std::path::Path;

use branchline_core::archive::{ArchiveRequest, Summary, WriteSink, write};
use branchline_core::name::RepositoryName;
use zip::ZipArchive;

use super::fake_codecommit::Disk;
use super::from_odb::from_objects;
use super::git::{Repo, archive};

/// An entry as a reader decodes it, with the fields of its record in the central directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub name: String,
    raw_name: Vec<u8>,
    flags: u16,
    made_by: u16,
    external: u32,
    method: u16,
    compressed: u32,
    dos: (u16, u16),
    extra: Vec<u8>,
    crc: u32,
    pub bytes: Vec<u8>,
}

/// Returns all entries in the order of the central directory, and the comment.
pub(crate) fn entries(zip: &[u8]) -> (Vec<Seen>, Vec<u8>) {
    let mut archive = ZipArchive::new(Cursor::new(zip)).expect("it is a zip");
    let comment = archive.comment().to_vec();
    let short = |at: usize| u16::from_le_bytes([zip[at], zip[at + 1]]);
    let long = |at: usize| u32::from_le_bytes(zip[at..at + 4].try_into().unwrap());
    let mut seen = Vec::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).expect("the entry is there");
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("the entry unpacks");
        let at = usize::try_from(file.central_header_start()).unwrap();
        let (name, extra) = (usize::from(short(at + 28)), usize::from(short(at + 30)));
        let local = usize::try_from(file.header_start()).unwrap();
        assert_eq!(
            short(local + 6) & 8,
            0,
            "sizes are in the local header of {}",
            String::from_utf8_lossy(file.name_raw())
        );
        assert_eq!(long(local + 14), long(at + 16), "the local CRC is true");
        assert_eq!(long(local + 18), long(at + 20), "the local size is true");
        seen.push(Seen {
            name: String::from_utf8_lossy(file.name_raw()).into_owned(),
            raw_name: zip[at + 46..at + 46 + name].to_vec(),
            flags: short(at + 8),
            // The lower byte is the version of the writer.
            made_by: short(at + 4) >> 8,
            external: long(at + 38),
            method: short(at + 10),
            compressed: long(at + 20),
            dos: (short(at + 12), short(at + 14)),
            extra: zip[at + 46 + name..at + 46 + name + extra].to_vec(),
            crc: long(at + 16),
            bytes,
        });
    }
    (seen, comment)
}

/// Archives `commit` with branchline.
pub(crate) async fn ours(disk: &Disk, commit: &str, prefix: &str) -> (Vec<u8>, Summary) {
    let mut request = ArchiveRequest::new(disk.commit(commit));
    prefix.clone_into(&mut request.prefix);
    let sink = WriteSink::new(Vec::new());
    let repository = RepositoryName::new("fixture").unwrap();
    let summary = write(disk, &repository, &request, &sink)
        .await
        .unwrap_or_else(|error| panic!("{}", error.report()));
    (sink.into_inner(), summary)
}

/// Asserts that the archives of branchline and git are equal; returns the one of branchline.
pub(crate) async fn agree(repo: &Repo, commit: &str) -> Vec<u8> {
    let zip = agree_at(repo.path(), commit, "").await;
    agree_at(repo.path(), commit, "pre fix/x-").await;
    agree_at(repo.path(), commit, "deep/er/").await;
    zip
}

pub(crate) async fn agree_at(folder: &Path, commit: &str, prefix: &str) -> Vec<u8> {
    let disk = Disk::new(folder);
    let (zip, summary) = ours(&disk, commit, prefix).await;
    let theirs = archive(folder, prefix, commit);
    same(&zip, &theirs);
    assert_eq!(summary.size_bytes, zip.len() as u64, "the size is counted");
    assert_eq!(
        summary.requests,
        disk.calls.lock().unwrap().len() as u64,
        "the requests are counted"
    );
    if prefix.is_empty() {
        let objects = from_objects(folder, commit).await;
        assert!(objects == zip, "the objects of git give the same bytes");
    }
    zip
}

pub(crate) fn same(ours: &[u8], theirs: &[u8]) {
    let (ours, our_comment) = entries(ours);
    let (theirs, their_comment) = entries(theirs);
    let names = |seen: &[Seen]| -> Vec<String> { seen.iter().map(|s| s.name.clone()).collect() };
    assert_eq!(
        names(&ours),
        names(&theirs),
        "the same entries in the same order"
    );
    for (ours, theirs) in ours.iter().zip(&theirs) {
        // Compressed sizes of two deflaters differ a little. If one saves almost nothing, the
        // other may save nothing, and then the entry is stored.
        let ours_like = Seen {
            method: theirs.method,
            compressed: theirs.compressed,
            ..clone(ours)
        };
        let difference = ours.compressed.abs_diff(theirs.compressed);
        assert!(
            difference <= 128 + theirs.compressed / 10,
            "{} has {} bytes compressed, git's {}",
            ours.name,
            ours.compressed,
            theirs.compressed
        );
        assert!(
            ours.method == theirs.method || difference <= 8,
            "{} is stored or deflated as git's",
            ours.name
        );
        if ours.bytes != theirs.bytes {
            assert_eq!(
                ours.bytes.escape_ascii().to_string(),
                theirs.bytes.escape_ascii().to_string(),
                "content of {}",
                ours.name
            );
        }
        assert_eq!(ours_like, *theirs, "entry {}", ours.name);
    }
    assert_eq!(our_comment, their_comment, "the commit's id is the comment");
}

fn clone(seen: &Seen) -> Seen {
    Seen {
        name: seen.name.clone(),
        raw_name: seen.raw_name.clone(),
        extra: seen.extra.clone(),
        bytes: seen.bytes.clone(),
        ..*seen
    }
}
