//! The script that AWS documents for incremental migrations, or its replacement: a driver of
//! plain git, written from the known behaviour of the script.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use branchline_test_support::git;

use super::batches_environment::{BatchEnvironment, TEMPORARY};

/// Command that runs the script.
#[derive(Debug, Clone)]
pub(crate) enum Script {
    /// The driver that replaces the script.
    Driver,
    /// A command's arguments, the program first.
    Real(Vec<String>),
}

pub(crate) fn scripts() -> Vec<Script> {
    let mut scripts = vec![Script::Driver];
    match std::env::var("BRANCHLINE_MIGRATION_SCRIPT") {
        Ok(command) => scripts.push(Script::Real(
            command.split_whitespace().map(str::to_owned).collect(),
        )),
        Err(_) => eprintln!("without the script itself: BRANCHLINE_MIGRATION_SCRIPT is not set"),
    }
    scripts
}

/// Result of a run of the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    Success,
    Failure,
    /// Stopped before this push.
    Stopped,
}

/// A migration by the script: a mirror of the source, and its target.
pub(crate) struct Run {
    script: Script,
    folder: tempfile::TempDir,
    url: String,
    commits: u64,
    sign_in: Vec<(String, String)>,
}

impl Run {
    pub(crate) async fn new(
        environment: &BatchEnvironment,
        script: &Script,
        target: &str,
        commits: u64,
    ) -> Result<Arc<Self>> {
        if environment.stage.refs(target).is_err() {
            environment.stage.create_repository(target).await?;
        }
        let folder = tempfile::tempdir()?;
        let url = environment.stage.clone_url(target);
        let source = environment.source.path.to_string_lossy().into_owned();
        git::git(
            folder.path(),
            ["clone", "--quiet", "--mirror", &source, "r.git"],
        )?;
        let place = folder.path().join("r.git");
        git::git(&place, ["remote", "add", "codecommit", &url])?;
        let command = environment.stage.git(&place);
        let sign_in = command.get_envs().filter_map(|(name, value)| {
            let name = name.to_string_lossy().into_owned();
            Some((name, value?.to_string_lossy().into_owned()))
        });
        Ok(Arc::new(Self {
            script: script.clone(),
            url,
            commits,
            sign_in: sign_in.collect(),
            folder,
        }))
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("r.git")
    }

    /// Runs the script to its end, or until `pushes` pushes are done.
    pub(crate) async fn run(self: &Arc<Self>, pushes: Option<usize>) -> Result<Finish> {
        self.with(pushes, false).await
    }

    /// Runs the script with `-c`.
    pub(crate) async fn clean(self: &Arc<Self>) -> Result<Finish> {
        self.with(None, true).await
    }

    async fn with(self: &Arc<Self>, pushes: Option<usize>, clean: bool) -> Result<Finish> {
        let this = Arc::clone(self);
        // Spawned as blocking, because the server runs on this runtime.
        tokio::task::spawn_blocking(move || match &this.script {
            Script::Driver => Driver::new(&this, pushes).run(clean),
            Script::Real(words) => this.start(words, pushes, clean),
        })
        .await?
    }

    fn start(&self, words: &[String], pushes: Option<usize>, clean: bool) -> Result<Finish> {
        let hook = self.place().join("hooks/pre-push");
        if let Some(pushes) = pushes {
            // The script ends when a push fails three times.
            let count = self.folder.path().join("pushes");
            std::fs::write(&count, "")?;
            std::fs::create_dir_all(self.place().join("hooks"))?;
            let count = count.display();
            std::fs::write(
                &hook,
                format!(
                    "#!/bin/sh\nprintf x >> '{count}'\ntest $(wc -c < '{count}') -le {pushes}\n"
                ),
            )?;
            std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755))?;
        } else if hook.exists() {
            std::fs::remove_file(&hook)?;
        }
        let mut command = std::process::Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(["-b", &self.commits.to_string(), "-l"])
            .arg(self.place())
            .args(clean.then_some("-c"))
            .envs(self.sign_in.iter().cloned());
        let output = command.output()?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        println!("{printed}");
        Ok(if output.status.success() {
            Finish::Success
        } else if pushes.is_some() && printed.contains("failed to push some refs") {
            Finish::Stopped
        } else {
            Finish::Failure
        })
    }
}

/// Replaces the script by plain git commands.
struct Driver<'a> {
    run: &'a Run,
    left: Option<usize>,
    parents: HashMap<String, Vec<String>>,
    walked: HashSet<String>,
    tags: Vec<String>,
}

/// Commits with the number of commits that each represents.
type Pending = Vec<(String, u64)>;

impl<'a> Driver<'a> {
    fn new(run: &'a Run, pushes: Option<usize>) -> Self {
        Self {
            run,
            left: pushes,
            parents: HashMap::new(),
            walked: HashSet::new(),
            tags: Vec::new(),
        }
    }

    fn git(&self, words: &[&str]) -> Result<String> {
        let mut command = git::command(&self.run.place());
        command.args(words).envs(self.run.sign_in.iter().cloned());
        git::run(&mut command)
    }

