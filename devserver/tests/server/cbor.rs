//! CodePipeline in the protocol `smithy-rpc-v2-cbor`, byte by byte.

use branchline_dev::server::Server;
use bytes::Bytes;
use ciborium::Value as Cbor;
use serde_json::{Value, json};

use crate::support::{authorization, call_pipeline, http, pipeline, quick};

async fn call(server: &Server, operation: &str, body: Vec<u8>) -> (u16, http::HeaderMap, Bytes) {
    let url = format!(
        "{}/service/CodePipeline_20150709/operation/{operation}",
        server.endpoint()
    );
    let authorization = authorization(server);
    let headers = [
        ("smithy-protocol", "rpc-v2-cbor"),
        ("content-type", "application/cbor"),
        ("authorization", authorization.as_str()),
    ];
    http("POST", &url, &headers, body).await
}

fn member<'a>(value: &'a Cbor, name: &str) -> &'a Cbor {
    let members = value.as_map().unwrap();
    let found = members.iter().find(|(key, _)| key.as_text() == Some(name));
    &found.unwrap_or_else(|| panic!("no {name} in {value:?}")).1
}

#[tokio::test]
async fn answers_are_cbor_with_tagged_times() {
    let server = Server::start(quick(vec![])).await.unwrap();
    let declaration = json!({ "pipeline": pipeline("demo", "artifacts", "a.zip", false) });
    let mut body = Vec::new();
    ciborium::into_writer(&declaration, &mut body).unwrap();
    let (status, headers, answer) = call(&server, "CreatePipeline", body).await;
    assert_eq!(status, 200);
    assert_eq!(headers["smithy-protocol"], "rpc-v2-cbor");
    assert_eq!(headers["content-type"], "application/cbor");
    let answer: Cbor = ciborium::from_reader(answer.as_ref()).unwrap();
    let version = member(member(&answer, "pipeline"), "version");
    assert_eq!(version.as_integer(), Some(1.into()), "numbers stay whole");

    // {"name": "demo"}, written by hand: a map of one pair of texts.
    let body = b"\xa1\x64name\x64demo".to_vec();
    let (status, _, answer) = call(&server, "GetPipeline", body).await;
    assert_eq!(status, 200);
    let answer: Cbor = ciborium::from_reader(answer.as_ref()).unwrap();
    let (tag, time) = member(member(&answer, "metadata"), "created")
        .as_tag()
        .unwrap();
    assert_eq!(tag, 1, "a time is tagged as seconds since the epoch");
    assert!(time.as_float().unwrap() > 1.7e9);

    // The same map with indefinite lengths, as streaming encoders write.
    let body = b"\xbf\x7f\x62na\x62me\xff\x64demo\xff".to_vec();
    let (status, _, _) = call(&server, "GetPipeline", body).await;
    assert_eq!(status, 200);

    let (_, json) = call_pipeline(&server, "GetPipeline", json!({ "name": "demo" })).await;
    assert!(
        json["metadata"]["created"].is_number(),
        "both protocols see one pipeline"
    );

    let (status, headers, answer) =
        call(&server, "DeletePipeline", b"\xa1\x64name\x64demo".to_vec()).await;
    assert_eq!((status, answer.len()), (200, 0), "no output, no body");
    assert_eq!(headers.get("content-type"), None);
    server.shutdown().await;
}

#[tokio::test]
async fn errors_are_cbor_too() {
    let server = Server::start(quick(vec![])).await.unwrap();
    for (operation, body, code) in [
        (
            "GetPipeline",
            b"\xa1\x64name\x64demo".to_vec(),
            "PipelineNotFoundException",
        ),
        (
            "GetPipeline",
            b"\xa1\x64name".to_vec(),
            "SerializationException",
        ),
        (
            "GetPipeline",
            b"\x64demo".to_vec(),
            "SerializationException",
        ),
        ("GetPipeline", Vec::new(), "ValidationException"),
        ("Unknown", Vec::new(), "UnknownOperationException"),
    ] {
        let (status, headers, answer) = call(&server, operation, body).await;
        assert_eq!(status, 400);
        assert_eq!(headers["smithy-protocol"], "rpc-v2-cbor");
        let answer: Cbor = ciborium::from_reader(answer.as_ref()).unwrap();
        let shape = member(&answer, "__type").as_text().unwrap();
        assert_eq!(shape, format!("com.amazonaws.codepipeline#{code}"));
        assert!(member(&answer, "message").is_text());
    }
    let none: Value = serde_json::to_value(server.pipelines().executions()).unwrap();
    assert_eq!(none, json!([]));
    server.shutdown().await;
}
