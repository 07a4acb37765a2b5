//! Authentication, regions, bucket policies and public access.

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_s3::presigning::PresigningConfig;
use branchline_dev::account;
use branchline_dev::s3::store::PublicAccess;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;

use crate::support::{BUCKET, KEY_ID, SECRET, Server, client, code, refusal};

#[tokio::test]
async fn only_the_accounts_credentials_are_accepted() {
    let server = Server::start().await;
    server.put("a", "1").await;
    let get = async |id: &str, secret: &str, token: Option<&str>| {
        let credentials = Credentials::new(id, secret, token.map(str::to_owned), None, "test");
        let client = client(server.address, credentials);
        client.get_object().bucket(BUCKET).key("a").send().await
    };
    assert!(get(KEY_ID, SECRET, None).await.is_ok());
    assert_eq!(
        refusal(get(KEY_ID, "wrong", None).await),
        code(403, "SignatureDoesNotMatch")
    );
    assert_eq!(
        refusal(get("AKIAUNKNOWN", SECRET, None).await),
        code(403, "InvalidAccessKeyId")
    );
    assert_eq!(
        refusal(get(KEY_ID, SECRET, Some("token")).await),
        code(400, "InvalidToken")
    );
    server.account.add(account::Credentials {
        access_key_id: "ASIAROLE".into(),
        secret_access_key: "role secret".into(),
        session_token: Some("the role's token".into()),
        principal_arn: "arn:aws:sts::123456789012:assumed-role/update".into(),
    });
    assert!(
        get("ASIAROLE", "role secret", Some("the role's token"))
            .await
            .is_ok()
    );
    assert_eq!(
        refusal(get("ASIAROLE", "role secret", Some("another")).await),
        code(400, "InvalidToken")
    );
    assert_eq!(
        refusal(get("ASIAROLE", "role secret", None).await),
        code(400, "InvalidToken")
    );
}

