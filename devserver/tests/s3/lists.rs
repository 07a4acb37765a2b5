//! Lists, page by page.

use aws_sdk_s3::types::EncodingType;
use branchline_dev::s3::store::PutOptions;

use crate::support::{BUCKET, Server, code, refusal};

#[tokio::test]
async fn prefixes_delimiters_and_pages_agree() {
    let server = Server::start().await;
    for key in ["a", "b/1", "b/2", "b/c/3", "d", "e/4"] {
        server.put(key, "").await;
    }
    let list = server
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .delimiter("/");
    let (mut keys, mut prefixes, mut token, mut pages) = (vec![], vec![], None, 0);
    loop {
        let page = list
            .clone()
            .max_keys(1)
            .set_continuation_token(token)
            .send()
            .await
            .unwrap();
        pages += 1;
        keys.extend(page.contents().iter().map(|o| o.key().unwrap().to_owned()));
        prefixes.extend(
            page.common_prefixes()
                .iter()
                .map(|p| p.prefix().unwrap().to_owned()),
        );
        token = page.next_continuation_token;
        assert_eq!(page.is_truncated, Some(token.is_some()));
        if token.is_none() {
            break;
        }
    }
    assert_eq!(
        (keys, prefixes, pages),
        (
            vec!["a".into(), "d".into()],
            vec!["b/".into(), "e/".into()],
            4
        )
    );
    let inner = list.clone().prefix("b/").send().await.unwrap();
    assert_eq!(inner.key_count(), Some(3));
    assert_eq!(inner.common_prefixes()[0].prefix(), Some("b/c/"));
    let after = server
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .start_after("b/2")
        .send()
        .await;
    let after = after.unwrap();
    let keys: Vec<_> = after.contents().iter().map(|o| o.key().unwrap()).collect();
    assert_eq!(keys, ["b/c/3", "d", "e/4"]);
    let wrong = list.clone().continuation_token("§").send().await;
    assert_eq!(refusal(wrong), code(400, "InvalidArgument"));
    let nothing = list.max_keys(0).send().await.unwrap();
    assert_eq!(nothing.is_truncated(), Some(false));
}

#[tokio::test]
async fn the_first_list_api_pages_by_key() {
    let server = Server::start().await;
    for key in ["a", "b/1", "b/2", "c"] {
        server.put(key, "").await;
    }
    let list = server.client.list_objects().bucket(BUCKET).max_keys(2);
    let first = list.clone().delimiter("/").send().await.unwrap();
    assert_eq!(first.next_marker(), Some("b/"));
    let second = list
        .clone()
        .delimiter("/")
        .marker("b/")
        .send()
        .await
        .unwrap();
    assert_eq!(second.contents()[0].key(), Some("c"));
    let plain = list.marker("b/1").send().await.unwrap();
    assert_eq!(plain.contents()[0].key(), Some("b/2"));
}

#[tokio::test]
async fn url_encoding_is_applied_when_asked_for() {
    let server = Server::start().await;
    server.put("a b/ü+%", "").await;
    let list = server.client.list_objects_v2().bucket(BUCKET);
    let listed = list.encoding_type(EncodingType::Url).send().await.unwrap();
    assert_eq!(listed.contents()[0].key(), Some("a%20b/%C3%BC%2B%25"));
}

#[tokio::test]
async fn versions_are_listed_page_by_page() {
    let server = Server::versioned().await;
    for key in ["a", "a", "b", "c/1", "c/2"] {
        server.put(key, "").await;
    }
    server
        .client
        .delete_object()
        .bucket(BUCKET)
        .key("a")
        .send()
        .await
        .unwrap();
    let list = server
        .client
        .list_object_versions()
        .bucket(BUCKET)
        .max_keys(2);
    let (mut found, mut key, mut version) = (vec![], None, None);
    loop {
        let page = list
            .clone()
            .set_key_marker(key)
            .set_version_id_marker(version);
        let page = page.send().await.unwrap();
        found.extend(
            page.delete_markers()
                .iter()
                .map(|m| format!("-{}", m.key().unwrap())),
        );
        found.extend(page.versions().iter().map(|v| v.key().unwrap().to_owned()));
        (key, version) = (page.next_key_marker, page.next_version_id_marker);
        if key.is_none() {
            break;
        }
    }
    assert_eq!(found, ["-a", "a", "a", "b", "c/1", "c/2"]);
}

#[tokio::test]
async fn a_page_holds_a_thousand_keys_at_most() {
    let server = Server::start().await;
    let store = server.store.clone();
    let seed = move || {
        for i in 0..1001 {
            let key = format!("{i:05}");
            store
                .put(BUCKET, &key, b"x", PutOptions::default())
                .unwrap();
        }
    };
    tokio::task::spawn_blocking(seed).await.unwrap();
    let list = server
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .max_keys(5000);
    let first = list.clone().send().await.unwrap();
    assert_eq!(first.key_count(), Some(1000));
    let rest = list.continuation_token(first.next_continuation_token.unwrap());
    assert_eq!(
        rest.send().await.unwrap().contents()[0].key(),
        Some("01000")
    );
}
