//! moto, another S3 and services that the development server does not have.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// A moto server that stops with its value.
#[derive(Debug)]
pub struct Moto {
    process: Child,
    address: SocketAddr,
}

impl Moto {
    /// Starts it from the Python environment that `BRANCHLINE_VENV` names; `None` when it
    /// names none.
    pub fn start() -> Result<Option<Self>> {
        let Some(environment) = std::env::var_os("BRANCHLINE_VENV").map(PathBuf::from) else {
            eprintln!(
                "skipped: BRANCHLINE_VENV is not set; `cargo xtask test` makes that environment"
            );
            return Ok(None);
        };
        Self::start_from(&environment).map(Some)
    }

    /// Starts it from a Python environment.
    pub fn start_from(environment: &Path) -> Result<Self> {
        // moto does not tell which port it got for 0: one that is free now is asked for.
        // Another process may take it first, and then the next one is tried.
        for _ in 0..3 {
            let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            let process = Command::new(environment.join("bin/moto_server"))
                .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("moto_server")?;
            let mut moto = Self { process, address };
            let start = Instant::now();
            while moto.process.try_wait()?.is_none() && start.elapsed() < Duration::from_mins(1) {
                if TcpStream::connect(address).is_ok() {
                    return Ok(moto);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        bail!("moto_server does not start")
    }

    /// Where it is.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stores a secret in Secrets Manager, and a parameter in SSM; their ARNs.
    pub fn keep(&self, name: &str, secret: &str) -> Result<[String; 2]> {
        let input = serde_json::json!({ "Name": name, "SecretString": secret });
        let kept = self.call("secretsmanager", "secretsmanager.CreateSecret", &input)?;
        let arn = kept["ARN"].as_str().context("it has an ARN")?.to_owned();
        let input = serde_json::json!({
            "Name": format!("/{name}"), "Value": secret, "Type": "SecureString",
        });
        self.call("ssm", "AmazonSSM.PutParameter", &input)?;
        let parameter = format!("arn:aws:ssm:us-east-1:123456789012:parameter/{name}");
        Ok([arn, parameter])
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls an operation of a service that speaks JSON. moto checks no signature, but
    /// reads the service and the region off it.
    pub fn call(&self, service: &str, target: &str, input: &Value) -> Result<Value> {
        let body = input.to_string();
        let mut stream = TcpStream::connect(self.address)?;
        write!(
            stream,
            "POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-amz-json-1.1\r\n\
             X-Amz-Target: {target}\r\nContent-Length: {}\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/us-east-1/{service}\
             /aws4_request, SignedHeaders=host, Signature=00\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("it has an end")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "moto: {answer}");
        serde_json::from_str(body).context("moto answers JSON")
    }

    /// Puts what moto asks nobody to sign: a bucket, or its policy.
    pub fn put(&self, target: &str, body: &str) -> Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        write!(
            stream,
            "PUT {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let done = answer.starts_with("HTTP/1.1 20");
        ensure!(done, "moto: {answer}");
        Ok(())
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
