//! Git as the oracle: the same commands against `file://` and against `s3://`, in both layouts,
//! give the same exit status, refs, objects and shallow file.
//!
//! A case is a list of git commands, without `git`, run in a directory that has the repository
//! `work`. `{url}` is the remote, to which all refs of `work` were pushed, `{empty}` another one
//! where nothing is stored, and `{id}` the parent of `main`. After each command
//! the exit status, and at the end all clones (`c`, `d`), `work` and the remote are compared. A
//! command that starts with `!` must fail, and any other must succeed, so that no case is empty.
//! A case with an option that git has since a later version than that of `BRANCHLINE_GIT` is left
//! out.

use std::path::Path;

use anyhow::Result;
use branchline_test_support::git;

use super::environment::{Terminal, url};

/// Name, and commands.
type Case = (&'static str, &'static [&'static str]);

const FETCHES: &[Case] = &[
    ("a clone has all refs", &["clone {url} c"]),
    ("a mirror clone has all refs", &["clone --mirror {url} c"]),
    (
        "one branch is cloned",
        &["clone --single-branch --branch side {url} c"],
    ),
    ("no tags are cloned", &["clone --no-tags {url} c"]),
    ("an empty remote is cloned", &["clone {empty} c"]),
    (
        "a shallow clone is deepened and completed",
        &[
            "clone --no-tags --depth 1 {url} c",
            "-C c fetch --deepen 2",
            "-C c fetch --depth 5",
            "-C c fetch --unshallow",
        ],
    ),
    (
        "a partial clone without blobs fetches them on demand",
        &[
            "clone --filter=blob:none --no-checkout {url} c",
            "-C c checkout main",
            "-C c log --patch -3",
        ],
    ),
    (
        "partial clones by size, depth and kind",
        &[
            "clone --filter=blob:limit=1k {url} c",
            "clone --filter=tree:0 --no-checkout {url} d",
            "-C d checkout main",
        ],
    ),
    (
        "a partial clone is completed",
        &[
            "clone --filter=blob:none {url} c",
            "-C c fetch --refetch --no-filter",
        ],
    ),
    (
        "a commit is fetched by its id",
        &[
            "init --initial-branch=main c",
            "-C c fetch {url} {id}",
            "-C c checkout FETCH_HEAD",
        ],
    ),
    (
        "one commit is fetched by its id without its history",
        &[
            "init --initial-branch=main c",
            "-C c fetch --depth 1 {url} {id}",
        ],
    ),
    (
        "a fetch has what is new, and another one nothing",
        &[
            "clone {url} c",
            "-C work commit --allow-empty --message=new",
            "-C work push {url} main",
            "-C c fetch",
            "-C c fetch",
        ],
    ),
    (
        "deleted branches are pruned",
        &[
            "clone {url} c",
            "-C work push {url} :side",
            "-C c fetch --prune",
        ],
    ),
    (
        "refs are listed",
        &[
            "ls-remote {url}",
            "ls-remote --symref {url}",
            "ls-remote --heads {url}",
            "ls-remote --tags {url}",
            "ls-remote {url} main refs/notes/*",
            "!ls-remote --exit-code {url} missing",
        ],
    ),
    (
        "the branch of HEAD is found",
        &[
            "clone {url} c",
            "-C c remote set-head origin --auto",
            "-C c remote show origin",
        ],
    ),
    (
        "a missing branch is an error",
        &["init c", "!-C c fetch {url} missing"],
    ),
    (
        "protocol version 0",
        &[
            "-c protocol.version=0 clone {url} c",
            "-c protocol.version=0 clone --depth 2 {url} d",
            "-c protocol.version=0 ls-remote {url}",
        ],
    ),
    (
        "protocol version 1",
        &["-c protocol.version=1 clone {url} c"],
    ),
    (
        "objects are checked as they arrive",
        &["-c fetch.fsckObjects=true clone {url} c"],
    ),
    (
        "a reftable repository",
        &["clone --ref-format=reftable {url} c"],
    ),
    (
        "a worktree fetches",
        &[
            "clone {url} c",
            "-C c worktree add ../d side",
            "-C d fetch {url} main",
        ],
    ),
    (
        "shallow clones by time and by ref",
        &[
            "clone --shallow-since=1600000600 {url} c",
            "clone --shallow-exclude=v1 {url} d",
        ],
    ),
    (
        "annotated tags follow the history that is fetched",
        &[
            "clone --depth 4 {url} c",
            "-C c fetch --unshallow",
            "clone --single-branch --branch side {url} d",
            "-C work tag --annotate v2 --message=two",
            "-C work push {url} v2",
            "-C c fetch",
        ],
    ),
];

const PUSHES: &[Case] = &[
    (
        "one branch to another name",
        &["-C work push {url} side:refs/heads/other"],
    ),
    ("HEAD", &["-C work push {empty} HEAD:refs/heads/main"]),
    (
        "a commit by its id",
        &["-C work push {empty} {id}:refs/heads/main"],
    ),
    (
        "a commit by a revision",
        &["-C work push {empty} HEAD~1:refs/heads/main"],
    ),
    (
        "all branches and tags",
        &["-C work push {empty} --all", "-C work push {empty} --tags"],
    ),
    (
        "a mirror",
        &["-C work push --mirror {empty}", "clone --mirror {empty} c"],
    ),
    (
        "tags that follow",
        &["-C work push --follow-tags {empty} main", "clone {empty} c"],
    ),
    ("notes", &["-C work push {empty} main refs/notes/commits"]),
    (
        "a ref that is neither branch nor tag",
        &["-C work push {empty} main main:refs/for/review"],
    ),
    (
        "nothing new",
        &[
            "-C work push {url} main",
            "-C work push --porcelain {url} main",
        ],
    ),
    (
        "a fast-forward",
        &[
            "-C work commit --allow-empty --message=new",
            "-C work push {url} main",
        ],
    ),
    (
        "what is no fast-forward is rejected, and forced",
        &[
            "-C work commit --amend --allow-empty --message=amended",
            "!-C work push {url} main",
            "-C work push --force {url} main",
        ],
    ),
    (
        "a commit that is not known here is not overwritten",
        &[
            "clone {url} c",
            "-C c commit --allow-empty --message=theirs",
            "-C c push origin main",
            "-C work commit --allow-empty --message=ours",
            "!-C work push {url} main",
        ],
    ),
    ("a branch is deleted", &["-C work push {url} :side"]),
    (
        "a branch that is not there is not deleted",
        &["!-C work push {url} :missing"],
    ),
    (
        "the branch of HEAD is not deleted",
        &["!-C work push {url} :main"],
    ),
    (
        "a tag is not moved without force",
        &[
            "!-C work push {url} main:refs/tags/light",
            "-C work push --force {url} main:refs/tags/light",
        ],
    ),
    (
        "refs that are gone here are pruned",
        &[
            "-C work branch --delete --force side",
            "-C work push --prune {url} refs/heads/*:refs/heads/*",
        ],
    ),
    (
        "a dry run changes nothing",
        &[
            "-C work push --dry-run {empty} main",
            "-C work push --dry-run {url} :side",
        ],
    ),
    (
        "a lease holds",
        &[
            "-C work commit --amend --allow-empty --message=amended",
            "-C work push --force-with-lease=main:{main} {url} main",
            "-C work commit --amend --allow-empty --message=again",
            "!-C work push --force-with-lease=main:{main} {url} main",
        ],
    ),
    (
        "a signature is asked for in vain",
        &[
            "-C work push --signed=if-asked {empty} main",
            "!-C work push --signed=true {empty} side",
        ],
    ),
    (
        "a push option is refused",
        &["!-C work push --push-option=x {empty} main"],
    ),
    (
        "a ref that stands in the way of another",
        &[
            "!-C work push {url} main:refs/heads/side/x",
            "-C work push {url} :side main:refs/heads/side/x",
        ],
    ),
    (
        "a push from a shallow clone adds to the history",
        &[
            "clone --depth 1 {url} c",
            "-C c commit --allow-empty --message=new",
            "-C c push origin main",
            "clone {url} d",
        ],
    ),
    (
        "a shallow clone does not become a repository",
        &[
            "clone --depth 1 {url} c",
            "!-C c push {empty} main",
            "clone {empty} d",
        ],
    ),
    (
        "a push from a partial clone",
        &[
            "clone --filter=blob:none {url} c",
            "-C c commit --allow-empty --message=new",
            "-C c push origin main",
        ],
    ),
    (
        "an atomic push changes all refs",
        &["-C work push --atomic {empty} main side v1"],
    ),
    (
        "an atomic push with a rejected ref changes none",
        &[
            "-C work commit --amend --allow-empty --message=amended",
            "-C work branch other",
            "!-C work push --atomic {url} main other",
        ],
    ),
    (
        "a branch that would name a tree is rejected alone",
        &[
            "-C work commit --allow-empty --message=more",
            "!-C work push {url} main^{tree}:refs/heads/tree main",
        ],
    ),
];

/// Options, each with the version of git that has it first.
const OPTIONS: [(&str, (u32, u32)); 4] = [
    ("--filter", (2, 19)),
    ("--initial-branch", (2, 28)),
    ("--refetch", (2, 36)),
    ("--ref-format", (2, 45)),
];

/// Returns the option of a case that git does not have.
fn missing_option(commands: &[&str]) -> Option<&'static str> {
    let mut missing = OPTIONS
        .iter()
        .filter(|(_, since)| !git::is_at_least(*since));
    let is_used = |option: &str| commands.iter().any(|command| command.contains(option));
    missing.find_map(|(option, _)| is_used(option).then_some(*option))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Bundle,
    Dumb,
}

/// A directory in which a case is run, and its two remotes.
struct OracleCase<'a> {
    terminal: &'a Terminal,
    directory: String,
    url: String,
    empty: String,
}

