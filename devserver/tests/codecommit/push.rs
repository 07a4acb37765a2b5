//! Pushes by stock git and by hand.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::json;

use crate::support::{Server, ZERO, fail, git, http, run, run_with};

/// Creates a work tree with one commit on `main`.
pub(crate) fn work(server: &Server) -> PathBuf {
    let local = server.dir.path().join("work");
    run(
        server.dir.path(),
        &["init", "--quiet", "--initial-branch=main", "work"],
    );
    std::fs::write(local.join("file"), "1\n").unwrap();
    run(&local, &["add", "."]);
    run(&local, &["commit", "--quiet", "-m", "one"]);
    local
}

fn commit(local: &Path, content: &str) -> String {
    std::fs::write(local.join("file"), content).unwrap();
    run(local, &["commit", "--quiet", "-am", "change"]);
    run(local, &["rev-parse", "HEAD"])[..7].to_owned()
}

/// Sends a request to the git endpoint without git, with valid credentials.
async fn post(server: &Server, service: &str, body: Vec<u8>) -> Response<Bytes> {
    let url = server.git_url("demo");
    let (userinfo, rest) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('@')
        .unwrap();
    let basic = base64::engine::general_purpose::STANDARD.encode(userinfo);
    let request = Request::post(format!("http://{rest}/{service}"))
        .header("authorization", format!("Basic {basic}"))
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let (parts, body) = http().request(request).await.unwrap().into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

pub(crate) fn line(payload: &str) -> String {
    format!("{:04x}{payload}", payload.len() + 4)
}

/// Asserts that no quarantine is left, and that `refs` are the only refs.
fn assert_untouched(server: &Server, refs: &str) {
    let dir = server.service.repository_dir("demo").unwrap();
    assert_eq!(run(&dir, &["for-each-ref", "--format=%(refname)"]), refs);
    run(&dir, &["fsck", "--strict"]);
    let left = || {
        let names = std::fs::read_dir(dir.join("objects")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| name.starts_with("tmp_"))
            .collect::<Vec<_>>()
    };
    // Git removes it asynchronously, after the request has ended.
    for _ in 0..100 {
        if left().is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("a refused push leaves no quarantine: {:?}", left());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_push_is_reported_once_with_exactly_the_refs_that_changed() {
    let server = Server::with_demo().await;
    let local = work(&server);
    let url = &server.git_url("demo");
    let one = run(&local, &["rev-parse", "HEAD"])[..7].to_owned();
    run(&local, &["branch", "feature/x"]);
    run(&local, &["tag", "-a", "v1", "-m", "tag"]);
    let tag = run(&local, &["rev-parse", "v1"])[..7].to_owned();
    run(&local, &["push", "--quiet", url, "main", "feature/x", "v1"]);
    assert_eq!(
        server.observer.take(),
        [format!(
            "demo refs/heads/feature/x -..{one} refs/heads/main -..{one} refs/tags/v1 -..{tag}"
        )],
        "one push is one call, tags included"
    );
    run(&local, &["push", "--quiet", url, "main"]);
    assert!(
        server.observer.take().is_empty(),
        "nothing changed, nothing is reported"
    );

    let two = commit(&local, "2\n");
    run(&local, &["push", "--quiet", url, "main"]);
    assert_eq!(
        server.observer.take(),
        [format!("demo refs/heads/main {one}..{two}")]
    );

    run(&local, &["reset", "--quiet", "--hard", "HEAD~1"]);
    let three = commit(&local, "3\n");
    let stderr = fail(&local, &["push", url, "main"]);
    assert!(stderr.contains("rejected"), "{stderr}");
    assert!(server.observer.take().is_empty(), "git refused by itself");
    run(
        &local,
        &["push", "--quiet", "--force", url, "main", ":feature/x"],
    );
    assert_eq!(
        server.observer.take(),
        [format!(
            "demo refs/heads/feature/x {one}..- refs/heads/main {two}..{three}"
        )]
    );
    let remote = run(&local, &["ls-remote", url]);
    assert_eq!(
        remote.lines().count(),
        4,
        "HEAD, main, v1 and v1^{{}}: {remote}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_ref_is_not_reported_but_the_others_of_its_push_are() {
    let server = Server::with_demo().await;
    let local = work(&server);
    let url = &server.git_url("demo");
    run(&local, &["push", "--quiet", url, "main:main", "main:a"]);
    server.observer.take();
    // `a/b` conflicts with `a`, and the branch of HEAD is not deleted by a push.
    let stderr = fail(&local, &["push", url, "main:a/b", "main:c", ":main"]);
    assert!(stderr.contains("remote rejected"), "{stderr}");
    let one = run(&local, &["rev-parse", "HEAD"])[..7].to_owned();
    assert_eq!(
        server.observer.take(),
        [format!("demo refs/heads/c -..{one}")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_branch_becomes_the_default_one_and_main_is_preferred() {
    for (pushed, expected) in [
        (&["main:dev"][..], "dev"),
        (&["main:zebra", "main:main", "main:alpha"], "main"),
        (&["main:zebra", "main:master"], "master"),
    ] {
        let server = Server::with_demo().await;
        let local = work(&server);
        let url = server.git_url("demo");
        run(&local, &["push", "--quiet", &url, "main:refs/tags/early"]);
        let get = || server.call("GetRepository", json!({ "repositoryName": "demo" }));
        let metadata = get().await.unwrap();
        let default = metadata["repositoryMetadata"].get("defaultBranch");
        assert_eq!(default, None, "a tag is not a branch");
        run(&local, &[&["push", "--quiet", &url], pushed].concat());
        let metadata = get().await.unwrap();
        assert_eq!(metadata["repositoryMetadata"]["defaultBranch"], expected);
        let refs = run(&local, &["ls-remote", &url]);
        assert!(
            refs.contains("\tHEAD"),
            "HEAD names a branch that is there: {refs}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pushes_are_each_reported_with_their_own_refs() {
    let server = Server::with_demo().await;
    let local = work(&server);
    let url = server.git_url("demo");
    run(&local, &["push", "--quiet", &url, "main"]);
    server.observer.take();
    let id = run(&local, &["rev-parse", "HEAD"]);
    let pushes: Vec<_> = (0..6)
        .map(|n| {
            let (local, url) = (local.clone(), url.clone());
            let refspec = format!("main:refs/heads/b{n}");
            std::thread::spawn(move || run(&local, &["push", "--quiet", &url, &refspec]))
        })
        .collect();
    for n in 0..6 {
        let input =
            json!({ "repositoryName": "demo", "branchName": format!("c{n}"), "commitId": id });
        server.call("CreateBranch", input).await.unwrap();
    }
    for push in pushes {
        push.join().unwrap();
    }
    let mut reported = server.observer.take();
    reported.sort();
    let name = |kind: char, n: u32| format!("demo refs/heads/{kind}{n} -..{}", &id[..7]);
    let expected = (0..6)
        .map(|n| name('b', n))
        .chain((0..6).map(|n| name('c', n)));
    assert_eq!(reported, expected.collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn four_thousand_refs_are_taken_and_one_more_is_refused() {
    let server = Server::with_demo().await;
    let local = work(&server);
    let url = &server.git_url("demo");
    let id = run(&local, &["rev-parse", "HEAD"]);
    let mut create = String::new();
    for n in 0..4001 {
        writeln!(create, "create refs/heads/b/{n:04} {id}").unwrap();
    }
    run_with(&local, &["update-ref", "--stdin"], create.as_bytes());
    run(&local, &["pack-refs", "--all"]);
    let stderr = fail(&local, &["push", url, "refs/heads/b/*:refs/heads/b/*"]);
    assert!(
        stderr.contains("Too many reference update commands"),
        "{stderr}"
    );
    assert!(server.observer.take().is_empty(), "nothing of it was done");
    assert_untouched(&server, "");
    run(&local, &["update-ref", "-d", "refs/heads/b/4000"]);
    run(
        &local,
        &["push", "--quiet", url, "refs/heads/b/*:refs/heads/b/*"],
    );
    let reported = server.observer.take();
    assert_eq!(reported.len(), 1, "one push is one call");
    assert_eq!(reported[0].matches(" refs/heads/b/").count(), 4000);
}

#[tokio::test(flavor = "multi_thread")]
async fn offset_deltas_are_refused_for_every_ref() {
    let server = Server::with_demo().await;
    let local = work(&server);
    let mut text = String::new();
    for n in 0..2000 {
        writeln!(text, "line {n} of a file that changes little").unwrap();
    }
    // Large enough that git has begun to write it when the first delta arrives.
    std::fs::write(local.join("aaa"), noise(4 << 20, 1)).unwrap();
    run(&local, &["add", "."]);
    for n in 0..3 {
        writeln!(text, "more {n}").unwrap();
        commit(&local, &text);
    }
    let id = run(&local, &["rev-parse", "HEAD"]);
    let pack = |flags: &[&str]| {
        let arguments = [&["pack-objects", "--quiet", "--stdout", "--revs"], flags].concat();
        run_with(&local, &arguments, b"main\n").stdout
    };
    let request = |pack: &[u8], capabilities: &str| {
        let mut body = line(&format!("{ZERO} {id} refs/heads/a\0{capabilities}")).into_bytes();
        body.extend(line(&format!("{ZERO} {id} refs/heads/b")).into_bytes());
        body.extend_from_slice(b"0000");
        body.extend_from_slice(pack);
        body
    };
    let offset = pack(&["--delta-base-offset"]);
    let answer = post(
        &server,
        "git-receive-pack",
        request(&offset, "report-status"),
    )
    .await;
    let said = "unpack error: protocol error (offset deltas are not supported)";
    let expected = [
        line(&format!("{said}\n")),
        line(&format!("ng refs/heads/a {said}\n")),
        line(&format!("ng refs/heads/b {said}\n")),
        "0000".to_owned(),
    ];
    assert_eq!(String::from_utf8_lossy(answer.body()), expected.concat());
    assert_untouched(&server, "");
    for capability in [
        "atomic",
        "push-options",
        "quiet",
        "ofs-delta",
        "report-status-v2",
    ] {
        let body = request(&pack(&[]), &format!("report-status {capability}"));
        let answer = post(&server, "git-receive-pack", body).await;
        let answer = String::from_utf8_lossy(answer.body()).into_owned();
        assert!(answer.contains("is not offered"), "{capability}: {answer}");
    }
    let mut cut = pack(&[]);
    cut.truncate(cut.len() - 30);
    let answer = post(&server, "git-receive-pack", request(&cut, "report-status")).await;
    let answer = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(answer.contains("unpack error: protocol error"), "{answer}");
    let mut broken = pack(&[]);
    let last = broken.len() - 1;
    broken[last] ^= 1;
    let answer = post(
        &server,
        "git-receive-pack",
        request(&broken, "report-status"),
    )
    .await;
    let answer = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(
        answer.contains("ng refs/heads/a"),
        "git checks the pack's sum: {answer}"
    );
    assert_untouched(&server, "");
    assert!(server.observer.take().is_empty(), "nothing of it was done");
    // The same objects with REF_DELTA entries are accepted.
    let answer = post(
        &server,
        "git-receive-pack",
        request(&pack(&[]), "report-status"),
    )
    .await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(server.observer.take().len(), 1);
    assert_untouched(&server, "refs/heads/a\nrefs/heads/b");
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_git_reports_that_atomic_and_push_options_are_unsupported() {
    let server = Server::with_demo().await;
    let local = work(&server);
    let url = &server.git_url("demo");
    let stderr = fail(&local, &["push", "--atomic", url, "main"]);
    assert!(stderr.contains("does not support --atomic"), "{stderr}");
    let stderr = fail(&local, &["push", "-o", "ci.skip", url, "main"]);
    assert!(stderr.contains("does not support push options"), "{stderr}");
    assert!(server.observer.take().is_empty());
}

/// Returns data that does not compress, determined by `seed`.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = 0x0139_408d_cbbf_7a44_u64 ^ (seed << 20);
    let mut data = Vec::with_capacity(length);
    while data.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data
}

/// Creates a work tree with `mebibytes` of data that does not compress.
fn large(server: &Server, mebibytes: usize) -> PathBuf {
    let local = server.dir.path().join("large");
    run(
        server.dir.path(),
        &["init", "--quiet", "--initial-branch=main", "large"],
    );
    for file in 0..mebibytes / 5 {
        let data = noise(5 << 20, file as u64);
        std::fs::write(local.join(format!("file{file}")), data).unwrap();
    }
    run(&local, &["-c", "core.compression=0", "add", "."]);
    run(&local, &["commit", "--quiet", "-m", "large"]);
    local
}

/// Returns the peak memory of this process, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_megabytes_are_streamed_both_ways_with_bounded_memory() {
    let server = Server::with_demo().await;
    let local = large(&server, 50);
    let url = &server.git_url("demo");
    run(&local, &["ls-remote", url]);
    let before = peak_kib();
    let start = std::time::Instant::now();
    run(
        &local,
        &["-c", "core.compression=0", "push", "--quiet", url, "main"],
    );
    let (pushed, push) = (peak_kib() - before, start.elapsed());
    let start = std::time::Instant::now();
    run(
        server.dir.path(),
        &["clone", "--quiet", "--bare", url, "clone.git"],
    );
    let (cloned, clone) = (peak_kib() - before, start.elapsed());
    eprintln!(
        "50 MiB: push {push:.1?}, {pushed} KiB more memory; clone {clone:.1?}, {cloned} KiB more"
    );
    let clone = server.dir.path().join("clone.git");
    run(&clone, &["fsck", "--strict"]);
    assert_eq!(
        run(&clone, &["rev-parse", "main"]),
        run(&local, &["rev-parse", "main"])
    );
    assert!(
        cloned < 16 * 1024,
        "the server holds pieces, not packs: {cloned} KiB more"
    );
}

/// Returns the command lines of git processes on `dir`.
fn processes_on(dir: &Path) -> Vec<String> {
    let needle = dir.to_str().unwrap().to_owned();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.starts_with("git") && line.contains(&needle))
        .collect()
}

fn wait_for_none(dir: &Path) {
    for _ in 0..100 {
        if processes_on(dir).is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("git outlives its client: {:?}", processes_on(dir));
}

#[tokio::test(flavor = "multi_thread")]
async fn git_ends_when_the_client_disconnects() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = Server::with_demo().await;
    let local = large(&server, 50);
    let url = server.git_url("demo");
    run(&local, &["push", "--quiet", &url, "main"]);
    server.observer.take();
    let id = run(&local, &["rev-parse", "main"]);
    let dir = server.service.repository_dir("demo").unwrap();
    let (userinfo, rest) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('@')
        .unwrap();
    let basic = base64::engine::general_purpose::STANDARD.encode(userinfo);
    let address = rest.split('/').next().unwrap();
    let head = |service: &str, length: usize| {
        format!(
            "POST /v1/repos/demo/{service} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Basic \
             {basic}\r\nContent-Length: {length}\r\n\r\n"
        )
    };

    // The answer of a clone is not read, so it stops, and git with it.
    let want = line(&format!("want {id} side-band-64k\n")) + "0000" + &line("done\n");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = head("git-upload-pack", want.len()) + &want;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut start = [0; 4096];
    stream.read_exact(&mut start).await.unwrap();
    assert!(
        start.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&start)
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        !processes_on(&dir).is_empty(),
        "a slow client holds git back"
    );
    drop(stream);
    wait_for_none(&dir);

    // A push whose connection closes within its pack.
    let pack = git(&local)
        .args([
            "pack-objects",
            "--quiet",
            "--stdout",
            "--all",
            "--no-reuse-delta",
        ])
        .output()
        .unwrap()
        .stdout;
    let command = line(&format!("{ZERO} {id} refs/heads/cut\0report-status")) + "0000";
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = head("git-receive-pack", command.len() + pack.len()) + &command;
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.write_all(&pack[..pack.len() / 2]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        !processes_on(&dir).is_empty(),
        "git waits for the rest of the pack"
    );
    drop(stream);
    wait_for_none(&dir);
    assert_untouched(&server, "refs/heads/main");
    assert!(server.observer.take().is_empty(), "nothing of it was done");
}
