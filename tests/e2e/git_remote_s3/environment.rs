//! A terminal: stock git, the program under its names on PATH, and S3.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use branchline_core::aws::{AccessKey, Aws};
use branchline_core::storage::client::SdkObjectStore;
use branchline_dev::faults::Service;
use branchline_dev::s3::store::Query;
use branchline_dev::server::{Options, Server};
use branchline_test_support::git;
use branchline_test_support::moto::Moto;
use branchline_test_support::repo::history;
use branchline_tests::environment::built_programs;
use tempfile::TempDir;

/// The bucket.
pub(crate) const BUCKET: &str = "repositories";

/// Names of the program on PATH.
const NAMES: [&str; 8] = [
    "branchline",
    "git-lfs-s3",
    "git-remote-codecommit",
    "git-remote-s3",
    "git-remote-s3+zip",
    "git-s3",
    "incremental-repo-migration",
    "mirror-git-to-s3",
];

/// A server of S3; it stops when dropped.
pub(crate) enum S3 {
    DevelopmentServer(Box<Server>),
    Moto(#[expect(dead_code, reason = "it stops when dropped")] Moto),
}

/// A terminal in a directory of its own.
pub(crate) struct Terminal {
    s3: S3,
    directory: TempDir,
    environment: Vec<(String, String)>,
}

/// Output and exit status of a command.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Fails unless the command succeeded; returns its output.
    pub(crate) fn done(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.stdout
    }

    /// Fails unless the command ended with `status`; returns its messages.
    pub(crate) fn failed(self, status: i32) -> String {
        assert_eq!(self.status, Some(status), "{self:?}");
        self.stderr
    }
}

impl Terminal {
    /// Starts the development server with an empty bucket.
    pub(crate) async fn start() -> Result<Self> {
        let server = Server::start(Options::default()).await?;
        let region = server.account().region.clone();
        let made = server.store().create_bucket(BUCKET, &region);
        made.map_err(|error| anyhow::anyhow!("{error}"))?;
        let credentials = server.credentials();
        let keys = [
            ("AWS_ENDPOINT_URL", server.endpoint()),
            ("AWS_ACCESS_KEY_ID", credentials.access_key_id.clone()),
            (
                "AWS_SECRET_ACCESS_KEY",
                credentials.secret_access_key.clone(),
            ),
        ];
        Self::new(S3::DevelopmentServer(Box::new(server)), &keys)
    }

    /// Starts moto with an empty bucket; `None` without the Python environment.
    pub(crate) fn on_moto() -> Result<Option<Self>> {
        let Some(moto) = Moto::start()? else {
            return Ok(None);
        };
        Self::on(moto).map(Some)
    }

    /// Makes an empty bucket on moto.
    pub(crate) fn on(moto: Moto) -> Result<Self> {
        moto.put(&format!("/{BUCKET}"), "")?;
        let keys = [
            ("AWS_ENDPOINT_URL", moto.endpoint()),
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ];
        Self::new(S3::Moto(moto), &keys)
    }