async fn plain(method: &str, uri: &str, body: &'static [u8]) -> (u16, String) {
    let client = HttpClient::builder(TokioExecutor::new()).build_http();
    let request = http::Request::builder()
        .method(method)
        .uri(uri)
        .body(Full::<bytes::Bytes>::from(body))
        .unwrap();
    let response = client.request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn anonymous_requests_are_refused() {
    let server = Server::start().await;
    server.put("a", "1").await;
    for (method, path) in [
        ("GET", "artifacts/a"),
        ("PUT", "artifacts/a"),
        ("DELETE", "artifacts/a"),
        ("GET", ""),
        ("GET", "artifacts"),
    ] {
        let (status, body) = plain(method, &format!("http://{}/{path}", server.address), b"").await;
        assert_eq!(
            status, 403,
            "{method} /{path} without a signature is refused"
        );
        assert!(body.contains("<Code>AccessDenied</Code>"), "{body}");
    }
    assert_eq!(server.text("a").await, "1");
}

/// Compares with a bucket policy of public `s3:GetObject`, with and without
/// `s3:ListBucket`.
#[tokio::test]
async fn public_buckets_are_read_without_a_signature() {
    let server = Server::start().await;
    server.put("info/refs", "1").await;
    let ask = async |method: &str, path: &str| {
        let url = format!("http://{}/{path}", server.address);
        plain(method, &url, b"").await.0
    };
    let object = "artifacts/info/refs?service=git-upload-pack";
    let others = ["artifacts/none", "artifacts?list-type=2"];
    for (access, expected, missing, list) in [
        (PublicAccess::None, 403, 403, 403),
        (PublicAccess::Read, 200, 403, 403),
        (PublicAccess::ReadAndList, 200, 404, 200),
    ] {
        server.store.set_public_access(BUCKET, access);
        assert_eq!(ask("GET", object).await, expected, "{access:?}");
        assert_eq!(ask("HEAD", object).await, expected, "{access:?}");
        assert_eq!(ask("GET", others[0]).await, missing, "{access:?}");
        assert_eq!(ask("GET", others[1]).await, list, "{access:?}");
        assert_eq!(
            ask("GET", "").await,
            403,
            "buckets cannot be listed anonymously"
        );
        assert_eq!(
            ask("PUT", "artifacts/a").await,
            403,
            "anonymous writes are refused"
        );
        assert_eq!(ask("DELETE", "artifacts/info/refs").await, 403);
        assert_eq!(ask("GET", "artifacts?versions").await, 403);
    }
}

#[tokio::test]
async fn presigned_urls_work_until_they_expire() {
    let server = Server::start().await;
    let lives = |seconds| PresigningConfig::expires_in(Duration::from_secs(seconds)).unwrap();
    let put = server.client.put_object().bucket(BUCKET).key("ü x");
    let put = put.presigned(lives(60)).await.unwrap();
    let (status, body) = plain("PUT", put.uri(), b"by link").await;
    assert_eq!(status, 200, "{body}");
    let get = server.client.get_object().bucket(BUCKET).key("ü x");
    let url = get.clone().presigned(lives(60)).await.unwrap();
    assert_eq!(
        plain("GET", url.uri(), b"").await,
        (200, "by link".to_owned())
    );
    let other = url.uri().replace("%C3%BC%20x", "other");
    assert_eq!(
        plain("GET", &other, b"").await.0,
        403,
        "the signature is of this key"
    );
    let short = get.presigned(lives(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(
        plain("GET", short.uri(), b"").await.0,
        403,
        "an expired link is refused"
    );
}

#[tokio::test]
async fn another_owner_is_refused() {
    let server = Server::start().await;
    let head = server.client.head_bucket().bucket(BUCKET);
    assert!(
        head.clone()
            .expected_bucket_owner("123456789012")
            .send()
            .await
            .is_ok()
    );
    let other = head.expected_bucket_owner("999999999999").send().await;
    assert_eq!(refusal(other).0, 403);
}

#[tokio::test]
async fn malformed_requests_are_never_an_internal_error() {
    let server = Server::start().await;
    for (method, path) in [
        ("GET", "%ff"),
        ("GET", "artifacts/%ff%fe"),
        ("GET", "a/b?versionId"),
        ("POST", "artifacts?delete"),
        ("POST", "artifacts/a?uploads&uploads"),
        ("PUT", "artifacts/a?partNumber=x&uploadId=1"),
        ("PATCH", "artifacts/a"),
        ("GET", "artifacts?list-type=2&max-keys=x"),
        ("GET", "?X-Amz-Signature=1"),
        ("GET", "artifacts/a?X-Amz-Algorithm=x&X-Amz-Signature=%00"),
    ] {
        let (status, body) =
            plain(method, &format!("http://{}/{path}", server.address), b"<x").await;
        assert!(
            (400..500).contains(&status) || status == 501,
            "{method} /{path} is the client's mistake, not {status}: {body}"
        );
    }
    let client = &server.client;
    let list = client
        .list_objects_v2()
        .bucket(BUCKET)
        .max_keys(-1)
        .send()
        .await;
    assert_eq!(refusal(list), code(400, "InvalidArgument"));
    let acl = client.get_bucket_policy().bucket(BUCKET).send().await;
    assert_eq!(refusal(acl), code(501, "NotImplemented"));
}

#[tokio::test]
async fn a_bucket_of_another_region_redirects_to_its_region() {
    let server = Server::start().await;
    server.store.create_bucket("far-away", "eu-west-1").unwrap();
    let request = server.client.put_object().bucket("far-away").key("a");
    let refused = request.body(vec![1].into()).send().await.unwrap_err();
    let response = refused.raw_response().expect("the server answers");
    assert_eq!(response.status().as_u16(), 301);
    let region = response.headers().get("x-amz-bucket-region");
    assert_eq!(region, Some("eu-west-1"));
    assert_eq!(
        refusal::<(), _>(Err(refused)),
        code(301, "PermanentRedirect")
    );
    // An answer to HEAD has no body, and the header all the same.
    let head = server.client.head_bucket().bucket("far-away").send().await;
    let refused = head.unwrap_err();
    let response = refused.raw_response().expect("the server answers");
    let region = response.headers().get("x-amz-bucket-region");
    assert_eq!(
        (response.status().as_u16(), region),
        (301, Some("eu-west-1"))
    );
    let location = server.client.get_bucket_location().bucket("far-away");
    let location = location.send().await.unwrap();
    assert_eq!(
        location.location_constraint().map(ToString::to_string),
        Some("eu-west-1".to_owned())
    );
}

#[tokio::test]
async fn a_bucket_policy_denies_requests_until_it_is_deleted() {
    let server = Server::start().await;
    server.put("a", "1").await;
    let client = &server.client;
    let policy = r#"{"Version":"2012-10-17","Statement":[
        {"Effect":"Deny","Principal":"*","Action":["s3:DeleteObject","s3:ListBucket"],
         "Resource":["arn:aws:s3:::artifacts","arn:aws:s3:::artifacts/*"]},
        {"Effect":"Deny","Principal":"*","Action":"s3:PutObject",
         "Resource":"arn:aws:s3:::artifacts/*",
         "Condition":{"StringNotEquals":{"s3:x-amz-server-side-encryption":"AES256"}}}]}"#;
    let set = client.put_bucket_policy().bucket(BUCKET).policy(policy);
    set.send().await.unwrap();
    let denied = code(403, "AccessDenied");
    let delete = || client.delete_object().bucket(BUCKET).key("a").send();
    assert_eq!(refusal(delete().await), denied);
    let get = |key: &str| client.get_object().bucket(BUCKET).key(key).send();
    assert!(get("a").await.is_ok());
    assert_eq!(
        refusal(get("missing").await),
        denied,
        "not 404 without a list"
    );
    let put = || client.put_object().bucket(BUCKET).key("b");
    assert_eq!(refusal(put().send().await), denied);
    let aes = aws_sdk_s3::types::ServerSideEncryption::Aes256;
    put()
        .server_side_encryption(aes.clone())
        .send()
        .await
        .unwrap();
    let create = || client.create_multipart_upload().bucket(BUCKET).key("c");
    assert_eq!(refusal(create().send().await), denied);
    let upload = create().server_side_encryption(aes).send().await.unwrap();
    let part = client.upload_part().bucket(BUCKET).key("c").part_number(1);
    let part = part.set_upload_id(upload.upload_id).body(vec![1].into());
    part.send().await.unwrap();
    let malformed = client.put_bucket_policy().bucket(BUCKET).policy("{}");
    assert_eq!(
        refusal(malformed.send().await),
        code(400, "MalformedPolicy")
    );
    let unset = client.delete_bucket_policy().bucket(BUCKET);
    unset.send().await.unwrap();
    delete().await.unwrap();
}
