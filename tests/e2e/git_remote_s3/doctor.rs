//! `branchline remote doctor` and `git s3 doctor` on buckets as the Python client leaves them.

use std::time::Duration;

use anyhow::Result;
use branchline_dev::faults::Service;
use branchline_dev::s3::store::PutOptions;
use branchline_test_support::git;
use serde_json::Value;

use super::environment::{BUCKET, Terminal, url};

/// Time until an object is newer than another one: S3 stores whole seconds.
const NEWER: Duration = Duration::from_millis(1100);

/// A repository below `team/r` in the state of a test.
pub(super) struct Damaged {
    pub(super) terminal: Terminal,
}

impl Damaged {
    /// Starts with the repository `work`, and nothing in the bucket.
    pub(super) async fn start() -> Result<Self> {
        let terminal = Terminal::start().await?;
        terminal.repository("work", 8)?;
        Ok(Self { terminal })
    }

    pub(super) fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let store = self.terminal.server().store();
        let key = format!("team/r/{key}");
        let put = store.put(BUCKET, &key, bytes, PutOptions::default());
        put.map(drop).map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Stores the bundle of a commit as the Python client does; returns the id.
    pub(super) fn bundle(&self, name: &str, commit: &str) -> Result<String> {
        let work = self.terminal.path("work");
        let id = git::git(&work, ["rev-parse", commit])?;
        git::git(&work, ["branch", "--force", "bundled", &id])?;
        git::git(
            &work,
            ["bundle", "create", "--quiet", "../bundle", "bundled"],
        )?;
        git::git(&work, ["branch", "--delete", "--force", "bundled"])?;
        let bytes = std::fs::read(self.terminal.path("bundle"))?;
        self.put(&format!("{name}/{id}.bundle"), &bytes)?;
        Ok(id)
    }

    /// Makes a commit beside those of the branch `main`; returns its id.
    pub(super) fn commit_beside(&self, name: &str) -> Result<String> {
        let work = self.terminal.path("work");
        git::git(&work, ["checkout", "--quiet", "-B", name, "main~1"])?;
        git::commit(&work, &[(name, name)], name)?;
        git::git(&work, ["checkout", "--quiet", "main"])?;
        git::git(&work, ["rev-parse", name])
    }

    /// Runs the doctor with `options`, which must end with `status`.
    pub(super) async fn doctor(&self, options: &[&str], status: i32) -> Result<Value> {
        let url = url("r");
        let arguments = [&["remote", "doctor", "--json"], options, &[&url]].concat();
        let run = self.terminal.run("branchline", &arguments).await?;
        assert_eq!(run.status, Some(status), "{options:?}: {run:?}");
        Ok(serde_json::from_str(&run.stdout)?)
    }

    /// Fixes with `options`, and once more, which changes nothing.
    pub(super) async fn fix(&self, options: &[&str]) -> Result<Value> {
        let report = self.doctor(options, 0).await?;
        assert_eq!(report["problems"], serde_json::json!([]), "{report}");
        let keys = self.keys();
        let again = self.doctor(options, 0).await?;
        assert_eq!(again["fixed"], serde_json::json!([]), "{again}");
        assert_eq!(self.keys(), keys);
        Ok(report)
    }

    /// The keys below the prefix.
    pub(super) fn keys(&self) -> Vec<String> {
        let keys = self.terminal.keys("team/r/").into_iter();
        keys.map(|key| key["team/r/".len()..].to_owned()).collect()
    }

    /// Clones all refs, checks them, and returns their names and ids.
    pub(super) async fn cloned(&self, to: &str) -> Result<String> {
        let clone = ["clone", "--quiet", "--mirror", &url("r"), to];
        self.terminal.git(&clone).await?.done();
        let path = self.terminal.path(to);
        git::git(&path, ["fsck", "--strict", "--no-dangling"])?;
        git::git(&path, ["for-each-ref", "--format=%(refname) %(objectname)"])
    }

    /// The number of requests of an operation of S3 until now.
    fn requests(&self, operation: &str) -> u64 {
        let lines = self.terminal.server().requests().lines();
        let of_operation = lines
            .iter()
            .filter(|line| line.service == Service::S3 && line.operation == operation);
        of_operation.map(|line| line.count).sum()
    }
}

