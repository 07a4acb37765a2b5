//! git is asked the same questions: which names are legal, and what a glob matches.

use std::collections::BTreeSet;
use std::path::Path;

use branchline_core::name::BranchName;
use branchline_core::pattern::BranchPatterns;
use branchline_test_support::git;

fn git_ok(folder: &Path, arguments: &[&str]) -> String {
    let text = git::git(folder, arguments).expect("because the arguments are valid");
    text.trim().to_owned()
}

#[test]
fn a_branch_name_is_legal_when_git_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let names = [
        "main",
        "feature/x",
        "a/b/c/d",
        "v1.0",
        "x.lock",
        "x.lock/y",
        ".x",
        "x/.y",
        "x..y",
        "x/",
        "/x",
        "x//y",
        "x y",
        "x~1",
        "x^",
        "x:y",
        "x?",
        "x*",
        "x[",
        "x\\y",
        "x@{y",
        "@",
        "a@b",
        "-x",
        "x-",
        "x.",
        "HEAD",
        "ünï",
        "日本",
        "x\ty",
        "x\u{7f}",
        "{repository}",
        "#",
        "%2F",
        "refs/heads/x",
        "HEAD/x",
        "x'y",
        "x\"y",
        "$(x)",
        "x;y",
        "x&y",
        "tags/x",
    ];
    for name in names {
        // Not `--branch`, which expands `@{-1}` and the like; but git refuses a leading dash
        // and `HEAD` when the branch is made.
        let full = format!("refs/heads/{name}");
        let legal = git::command(folder.path())
            .args(["check-ref-format", &full])
            .status()
            .expect("git can be started")
            .success();
        let wanted = legal && !name.starts_with('-') && name != "HEAD";
        assert_eq!(BranchName::new(name).is_ok(), wanted, "{name:?}");
    }
}

#[test]
fn a_glob_matches_what_git_for_each_ref_matches() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    git_ok(folder, &["init", "-q", "--bare", "."]);
    let tree = git_ok(folder, &["hash-object", "-w", "-t", "tree", "/dev/null"]);
    let commit = git_ok(folder, &["commit-tree", &tree, "-m", "x"]);
    let branches = [
        "main",
        "mainly",
        "feature/x/y",
        "feature/x/y.z",
        "release/1.0",
        "release/1.1",
        "release/2.0/rc1",
        "fix-12",
        "fix-a",
        "users/ana/wip",
        "users/bob/wip",
        "users/wip",
        "a",
        "b/a",
        "c/b/a",
        "ünï/日本",
        "x]y",
        "x-y",
        "x{1,2}",
        "UPPER",
    ];
    for branch in branches {
        git_ok(
            folder,
            &["update-ref", &format!("refs/heads/{branch}"), &commit],
        );
    }
    // Each has a special character: without one, `for-each-ref` matches folders too.
    let globs = [
        "*",
        "**",
        "main*",
        "m?in",
        "feature/*",
        "feature/**",
        "feature/*/*",
        "feature/**/y",
        "**/x",
        "**/wip",
        "users/*/wip",
        "users/**/wip",
        "release/1.[01]",
        "release/[!1]*",
        "release/[^1]*/**",
        "release/**/rc?",
        "fix-[0-9]*",
        "fix-[[:alpha:]]",
        "*/a",
        "**/a",
        "?",
        "?/a",
        "*/*/a",
        "x]*",
        "x[]-]y",
        "x[-]]y",
        "x{1*}",
        "ü*/*",
        "*/??",
        "u*/**",
        "[A-Z]*",
        "[[:upper:]]*",
        "a**",
        "**n",
        "\\m*",
        "feature**",
        "f**/x",
    ];
    for glob in globs {
        let full = format!("refs/heads/{glob}");
        let matched = git_ok(
            folder,
            &["for-each-ref", "--format=%(refname:lstrip=2)", &full],
        );
        let wanted: BTreeSet<&str> = matched.lines().collect();
        // A comma would end the glob; none of these has one.
        let patterns = BranchPatterns::new(glob, "").expect("the glob is valid");
        let is_meant = |name: &&str| patterns.matches(&BranchName::new(name).expect("it is valid"));
        let ours: BTreeSet<&str> = branches.into_iter().filter(is_meant).collect();
        assert_eq!(ours, wanted, "{glob}");
    }
}
