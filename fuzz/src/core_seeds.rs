//! Seeds of the targets that the core parses.

use std::path::Path;

use crate::seeds::{Seeds, texts, urls};

pub(crate) fn remote_urls(seeds: &Seeds) -> Vec<Vec<u8>> {
    let mut all = urls(seeds);
    all.extend(texts([
        "codecommit://repo.x",
        "codecommit::eu-west-1://someone@repo",
        "s3://bucket.name/team/repo1/",
        "s3+zip://profile@bucket/a%20b",
        "file:///srv/git/a%20b.git",
        "../elsewhere.git",
    ]));
    all
}

pub(crate) fn names(_: &Seeds) -> Vec<Vec<u8>> {
    texts([
        "main",
        "feature/x.y",
        "refs/heads/a-b",
        "refs/tags/v1@2",
        "a/b/c/",
        "0123456789abcdef0123456789abcdef01234567",
    ])
}

pub(crate) fn patterns(_: &Seeds) -> Vec<Vec<u8>> {
    texts([
        "main,release/*\nwip/**\nrelease/1",
        "**/[a-z]?x\nv[!0-9]\nfeature/ax",
        "a\\*b,[[:alpha:]]*\n\na*b",
    ])
}

pub(crate) fn triggers(_: &Seeds) -> Vec<Vec<u8>> {
    let list = |git: &str| format!(r#"[{{"pipeline":"p","gitConfiguration":{git}}}]"#);
    texts([
        format!(
            "feature/x\n{}",
            list(
                r#"{"sourceActionName":"S","push":[{"branches":{"includes":["feature/**"],
                "excludes":["{a,b/*}"]},"filePaths":{"includes":["**/[a-z]?.md"]}}]}"#
            )
        )
        .as_str(),
        &format!(
            "v1\n{}",
            list(r#"{"sourceActionName":"S","push":[{"tags":{"includes":["v[!0]\\*"]}}]}"#)
        ),
        &format!(
            "main\n{}",
            list(r#"{"sourceActionName":"S","pullRequest":[{"events":["OPEN"]}]}"#)
        ),
    ])
}

pub(crate) fn lfs(_: &Seeds) -> Vec<Vec<u8>> {
    let (oid, id) = ("0123456789abcdef".repeat(4), "0123456789".repeat(4));
    texts([
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 12\n").as_str(),
        "branchline-lfs 1\n",
        &format!(
            "branchline-lfs 1\nunscanned {id}\nverified {oid}\nstored {oid} 12\nmissing {oid} 13\n"
        ),
        r#"{"event":"init","operation":"download","remote":"origin","concurrent":true}"#,
        &format!(r#"{{"event":"upload","oid":"{oid}","size":12,"path":"/a/b","action":null}}"#),
    ])
}

pub(crate) fn events(_: &Seeds) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events");
    let files = std::fs::read_dir(folder).expect("because the events are there");
    files
        .filter_map(|file| Some(file.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .map(|path| std::fs::read(path).expect("because it was listed"))
        .collect()
}

pub(crate) fn archives(_: &Seeds) -> Vec<Vec<u8>> {
    let date = "1600000000 +0530";
    let of = |attributes: &str, nested: &str, content: &str| {
        [
            attributes,
            nested,
            content,
            date,
            "A U Thor",
            "subject\n\nbody\n",
        ]
        .join("\n=>\n")
        .into_bytes()
    };
    vec![
        of(
            "* export-subst\n",
            "",
            "$Format:%H %h %T %P %an %ae %ad %aD %ai %aI %as %s %f %b %B %n%%%x41$",
        ),
        of(
            "*.txt export-subst ident text eol=crlf\n",
            "b.txt -ident\n",
            "$Id$\n$Format:%<(10,trunc)%s%>|(20)%an%><(9,mtrunc)%f%+b%-b% b$\n",
        ),
        of(
            "[attr]gone export-ignore\nsub/* gone\n",
            "*.txt working-tree-encoding=UTF-16\n",
            "abc\n",
        ),
    ]
}
