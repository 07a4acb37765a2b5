//! Bare repositories in temporary folders.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use gix_hash::{Kind, ObjectId};
use tempfile::TempDir;

use crate::git;

/// A bare repository, deleted with this value if it made the folder.
#[derive(Debug)]
pub struct Repo {
    /// The temporary folder; `None` where something else owns it.
    pub dir: Option<TempDir>,
    /// The bare repository's own folder.
    pub path: PathBuf,
    /// The hash of its object ids.
    pub hash: Kind,
}

impl Repo {
    /// Creates an empty repository that may be fetched from and pushed to.
    pub fn new(hash: Kind) -> Self {
        let dir = tempfile::tempdir().expect("because the temporary folder is writable");
        let repo = Self {
            path: dir.path().join("r.git"),
            hash,
            dir: Some(dir),
        };
        std::fs::create_dir(&repo.path).expect("because the folder around it is new");
        let format = format!("--object-format={hash}");
        repo.git(&["init", "-q", "--bare", "-b", "main", &format]);
        repo.git(&["config", "http.receivepack", "true"]);
        repo.git(&["config", "gc.auto", "0"]);
        repo
    }

    /// Creates a repository with [`history`] on `main`, with a merged side branch and the
    /// refs of `fixtures/refs-of-every-kind.sh`.
    pub fn with_history(hash: Kind, commits: usize, files: usize) -> Self {
        let repo = Self::new(hash);
        repo.input(&["fast-import", "--quiet"], &history(0, commits, files));
        repo.script("refs-of-every-kind");
        repo
    }

    /// Runs the script `name` of `test-support/fixtures` in the repository; it must succeed.
    pub fn script(&self, name: &str) {
        let script = format!("{}/fixtures/{name}.sh", env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new("sh");
        git::make_hermetic(&mut command, &self.path);
        command.arg(script).current_dir(&self.path);
        if let Err(error) = git::run(&mut command) {
            panic!("{error:#}");
        }
    }

    /// Reads the pack of a repository that has one pack, and its index.
    pub fn only_pack(&self) -> (Vec<u8>, Vec<u8>) {
        let folder = std::fs::read_dir(self.path.join("objects/pack"))
            .expect("because git creates the folder with the repository");
        let pack = folder
            .map(|entry| entry.expect("because the folder is readable").path())
            .find(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "pack")
            })
            .expect("because the caller has packed the repository");
        let read = |path| std::fs::read(path).expect("because git has written the file");
        (read(pack.clone()), read(pack.with_extension("idx")))
    }

    /// Returns a hermetic git command in the repository.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = git::command(&self.path);
        command.args(args);
        command
    }

    /// Runs git, which must succeed, and returns its output without the last newline.
    pub fn git(&self, args: &[&str]) -> String {
        String::from_utf8(self.bytes(args))
            .expect("because these tests print names that are UTF-8")
            .trim_end_matches('\n')
            .to_owned()
    }

    /// Runs git, which must succeed, and returns its output as bytes.
    pub fn bytes(&self, args: &[&str]) -> Vec<u8> {
        self.input(args, b"")
    }

    /// Runs git with `input`; it must succeed; and returns its output as bytes.
    pub fn input(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let (success, out, error) = self.run(args, input);
        assert!(success, "git {args:?}: {error}");
        out
    }

    /// Runs git with `input` and returns success, standard output and standard error.
    pub fn run(&self, args: &[&str], input: &[u8]) -> (bool, Vec<u8>, String) {
        let output = git::output(&mut self.command(args), input).expect("because git is installed");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), output.stdout, error)
    }

    /// Returns the id that `revision` names.
    pub fn id(&self, revision: &str) -> ObjectId {
        let hex = self.git(&["rev-parse", revision]);
        ObjectId::from_hex(hex.as_bytes()).expect("because git prints ids in hex")
    }

    /// Returns each ref as a line of id and name.
    pub fn refs(&self) -> String {
        self.git(&["for-each-ref", "--format=%(objectname) %(refname)"])
    }

    /// Returns the ids of all objects that refs reach, sorted.
    pub fn objects(&self) -> Vec<String> {
        let listed = self.git(&["rev-list", "--objects", "--no-object-names", "--all"]);
        let mut ids: Vec<_> = listed.lines().map(str::to_owned).collect();
        ids.sort();
        ids
    }

    /// Adds `pack` by `git index-pack --strict` and returns the index file that git wrote.
    pub fn index_pack(&self, pack: &[u8], fix_thin: bool) -> Vec<u8> {
        let mut args = vec!["index-pack", "--stdin", "--strict"];
        args.extend(fix_thin.then_some("--fix-thin"));
        let out = String::from_utf8(self.input(&args, pack)).expect("because git prints an id");
        let id = out.split_whitespace().next_back();
        let id = id.expect("because git prints the pack's id");
        let index = self.path.join(format!("objects/pack/pack-{id}.idx"));
        std::fs::read(index).expect("because git wrote the index")
    }

    /// Adds `pack` as it is, and returns the index file that git wrote. Bases of deltas may be
    /// in the repository's other packs.
    pub fn index_pack_alone(&self, pack: &[u8]) -> Vec<u8> {
        let file = self.path.join("objects/pack/pack-test.pack");
        std::fs::write(&file, pack).expect("because the repository is writable");
        self.git(&["index-pack", &file.to_string_lossy()]);
        std::fs::read(file.with_extension("idx")).expect("because git wrote the index")
    }

    /// Asserts that `git fsck --strict` has nothing to report.
    pub fn fsck(&self) {
        let report = self.git(&["fsck", "--full", "--strict", "--no-dangling"]);
        assert_eq!(report, "", "git fsck finds nothing");
    }
}

/// Returns a stream for `git fast-import` of `commits` commits numbered from `first`, over
/// `files` files, with a symbolic link. Contents differ little from commit to commit, so
/// that packs have deltas.
pub fn history(first: usize, commits: usize, files: usize) -> Vec<u8> {
    let mut out = String::new();
    write_history(&mut out, first, commits, files).expect("because a string accepts all text");
    out.into_bytes()
}

fn write_history(out: &mut String, first: usize, commits: usize, files: usize) -> std::fmt::Result {
    let parent = if first == 0 {
        ""
    } else {
        "from refs/heads/main^0\n"
    };
    for n in first..first + commits {
        let branch = if n % 5 == 3 { "side" } else { "main" };
        let message = format!("commit {n}\n\nwith a body\n");
        let date = 1_600_000_000 + n * 60;
        writeln!(out, "commit refs/heads/{branch}")?;
        writeln!(out, "author A <a@x> {date} +0100")?;
        writeln!(out, "committer C <c@x> {date} -0500")?;
        writeln!(out, "data {}\n{message}", message.len())?;
        if n == first {
            out.push_str(parent);
        } else if branch == "side" {
            writeln!(out, "from refs/heads/main")?;
        } else if n % 5 == 0 && n > first + 4 {
            writeln!(out, "merge refs/heads/side")?;
        }
        for file in 0..files {
            if n != first && (n * 7 + file) % 11 > 2 {
                continue;
            }
            let mut text = String::new();
            for line in 0..60 + file % 40 {
                let stamp = if line % 17 == n % 17 { n } else { 0 };
                writeln!(text, "file {file} line {line} {stamp} {}", line * file * 31)?;
            }
            let folder = file % 7;
            writeln!(out, "M 100644 inline d{folder}/e{}/f{file}.txt", file % 3)?;
            writeln!(out, "data {}\n{text}", text.len())?;
        }
        writeln!(out, "M 120000 inline link\ndata 4\nd0/e")?;
    }
    Ok(())
}
