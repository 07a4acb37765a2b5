//! Authentication of git clients.

use base64::Engine as _;
use branchline_dev::account::Credentials;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use jiff::{SignedDuration, Timestamp};
use percent_encoding::percent_decode_str;

use crate::push::work;
use crate::support::{PRINCIPAL, Server, account, fail, http, run};

fn request(method: &str, url: &str, rest: &str, body: String) -> Request<Full<Bytes>> {
    let plain = url.strip_prefix("http://").unwrap();
    let (userinfo, plain) = match plain.split_once('@') {
        Some((userinfo, plain)) => (Some(userinfo), plain),
        None => (None, plain),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://{plain}/{rest}"));
    if let Some(userinfo) = userinfo {
        let decoded = percent_decode_str(userinfo).decode_utf8().unwrap();
        let basic = base64::engine::general_purpose::STANDARD.encode(decoded.as_bytes());
        request = request.header("authorization", format!("Basic {basic}"));
    }
    request.body(Full::new(Bytes::from(body))).unwrap()
}

pub(crate) fn get(url: &str, rest: &str) -> Request<Full<Bytes>> {
    request("GET", url, rest, String::new())
}

pub(crate) fn post(url: &str, rest: &str, body: String) -> Request<Full<Bytes>> {
    request("POST", url, rest, body)
}

/// Status and body.
pub(crate) async fn send(request: Request<Full<Bytes>>) -> (u16, String) {
    let answer = http().request(request).await.unwrap();
    let status = answer.status().as_u16();
    if status == 401 {
        let realm = answer.headers().get("www-authenticate").unwrap();
        assert!(
            realm.as_bytes().starts_with(b"Basic "),
            "git asks its helper then"
        );
    }
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

const REFS: &str = "info/refs?service=git-upload-pack";
const DENIED: &str =
    "<AccessDeniedException><Message>Invalid request</Message></AccessDeniedException>";

#[tokio::test(flavor = "multi_thread")]
async fn wrong_and_expired_passwords_are_denied() {
    let server = Server::with_demo().await;
    let now = Timestamp::now();
    let good = |credentials: &Credentials, seconds: i64| {
        let time = now + SignedDuration::from_secs(seconds);
        server.git.git_url("demo", credentials, time)
    };
    let dev = &server.credentials;
    assert_eq!(send(get(&good(dev, 0), REFS)).await.0, 200);
    assert_eq!(
        send(get(&good(dev, -890), REFS)).await.0,
        200,
        "within 15 minutes"
    );
    let other = Credentials {
        secret_access_key: "other".into(),
        ..dev.clone()
    };
    let unknown = Credentials {
        access_key_id: "AKIDNOBODY".into(),
        ..dev.clone()
    };
    let token = Credentials {
        session_token: Some("token".into()),
        ..dev.clone()
    };
    let role = account().0.find("ASIAROLE").unwrap();
    let no_token = Credentials {
        session_token: None,
        ..role.clone()
    };
    assert_eq!(
        send(get(&good(&role, 0), REFS)).await.0,
        200,
        "a role has a session token"
    );
    for (url, why) in [
        (good(dev, -910), "expired"),
        (good(dev, 910), "from the future"),
        (good(&other, 0), "another secret"),
        (good(&unknown, 0), "an unknown access key"),
        (good(&token, 0), "a token that is not its own"),
        (good(&no_token, 0), "the token of a role is missing"),
        (
            format!("http://AKIDDEV:secret@{}/v1/repos/demo", &server.url[7..]),
            "no signature",
        ),
        (
            server
                .git
                .git_url("other", dev, now)
                .replace("/other", "/demo"),
            "another repository",
        ),
    ] {
        assert_eq!(
            send(get(&url, REFS)).await,
            (403, DENIED.to_owned()),
            "{why}"
        );
        let push = send(post(&url, "git-receive-pack", "0000".into())).await;
        assert_eq!(push, (403, DENIED.to_owned()), "{why}");
    }
    let mut bearer = get(&good(dev, 0), REFS);
    bearer
        .headers_mut()
        .insert("authorization", "Bearer x".parse().unwrap());
    assert_eq!(send(bearer).await.0, 403);
    let local = work(&server);
    let stderr = fail(&local, &["push", &good(&other, 0), "main"]);
    assert!(stderr.contains("403"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_git_without_credentials_is_asked_for_them() {
    let server = Server::with_demo().await;
    let url = format!("{}/v1/repos/demo", server.url);
    assert_eq!(send(get(&url, REFS)).await.0, 401);
    let stderr = fail(server.dir.path(), &["ls-remote", &url]);
    assert!(
        stderr.contains("could not read Username"),
        "git asks its user: {stderr}"
    );
    // The credential helper's answer is accepted, because the port is not signed.
    let signed = server.git_url("demo");
    let (userinfo, _) = signed[7..].split_once('@').unwrap();
    let (username, password) = userinfo.split_once(':').unwrap();
    let helper = format!("credential.helper=!echo username={username}; echo password={password};:");
    run(server.dir.path(), &["-c", &helper, "ls-remote", &url]);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_repositories_and_other_paths_are_not_found() {
    let server = Server::with_demo().await;
    let now = Timestamp::now();
    let missing = server.git.git_url("missing", &server.credentials, now);
    let answer = send(get(&missing, REFS)).await;
    assert_eq!(
        answer,
        (404, "<RepositoryDoesNotExistException/>".to_owned())
    );
    let good = server.git_url("demo");
    for rest in [
        "HEAD",
        "info/refs",
        "info/refs/?service=git-upload-pack",
        "objects/info/packs",
    ] {
        assert_eq!(send(get(&good, rest)).await.0, 404, "{rest}");
    }
    for suffix in [".git", "/"] {
        assert_eq!(
            send(get(&format!("{good}{suffix}"), REFS)).await.0,
            404,
            "{suffix}"
        );
    }
    let local = work(&server);
    let stderr = fail(&local, &["push", &format!("{good}.git"), "main"]);
    assert!(stderr.contains("not found"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_url_in_tests_is_the_one_that_users_get() {
    let server = Server::with_demo().await;
    let url = server
        .git
        .git_url("demo", &server.credentials, Timestamp::now());
    assert!(url.starts_with("http://AKIDDEV:"), "{url}");
    assert!(url.ends_with("/v1/repos/demo"), "{url}");
    assert_eq!(server.credentials.principal_arn, PRINCIPAL);
}