impl<'a> OracleCase<'a> {
    async fn make(terminal: &'a Terminal, kind: Kind, number: usize) -> Result<Self> {
        let directory = format!("{kind:?}-{number}").to_lowercase();
        std::fs::create_dir(terminal.path(&directory))?;
        let work = format!("{directory}/work");
        let clone = [
            "clone",
            "--quiet",
            "--mirror",
            "seed",
            &format!("{work}/.git"),
        ];
        terminal.git(&clone).await?.done();
        terminal
            .git(&["-C", &work, "config", "core.bare", "false"])
            .await?
            .done();
        terminal
            .git(&["-C", &work, "config", "--remove-section", "remote.origin"])
            .await?
            .done();
        terminal
            .git(&["-C", &work, "reset", "--quiet", "--hard"])
            .await?
            .done();
        let name = |name: &str| match kind {
            Kind::File => format!(
                "file://{}",
                terminal.path(&format!("{directory}/{name}")).display()
            ),
            Kind::Bundle | Kind::Dumb => url(&format!("{directory}/{name}")),
        };
        let world = Self {
            terminal,
            url: name("full"),
            empty: name("empty"),
            directory,
        };
        for url in [&world.url, &world.empty] {
            match kind {
                Kind::File => {
                    let path = url.strip_prefix("file://").unwrap_or_default();
                    git::init_bare(Path::new(path))?;
                    for setting in ["uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"] {
                        terminal
                            .git(&["-C", path, "config", setting, "true"])
                            .await?
                            .done();
                    }
                }
                Kind::Bundle => {}
                Kind::Dumb => {
                    let init = ["remote", "init", "--layout", "dumb", url];
                    terminal.run("branchline", &init).await?.done();
                }
            }
        }
        terminal
            .git(&["-C", &work, "push", "--quiet", "--mirror", &world.url])
            .await?
            .done();
        Ok(world)
    }

