//! Repositories made and asked by git, hermetically.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use branchline_git::{HashKind, ObjectId};
use tempfile::TempDir;

/// A repository in a temporary folder.
pub(crate) struct Repo {
    /// Removed with this value.
    pub _dir: Option<TempDir>,
    pub path: PathBuf,
    pub hash: HashKind,
}

/// The environment that every git of these tests has.
pub(crate) fn environment(command: &mut Command, home: &Path) {
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_NAME", "A U Thor")
        .env("GIT_AUTHOR_EMAIL", "author@example.com")
        .env("GIT_AUTHOR_DATE", "1700000000 +0000")
        .env("GIT_COMMITTER_NAME", "C O Mitter")
        .env("GIT_COMMITTER_EMAIL", "committer@example.com")
        .env("GIT_COMMITTER_DATE", "1700000000 +0000")
        .env("LC_ALL", "C")
        .env("TZ", "UTC");
}

impl Repo {
    /// An empty bare repository that may be fetched from and pushed to.
    pub(crate) fn new(hash: HashKind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.git");
        let repo = Self {
            path: path.clone(),
            hash,
            _dir: Some(dir),
        };
        let mut init = Command::new("git");
        environment(&mut init, path.parent().unwrap());
        let format = format!("--object-format={hash}");
        let done = init
            .args(["init", "-q", "--bare", "-b", "main", &format])
            .arg(&path)
            .status()
            .unwrap();
        assert!(done.success());
        repo.git(&["config", "http.receivepack", "true"]);
        repo.git(&["config", "gc.auto", "0"]);
        repo
    }

    /// A repository with a history of `commits` commits over `files` files on `main`, a
    /// merged side branch, an annotated and a lightweight tag, and a symbolic link.
    pub(crate) fn with_history(hash: HashKind, commits: usize, files: usize) -> Self {
        let repo = Self::new(hash);
        repo.input(&["fast-import", "--quiet"], &history(0, commits, files));
        repo.git(&["tag", "light", "main~1"]);
        repo.git(&["tag", "-a", "v1", "-m", "one", "main"]);
        repo.git(&["tag", "-a", "nested", "-m", "two", "v1"]);
        repo.git(&["update-ref", "refs/notes/commits", "main~1"]);
        repo
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        environment(&mut command, self.path.parent().unwrap());
        command.arg("-C").arg(&self.path).args(args);
        command
    }

    /// What git prints, its final newline taken off.
    pub(crate) fn git(&self, args: &[&str]) -> String {
        String::from_utf8(self.bytes(args))
            .unwrap()
            .trim_end_matches('\n')
            .to_owned()
    }

    pub(crate) fn bytes(&self, args: &[&str]) -> Vec<u8> {
        self.input(args, b"")
    }

    /// What git prints, given that input; git must succeed.
    pub(crate) fn input(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let (ok, out, error) = self.run(args, input);
        assert!(ok, "git {args:?}: {error}");
        out
    }

    pub(crate) fn run(&self, args: &[&str], input: &[u8]) -> (bool, Vec<u8>, String) {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || {
                // Git may end before it has read everything.
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().unwrap()
        });
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), output.stdout, error)
    }

    pub(crate) fn id(&self, revision: &str) -> ObjectId {
        let hex = self.git(&["rev-parse", revision]);
        ObjectId::from_hex(hex.as_bytes()).unwrap()
    }

    /// Every ref with its id.
    pub(crate) fn refs(&self) -> String {
        self.git(&["for-each-ref", "--format=%(objectname) %(refname)"])
    }

    /// All objects that the refs lead to.
    pub(crate) fn objects(&self) -> Vec<String> {
        let listed = self.git(&["rev-list", "--objects", "--no-object-names", "--all"]);
        let mut ids: Vec<_> = listed.lines().map(str::to_owned).collect();
        ids.sort();
        ids
    }

    /// Adds a pack as git does, strictly; its index file.
    pub(crate) fn index_pack(&self, pack: &[u8], fix_thin: bool) -> Vec<u8> {
        let mut args = vec!["index-pack", "--stdin", "--strict"];
        args.extend(fix_thin.then_some("--fix-thin"));
        let out = self.input(&args, pack);
        let out = String::from_utf8(out).unwrap();
        let id = out.split_whitespace().next_back().unwrap();
        std::fs::read(self.path.join(format!("objects/pack/pack-{id}.idx"))).unwrap()
    }

    pub(crate) fn fsck(&self) {
        let report = self.git(&["fsck", "--full", "--strict", "--no-dangling"]);
        assert_eq!(report, "", "git fsck finds nothing");
    }
}

/// A stream for `git fast-import`, of commits numbered from `first`. Contents differ
/// little from commit to commit, so that packs have deltas.
pub(crate) fn history(first: usize, commits: usize, files: usize) -> Vec<u8> {
    let mut out = String::new();
    let parent = if first == 0 {
        ""
    } else {
        "from refs/heads/main^0\n"
    };
    for n in first..first + commits {
        let branch = if n % 5 == 3 { "side" } else { "main" };
        let message = format!("commit {n}\n\nwith a body\n");
        let date = 1_600_000_000 + n * 60;
        writeln!(out, "commit refs/heads/{branch}").unwrap();
        writeln!(out, "author A <a@x> {date} +0100").unwrap();
        writeln!(out, "committer C <c@x> {date} -0500").unwrap();
        writeln!(out, "data {}\n{message}", message.len()).unwrap();
        if n == first {
            out.push_str(parent);
        } else if branch == "side" {
            writeln!(out, "from refs/heads/main").unwrap();
        } else if n % 5 == 0 && n > first + 4 {
            writeln!(out, "merge refs/heads/side").unwrap();
        }
        for file in 0..files {
            if n != first && (n * 7 + file) % 11 > 2 {
                continue;
            }
            let mut text = String::new();
            for line in 0..60 + file % 40 {
                let stamp = if line % 17 == n % 17 { n } else { 0 };
                writeln!(text, "file {file} line {line} {stamp} {}", line * file * 31).unwrap();
            }
            let folder = file % 7;
            writeln!(out, "M 100644 inline d{folder}/e{}/f{file}.txt", file % 3).unwrap();
            writeln!(out, "data {}\n{text}", text.len()).unwrap();
        }
        writeln!(out, "M 120000 inline link\ndata 4\nd0/e").unwrap();
    }
    out.into_bytes()
}
