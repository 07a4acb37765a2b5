//! Good input to start from: what git itself writes, made when it is needed.

use std::path::PathBuf;
use std::process::Stdio;

use tempfile::TempDir;

use crate::server::SmallRepository;
use crate::wire::NEXT;

/// A small repository, and what git makes of it.
#[derive(Debug)]
pub struct Seeds {
    _folder: TempDir,
    path: PathBuf,
}

/// A history with deltas, a merge, tags, a link and a submodule.
const HISTORY: &str = "\
commit refs/heads/main
mark :1
author A <a@x> 1600000000 +0100
committer C <c@x> 1600000001 -0500
data 6
first
M 100644 inline a/b.txt
data 120
aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggggggggghhhhhhhhhhiiiiiiiiiijjjjjjjjjjkkkkkkkkkkllllllllll
M 100755 inline run
data 3
hi

commit refs/heads/side
mark :2
committer C <c@x> 1600000060 +0000
data 5
side

from :1
M 100644 inline a/b.txt
data 121
aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggggggggghhhhhhhhhhiiiiiiiiiijjjjjjjjjjkkkkkkkkkkllllllllll!
M 120000 inline link
data 3
run
commit refs/heads/main
mark :3
committer C <c@x> 1600000120 +0000
data 7
merged

from :1
merge :2
M 160000 1111111111111111111111111111111111111111 module
tag v1
from :3
tagger C <c@x> 1600000180 +0000
data 4
one

";

impl Seeds {
    /// Makes the repository.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("because there is room for a small repository");
        let path = folder.path().join("r.git");
        std::fs::create_dir(&path).expect("because the folder is new");
        let seeds = Self {
            _folder: folder,
            path,
        };
        seeds.git(&["init", "-q", "--bare", "-b", "main"], b"", "");
        seeds.git(&["fast-import", "--quiet"], HISTORY.as_bytes(), "");
        seeds.git(&["repack", "-adfq"], b"", "");
        seeds.git(&["update-server-info"], b"", "");
        seeds
    }

    /// Returns the output of git for an input and a version of the protocol.
    fn git(&self, args: &[&str], input: &[u8], protocol: &str) -> Vec<u8> {
        let mut child = branchline_test_support::git::command(&self.path)
            .env("GIT_PROTOCOL", protocol)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("because git is there");
        let mut stdin = child.stdin.take().expect("because it is piped");
        // All of it is small enough for a pipe.
        std::io::Write::write_all(&mut stdin, input).expect("because git reads its input");
        drop(stdin);
        let output = child.wait_with_output().expect("because it was started");
        assert!(output.status.success(), "git {args:?}");
        output.stdout
    }

    fn text(&self, args: &[&str]) -> String {
        String::from_utf8_lossy(&self.git(args, b"", ""))
            .trim()
            .to_owned()
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path.join(name)).expect("because git wrote it")
    }

    fn pack(&self) -> Vec<u8> {
        self.git(&["pack-objects", "--all", "--stdout", "-q"], b"", "")
    }

    fn advertisement(&self, protocol: &str) -> Vec<u8> {
        let path = self.path.to_string_lossy();
        let said = self.git(
            &["upload-pack", "--http-backend-info-refs", &path],
            b"",
            protocol,
        );
        if protocol == "version=2" {
            return said;
        }
        [b"001e# service=git-upload-pack\n0000", &said[..]].concat()
    }

    fn answer(&self, request: &str, protocol: &str) -> Vec<u8> {
        let path = self.path.to_string_lossy();
        let args = ["upload-pack", "--stateless-rpc", &path];
        self.git(&args, request.as_bytes(), protocol)
    }
}

impl Default for Seeds {
    fn default() -> Self {
        Self::new()
    }
}

fn line(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}

fn after(first: &[u8], bytes: &[u8]) -> Vec<u8> {
    [first, bytes].concat()
}

pub(crate) fn pkt_lines(seeds: &Seeds) -> Vec<Vec<u8>> {
    vec![
        after(&[20], &seeds.advertisement("")),
        after(&[0], b"0008\x01abc0008\x02def0008\x03ghi000100020000"),
    ]
}

pub(crate) fn advertisements(seeds: &Seeds) -> Vec<Vec<u8>> {
    let path = seeds.path.to_string_lossy();
    let args = ["receive-pack", "--http-backend-info-refs", &path];
    let receive = seeds.git(&args, b"", "");
    let receive = [b"001f# service=git-receive-pack\n0000", &receive[..]].concat();
    vec![
        after(&[0], &seeds.advertisement("")),
        after(&[0], &seeds.advertisement("version=1")),
        after(&[0], &seeds.advertisement("version=2")),
        after(&[1], &receive),
    ]
}