fn kinds(report: &Value) -> Vec<&str> {
    let problems = report["problems"].as_array().into_iter().flatten();
    problems
        .filter_map(|problem| problem["kind"].as_str())
        .collect()
}

#[tokio::test]
async fn a_repository_with_archives_lfs_objects_and_repositories_below_it_is_healthy() -> Result<()>
{
    let damaged = Damaged::start().await?;
    let terminal = &damaged.terminal;
    let zip = format!("s3+zip://{BUCKET}/team/r");
    terminal.push(&zip, &["main", "side", "v1"]).await?.done();
    for key in ["lfs/11", "lfs/22", "refs/heads/main/PROTECTED#"] {
        damaged.put(key, b"")?;
    }
    terminal.push(&url("r/below"), &["main"]).await?.done();
    terminal.push(&url("r10"), &["main"]).await?.done();
    damaged.put("below/refs/heads/main/LOCK#.lock", b"")?;
    let before = terminal.keys("");
    for options in [&[][..], &["--fix"], &["--lock-ttl", "1"]] {
        let report = damaged.doctor(options, 0).await?;
        assert_eq!(kinds(&report), Vec::<&str>::new(), "{report}");
        assert_eq!(report["layout"], "bundle");
        assert_eq!(report["head"], "refs/heads/main");
        assert_eq!(report["refs"].as_array().map(Vec::len), Some(3), "{report}");
        let main = &report["refs"][0];
        assert_eq!(
            (&main["protected"], &main["archive"]),
            (&true.into(), &true.into())
        );
    }
    assert_eq!(terminal.keys(""), before, "nothing is written");
    let said = terminal
        .run("branchline", &["remote", "doctor", &zip])
        .await?
        .done();
    assert!(
        said.contains("no problems") && said.contains("* "),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn of_two_bundles_the_newest_is_kept_and_the_other_under_its_own_name() -> Result<()> {
    let damaged = Damaged::start().await?;
    let one = damaged.commit_beside("one")?;
    let two = damaged.commit_beside("two")?;
    damaged.put("HEAD", b"refs/heads/main")?;
    damaged.bundle("refs/heads/main", "one")?;
    tokio::time::sleep(NEWER).await;
    damaged.bundle("refs/heads/main", "two")?;
    let report = damaged.doctor(&[], 3).await?;
    assert_eq!(kinds(&report), ["several-bundles"], "{report}");
    let problem = &report["problems"][0];
    assert_eq!(
        problem["bundles"],
        serde_json::json!([two, one]),
        "{problem}"
    );
    assert_eq!(problem["fix"], "bundles", "{problem}");

    damaged.fix(&["--fix"]).await?;
    let kept = format!("refs/heads/main__{}", &one[..7]);
    let expected = format!("refs/heads/main {two}\n{kept} {one}");
    assert_eq!(damaged.cloned("clone").await?, expected);
    // The next push of either client finds one bundle.
    damaged.terminal.push(&url("r"), &["+main"]).await?.done();
    Ok(())
}

#[tokio::test]
async fn the_bundle_to_keep_is_chosen_and_the_other_deleted_on_demand() -> Result<()> {
    let damaged = Damaged::start().await?;
    let one = damaged.commit_beside("one")?;
    damaged.commit_beside("two")?;
    damaged.put("HEAD", b"refs/heads/main")?;
    damaged.bundle("refs/heads/main", "one")?;
    damaged.bundle("refs/heads/main", "two")?;
    let options = ["--fix=bundles", "--keep", &one[..8], "--delete-bundle"];
    let report = damaged.fix(&options).await?;
    assert_eq!(report["fixed"][0]["kind"], "several-bundles", "{report}");
    assert_eq!(
        damaged.cloned("clone").await?,
        format!("refs/heads/main {one}")
    );
    Ok(())
}

#[tokio::test]
async fn an_older_bundle_of_an_interrupted_push_is_deleted() -> Result<()> {
    let damaged = Damaged::start().await?;
    damaged.put("HEAD", b"refs/heads/main")?;
    let new = damaged.bundle("refs/heads/main", "main")?;
    tokio::time::sleep(NEWER).await;
    // Written later, and yet the older commit: ancestry decides.
    damaged.bundle("refs/heads/main", "main~2")?;
    damaged.fix(&["--fix=bundles"]).await?;
    assert_eq!(
        damaged.cloned("clone").await?,
        format!("refs/heads/main {new}")
    );
    Ok(())
}

#[tokio::test]
async fn a_stale_lock_is_deleted_and_that_of_a_running_push_is_not() -> Result<()> {
    let damaged = Damaged::start().await?;
    damaged.put("HEAD", b"refs/heads/main")?;
    damaged.bundle("refs/heads/main", "main")?;
    damaged.put("refs/heads/main/LOCK#.lock", b"")?;
    let report = damaged.doctor(&["--fix"], 0).await?;
    assert_eq!(
        report["refs"][0]["lock_age_seconds"].as_i64(),
        Some(0),
        "{report}"
    );
    assert!(
        damaged
            .keys()
            .contains(&"refs/heads/main/LOCK#.lock".to_owned())
    );
    tokio::time::sleep(NEWER * 2).await;
    let report = damaged.doctor(&["--lock-ttl", "1"], 3).await?;
    assert_eq!(kinds(&report), ["stale-lock"], "{report}");
    damaged.fix(&["--lock-ttl", "1", "--fix=locks"]).await?;
    assert!(
        !damaged
            .keys()
            .contains(&"refs/heads/main/LOCK#.lock".to_owned())
    );
    Ok(())
}

#[tokio::test]
async fn a_head_that_names_nothing_gets_a_branch() -> Result<()> {
    let damaged = Damaged::start().await?;
    damaged.bundle("refs/heads/side", "side")?;
    damaged.bundle("refs/heads/trunk", "main")?;
    let head = async || -> Result<String> {
        let listed = ["ls-remote", "--symref", &url("r"), "HEAD"];
        let listed = damaged.terminal.git(&listed).await?.done();
        Ok(listed
            .split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .to_owned())
    };
    // Missing, dangling, and no name at all.
    let report = damaged.doctor(&["--fix=locks"], 3).await?;
    assert_eq!(
        (kinds(&report), &report["head"]),
        (vec!["head"], &Value::Null)
    );
    damaged.fix(&["--fix"]).await?;
    assert_eq!(head().await?, "refs/heads/side");
    damaged.put("HEAD", b"refs/heads/deleted")?;
    assert_eq!(kinds(&damaged.doctor(&[], 3).await?), ["head"]);
    damaged.fix(&["--fix=head", "--head", "trunk"]).await?;
    assert_eq!(head().await?, "refs/heads/trunk");
    damaged.put("HEAD", b"\xff..\n")?;
    let report = damaged.doctor(&["--fix", "--head", "missing"], 3).await?;
    let error = report["problems"][0]["error"].as_str().unwrap_or_default();
    assert!(
        error.contains("`refs/heads/missing` does not exist"),
        "{report}"
    );
    damaged.fix(&["--fix"]).await?;
    assert_eq!(head().await?, "refs/heads/side");
    Ok(())
}

#[tokio::test]
async fn of_refs_in_each_others_way_the_older_is_set_aside() -> Result<()> {
    let damaged = Damaged::start().await?;
    damaged.put("HEAD", b"refs/heads/main")?;
    let main = damaged.bundle("refs/heads/main", "main")?;
    let side = damaged.bundle("refs/heads/a", "side")?;
    tokio::time::sleep(NEWER).await;
    damaged.bundle("refs/heads/a/b", "main")?;
    damaged.bundle("refs/heads/a/c/d", "main")?;
    let report = damaged.doctor(&[], 3).await?;
    assert_eq!(kinds(&report), ["refs-in-the-way"], "{report}");
    damaged.fix(&["--fix=names"]).await?;
    let expected = format!(
        "refs/heads/a/b {main}\nrefs/heads/a/c/d {main}\nrefs/heads/main {main}\n\
         refs/stale/heads/a {side}"
    );
    assert_eq!(damaged.cloned("clone").await?, expected);

    // The other side, by choice: again under a free name.
    damaged.bundle("refs/heads/a", "side")?;
    let options = ["--fix", "--set-aside", "a/b", "--set-aside", "a/c/d"];
    damaged.fix(&options).await?;
    let expected = format!(
        "refs/heads/a {side}\nrefs/heads/main {main}\nrefs/stale/heads/a {side}\n\
         refs/stale/heads/a-2/b {main}\nrefs/stale/heads/a-2/c/d {main}"
    );
    assert_eq!(damaged.cloned("again").await?, expected);
    Ok(())
}

#[tokio::test]
async fn problems_of_all_kinds_are_fixed_in_one_run() -> Result<()> {
    let damaged = Damaged::start().await?;
    damaged.commit_beside("one")?;
    damaged.commit_beside("two")?;
    // `HEAD` names a branch that is set aside in the same run.
    damaged.put("HEAD", b"refs/heads/a")?;
    damaged.bundle("refs/heads/a", "one")?;
    damaged.bundle("refs/heads/a", "two")?;
    damaged.put("refs/heads/a/LOCK#.lock", b"")?;
    tokio::time::sleep(NEWER * 2).await;
    damaged.bundle("refs/heads/a/b", "main")?;
    let report = damaged.doctor(&["--lock-ttl", "1"], 3).await?;
    assert_eq!(
        kinds(&report),
        ["stale-lock", "several-bundles", "refs-in-the-way"],
        "{report}"
    );
    let report = damaged.fix(&["--fix", "--lock-ttl", "1"]).await?;
    assert_eq!(
        report["fixed"].as_array().map(Vec::len),
        Some(4),
        "{report}"
    );
    assert_eq!(report["head"], "refs/heads/a/b", "{report}");
    let refs = damaged.cloned("clone").await?;
    assert!(
        refs.contains("refs/stale/heads/a ") && refs.contains("refs/heads/a__"),
        "{refs}"
    );
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_fixed_is_named_and_left() -> Result<()> {
    let damaged = Damaged::start().await?;
    damaged.put("HEAD", b"refs/heads/main")?;
    let id = damaged.bundle("refs/heads/main", "main")?;
    damaged.put(&format!("refs/heads/torn/{id}.bundle"), b"# v2 git b")?;
    damaged.put("info/refs", b"")?;
    let keys = damaged.keys();
    for options in [&[][..], &["--fix"]] {
        let report = damaged.doctor(options, 3).await?;
        assert_eq!(
            kinds(&report),
            ["unreadable-bundle", "mixed-layouts"],
            "{report}"
        );
    }
    assert_eq!(damaged.keys(), keys);
    Ok(())
}

#[tokio::test]
async fn a_thousand_keys_cost_one_list_and_a_ref_in_doubt_one_request() -> Result<()> {
    let damaged = Damaged::start().await?;
    damaged.put("HEAD", b"refs/heads/b1")?;
    let id = git::git(&damaged.terminal.path("work"), ["rev-parse", "main"])?;
    let other = git::git(&damaged.terminal.path("work"), ["rev-parse", "main~1"])?;
    let size = vec![b'x'; 200];
    for number in 0..2100 {
        damaged.put(&format!("refs/heads/b{number}/{id}.bundle"), &size)?;
    }
    for number in 0..5 {
        damaged.put(&format!("refs/heads/b{number}/{other}.bundle"), &size)?;
    }
    let count = || {
        let lists = damaged.requests("ListObjectsV2");
        (
            lists,
            damaged.requests("GetObject") + damaged.requests("HeadObject"),
        )
    };
    let (lists, reads) = count();
    let report = damaged.doctor(&[], 3).await?;
    assert_eq!(
        kinds(&report),
        ["several-bundles"; 5],
        "{}",
        report["problems"]
    );
    assert_eq!(report["refs"].as_array().map(Vec::len), Some(2100));
    let (lists_now, reads_now) = count();
    assert_eq!(lists_now - lists, 3, "one for each thousand of 2,105 keys");
    assert!(reads_now - reads <= 5 + 3, "{}", reads_now - reads);
    Ok(())
}

#[tokio::test]
async fn a_repository_in_layout_dumb_is_examined_and_its_head_and_names_are_fixed() -> Result<()> {
    let damaged = Damaged::start().await?;
    let terminal = &damaged.terminal;
    terminal.init_remote("dumb", &url("r")).await?;
    terminal
        .push(&url("r"), &["main", "side", "v1"])
        .await?
        .done();
    assert_eq!(kinds(&damaged.doctor(&[], 0).await?), Vec::<&str>::new());
    damaged.put("HEAD", b"ref: refs/heads/deleted\n")?;
    let store = terminal.server().store();
    let refs = store.get_bytes(BUCKET, "team/r/info/refs", None);
    let (_, refs) = refs.map_err(|error| anyhow::anyhow!("{error}"))?;
    let refs = String::from_utf8(refs.to_vec())?
        .replace("refs/heads/side\n", "refs/heads/side\n0\trefs/heads/x\n");
    let main = git::git(&terminal.path("work"), ["rev-parse", "main"])?;
    let below = format!("{main}\trefs/heads/side/b\n");
    let refs = refs.replace("0\trefs/heads/x\n", &below);
    damaged.put("info/refs", refs.as_bytes())?;
    let report = damaged.doctor(&[], 3).await?;
    assert_eq!(kinds(&report), ["refs-in-the-way", "head"], "{report}");
    damaged.fix(&["--fix"]).await?;
    let refs = damaged.cloned("clone").await?;
    assert!(
        refs.contains("refs/stale/heads/side ") && refs.contains("refs/heads/side/b "),
        "{refs}"
    );

    damaged.put(&format!("refs/heads/main/{main}.bundle"), b"x")?;
    let pack = damaged
        .keys()
        .into_iter()
        .find(|key| key.starts_with("objects/pack/"));
    let key = format!("team/r/{}", pack.expect("there is a pack"));
    let bucket = store
        .bucket(BUCKET)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    bucket
        .delete(
            &key,
            None,
            &branchline_dev::s3::store::Precondition::default(),
        )
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let report = damaged.doctor(&["--fix"], 3).await?;
    assert_eq!(
        kinds(&report),
        ["missing-pack", "mixed-layouts"],
        "{report}"
    );
    Ok(())
}

#[tokio::test]
async fn git_s3_takes_the_words_of_the_python_tool_and_asks_nothing() -> Result<()> {
    let damaged = Damaged::start().await?;
    let terminal = &damaged.terminal;
    damaged.bundle("refs/heads/main", "main")?;
    damaged.put("refs/heads/main/LOCK#.lock", b"")?;
    let add = ["-C", "work", "remote", "add", "origin", &url("r")];
    terminal.git(&add).await?.done();
    tokio::time::sleep(NEWER * 2).await;
    let git_s3 = async |arguments: &[&str]| {
        let arguments = [&["-C", "work", "s3"], arguments].concat();
        terminal.git(&arguments).await
    };
    // Problems are no failure there.
    let said = git_s3(&["doctor", "origin", "dummy", "--lock-ttl", "1"])
        .await?
        .done();
    assert!(
        said.contains("problem: ") && said.contains("refs/heads/main"),
        "{said}"
    );
    let options = [
        "doctor",
        "origin",
        "--lock-ttl",
        "1",
        "--delete-stale-locks",
    ];
    let said = git_s3(&options).await?.done();
    assert!(said.contains("fixed: deleted the lock"), "{said}");
    let said = git_s3(&["doctor", "origin", "--fix", "--json"])
        .await?
        .done();
    let report: Value = serde_json::from_str(&said)?;
    assert_eq!(report["head"], "refs/heads/main");
    for (arguments, status, part) in [
        (&["doctor", "nowhere"][..], 1, "No such remote"),
        (&["doctor", "https://host/x"], 1, "not one of S3"),
        (&["doctor", "s3://no-such-bucket/x"], 1, "does not exist"),
        (&["doctor"], 2, "Usage"),
        (&["nonsense", "origin", "main"], 2, "Usage"),
        (
            &["doctor", "origin", "--fix=everything"],
            2,
            "possible values",
        ),
    ] {
        let said = git_s3(arguments).await?.failed(status);
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
    Ok(())
}
