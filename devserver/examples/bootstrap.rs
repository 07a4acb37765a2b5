//! A real Lambda function for tests of the Lambda host; the payload selects its action.
//!
//! `{"do":"echo"}`, `"fail"`, `"panic"`, `"sleep"` (with `"ms"`), `"exit"` (with `"code"`),
//! `"environment"`, `"context"`, `"print"` (with `"text"`), `"large"` (with `"bytes"`),
//! `"flaky"` (with `"file"` and `"failures"`: fails on the first `failures` calls),
//! `"overlap"` (with `"file"`: returns whether another call held the file).
//! The variable `INIT` makes it `exit` or `fail` before it requests work.

use std::io::{Read as _, Write as _};

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    match std::env::var("INIT").as_deref() {
        Ok("exit") => std::process::exit(7),
        Ok("fail") => {
            report_init_error()?;
            std::process::exit(1);
        }
        _ => {}
    }
    lambda_runtime::run(service_fn(handle)).await
}

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let (payload, context) = event.into_parts();
    let number = |name: &str| payload[name].as_u64().unwrap_or_default();
    let text = |name: &str| payload[name].as_str().unwrap_or_default();
    match text("do") {
        "fail" => Err("it was asked to fail".into()),
        "panic" => panic!("it was asked to panic"),
        "sleep" => {
            tokio::time::sleep(std::time::Duration::from_millis(number("ms"))).await;
            Ok(json!({ "pid": std::process::id() }))
        }
        "exit" => std::process::exit(i32::try_from(number("code"))?),
        "environment" => Ok(json!(
            std::env::vars().collect::<std::collections::BTreeMap<_, _>>()
        )),
        "context" => Ok(json!({
            "requestId": context.request_id,
            "deadline": context.deadline,
            "arn": context.invoked_function_arn,
            "trace": context.xray_trace_id,
            "pid": std::process::id(),
        })),
        "print" => {
            println!("{}", text("text"));
            eprintln!("to standard error");
            Ok(Value::Null)
        }
        "large" => Ok("x".repeat(usize::try_from(number("bytes"))?).into()),
        "flaky" => {
            let calls = std::fs::read(text("file")).unwrap_or_default().len();
            std::fs::write(text("file"), vec![b'x'; calls + 1])?;
            if (calls as u64) < number("failures") {
                return Err("not yet".into());
            }
            Ok(Value::Null)
        }
        "overlap" => {
            let lock = format!("{}.lock", text("file"));
            let alone = std::fs::File::create_new(&lock).is_ok();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let mut file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(text("file"))?;
            writeln!(file, "{}", if alone { "alone" } else { "overlapped" })?;
            std::fs::remove_file(&lock)?;
            Ok(Value::Null)
        }
        "append" => {
            let mut file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(text("file"))?;
            writeln!(file, "{}", text("line"))?;
            Ok(Value::Null)
        }
        _ => {
            // Records whole events for tests that check what arrived.
            if let Ok(path) = std::env::var("RECORD") {
                let mut file = std::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)?;
                file.write_all(format!("{payload}\n").as_bytes())?;
            }
            Ok(payload)
        }
    }
}

fn report_init_error() -> Result<(), Error> {
    let api = std::env::var("AWS_LAMBDA_RUNTIME_API")?;
    let body = r#"{"errorType":"Test.Config","errorMessage":"a variable is missing"}"#;
    let mut stream = std::net::TcpStream::connect(&api)?;
    write!(
        stream,
        "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nHost: {api}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(())
}