fn ls_refs_answer(seeds: &Seeds) -> Vec<u8> {
    let request = [
        line("command=ls-refs\n"),
        "0001".into(),
        line("peel\n"),
        line("symrefs\n"),
        "0000".into(),
    ];
    seeds.answer(&request.concat(), "version=2")
}

pub(crate) fn ls_refs(seeds: &Seeds) -> Vec<Vec<u8>> {
    let unborn = line("unborn HEAD symref-target:refs/heads/main\n") + "0000";
    vec![
        after(&[0], &ls_refs_answer(seeds)),
        after(&[0], unborn.as_bytes()),
    ]
}

pub(crate) fn fetches(seeds: &Seeds) -> Vec<Vec<u8>> {
    let tip = seeds.text(&["rev-parse", "main"]);
    let old = seeds.text(&["rev-parse", "main~1"]);
    let v0 = |words: &str, rest: &str| {
        let request = line(&format!("want {tip} {words}\n")) + rest;
        seeds.answer(&request, "")
    };
    let done = "0000".to_owned() + &line("done\n");
    let shallow = line("deepen 1\n") + "0000" + &line("done\n");
    let v2 = |rest: &str| {
        let request = line("command=fetch\n") + "0001" + &line(&format!("want {tip}\n")) + rest;
        seeds.answer(&(request + "0000"), "version=2")
    };
    let of_v2 = |how: u8, count: u8, answers: &[Vec<u8>]| {
        let first = [seeds.advertisement("version=2"), ls_refs_answer(seeds)];
        let all = [&first[..], answers].concat();
        after(&[how, count], &all.join(NEXT))
    };
    let of_v0 = |how: u8, count: u8, answers: &[Vec<u8>]| {
        let all = [&[seeds.advertisement("")][..], answers].concat();
        after(&[how, count], &all.join(NEXT))
    };
    let bands = "multi_ack_detailed side-band-64k no-progress";
    let known = line(&format!("have {old}\n"));
    let acknowledged = line(&format!("ACK {old} common\n")) + &line("NAK\n");
    vec![
        of_v0(0, 0, &[v0(bands, &done)]),
        of_v0(4, 0, &[v0(bands, &shallow)]),
        of_v0(0, 40, &[acknowledged.into_bytes(), v0(bands, &done)]),
        of_v2(1, 0, &[v2(&line("done\n"))]),
        of_v2(5, 0, &[v2(&(line("deepen 1\n") + &line("done\n")))]),
        of_v2(1, 40, &[v2(&known), v2(&line("done\n"))]),
    ]
}

pub(crate) fn pushes(_: &Seeds) -> Vec<Vec<u8>> {
    let report = [
        line("unpack ok\n"),
        line("ok refs/heads/main\n"),
        line("option refname refs/heads/other\n"),
        line("ng refs/tags/v1 no such thing\n"),
        "0000".into(),
    ]
    .concat();
    let banded = line("\u{2}hello\n") + &line(&format!("\u{1}{report}")) + "0000";
    vec![
        after(&[0], report.as_bytes()),
        after(&[1], banded.as_bytes()),
        after(&[3], banded.as_bytes()),
    ]
}

