//! The program `branchline-dev`, as a process.

use std::path::Path;
use std::process::Command;

use branchline_test_support::running_program::RunningProgram;
use serde_json::{Value, json};

use crate::support::{bootstrap, git, is_running};

const PROGRAM: &str = env!("CARGO_BIN_EXE_branchline-dev");

/// The running server, with the URL that it printed.
struct RunningServer {
    program: RunningProgram,
    endpoint: String,
}

fn serve(data: &Path, arguments: &[&str]) -> RunningServer {
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--data"]).arg(data).args(arguments);
    command.env_remove("RUST_LOG");
    command.stderr(std::fs::File::create(data.join("stderr")).unwrap());
    let started = RunningProgram::start(&mut command);
    let stderr = || std::fs::read_to_string(data.join("stderr")).unwrap();
    let program = started.unwrap_or_else(|error| panic!("{error:#}: {}", stderr()));
    let mut words = program.banner().split_whitespace();
    let endpoint = words
        .find(|word| word.starts_with("http://"))
        .unwrap_or_else(|| panic!("it names its endpoint first: {}", program.banner()))
        .to_owned();
    RunningServer { program, endpoint }
}

impl RunningServer {
    fn ask(&self, arguments: &[&str]) -> Value {
        let output = Command::new(PROGRAM)
            .args(arguments)
            .env("BRANCHLINE_DEV_ENDPOINT", &self.endpoint)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn stop(self, signal: &str) {
        let status = self.program.stop(signal).unwrap();
        assert_eq!(status.code(), Some(0), "{signal} is a clean end");
    }
}

#[test]
fn the_printed_variables_let_a_user_push_clone_and_query() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let function = format!("echo={}", bootstrap().display());
    let arguments = [
        "--function",
        &function,
        "--env",
        "echo:KEY=VALUE",
        "--timeout",
        "echo=5",
        "--reserved",
        "echo=1",
        "--seed",
        "42",
        "--fault",
        "s3:throttle,nth=99",
    ];
    let server = serve(&data, &arguments);
    let tree = folder.path().join("work");
    std::fs::create_dir(&tree).unwrap();
    git(&tree, &["init", "-q", "-b", "main"]);
    git(&tree, &["commit", "-q", "--allow-empty", "-m", "one"]);
    let script = format!(
        ". {env}\n\
         set -e\n\
         git push -q {endpoint}/v1/repos/demo main\n\
         git clone -q {endpoint}/v1/repos/demo ../clone\n",
        env = data.join("env").display(),
        endpoint = server.endpoint,
    );
    create_repository(&server.endpoint, &data);
    let mut shell = Command::new("sh");
    branchline_test_support::git::make_hermetic(&mut shell, folder.path());
    let output = shell
        .args(["-c", &script])
        .current_dir(&tree)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        git(&folder.path().join("clone"), &["rev-parse", "HEAD"]),
        git(&tree, &["rev-parse", "HEAD"]),
        "what was pushed is cloned"
    );
    let faults = server.ask(&["faults"]);
    assert_eq!(faults["seed"], 42);
    assert_eq!(faults["faults"][0]["rule"], "s3:throttle,nth=99");
    assert_eq!(
        server.ask(&["faults", "add", "git:latency,ms=1"]),
        json!({ "ids": [2] })
    );
    let left = server.ask(&["faults", "remove", "1"]);
    assert_eq!(left["faults"].as_array().unwrap().len(), 1);
    let requests = server.ask(&["requests", "--json"]);
    let actions: Vec<&str> = requests["requests"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["principal"] == "arn:aws:iam::123456789012:user/developer")
        .map(|line| line["action"].as_str().unwrap())
        .collect();
    for action in [
        "codecommit:GitPush",
        "codecommit:GitPull",
        "codecommit:CreateRepository",
    ] {
        assert!(actions.contains(&action), "{action} is counted: {requests}");
    }
    assert_eq!(
        server.ask(&["dead-letters", "--json"]),
        json!({ "deadLetters": [] })
    );
    assert_eq!(
        server.ask(&["executions", "--json"]),
        json!({ "executions": [] })
    );
    server.stop("-TERM");
    let log = std::fs::read_to_string(data.join("stderr")).unwrap();
    assert!(
        log.contains("push to `demo`: refs/heads/main created at "),
        "a push is one line of the log: {log}"
    );
}

