//! Speed and memory on a large pack. Not part of the usual run:
//! `cargo test -p branchline-git --test formats -- --ignored --nocapture a_large_pack`.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::process::Stdio;
use std::time::Instant;

use async_trait::async_trait;
use branchline_git::pack::{Blocks, Connectivity, NoBases, PackBytes, PackIndexer, PackLimits};
use branchline_git::{HashKind, Result};
use bytes::Bytes;

use branchline_test_support::repo::Repo;

/// A pack in a file.
struct InFile(File);

#[async_trait]
impl PackBytes for InFile {
    async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        let mut out = vec![0; usize::try_from(range.end - range.start).unwrap()];
        self.0.read_exact_at(&mut out, range.start).unwrap();
        Ok(out.into())
    }
}

fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        >> 10
}

fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Makes a history of many changes and one file of 60 MiB; returns the path of its pack.
fn large(repo: &Repo) -> std::path::PathBuf {
    let mut import = repo
        .command(&["fast-import", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufWriter::new(import.stdin.take().unwrap());
    let mut seed = 1_u64;
    let mut noise = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed >> 33
    };
    let mut files: Vec<Vec<String>> = (0..400)
        .map(|_| {
            (0..400)
                .map(|_| format!("{:x} {:x}", noise(), noise()))
                .collect()
        })
        .collect();
    for n in 0..650 {
        write!(
            out,
            "commit refs/heads/main\ncommitter C <c@x> {n} +0000\ndata 1\nx\n"
        )
        .unwrap();
        for _ in 0..60 {
            let file = usize::try_from(noise() % 400).unwrap();
            for _ in 0..200 {
                let line = usize::try_from(noise() % 400).unwrap();
                files[file][line] = format!("{:x} {:x} {n}", noise(), noise());
            }
            let text = files[file].join("\n");
            write!(
                out,
                "M 100644 inline d{}/f{file}\ndata {}\n{text}\n",
                file % 20,
                text.len()
            )
            .unwrap();
        }
    }
    write!(
        out,
        "commit refs/heads/main\ncommitter C <c@x> 9 +0000\ndata 1\nx\n"
    )
    .unwrap();
    write!(out, "M 100644 inline large\ndata {}\n", 60 << 20).unwrap();
    for _ in 0..(60 << 20) / 8 {
        out.write_all(&(noise() << 32 ^ noise()).to_le_bytes())
            .unwrap();
    }
    out.write_all(b"\n").unwrap();
    drop(out);
    assert!(import.wait().unwrap().success());
    repo.git(&["repack", "-adfq", "--window=5"]);
    let folder = repo.path.join("objects/pack");
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "pack"))
        .unwrap()
}

/// Prints the duration of reading the pack that `BRANCHLINE_PACK` names, as it arrives and
/// afterwards, beside that of `git index-pack`.
#[tokio::test]
#[ignore = "reads a pack that `BRANCHLINE_PACK` names"]
async fn a_named_pack_is_read_beside_git() {
    let path = std::path::PathBuf::from(std::env::var_os("BRANCHLINE_PACK").unwrap());
    let repo = Repo::new(HashKind::Sha1);
    for _ in 0..2 {
        let start = Instant::now();
        let pack = path.to_str().unwrap();
        repo.git(&["index-pack", "-o", "other.idx", pack]);
        println!("git index-pack: {:?}", start.elapsed());
        for memory_mib in [32, 128, 512] {
            let peak_before = {
                reset_peak();
                memory("VmRSS:")
            };
            let start = Instant::now();
            let (first, pending, index) = read(&path, memory_mib << 20).await;
            println!(
                "{memory_mib} MiB: {first:?} as it arrives, {pending} deltas left, {:?} in all, \
                 {} MiB at most over {peak_before}",
                start.elapsed(),
                memory("VmHWM:") - peak_before,
            );
            assert_eq!(index, std::fs::read(repo.path.join("other.idx")).unwrap());
        }
    }
}

async fn read(path: &std::path::Path, memory: usize) -> (std::time::Duration, usize, Bytes) {
    let start = Instant::now();
    let limits = PackLimits::default().with_memory(memory);
    let mut connectivity = Connectivity::new(HashKind::Sha1, []);
    let mut receiver = PackIndexer::new(HashKind::Sha1, limits);
    let mut file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        receiver.push(&buffer[..read], &mut connectivity).unwrap();
    }
    let arrived = receiver.finish().unwrap();
    let (first, pending) = (start.elapsed(), arrived.pending());
    let bytes = Blocks::new(InFile(file), size, 1 << 20, 16);
    let resolved = arrived.resolve(&bytes, &NoBases, &mut connectivity);
    let resolved = resolved.await.unwrap();
    connectivity.missing_objects(&resolved, &[]).unwrap();
    (first, pending, resolved.index.bytes().clone())
}

#[tokio::test]
#[ignore = "makes a pack of 200 MB"]
async fn a_large_pack_is_read_within_its_memory() {
    let repo = Repo::new(HashKind::Sha1);
    let path = large(&repo);
    let size = std::fs::metadata(&path).unwrap().len();
    let start = Instant::now();
    repo.git(&[
        "index-pack",
        "--threads=1",
        "-o",
        "other.idx",
        path.to_str().unwrap(),
    ]);
    println!(
        "pack of {} MB; git index-pack {:?}",
        size / 1_000_000,
        start.elapsed()
    );

    // In ascending order, because an allocator keeps memory once it has it.
    for memory_mib in [8, 64, 512] {
        reset_peak();
        let before = memory("VmRSS:");
        let start = Instant::now();
        let limits = PackLimits::default().with_memory(memory_mib << 20);
        let mut connectivity = Connectivity::new(HashKind::Sha1, []);
        let mut receiver = PackIndexer::new(HashKind::Sha1, limits);
        let mut file = File::open(&path).unwrap();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = file.read(&mut buffer).unwrap();
            if read == 0 {
                break;
            }
            receiver.push(&buffer[..read], &mut connectivity).unwrap();
        }
        let arrived = receiver.finish().unwrap();
        let (objects, pending) = (arrived.objects(), arrived.pending());
        let first = start.elapsed();
        let bytes = Blocks::new(InFile(file), size, 1 << 20, 16);
        let resolved = arrived
            .resolve(&bytes, &NoBases, &mut connectivity)
            .await
            .unwrap();
        assert!(
            connectivity
                .missing_objects(&resolved, &[])
                .unwrap()
                .is_empty()
        );
        let index = std::fs::read(path.with_extension("idx")).unwrap();
        assert_eq!(resolved.index.bytes(), &index);
        println!(
            "limit {memory_mib} MiB: {objects} objects, first step {first:?}, {pending} deltas \
             left, all {:?}, peak {} MiB over {before}",
            start.elapsed(),
            memory("VmHWM:") - before,
        );
    }
}