pub(crate) fn served_fetches(_: &Seeds) -> Vec<Vec<u8>> {
    let repository = SmallRepository::new();
    let (main, side) = (repository.id("main"), repository.id("side"));
    let want = |words: &str| line(&format!("want {main}{words}\n"));
    let have = line(&format!("have {side}\n"));
    let done = line("done\n");
    let bands = " multi_ack_detailed side-band-64k ofs-delta include-tag filter";
    let v0 = |parts: &[&str]| after(&[0], parts.concat().as_bytes());
    let v2 = |arguments: &[&str]| {
        let command = line("command=fetch\n") + &line("object-format=sha1\n") + "0001";
        after(&[2], (command + &arguments.concat() + "0000").as_bytes())
    };
    let listing = [
        line("command=ls-refs\n"),
        "0001".into(),
        line("peel\n"),
        line("symrefs\n"),
        line("unborn\n"),
        line("ref-prefix refs/heads/\n"),
        line("ref-prefix HEAD\n"),
        "0000".into(),
    ];
    vec![
        v0(&[&want(bands), "0000", &done]),
        v0(&[&want(bands), "0000", &have, "0000", &done]),
        v0(&[
            &want(" thin-pack"),
            &line("deepen 1\n"),
            "0000",
            &have,
            &done,
        ]),
        v0(&[&want(bands), &line("filter tree:1\n"), "0000", &done]),
        v2(&[&want(""), &line("include-tag\n"), &done]),
        v2(&[&want(""), &have, &line("thin-pack\n"), &line("ofs-delta\n")]),
        v2(&[
            &line("want-ref refs/heads/main\n"),
            &line("deepen 2\n"),
            &done,
        ]),
        v2(&[&want(""), &line("deepen-since 1600000100\n"), &done]),
        v2(&[&want(""), &line("deepen-not refs/heads/side\n"), &done]),
        v2(&[
            &want(""),
            &line(&format!("shallow {side}\n")),
            &line("deepen 1\n"),
            &line("deepen-relative\n"),
            &done,
        ]),
        v2(&[
            &want(""),
            &line("filter combine:blob:limit=1+tree:2\n"),
            &done,
        ]),
        v2(&[
            &want(""),
            &line("sideband-all\n"),
            &line("no-progress\n"),
            &done,
        ]),
        v2(&[&have, &line("wait-for-done\n")]),
        after(&[2], listing.concat().as_bytes()),
    ]
}

pub(crate) fn served_pushes(seeds: &Seeds) -> Vec<Vec<u8>> {
    let repository = SmallRepository::new();
    let (main, side) = (repository.id("main"), repository.id("side"));
    let null = "0".repeat(40);
    let capabilities = "\0 report-status-v2 side-band-64k object-format=sha1 agent=x";
    let create = line(&format!("{null} {main} refs/heads/new{capabilities}"));
    let delete = line(&format!(
        "{side} {null} refs/heads/side\0report-status atomic"
    ));
    let current = line(&format!("{main} {null} refs/heads/main"));
    let shallow = line(&format!("shallow {side}"));
    let push = |parts: &[&[u8]]| after(&[0], &parts.concat());
    vec![
        push(&[create.as_bytes(), b"0000", &seeds.pack()]),
        push(&[
            shallow.as_bytes(),
            create.as_bytes(),
            b"0000",
            &seeds.pack(),
        ]),
        push(&[delete.as_bytes(), b"0000"]),
        push(&[delete.as_bytes(), current.as_bytes(), b"0000"]),
    ]
}

pub(crate) fn served_archives(_: &Seeds) -> Vec<Vec<u8>> {
    let request = |arguments: &[&str]| {
        let lines = arguments
            .iter()
            .map(|word| line(&format!("argument {word}\n")));
        (lines.collect::<String>() + "0000").into_bytes()
    };
    vec![
        request(&["--format=zip", "--prefix=p/", "-9", "main"]),
        request(&["--mtime=@5", "-v", "v1:d", "--", "file"]),
        request(&["--list"]),
        request(&[
            "--form=tgz",
            "-v0",
            "--no-pre",
            "--mtime=2.weeks.ago",
            "main",
        ]),
        request(&["--mtime", "Sat, 31 Jan 2026 12:34:56 +0100", "main"]),
        request(&["--mtime=2026-01-31T12:34", "main"]),
    ]
}

pub(crate) fn redirects(_: &Seeds) -> Vec<Vec<u8>> {
    let asked = "info/refs?service=git-upload-pack";
    let to = |base: &str| format!("{base}/{asked}\n").into_bytes();
    vec![
        to("https://git.example/other.git"),
        to("https://other.example/r.git"),
        to("https://git.example:443/r.git"),
        to("/moved.git"),
        [
            to("https://other.example/r.git"),
            to("https://git.example/r.git"),
        ]
        .concat(),
    ]
}

pub(crate) fn packs(seeds: &Seeds) -> Vec<Vec<u8>> {
    let by_distance = seeds.git(
        &[
            "pack-objects",
            "--all",
            "--stdout",
            "-q",
            "--delta-base-offset",
        ],
        b"",
        "",
    );
    vec![
        after(&[0, 255], &seeds.pack()),
        after(&[1, 3], &by_distance),
    ]
}

