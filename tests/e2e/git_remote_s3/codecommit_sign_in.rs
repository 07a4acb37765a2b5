//! Passwords of `codecommit://`: where they come from, when they are signed again, and that they
//! are not shown.

use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use branchline_dev::account::Credentials;
use branchline_test_support::http::{Listener, ReceivedRequest};

use super::codecommit::{fatal, terminal};
use super::environment::Terminal;

/// A server in front of another one, which refuses passwords as if they had expired.
struct Forwarder {
    listener: Listener,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// Values of `Authorization`.
    authorizations: Vec<String>,
    /// Number of requests that are yet to be refused.
    refusals: usize,
    /// Command lines of processes that contained a password.
    visible: Vec<String>,
}

impl Forwarder {
    fn start(server: &str) -> Result<Self> {
        let to: SocketAddr = server.trim_start_matches("http://").parse()?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        let listener = Listener::start(move |stream, _| {
            let mut reader = BufReader::new(stream.try_clone()?);
            while let Some(mut request) = ReceivedRequest::read_head(&mut reader)? {
                if request.headers.contains_key("expect") {
                    (&stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                }
                request.read_body(&mut reader)?;
                let refused = shared.lock().expect("no test panics here").see(&request);
                if refused {
                    (&stream).write_all(
                        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\
                          Content-Length: 0\r\n\r\n",
                    )?;
                    continue;
                }
                return forward(&request, to, &stream);
            }
            Ok(())
        });
        Ok(Self { listener, seen })
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.listener.address())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("no test panics here")
    }
}

impl Seen {
    /// Notes a request; returns whether it is to be refused.
    fn see(&mut self, request: &ReceivedRequest) -> bool {
        let Some(authorization) = request.headers.get("authorization") else {
            return false;
        };
        let password = password(authorization);
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains(&password) {
                self.visible.push(line);
            }
        }
        self.authorizations.push(authorization.clone());
        let refused = request.method == "POST" && self.refusals > 0;
        self.refusals -= usize::from(refused);
        refused
    }
}

fn forward(
    request: &ReceivedRequest,
    to: SocketAddr,
    mut client: &TcpStream,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(to)?;
    write!(server, "{} {} HTTP/1.1\r\n", request.method, request.target)?;
    for (name, value) in &request.headers {
        let is_own = [
            "connection",
            "transfer-encoding",
            "content-length",
            "expect",
        ];
        if !is_own.contains(&name.as_str()) {
            write!(server, "{name}: {value}\r\n")?;
        }
    }
    let length = request.body.len();
    write!(
        server,
        "connection: close\r\ncontent-length: {length}\r\n\r\n"
    )?;
    server.write_all(&request.body)?;
    std::io::copy(&mut server, &mut client)?;
    Ok(())
}

/// Returns the password of `Basic <name and password>`.
fn password(authorization: &str) -> String {
    let encoded = authorization.trim_start_matches("Basic ");
    let decoded = STANDARD.decode(encoded).expect("it is base64");
    let text = String::from_utf8(decoded).expect("it is text");
    text.split_once(':')
        .expect("it has a password")
        .1
        .to_owned()
}

/// "A password of CodeCommit is never in an argument list or a trace, and is signed again when it expires."
#[tokio::test]
async fn an_expired_password_is_signed_again_and_none_is_ever_shown() -> Result<()> {
    let mut terminal = terminal(&["r"]).await?;
    terminal.repository("work", 8)?;
    let forwarder = Forwarder::start(&terminal.server().endpoint())?;
    terminal.set("CODE_COMMIT_ENDPOINT", Some(&forwarder.endpoint()));
    for variable in [
        "GIT_TRACE",
        "GIT_TRACE_CURL",
        "GIT_CURL_VERBOSE",
        "GIT_TRACE_PACKET",
    ] {
        terminal.set(variable, Some("1"));
    }
    let mut said = String::new();
    for arguments in [
        &["-C", "work", "push", "codecommit://r", "main"][..],
        &["clone", "codecommit://r", "clone"],
        &["-C", "clone", "fetch", "--depth", "2"],
    ] {
        forwarder.seen().refusals = 1;
        let run = terminal.git(arguments).await?;
        assert_eq!(run.status, Some(0), "{run:?}");
        said.push_str(&run.stderr);
        said.push_str(&run.stdout);
        if arguments.contains(&"clone") {
            assert_eq!(forwarder.seen().refusals, 0, "{arguments:?}");
        }
    }
    let seen = forwarder.seen();
    assert!(
        seen.authorizations.len() >= 6,
        "{}",
        seen.authorizations.len()
    );
    assert_eq!(seen.visible, Vec::<String>::new());
    let secret = terminal.variable("AWS_SECRET_ACCESS_KEY");
    assert!(said.contains("remote-http"), "git traces its commands");
    assert!(!said.contains(secret));
    for authorization in &seen.authorizations {
        let encoded = authorization.trim_start_matches("Basic ");
        assert!(!said.contains(encoded) && !said.contains(&password(authorization)));
    }
    Ok(())
}