    /// Runs a case; returns what is compared.
    async fn run(&self, commands: &[&str]) -> Result<Vec<String>> {
        let origin = self.terminal.path("seed");
        let mut seen = Vec::new();
        for line in commands {
            let (must_fail, line) = match line.strip_prefix('!') {
                Some(line) => (true, line),
                None => (false, *line),
            };
            let line = line
                .replace("{url}", &self.url)
                .replace("{empty}", &self.empty)
                .replace("{id}", &git::git(&origin, ["rev-parse", "main~1"])?)
                .replace("{main}", &git::git(&origin, ["rev-parse", "main"])?);
            let words: Vec<&str> = line.split_whitespace().collect();
            let mut command = self.terminal.command("git", &words);
            command.current_dir(self.terminal.path(&self.directory));
            let outcome = self.terminal.wait_for(command).await?;
            assert_eq!(
                outcome.status != Some(0),
                must_fail,
                "`git {line}`: {outcome:?}"
            );
            seen.push(format!("status {:?}", outcome.status));
            if line.starts_with("ls-remote") || line.contains("--porcelain") {
                seen.push(outcome.stdout.replace(&self.url, "URL"));
            }
        }
        for clone in ["work", "c", "d"] {
            let path = self.terminal.path(&format!("{}/{clone}", self.directory));
            if path.is_dir() {
                seen.push(format!("{clone}: {}", state(&path)?));
            }
        }
        for url in [&self.url, &self.empty] {
            let refs = self.terminal.git(&["ls-remote", "--symref", url]).await?;
            seen.push(format!("remote: {}", refs.done()));
            let to = self.terminal.path(&format!("{}/check", self.directory));
            let clone = [
                "clone",
                "--quiet",
                "--mirror",
                url,
                &to.display().to_string(),
            ];
            self.terminal.git(&clone).await?.done();
            git::git(&to, ["fsck", "--strict", "--no-dangling"])?;
            seen.push(format!("remote: {}", state(&to)?));
            std::fs::remove_dir_all(to)?;
        }
        Ok(seen)
    }
}