pub(crate) fn pack_entries(_: &Seeds) -> Vec<Vec<u8>> {
    let entry = |what: u8, which: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).expect("because it is short");
        after(&[what, which, length], content)
    };
    let copy = b"\x05\x06\x90\x05\x01x";
    let more = b"\x06\x07\x90\x06\x01y";
    let outside = b"\x19\x03\x90\x03";
    let small = b"\x01\x02\x90\x01\x01z";
    vec![
        [
            &[0, 0][..],
            &entry(0, 0, b"abcde"),
            &entry(6, 0, copy),
            &entry(4, 1, more),
        ]
        .concat(),
        [
            &[9, 1][..],
            &entry(5, 0, outside),
            &entry(0, 0, b"abcde"),
            &entry(4, 1, copy),
        ]
        .concat(),
        [
            &[255, 0][..],
            &entry(7, b'a', small),
            &entry(0, 0, b"a"),
            &entry(1, 0, b""),
        ]
        .concat(),
    ]
}

pub(crate) fn pack_indexes(seeds: &Seeds) -> Vec<Vec<u8>> {
    let folder = seeds.path.join("objects/pack");
    let files = std::fs::read_dir(folder).expect("because git packed");
    let pack = files
        .filter_map(|file| Some(file.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "pack"))
        .expect("because git packed");
    let index = std::fs::read(pack.with_extension("idx")).expect("because git indexed");
    let pack = std::fs::read(pack).expect("because git packed");
    let length = u16::try_from(pack.len()).expect("because the pack is small");
    let how = [&[1][..], &length.to_be_bytes()].concat();
    vec![[&how[..], &pack, &index].concat()]
}

pub(crate) fn deltas(_: &Seeds) -> Vec<Vec<u8>> {
    vec![
        b"\x00\x05abcde\x05\x07\x91\x01\x03\x02xy\x90\x02".to_vec(),
        b"\x00\x05abcde\x05\x05\x90\x05".to_vec(),
    ]
}

pub(crate) fn bundles(seeds: &Seeds) -> Vec<Vec<u8>> {
    let bundle = |version: &str| {
        let args = [
            "bundle", "create", "-q", version, "-", "main", "v1", "^main~1",
        ];
        let mut bundle = seeds.git(&args, b"", "");
        // The pack is another target's.
        let end = bundle.windows(6).position(|bytes| bytes == b"\n\nPACK");
        bundle.truncate(end.expect("because a pack follows") + 6);
        bundle
    };
    let filtered = b"# v3 git bundle\n@object-format=sha256\n@filter=blob:none\n\n";
    vec![
        bundle("--version=2"),
        bundle("--version=3"),
        filtered.to_vec(),
    ]
}

pub(crate) fn info_refs(seeds: &Seeds) -> Vec<Vec<u8>> {
    vec![seeds.file("info/refs")]
}

pub(crate) fn info_packs(seeds: &Seeds) -> Vec<Vec<u8>> {
    vec![seeds.file("objects/info/packs")]
}

pub(crate) fn heads(seeds: &Seeds) -> Vec<Vec<u8>> {
    vec![
        seeds.file("HEAD"),
        seeds.text(&["rev-parse", "main"]).into_bytes(),
    ]
}

/// Commit, tree and tag, as they are.
fn contents(seeds: &Seeds) -> [(&'static str, Vec<u8>); 3] {
    [("commit", "main"), ("tree", "main^{tree}"), ("tag", "v1")]
        .map(|(kind, name)| (kind, seeds.git(&["cat-file", kind, name], b"", "")))
}

pub(crate) fn loose(seeds: &Seeds) -> Vec<Vec<u8>> {
    let mut found = vec![after(&[1, 0], b"blob 5\0hello")];
    for (kind, content) in contents(seeds) {
        let header = format!("{kind} {}\0", content.len());
        let plain = [header.as_bytes(), &content].concat();
        found.push(after(&[1, 0], &plain));
        let mut zlib = flate2::write::ZlibEncoder::new(vec![0, 0], flate2::Compression::best());
        std::io::Write::write_all(&mut zlib, &plain).expect("because a Vec takes all");
        found.push(zlib.finish().expect("because a Vec takes all"));
    }
    found
}

pub(crate) fn objects(seeds: &Seeds) -> Vec<Vec<u8>> {
    let kinds = [0, 1, 2].into_iter();
    kinds
        .zip(contents(seeds))
        .map(|(kind, (_, content))| after(&[0, kind], &content))
        .collect()
}

pub(crate) fn texts<const N: usize>(texts: [&str; N]) -> Vec<Vec<u8>> {
    texts.map(|text| text.as_bytes().to_vec()).into()
}

pub(crate) fn urls(_: &Seeds) -> Vec<Vec<u8>> {
    texts([
        "https://git.example/x/y.git",
        "http://a%40b:p%3Ass@Git.Example:8080/x/",
        "https://[::1]:8443/r",
        "https://git-codecommit.eu-west-1.amazonaws.com/v1/repos/r",
    ])
}