#[tokio::test]
async fn credentials_that_are_never_accepted_end_in_an_error() -> Result<()> {
    let mut terminal = terminal(&["r"]).await?;
    terminal.repository("work", 3)?;
    terminal.push("codecommit://r", &["main"]).await?.done();
    let forwarder = Forwarder::start(&terminal.server().endpoint())?;
    terminal.set("CODE_COMMIT_ENDPOINT", Some(&forwarder.endpoint()));
    forwarder.seen().refusals = usize::MAX;
    let said = terminal
        .git(&["clone", "codecommit://r", "clone"])
        .await?
        .failed(128);
    let line = fatal(&said);
    assert!(
        line.contains("does not accept the AWS credentials") && line.contains("hint: "),
        "{said}"
    );
    assert!(forwarder.seen().authorizations.len() < 6);
    Ok(())
}

/// Writes a profile whose keys a program prints, with the session `token` until `expiry`.
fn set_profile(terminal: &Terminal, token: &str, expiry: &str) -> Result<()> {
    let id = terminal.variable("AWS_ACCESS_KEY_ID");
    let secret = terminal.variable("AWS_SECRET_ACCESS_KEY");
    let printed = format!(
        "{{\"Version\": 1, \"AccessKeyId\": \"ROLE{id}\", \"SecretAccessKey\": \"{secret}\", \
         \"SessionToken\": \"{token}\", \"Expiration\": \"{expiry}\"}}"
    );
    std::fs::create_dir_all(terminal.path(".aws"))?;
    std::fs::write(terminal.path("keys.json"), printed)?;
    let config = format!(
        "[profile role]\nregion = us-east-1\ncredential_process = cat {}/keys.json\n",
        terminal.home().display()
    );
    Ok(std::fs::write(terminal.path(".aws/config"), config)?)
}

#[tokio::test]
async fn expired_credentials_are_refused_and_renewed_ones_are_used() -> Result<()> {
    let mut terminal = terminal(&["r"]).await?;
    terminal.repository("work", 3)?;
    let keys = terminal.server().credentials().clone();
    terminal.server().account().add(Credentials {
        access_key_id: format!("ROLE{}", keys.access_key_id),
        session_token: Some("new/token+=".to_owned()),
        ..keys
    });
    let push = async |terminal: &Terminal| {
        let url = "codecommit://role@r";
        terminal.push(url, &["--quiet", "main"]).await
    };
    set_profile(&terminal, "old", "2020-01-01T00:00:00Z")?;
    let said = push(&terminal).await?.failed(128);
    assert!(
        fatal(&said).contains("have expired")
            && said.contains("hint: run the `credential_process`"),
        "{said}"
    );
    // A token that the service does not accept any more.
    set_profile(&terminal, "old", "2999-01-01T00:00:00Z")?;
    let said = push(&terminal).await?.failed(128);
    assert!(said.contains("403"), "{said}");
    set_profile(&terminal, "new/token+=", "2999-01-01T00:00:00Z")?;
    push(&terminal).await?.done();
    // The keys of the environment are those of the server, and not of the profile.
    terminal.set("AWS_SECRET_ACCESS_KEY", Some("wrong"));
    push(&terminal).await?.done();
    let said = terminal
        .git(&["ls-remote", "codecommit://r"])
        .await?
        .failed(128);
    assert!(said.contains("403"), "{said}");
    Ok(())
}

#[tokio::test]
async fn the_region_comes_from_the_url_the_environment_or_the_profile() -> Result<()> {
    let mut terminal = terminal(&["r"]).await?;
    terminal.repository("work", 3)?;
    terminal.push("codecommit://r", &["main"]).await?.done();
    terminal.set("AWS_DEFAULT_REGION", Some("eu-west-1"));
    // The development server is in another region, and a password is for one region.
    for (url, status) in [
        ("codecommit://r", 128),
        ("codecommit::us-east-1://r", 0),
        ("codecommit::eu-west-1://r", 128),
    ] {
        let listed = terminal.git(&["ls-remote", url]).await?;
        assert_eq!(listed.status, Some(status), "{url}: {listed:?}");
    }
    terminal.set("AWS_DEFAULT_REGION", None);
    terminal.set("AWS_REGION", Some("us-east-1"));
    terminal.git(&["ls-remote", "codecommit://r"]).await?.done();
    terminal.set("AWS_REGION", Some("eu-west-1"));
    let id = terminal.variable("AWS_ACCESS_KEY_ID").to_owned();
    let secret = terminal.variable("AWS_SECRET_ACCESS_KEY").to_owned();
    let config = format!(
        "[profile here]\nregion = us-east-1\naws_access_key_id = {id}\n\
         aws_secret_access_key = {secret}\n"
    );
    std::fs::create_dir_all(terminal.path(".aws"))?;
    std::fs::write(terminal.path(".aws/config"), config)?;
    terminal
        .git(&["ls-remote", "codecommit://here@r"])
        .await?
        .done();
    Ok(())
}

#[tokio::test]
async fn other_credential_helpers_are_not_asked_and_get_no_password() -> Result<()> {
    let terminal = terminal(&["r"]).await?;
    terminal.repository("work", 3)?;
    let helper = format!(
        "credential.helper=!f() {{ cat >> {}/asked; }}; f",
        terminal.home().display()
    );
    let push = [
        "-C",
        "work",
        "-c",
        &helper,
        "push",
        "--quiet",
        "codecommit://r",
        "main",
    ];
    terminal.git(&push).await?.done();
    assert!(!terminal.path("asked").exists());
    Ok(())
}