    fn new(s3: S3, keys: &[(&str, String)]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let bin = directory.path().join("bin");
        std::fs::create_dir(&bin)?;
        let program = built_programs().join("branchline");
        assert!(
            program.is_file(),
            "{} is missing; run `cargo build --workspace --bins`",
            program.display()
        );
        for name in NAMES {
            symlink(&program, bin.join(name))?;
        }
        let path = git::search_path().to_string_lossy().into_owned();
        let mut environment = vec![
            ("PATH".to_owned(), format!("{}:{path}", bin.display())),
            ("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned()),
        ];
        environment.extend(
            keys.iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone())),
        );
        Ok(Self {
            s3,
            directory,
            environment,
        })
    }

    /// Sets an environment variable of all later commands; without a value it is removed.
    pub(crate) fn set(&mut self, name: &str, value: Option<&str>) {
        self.environment.retain(|(known, _)| known != name);
        if let Some(value) = value {
            self.environment.push((name.to_owned(), value.to_owned()));
        }
    }

    /// The value of an environment variable.
    pub(crate) fn variable(&self, name: &str) -> &str {
        let mut variables = self.environment.iter();
        let found = variables.find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// The development server.
    pub(crate) fn server(&self) -> &Server {
        match &self.s3 {
            S3::DevelopmentServer(server) => server,
            S3::Moto(_) => panic!("this test needs the development server"),
        }
    }

    /// The home directory, in which commands are run.
    pub(crate) fn home(&self) -> &Path {
        self.directory.path()
    }

    /// A path below the home directory.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.home().join(below)
    }

    /// A program in the environment of the terminal.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let in_bin = self.path("bin").join(program);
        let program = if in_bin.exists() {
            in_bin
        } else {
            program.into()
        };
        let mut command = Command::new(program);
        git::make_hermetic(&mut command, self.home());
        command
            .args(arguments)
            .current_dir(self.home())
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a program, and waits for its end while the server answers.
    pub(crate) async fn run(&self, program: &str, arguments: &[&str]) -> Result<Outcome> {
        self.wait_for(self.command(program, arguments)).await
    }

    /// Runs git.
    pub(crate) async fn git(&self, arguments: &[&str]) -> Result<Outcome> {
        self.run("git", arguments).await
    }

    /// Pushes refs of the repository `work`.
    pub(crate) async fn push(&self, remote: &str, refspecs: &[&str]) -> Result<Outcome> {
        self.git(&[&["-C", "work", "push", remote], refspecs].concat())
            .await
    }

    /// Creates an empty remote in a layout.
    pub(crate) async fn init_remote(&self, layout: &str, url: &str) -> Result<()> {
        let arguments = ["remote", "init", "--layout", layout, url];
        self.run("branchline", &arguments).await?.done();
        Ok(())
    }

    /// Runs a command, and waits for its end while the server answers.
    pub(crate) async fn wait_for(&self, mut command: Command) -> Result<Outcome> {
        let output = tokio::task::spawn_blocking(move || git::output(&mut command, b"")).await??;
        Ok(Outcome {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Makes a repository `name` with a history of `commits` commits, branches and tags.
    pub(crate) fn repository(&self, name: &str, commits: usize) -> Result<()> {
        let path = self.path(name);
        git::init(&path)?;
        let mut import = git::command(&path);
        import.args(["fast-import", "--quiet"]);
        git::run_with_input(&mut import, &history(0, commits, 6))?;
        git::git(&path, ["checkout", "--quiet", "main"])?;
        git::git(&path, ["tag", "light", "main~1"])?;
        git::git(
            &path,
            ["tag", "--annotate", "v1", "--message=one", "main~2"],
        )?;
        git::git(&path, ["notes", "add", "--message=noted", "main"])?;
        Ok(())
    }

    /// The keys below a prefix of the bucket.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let bucket = self
            .server()
            .store()
            .bucket(BUCKET)
            .expect("the bucket is there");
        let page = bucket.list(&Query {
            prefix: prefix.to_owned(),
            limit: 10_000,
            ..Query::default()
        });
        page.versions.into_iter().map(|listed| listed.key).collect()
    }

    /// The store of either server, over S3's protocol.
    pub(crate) fn store(&self) -> SdkObjectStore {
        let region = match &self.s3 {
            S3::DevelopmentServer(server) => server.account().region.clone(),
            S3::Moto(_) => "us-east-1".to_owned(),
        };
        let key = AccessKey {
            id: self.variable("AWS_ACCESS_KEY_ID").to_owned(),
            secret: self.variable("AWS_SECRET_ACCESS_KEY").to_owned(),
            session_token: None,
        };
        let aws = Aws::fixed(&region, self.variable("AWS_ENDPOINT_URL"), &key);
        SdkObjectStore::new(&aws)
    }

    /// The number of requests to S3 until now.
    pub(crate) fn requests(&self) -> u64 {
        let lines = self.server().requests().lines();
        let of_s3 = lines.iter().filter(|line| line.service == Service::S3);
        of_s3.map(|line| line.count).sum()
    }
}

/// The URL of a repository.
pub(crate) fn url(name: &str) -> String {
    format!("s3://{BUCKET}/team/{name}")
}