    /// Makes one push; returns false if the run must stop before it.
    fn push(&mut self, words: &[&str]) -> Result<bool> {
        if let Some(left) = &mut self.left {
            let Some(fewer) = left.checked_sub(1) else {
                return Ok(false);
            };
            *left = fewer;
        }
        let url = self.run.url.clone();
        self.git(&[&["push", "--quiet", &url], words].concat())?;
        Ok(true)
    }

    /// Lists the target's temporary tags by name without `refs/tags/`.
    fn there(&self) -> Result<BTreeMap<String, String>> {
        let listed = self.git(&["ls-remote", "--tags", &self.run.url])?;
        let tags = listed.lines().filter_map(|line| {
            let (id, name) = line.split_once('\t')?;
            let name = name.strip_prefix("refs/tags/")?;
            name.contains("codecommit_migration_")
                .then(|| (name.to_owned(), id.to_owned()))
        });
        Ok(tags.collect())
    }

    fn run(mut self, clean: bool) -> Result<Finish> {
        if clean {
            return self.clean_up().map(|()| Finish::Success);
        }
        let there = self.there()?;
        self.walk()?;
        for (number, commit) in (1..).zip(self.tags.clone()) {
            let name = format!("codecommit_migration_{number}");
            match there.get(&name) {
                Some(found) if *found == commit => continue,
                // The size of batches has changed.
                Some(_) => return Ok(Finish::Failure),
                None => {}
            }
            if !self.push(&[&format!("{commit}:refs/tags/{name}")])? {
                return Ok(Finish::Stopped);
            }
        }
        for head in self.heads()? {
            if !self.push(&[&head])? {
                return Ok(Finish::Stopped);
            }
        }
        if !self.push(&["--tags"])? {
            return Ok(Finish::Stopped);
        }
        if self.left == Some(0) {
            return Ok(Finish::Stopped);
        }
        self.clean_up().map(|()| Finish::Success)
    }

    fn clean_up(&mut self) -> Result<()> {
        let gone = self
            .there()?
            .into_keys()
            .map(|name| format!(":refs/tags/{name}"));
        let gone: Vec<String> = gone.collect();
        if !gone.is_empty() {
            let words: Vec<&str> = gone.iter().map(String::as_str).collect();
            self.push(&words)?;
        }
        Ok(())
    }

    fn heads(&self) -> Result<Vec<String>> {
        let heads = self.git(&["for-each-ref", "--format=%(refname)", "refs/heads"])?;
        Ok(heads.lines().map(str::to_owned).collect())
    }

    /// Walks from the commit of `HEAD`, then from each branch's; tags the rest of each.
    fn walk(&mut self) -> Result<()> {
        let listed = self.git(&["rev-list", "--parents", "HEAD", "--branches"])?;
        for line in listed.lines() {
            let mut ids = line.split(' ').map(str::to_owned);
            let id = ids.next().unwrap_or_default();
            self.parents.insert(id, ids.collect());
        }
        let mut starts = vec!["HEAD".to_owned()];
        starts.extend(self.heads()?);
        for start in starts {
            let commit = self.git(&["rev-parse", &format!("{start}^{{commit}}")])?;
            let left = self.visit(&commit);
            self.tag(left);
        }
        Ok(())
    }

    fn tag(&mut self, commits: Pending) {
        self.tags
            .extend(commits.into_iter().map(|(commit, _)| commit));
    }

    fn visit(&mut self, commit: &str) -> Pending {
        if self.walked.contains(commit) {
            return Pending::new();
        }
        let mut own = 1;
        let mut pending = Pending::new();
        match self.parents[commit].clone().as_slice() {
            [] => {}
            [parent] => {
                let mut at = parent.clone();
                while own <= self.run.commits
                    && self.parents[&at].len() == 1
                    && !self.walked.contains(&at)
                {
                    own += 1;
                    let next = self.parents[&at][0].clone();
                    self.walked.insert(std::mem::replace(&mut at, next));
                }
                pending.extend(self.visit(&at));
            }
            parents => {
                for parent in parents {
                    pending.extend(self.visit(parent));
                }
            }
        }
        self.walked.insert(commit.to_owned());
        let all = own + pending.iter().map(|(_, count)| count).sum::<u64>();
        let most = self.run.commits;
        if all < most {
            return vec![(commit.to_owned(), all)];
        }
        if all * 100 <= most * 105 {
            self.tag(vec![(commit.to_owned(), all)]);
            return Pending::new();
        }
        self.tag(pending);
        if own >= most {
            self.tag(vec![(commit.to_owned(), own)]);
            return Pending::new();
        }
        vec![(commit.to_owned(), own)]
    }
}

/// Lists the tags of the script, in order.
pub(crate) fn tags_of(place: &Path, commits: u64) -> Result<Vec<String>> {
    let run = Run {
        script: Script::Driver,
        folder: tempfile::tempdir()?,
        url: String::new(),
        commits,
        sign_in: Vec::new(),
    };
    let source = place.to_string_lossy().into_owned();
    git::git(
        run.folder.path(),
        ["clone", "--quiet", "--mirror", &source, "r.git"],
    )?;
    let mut driver = Driver::new(&run, None);
    driver.walk()?;
    let named = (1..).zip(&driver.tags);
    Ok(named
        .map(|(number, commit)| format!("{commit} {TEMPORARY}{number}"))
        .collect())
}