/// Refs, objects and shallow commits of a repository.
fn state(path: &Path) -> Result<String> {
    let refs = git::git(
        path,
        [
            "for-each-ref",
            "--format=%(refname) %(objectname) %(symref)",
        ],
    )?;
    let check = [
        "cat-file",
        "--batch-all-objects",
        "--batch-check=%(objectname)",
        "--unordered",
    ];
    let mut objects: Vec<String> = git::git(path, check)?.lines().map(str::to_owned).collect();
    objects.sort();
    objects.dedup();
    let git_dir = git::git(path, ["rev-parse", "--git-common-dir"])?;
    let shallow = std::fs::read_to_string(path.join(git_dir).join("shallow"));
    let shallow = shallow.unwrap_or_default();
    let mut shallow: Vec<&str> = shallow.lines().collect();
    shallow.sort_unstable();
    Ok(format!(
        "{refs}\n{} objects {objects:?}\nshallow {shallow:?}",
        objects.len()
    ))
}

/// Runs each case against git's own server and against ours.
async fn compare(cases: &[Case], kinds: &[Kind]) -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("seed", 18)?;
    let mut different = Vec::new();
    for (number, (name, commands)) in cases.iter().enumerate() {
        if let Some(option) = missing_option(commands) {
            println!("left out, because git has no `{option}`: {name}");
            continue;
        }
        let expected = OracleCase::make(&terminal, Kind::File, number).await?;
        let expected = expected.run(commands).await?;
        for kind in kinds {
            let world = OracleCase::make(&terminal, *kind, number).await?;
            let seen = world.run(commands).await?;
            assert_eq!(seen.len(), expected.len(), "{name} ({kind:?})");
            for (expected, seen) in expected.iter().zip(&seen) {
                if expected != seen {
                    different.push(format!(
                        "{name} ({kind:?})\ngit:  {expected}\nours: {seen}\n"
                    ));
                }
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    Ok(())
}

#[tokio::test]
async fn fetches_from_bundles_do_what_they_do_with_a_git_server() -> Result<()> {
    compare(FETCHES, &[Kind::Bundle]).await
}

/// "The same git commands do the same on `s3://` as on a git server."
#[tokio::test]
async fn fetches_from_the_dumb_layout_do_what_they_do_with_a_git_server() -> Result<()> {
    compare(FETCHES, &[Kind::Dumb]).await
}

#[tokio::test]
async fn pushes_to_bundles_do_what_they_do_with_a_git_server() -> Result<()> {
    compare(PUSHES, &[Kind::Bundle]).await
}

#[tokio::test]
async fn pushes_to_the_dumb_layout_do_what_they_do_with_a_git_server() -> Result<()> {
    compare(PUSHES, &[Kind::Dumb]).await
}
