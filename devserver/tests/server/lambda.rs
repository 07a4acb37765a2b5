//! The Lambda host and its API, with a real function behind the Runtime API.

use std::time::{Duration, Instant};

use aws_sdk_lambda::error::ProvideErrorMetadata as _;
use aws_sdk_lambda::operation::invoke::InvokeOutput;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{InvocationType, LogType};
use base64::Engine as _;
use branchline_dev::server::Server;
use serde_json::{Value, json};

use crate::support::{authorization, function, http, is_running, lambda, quick};

async fn invoke(server: &Server, name: &str, payload: &Value) -> InvokeOutput {
    lambda(server)
        .invoke()
        .function_name(name)
        .payload(Blob::new(payload.to_string()))
        .send()
        .await
        .unwrap()
}

fn body(output: &InvokeOutput) -> Value {
    serde_json::from_slice(output.payload().unwrap().as_ref()).unwrap()
}

#[tokio::test]
async fn a_function_answers_through_the_sdk() {
    let server = Server::start(quick(vec![function("echo")])).await.unwrap();
    let payload = json!({ "do": "echo", "text": "grüße" });
    let output = invoke(&server, "echo", &payload).await;
    assert_eq!(output.status_code(), 200);
    assert_eq!(output.function_error(), None);
    assert_eq!(output.executed_version(), Some("$LATEST"));
    assert_eq!(body(&output), payload);
    server.shutdown().await;
}

