//! Clones and fetches by stock git and by hand.

use crate::push::{line, work};
use crate::support::{Server, fail, git, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_equals_what_was_pushed() {
    let (server, local) = Server::with_fixture().await;
    let url = &server.git_url("demo");
    run(
        server.dir.path(),
        &["clone", "--quiet", "--mirror", url, "clone.git"],
    );
    let clone = server.dir.path().join("clone.git");
    run(&clone, &["fsck", "--strict"]);
    let refs = |dir| run(dir, &["for-each-ref", "--format=%(objectname) %(refname)"]);
    assert_eq!(refs(&clone), refs(&local));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_repository_can_be_cloned() {
    let server = Server::with_demo().await;
    let url = &server.git_url("demo");
    run(server.dir.path(), &["clone", "--quiet", url, "clone"]);
    assert_eq!(run(server.dir.path(), &["ls-remote", url]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn shallow_and_incremental_fetches_work_and_partial_ones_are_not_offered() {
    let (server, local) = Server::with_fixture().await;
    let url = &server.git_url("demo");
    run(
        server.dir.path(),
        &["clone", "--quiet", "--bare", "--depth=1", url, "shallow"],
    );
    let shallow = server.dir.path().join("shallow");
    assert_eq!(run(&shallow, &["rev-list", "--count", "main"]), "1");
    run(&shallow, &["fetch", "--quiet", "--depth=2", url, "main"]);
    assert_eq!(run(&shallow, &["rev-list", "--count", "FETCH_HEAD"]), "2");
    // A commit that is not a tip may be requested.
    run(server.dir.path(), &["init", "--quiet", "--bare", "one"]);
    let one = server.dir.path().join("one");
    let first = run(&local, &["rev-parse", "main~1"]);
    run(&one, &["fetch", "--quiet", "--depth=1", url, &first]);
    assert_eq!(run(&one, &["rev-parse", "FETCH_HEAD"]), first);
    let stderr = fail(&one, &["fetch", url, &"1".repeat(40)]);
    assert!(stderr.contains("not our ref"), "{stderr}");
    run(&one, &["fetch", "--quiet", url, "main"]);
    // git drops `--filter` with a warning: every object is sent.
    let output = git(server.dir.path())
        .args([
            "clone",
            "--quiet",
            "--bare",
            "--filter=blob:none",
            url,
            "partial",
        ])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("filtering not recognized by server"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_advertisement_is_codecommits_to_the_byte() {
    let server = Server::with_demo().await;
    let local = work(&server);
    let url = server.git_url("demo");
    run(&local, &["push", "--quiet", &url, "main"]);
    let id = run(&local, &["rev-parse", "main"]);
    for (service, expected) in [
        (
            "git-upload-pack",
            [
                line("# service=git-upload-pack\n"),
                "0000".to_owned(),
                line(&format!(
                    "{id} HEAD\0multi_ack_detailed shallow side-band-64k thin-pack \
                     allow-tip-sha1-in-want allow-reachable-sha1-in-want\n"
                )),
                line(&format!("{id} refs/heads/main\n")),
                "0000".to_owned(),
            ],
        ),
        (
            "git-receive-pack",
            [
                line("# service=git-receive-pack\n"),
                "0000".to_owned(),
                line(&format!(
                    "{id} refs/heads/main\0report-status delete-refs side-band-64k\n"
                )),
                "0000".to_owned(),
                String::new(),
            ],
        ),
    ] {
        let request = crate::auth::get(&url, &format!("info/refs?service={service}"));
        // Version 2 is requested, as stock git does, and ignored by the server.
        let (mut parts, body) = request.into_parts();
        parts
            .headers
            .insert("git-protocol", "version=2".parse().unwrap());
        let answer = crate::auth::send(http::Request::from_parts(parts, body)).await;
        assert_eq!(answer.1, expected.concat());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capability_that_is_not_offered_is_refused() {
    let (server, local) = Server::with_fixture().await;
    let id = run(&local, &["rev-parse", "main"]);
    let url = server.git_url("demo");
    for (wants, ok) in [
        (line(&format!("want {id} thin-pack\n")), true),
        (line(&format!("want {id} ofs-delta\n")), false),
        (line(&format!("want {id} no-done\n")), false),
        (
            line(&format!("want {id}\n")) + &line(&format!("want {id} include-tag\n")),
            false,
        ),
        (
            line(&format!("want {id}\n")) + &line("filter blob:none\n"),
            false,
        ),
        (
            line(&format!("want {id}\n")) + &line("deepen-since 1\n"),
            false,
        ),
    ] {
        let body = wants.clone() + "0000" + &line("done\n");
        let answer = crate::auth::send(crate::auth::post(&url, "git-upload-pack", body)).await;
        if ok {
            assert!(
                answer.1.starts_with("0008NAK\nPACK"),
                "{wants}: {}",
                answer.1
            );
        } else {
            assert!(
                answer.1.contains("ERR upload-pack: "),
                "{wants}: {}",
                answer.1
            );
            assert!(answer.1.contains("is not offered"), "{wants}: {}", answer.1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gzipped_and_chunked_requests_are_understood() {
    // Over 1024 bytes of wants: stock git gzips them. A push over its post buffer: chunked.
    let server = Server::with_demo().await;
    let local = work(&server);
    let url = &server.git_url("demo");
    for n in 0..100 {
        run(
            &local,
            &["commit", "--quiet", "--allow-empty", "-m", &n.to_string()],
        );
        run(&local, &["branch", &format!("b{n}")]);
    }
    std::fs::write(local.join("file"), vec![b'x'; 300_000]).unwrap();
    run(&local, &["commit", "--quiet", "-am", "more than a buffer"]);
    let small = "http.postBuffer=65536";
    run(
        &local,
        &[
            "-c",
            small,
            "-c",
            "core.compression=0",
            "push",
            "--quiet",
            url,
            "--all",
        ],
    );
    run(server.dir.path(), &["init", "--quiet", "--bare", "clone"]);
    let clone = server.dir.path().join("clone");
    let trace = git(&clone)
        .env("GIT_CURL_VERBOSE", "1")
        .args(["fetch", "--quiet", url, "refs/heads/*:refs/heads/*"])
        .output()
        .unwrap();
    let trace = String::from_utf8_lossy(&trace.stderr).to_lowercase();
    assert!(
        trace.contains("content-encoding: gzip"),
        "git gzips long requests"
    );
    run(&clone, &["fsck", "--strict"]);
    assert_eq!(run(&clone, &["for-each-ref"]).lines().count(), 101);
}
