//! Partial clones with several promisor remotes, and the cost of listing annotated tags.

use anyhow::Result;
use branchline_test_support::git;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::environment::{Terminal, url};

/// Files above the limit of the partial clones.
const LARGE_FILES: usize = 3;

/// The number of objects that a partial clone does not have.
fn missing(clone: &std::path::Path) -> Result<usize> {
    let mut list = git::command(clone);
    list.args(["rev-list", "--objects", "--all", "--missing=print"]);
    let listed = git::run(&mut list)?;
    Ok(listed.lines().filter(|line| line.starts_with('?')).count())
}

#[tokio::test]
async fn missing_objects_come_from_whichever_promisor_remote_has_them() -> Result<()> {
    let terminal = Terminal::start().await?;
    terminal.repository("work", 6)?;
    let mut random = StdRng::seed_from_u64(3);
    for round in 0..3 {
        for file in 0..LARGE_FILES {
            let mut content = vec![0; 40 << 10];
            random.fill(&mut content[..]);
            std::fs::write(terminal.path(&format!("work/large-{file}")), content)?;
        }
        git::commit(&terminal.path("work"), &[], &format!("large {round}"))?;
    }
    for (first, second) in [("bundle", "dumb"), ("dumb", "bundle")] {
        let (origin, large) = (url(&format!("{first}-1")), url(&format!("{second}-2")));
        for (layout, url) in [(first, &origin), (second, &large)] {
            terminal.init_remote(layout, url).await?;
            terminal.push(url, &["main"]).await?.done();
        }
        let name = format!("clone-{first}");
        let clone = [
            "clone",
            "--quiet",
            "--no-checkout",
            "--filter=blob:limit=10k",
            &origin,
            &name,
        ];
        terminal.git(&clone).await?.done();
        let at = terminal.path(&name);
        assert_eq!(missing(&at)?, 3 * LARGE_FILES, "{first}: large files");
        // A remote for large objects, and an origin that has nothing any more.
        for (key, value) in [
            ("remote.large.url", large.as_str()),
            ("remote.large.promisor", "true"),
            ("remote.large.partialCloneFilter", "blob:limit=10k"),
            ("remote.origin.url", &url("nothing")),
        ] {
            git::git(&at, ["config", key, value])?;
        }
        let git = async |arguments: &[&str]| -> Result<String> {
            let all = [&["-C", name.as_str()], arguments].concat();
            Ok(terminal.git(&all).await?.done())
        };
        git(&["checkout", "--quiet", "main"]).await?;
        assert_eq!(missing(&at)?, 2 * LARGE_FILES, "{first}: of older commits");
        for file in 0..LARGE_FILES {
            let file = format!("large-{file}");
            let found = std::fs::read(at.join(&file))?;
            assert!(found == std::fs::read(terminal.path("work").join(&file))?);
        }
        git(&["log", "--patch", "--binary", "main"]).await?;
        assert_eq!(missing(&at)?, 0, "{first}: all were read");
        git(&["gc", "--quiet"]).await?;
        git(&["fsck", "--strict"]).await?;
        // A partial clone pushes to the remote of large objects.
        git::commit(&at, &[("new", first)], "new")?;
        git(&["push", "--quiet", "large", "main:refs/heads/new"]).await?;
        let listed = terminal.git(&["ls-remote", &large, "new"]).await?.done();
        assert!(listed.starts_with(&git::git(&at, ["rev-parse", "main"])?));
        // An object that no remote has is an error that names it.
        let absent = "1".repeat(40);
        let shown = ["-C", name.as_str(), "cat-file", "-p", &absent];
        let said = terminal.git(&shown).await?.failed(128);
        assert!(said.contains(&absent), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn annotated_tags_cost_at_most_two_requests_each_and_only_once() -> Result<()> {
    const TAGS: u64 = 40;
    let terminal = Terminal::start().await?;
    terminal.repository("work", 12)?;
    let url = url("r");
    for number in 0..TAGS {
        let (name, at) = (format!("t{number}"), format!("main~{}", number % 9));
        git::git(
            &terminal.path("work"),
            ["tag", "--annotate", &name, "--message=x", &at],
        )?;
    }
    terminal.push(&url, &["main", "--tags"]).await?.done();
    let expected = git::git(&terminal.path("work"), ["ls-remote", "--tags", "."])?;
    let mut costs = Vec::new();
    for _ in 0..2 {
        let before = terminal.requests();
        let listed = terminal.git(&["ls-remote", "--tags", &url]).await?.done();
        assert_eq!(listed.trim_end(), expected);
        costs.push(terminal.requests() - before);
    }
    // Those of `repository`, too.
    let bound = TAGS..=2 * (TAGS + 2);
    assert!(bound.contains(&costs[0]), "{costs:?}");
    assert!(costs[1] <= 2, "{costs:?}");
    std::fs::remove_dir_all(terminal.path(".cache"))?;
    let before = terminal.requests();
    terminal.git(&["ls-remote", "--tags", &url]).await?.done();
    let cost = terminal.requests() - before;
    assert!(bound.contains(&cost), "without a cache: {cost}");
    Ok(())
}