#[tokio::test]
async fn a_function_sees_lambdas_environment_and_nothing_else() {
    let mut config = function("env");
    config.memory_mb = 1024;
    config.environment.insert("OWN".into(), "value".into());
    let server = Server::start(quick(vec![config])).await.unwrap();
    let variables = body(&invoke(&server, "env", &json!({ "do": "environment" })).await);
    for (name, value) in [
        ("AWS_LAMBDA_FUNCTION_NAME", "env"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", &server.endpoint()),
        ("_HANDLER", "bootstrap"),
        ("TZ", "UTC"),
        ("OWN", "value"),
    ] {
        assert_eq!(variables[name], value, "{name}");
    }
    assert_eq!(variables.get("HOME"), None, "nothing is inherited but PATH");
    let id = variables["AWS_ACCESS_KEY_ID"].as_str().unwrap();
    let role = server.account().find(id).unwrap();
    assert_eq!(
        role.principal_arn, "arn:aws:sts::123456789012:assumed-role/env-role/env",
        "a function acts as its own role"
    );
    assert_eq!(variables["AWS_SESSION_TOKEN"], role.session_token.unwrap());
    server.shutdown().await;
}

#[tokio::test]
async fn an_invocation_gets_its_deadline_request_id_and_arn() {
    let mut config = function("context");
    config.timeout = Duration::from_secs(30);
    let server = Server::start(quick(vec![config])).await.unwrap();
    let before = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis();
    let arn = format!("{}:live", server.account().function_arn("context"));
    let context = body(&invoke(&server, &arn, &json!({ "do": "context" })).await);
    let deadline = u128::from(context["deadline"].as_u64().unwrap());
    assert!(
        (before + 30_000..before + 45_000).contains(&deadline),
        "the deadline is the timeout from now: {deadline}, {before}"
    );
    assert_eq!(context["arn"], arn, "the context has the qualifier");
    assert!(context["trace"].as_str().unwrap().starts_with("Root=1-"));
    assert_eq!(context["requestId"].as_str().unwrap().len(), 36);
    server.shutdown().await;
}

#[tokio::test]
async fn errors_panics_and_exits_are_function_errors() {
    let server = Server::start(quick(vec![function("f")])).await.unwrap();
    for (payload, error_type, message) in [
        (json!({ "do": "fail" }), None, "it was asked to fail"),
        (json!({ "do": "panic" }), None, "it was asked to panic"),
        (
            json!({ "do": "exit", "code": 3 }),
            Some("Runtime.ExitError"),
            "Runtime exited with error: exit status 3",
        ),
        (
            json!({ "do": "exit", "code": 0 }),
            Some("Runtime.ExitError"),
            "Runtime exited without providing a reason",
        ),
    ] {
        let output = invoke(&server, "f", &payload).await;
        assert_eq!(output.status_code(), 200);
        assert_eq!(output.function_error(), Some("Unhandled"), "{payload}");
        let failure = body(&output);
        if let Some(error_type) = error_type {
            assert_eq!(failure["errorType"], error_type);
        }
        let text = failure["errorMessage"].as_str().unwrap();
        assert!(text.contains(message), "{payload}: {failure}");
    }
    let output = invoke(&server, "f", &json!({ "do": "echo" })).await;
    assert_eq!(
        output.function_error(),
        None,
        "a crash costs one environment only"
    );
    server.shutdown().await;
}

#[tokio::test]
async fn a_function_that_cannot_start_reports_the_reason() {
    let mut exits = function("exits");
    exits.environment.insert("INIT".into(), "exit".into());
    let mut fails = function("fails");
    fails.environment.insert("INIT".into(), "fail".into());
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("bootstrap");
    std::fs::write(&text, "no program").unwrap();
    let mut no_program = function("no-program");
    no_program.bootstrap = text;
    let server = Server::start(quick(vec![exits, fails, no_program]))
        .await
        .unwrap();
    for (name, error_type, message) in [
        ("exits", "Runtime.ExitError", "exit status 7"),
        ("fails", "Test.Config", "a variable is missing"),
        ("no-program", "Runtime.InvalidEntrypoint", "fork/exec"),
    ] {
        let output = invoke(&server, name, &json!({})).await;
        assert_eq!(output.function_error(), Some("Unhandled"));
        let failure = body(&output);
        assert_eq!(failure["errorType"], error_type);
        let text = failure["errorMessage"].as_str().unwrap();
        assert!(text.contains(message), "{failure}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_function_over_its_timeout_is_killed() {
    let mut config = function("slow");
    config.timeout = Duration::from_millis(300);
    let server = Server::start(quick(vec![config])).await.unwrap();
    let warm = body(&invoke(&server, "slow", &json!({ "do": "sleep", "ms": 0 })).await);
    let pid = warm["pid"].as_u64().unwrap();
    assert!(is_running(pid), "a function stays warm");
    let started = Instant::now();
    let output = invoke(&server, "slow", &json!({ "do": "sleep", "ms": 60_000 })).await;
    assert!(started.elapsed() < Duration::from_secs(10));
    let failure = body(&output);
    assert_eq!(failure["errorType"], "Sandbox.Timedout");
    let text = failure["errorMessage"].as_str().unwrap();
    assert!(
        text.ends_with("Task timed out after 0.30 seconds"),
        "{text}"
    );
    assert!(!is_running(pid), "the process was killed");
    server.shutdown().await;
}

#[tokio::test]
async fn environments_are_reused_when_idle_and_added_when_busy() {
    let server = Server::start(quick(vec![function("f")])).await.unwrap();
    let sleep = |ms| json!({ "do": "sleep", "ms": ms });
    let first = body(&invoke(&server, "f", &sleep(0)).await)["pid"].clone();
    let again = body(&invoke(&server, "f", &sleep(0)).await)["pid"].clone();
    assert_eq!(first, again, "an idle environment is used again");
    let (long, other) = (sleep(300), sleep(300));
    let (a, b) = tokio::join!(invoke(&server, "f", &long), invoke(&server, "f", &other));
    let (a, b) = (body(&a)["pid"].clone(), body(&b)["pid"].clone());
    assert_ne!(a, b, "a busy environment has one invocation");
    assert!(a == first || b == first, "the warm one serves first");
    server.shutdown().await;
    for pid in [a, b] {
        assert!(
            !is_running(pid.as_u64().unwrap()),
            "no process is left behind"
        );
    }
}

#[tokio::test]
async fn reserved_concurrency_limits_and_is_named_in_the_error() {
    let mut one = function("one");
    one.reserved_concurrency = Some(1);
    let mut none = function("none");
    none.reserved_concurrency = Some(0);
    let mut options = quick(vec![one, none, function("free")]);
    options.unreserved_concurrency = 1;
    let server = Server::start(options).await.unwrap();
    let client = lambda(&server);
    for (name, reason) in [
        ("one", "ReservedFunctionConcurrentInvocationLimitExceeded"),
        ("free", "ConcurrentInvocationLimitExceeded"),
        ("none", "ReservedFunctionConcurrentInvocationLimitExceeded"),
    ] {
        let call = |ms| {
            client
                .invoke()
                .function_name(name)
                .payload(Blob::new(json!({ "do": "sleep", "ms": ms }).to_string()))
                .send()
        };
        let (first, second) = tokio::join!(call(400), call(400));
        let refused = [first, second]
            .into_iter()
            .filter_map(Result::err)
            .map(aws_sdk_lambda::error::SdkError::into_service_error)
            .collect::<Vec<_>>();
        assert_eq!(refused.len(), if name == "none" { 2 } else { 1 }, "{name}");
        let aws_sdk_lambda::operation::invoke::InvokeError::TooManyRequestsException(error) =
            &refused[0]
        else {
            panic!("{name}: {:?}", refused[0]);
        };
        assert_eq!(error.reason().unwrap().as_str(), reason);
    }
    server.shutdown().await;
}

#[tokio::test]
async fn the_output_of_a_function_is_in_the_log_tail_and_the_log_file() {
    let server = Server::start(quick(vec![function("talker")]))
        .await
        .unwrap();
    for text in ["first line", "second line"] {
        let output = lambda(&server)
            .invoke()
            .function_name("talker")
            .log_type(LogType::Tail)
            .payload(Blob::new(
                json!({ "do": "print", "text": text }).to_string(),
            ))
            .send()
            .await
            .unwrap();
        let tail = base64::engine::general_purpose::STANDARD
            .decode(output.log_result().unwrap())
            .unwrap();
        let tail = String::from_utf8(tail).unwrap();
        for part in [
            "START RequestId: ",
            text,
            "to standard error",
            "REPORT RequestId: ",
        ] {
            assert!(tail.contains(part), "`{part}` is in {tail}");
        }
        if text == "second line" {
            assert!(
                !tail.contains("first line"),
                "an invocation has its own tail"
            );
        }
    }
    let file = server.data().join("lambda/logs/talker.log");
    let kept = std::fs::read_to_string(file).unwrap();
    assert!(
        kept.contains("first line\n") && kept.contains("second line\n"),
        "{kept}"
    );
    server.shutdown().await;
}

#[tokio::test]
async fn a_request_that_lambda_refuses_is_refused() {
    use InvocationType::{DryRun, Event, RequestResponse};
    let server = Server::start(quick(vec![function("f")])).await.unwrap();
    let client = lambda(&server);
    let code = |name: &'static str, payload: Vec<u8>, kind: InvocationType| {
        let call = client
            .invoke()
            .function_name(name)
            .invocation_type(kind)
            .payload(Blob::new(payload));
        async move {
            match call.send().await {
                Ok(output) => Ok(output.status_code()),
                Err(error) => {
                    let status = error.raw_response().unwrap().status().as_u16();
                    Err((
                        status,
                        error.into_service_error().code().unwrap().to_owned(),
                    ))
                }
            }
        }
    };
    let large = |bytes: usize| format!("\"{}\"", "x".repeat(bytes)).into_bytes();
    let refused = |status: u16, code: &str| Err((status, code.to_owned()));
    assert_eq!(
        code("gone", b"{}".to_vec(), RequestResponse).await,
        refused(404, "ResourceNotFoundException")
    );
    assert_eq!(
        code("gone", b"{}".to_vec(), Event).await,
        refused(404, "ResourceNotFoundException")
    );
    assert_eq!(
        code("f", b"{no json".to_vec(), RequestResponse).await,
        refused(400, "InvalidRequestContentException")
    );
    assert_eq!(
        code("f", large(1024 * 1024), Event).await,
        refused(413, "RequestTooLargeException")
    );
    assert_eq!(
        code("f", large(6 * 1024 * 1024), RequestResponse).await,
        refused(413, "RequestTooLargeException")
    );
    assert_eq!(code("f", b"{}".to_vec(), DryRun).await, Ok(204));
    assert_eq!(
        code("f", large(1024 * 1024), RequestResponse).await,
        Ok(200)
    );

    let output = invoke(&server, "f", &json!({ "do": "large", "bytes": 6_300_000 })).await;
    assert_eq!(body(&output)["errorType"], "Function.ResponseSizeTooLarge");
    server.shutdown().await;
}

#[tokio::test]
async fn functions_are_listed_and_described() {
    let mut config = function("b");
    config.timeout = Duration::from_mins(15);
    config.reserved_concurrency = Some(1);
    let server = Server::start(quick(vec![config, function("a")]))
        .await
        .unwrap();
    let client = lambda(&server);
    let listed = client.list_functions().send().await.unwrap();
    let names: Vec<_> = listed
        .functions()
        .iter()
        .map(|function| function.function_name().unwrap())
        .collect();
    assert_eq!(names, ["a", "b"]);
    let found = client
        .get_function()
        .function_name("b")
        .send()
        .await
        .unwrap();
    let configuration = found.configuration().unwrap();
    assert_eq!(configuration.timeout(), Some(900));
    assert_eq!(
        configuration.function_arn(),
        Some("arn:aws:lambda:us-east-1:123456789012:function:b")
    );
    let reserved = found
        .concurrency()
        .unwrap()
        .reserved_concurrent_executions();
    assert_eq!(reserved, Some(1));
    let error = client.get_function().function_name("c").send().await;
    let error = error.unwrap_err().into_service_error();
    assert!(error.is_resource_not_found_exception(), "{error:?}");
    server.shutdown().await;
}

#[tokio::test]
async fn a_request_without_known_credentials_is_refused() {
    let server = Server::start(quick(vec![function("f")])).await.unwrap();
    let url = format!("{}/2015-03-31/functions/f/invocations", server.endpoint());
    let known = authorization(&server);
    let unknown = known.replace(&server.credentials().access_key_id, "AKIAUNKNOWN");
    for (headers, status, code) in [
        (vec![], 403, "MissingAuthenticationTokenException"),
        (
            vec![("authorization", unknown.as_str())],
            400,
            "UnrecognizedClientException",
        ),
        (
            vec![
                ("authorization", known.as_str()),
                ("x-amz-security-token", "stolen"),
            ],
            400,
            "UnrecognizedClientException",
        ),
    ] {
        let (found, answer, _) = http("POST", &url, &headers, "{}").await;
        assert_eq!(found, status);
        assert_eq!(answer["x-amzn-errortype"], code);
    }
    server.shutdown().await;
}

#[tokio::test]
async fn an_invocation_continues_after_its_caller_disconnects() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calls");
    let server = Server::start(quick(vec![function("f")])).await.unwrap();
    let payload = json!({ "do": "overlap", "file": file });
    let started = folder.path().join("calls.lock");
    tokio::select! {
        _ = invoke(&server, "f", &payload) => panic!("the caller gives up before the answer"),
        () = crate::support::until("the function started", || started.exists()) => {}
    }
    crate::support::until("the function finished", || file.exists()).await;
    server.shutdown().await;
}
