//! moto: a second S3, and services that the development server does not have.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// A running `moto_server`, stopped when dropped.
#[derive(Debug)]
pub struct Moto {
    process: Child,
    address: SocketAddr,
}

impl Moto {
    /// Starts moto from the Python environment that the variable `BRANCHLINE_VENV` names;
    /// `None` if it is not set.
    ///
    /// # Errors
    /// moto does not start.
    pub fn start() -> Result<Option<Self>> {
        let Some(environment) = std::env::var_os("BRANCHLINE_VENV").map(PathBuf::from) else {
            eprintln!(
                "skipped: BRANCHLINE_VENV is not set; `cargo xtask test` makes that environment"
            );
            return Ok(None);
        };
        Self::start_from(&environment).map(Some)
    }

    /// Starts moto from the Python environment in the folder `environment`.
    ///
    /// # Errors
    /// moto does not start.
    pub fn start_from(environment: &Path) -> Result<Self> {
        // moto does not print the port that it got for 0, so a free one is chosen here.
        // Because another process may take it first, three are tried.
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
        bail!("moto_server did not start on any of three ports")
    }

    /// Returns the URL of all services.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stores `secret` in Secrets Manager and in SSM and returns the two ARNs.
    ///
    /// # Errors
    /// moto refuses a call.
    pub fn keep(&self, name: &str, secret: &str) -> Result<[String; 2]> {
        let input = serde_json::json!({ "Name": name, "SecretString": secret });
        let kept = self.call("secretsmanager", "secretsmanager.CreateSecret", &input)?;
        let arn = kept["ARN"]
            .as_str()
            .context("the response has no ARN")?
            .to_owned();
        let input = serde_json::json!({
            "Name": format!("/{name}"), "Value": secret, "Type": "SecureString",
        });
        self.call("ssm", "AmazonSSM.PutParameter", &input)?;
        let parameter = format!("arn:aws:ssm:us-east-1:123456789012:parameter/{name}");
        Ok([arn, parameter])
    }

    /// Returns the address that moto listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls an operation of a service with a JSON protocol. moto does not check the
    /// signature, but takes the service and the region from it.
    ///
    /// # Errors
    /// moto refuses the call, or its response is not JSON.
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
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .context("the response has no end of headers")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "moto: {answer}");
        serde_json::from_str(body).context("the response is not JSON")
    }

    /// Sends an unsigned PUT, which moto accepts for a bucket and for its policy.
    ///
    /// # Errors
    /// moto refuses the call.
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