fn create_repository(endpoint: &str, data: &Path) {
    use std::io::{Read as _, Write as _};
    let kept = std::fs::read(data.join("credentials.json")).unwrap();
    let kept: Value = serde_json::from_slice(&kept).unwrap();
    let body = json!({ "repositoryName": "demo" }).to_string();
    let mut stream = std::net::TcpStream::connect(endpoint.replace("http://", "")).unwrap();
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         X-Amz-Target: CodeCommit_20150413.CreateRepository\r\nAuthorization: AWS4-HMAC-SHA256 \
         Credential={}/20260101/us-east-1/codecommit/aws4_request\r\nContent-Length: {}\r\n\r\n{body}",
        kept["access_key_id"].as_str().unwrap(),
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn credentials_and_secrets_are_readable_by_the_owner_only_and_persist() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let server = serve(folder.path(), &["--log", "json"]);
        for name in ["credentials.json", "env"] {
            let mode = std::fs::metadata(folder.path().join(name))
                .unwrap()
                .permissions();
            assert_eq!(mode.mode() & 0o777, 0o600, "{name}");
        }
        seen.push(std::fs::read(folder.path().join("credentials.json")).unwrap());
        server.stop("-INT");
    }
    assert_eq!(seen[0], seen[1], "a data folder keeps its credentials");
    let log = std::fs::read_to_string(folder.path().join("stderr")).unwrap();
    let line: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(line["message"], "stopping");
}

#[test]
fn a_data_folder_keeps_its_port_and_its_variables_are_those_of_the_server_that_answers() {
    let folder = tempfile::tempdir().unwrap();
    let mut endpoints = Vec::new();
    for _ in 0..2 {
        let server = serve(folder.path(), &[]);
        let variables = std::fs::read_to_string(folder.path().join("env")).unwrap();
        let line = format!("export AWS_ENDPOINT_URL={}\n", server.endpoint);
        assert!(variables.contains(&line), "{variables}");
        let line = format!("export CODE_COMMIT_ENDPOINT={}\n", server.endpoint);
        assert!(variables.contains(&line), "{variables}");
        endpoints.push(server.endpoint.clone());
        server.stop("-INT");
    }
    assert_eq!(endpoints[0], endpoints[1]);
    // A port that another program took is given up.
    let port = endpoints[0].rsplit(':').next().unwrap();
    let taken = std::net::TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    let server = serve(folder.path(), &[]);
    assert_ne!(server.endpoint, endpoints[0]);
    drop(taken);
}

#[test]
fn a_stopped_program_leaves_no_function_running() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    std::fs::write(
        &config,
        json!({
            "functions": [{ "name": "f", "bootstrap": bootstrap(), "timeout": 20, "memory": 128 }],
            "faults": ["s3:error,rate=0.5"],
        })
        .to_string(),
    )
    .unwrap();
    let server = serve(folder.path(), &["--config", config.to_str().unwrap()]);
    let kept = std::fs::read(folder.path().join("credentials.json")).unwrap();
    let kept: Value = serde_json::from_slice(&kept).unwrap();
    let id = kept["access_key_id"].as_str().unwrap().to_owned();
    let url = format!("{}/2015-03-31/functions/f/invocations", server.endpoint);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (status, _, body) = runtime.block_on(crate::support::http(
        "POST",
        &url,
        &[(
            "authorization",
            &format!("AWS4-HMAC-SHA256 Credential={id}/x"),
        )],
        json!({ "do": "context" }).to_string(),
    ));
    assert_eq!(status, 200);
    let context: Value = serde_json::from_slice(&body).unwrap();
    let pid = context["pid"].as_u64().unwrap();
    assert!(is_running(pid), "the function is warm");
    server.stop("-INT");
    assert!(!is_running(pid), "the function ended with the program");
}

#[test]
fn wrong_arguments_are_refused_with_the_remedy() {
    for (arguments, part) in [
        (&["serve", "--function", "f=/nowhere"][..], "build it first"),
        (&["serve", "--env", "f:A=B"], "--function f=.."),
        (
            &["serve", "--rule", "f=referenceCreated"],
            "--function f=..",
        ),
        (&["serve", "--fault", "s3:melt"], "unknown fault `melt`"),
        (&["serve", "--account", "12"], "12 digits"),
        (
            &["requests", "--endpoint", "http://127.0.0.1:1"],
            "branchline-dev serve",
        ),
    ] {
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
    let help = Command::new(PROGRAM).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for part in [
        "Examples:",
        "serve --data dev --all",
        "credential-helper",
        "faults add",
    ] {
        assert!(help.contains(part), "`--help` contains `{part}`");
    }
}
