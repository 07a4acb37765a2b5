//! `.gitattributes`: ignored files, and conversions of contents.

use std::fmt::Write as _;

use branchline_core::archive::{WriteSink, write};

use super::compare::{agree, ours};
use super::fake_codecommit::Disk;
use super::faults::{repository, request};
use super::git::{Item, Repo};

#[tokio::test]
async fn ignored_files_and_folders_are_left_out() {
    let repo = Repo::new();
    let commit = repo.commit(
        b"ignored\n",
        &[
            (
                b".gitattributes",
                Item::File(
                    b"*.o export-ignore\nkeep.o -export-ignore\n/top export-ignore\nsecret/ export-ignore\n\
                      !neg export-ignore\n\\!literal export-ignore\n\"quo ted\" export-ignore\n\
                      # comment export-ignore\n  indented export-ignore\nsub/**/x export-ignore\n\
                      **/any export-ignore\nmod export-ignore\nlink* export-ignore\nvalue export-ignore=true\n\
                      [abc]set export-ignore\nunset !export-ignore\n[attr]gone export-ignore\n*.gone gone\n\
                      kept.gone !gone\nback.gone -export-ignore\n.gitattributes export-ignore\n\
                      bad*name export-ignore inv@lid\n*.crlf export-ignore\r\n*.C export-ignore\n",
                ),
            ),
            (b"a.o", Item::File(b"1")),
            (b"a.c", Item::File(b"1")),
            (b"a.crlf", Item::File(b"1")),
            (b"all/a.o", Item::File(b"1")),
            (b"all/b.o", Item::Link(b"1")),
            (b"all/mod", Item::Submodule),
            (b"aset", Item::File(b"1")),
            (b"badXname", Item::File(b"1")),
            (b"x.gone", Item::File(b"1")),
            (b"kept.gone", Item::File(b"1")),
            (b"back.gone", Item::File(b"1")),
            (b"indented", Item::File(b"1")),
            (b"keep.o", Item::File(b"1")),
            (b"linked", Item::Link(b"1")),
            (b"literal", Item::File(b"1")),
            (b"!literal", Item::File(b"1")),
            (b"mod", Item::Submodule),
            (b"neg", Item::File(b"1")),
            (b"!neg", Item::File(b"1")),
            (b"quo ted", Item::File(b"1")),
            (b"secret/deep/er", Item::File(b"1")),
            (b"sub/secret/x", Item::File(b"1")),
            (b"sub/secretfile", Item::File(b"1")),
            (b"sub/a/b/x", Item::File(b"1")),
            (b"sub/a/y", Item::File(b"1")),
            (b"sub/top", Item::File(b"1")),
            (b"sub2/any/z", Item::File(b"1")),
            (b"sub2/.gitattributes", Item::File(b"*.o -export-ignore\n*.z export-ignore\n[attr]gone2 export-ignore\nq gone2\n")),
            (b"sub2/a.o", Item::File(b"1")),
            (b"sub2/a.z", Item::File(b"1")),
            (b"sub2/q", Item::File(b"1")),
            (b"sub2/sub3/.gitattributes", Item::File(b"/a.z !export-ignore\n")),
            (b"sub2/sub3/a.z", Item::File(b"1")),
            (b"sub2/sub3/b.z", Item::File(b"1")),
            (b"top/a", Item::File(b"1")),
            (b"value", Item::File(b"1")),
        ],
    );
    agree(&repo, &commit).await;
}

#[tokio::test]
async fn malformed_attribute_files_are_read_as_by_git() {
    let long = |name: &str, bytes: usize| {
        let start = format!("{name} export-ignore ");
        format!("{start}{}\n", "a".repeat(bytes - start.len()))
    };
    let files: [(&str, Item<'_>); 6] = [
        (
            "a byte order mark",
            Item::File(b"\xef\xbb\xbf*.x export-ignore\n*.y export-ignore\n"),
        ),
        ("a link's target", Item::Link(b"*.x export-ignore")),
        (
            "NUL at a line's start",
            Item::File(b"*.x export-ignore\n\0*.y export-ignore\n*.z export-ignore\n"),
        ),
        (
            "NUL in a line",
            Item::File(b"*.x export-ignore\n*.y export-ignore\0a\n*.z export-ignore\n"),
        ),
        (
            "an executable without a final line feed",
            Item::Executable(b"*.y export-ignore"),
        ),
        ("nothing", Item::File(b"")),
    ];
    for (what, item) in files {
        let repo = Repo::new();
        let commit = repo.commit(
            what.as_bytes(),
            &[
                (b".gitattributes", item),
                (b"a.x", Item::File(b"1")),
                (b"a.y", Item::File(b"1")),
                (b"a.z", Item::File(b"1")),
            ],
        );
        agree(&repo, &commit).await;
    }
    let repo = Repo::new();
    let lines = long("*.x", 2047) + &long("*.y", 2048) + "*.z export-ignore";
    let commit = repo.files(&[
        (".gitattributes", lines.as_bytes()),
        ("a.x", b"1"),
        ("a.y", b"1"),
        ("a.z", b"1"),
        (
            "sub/.gitattributes/x",
            b"a folder of that name holds no rules",
        ),
    ]);
    agree(&repo, &commit).await;
}

#[tokio::test]
async fn line_ends_are_converted_as_by_git() {
    let rules = "t* text eol=crlf\na* text=auto eol=crlf\nb* -text eol=crlf\nc* crlf\nd* eol=crlf\n\
                 e* crlf=input eol=crlf\nf* text=auto\ng* text\nh* -crlf eol=crlf\ni* crlf=auto eol=crlf\n\
                 j* text=input eol=crlf\nk* text=foo eol=crlf\nl* text crlf=auto eol=crlf\nm* binary eol=crlf\n\
                 n* eol=CRLF text\no* !text eol=crlf\np* text=auto eol=lf\nq* eol=lf\nr* text= eol=crlf\n";
    let mut almost_binary = b"\x01".to_vec();
    almost_binary.extend([b'a'; 128]);
    almost_binary.push(b'\n');
    let contents: [(&str, &[u8]); 9] = [
        ("lf", b"a\nb\n"),
        ("crlf", b"a\r\nb\r\n"),
        ("mix", b"a\nb\r\n"),
        ("cr", b"a\rb\n"),
        ("nul", b"a\0b\n"),
        ("end", b"a\nb\n\x1a"),
        ("control", b"\x01\x02\x03a\n\x7f"),
        ("printable", &almost_binary),
        ("last", b"\n\n\r"),
    ];
    let mut files = vec![(".gitattributes".to_owned(), rules.as_bytes())];
    for letter in 'a'..='t' {
        for (name, bytes) in contents {
            files.push((format!("{letter}-{name}"), bytes));
        }
    }
    let files: Vec<_> = files
        .iter()
        .map(|(name, bytes)| (&**name, *bytes))
        .collect();
    let repo = Repo::new();
    let commit = repo.files(&files);
    agree(&repo, &commit).await;
}

#[tokio::test]
async fn idents_are_expanded_as_by_git() {
    let contents: [&[u8]; 14] = [
        b"$Id$ $Id: foo$ $Id: foo bar $ $Id: x\n$ $Id:$ $Idx $Id: $ end $Id\n",
        b"$Id: a b$ $Id: ab $",
        b"$Id: foo",
        b"x",
        b"$Id:foo$",
        b"$Id: a$b$Id$",
        b"$$Id$$",
        b"$Id$Id$",
        b"$Id: 0123456789012345678901234567890123456789 $",
        b"$Id: 0123456789012345678901234567890123456789  $",
        b"$Id:  $",
        b"$Id:   $",
        b"\0$Id$\xff",
        b"$Id: x\n$Id$ $Id:",
    ];
    let names: Vec<String> = (0..contents.len()).map(|n| format!("f{n}")).collect();
    let mut files: Vec<(&str, &[u8])> = vec![(".gitattributes", b"f* ident\n")];
    files.extend(names.iter().map(|name| &**name).zip(contents));
    files.push(("same as f4", contents[4]));
    let repo = Repo::new();
    let commit = repo.files(&files);
    agree(&repo, &commit).await;
}

#[tokio::test]
async fn encodings_equal_those_of_git() {
    let text = "h\u{e9} \u{65e5}\\~\u{1f600}\n".as_bytes();
    let latin = "h\u{e9} \u{80}\u{9f}\n".as_bytes();
    let japanese = "\u{65e5}\u{672c}\\~ abc\n".as_bytes();
    let cyrillic = "\u{43f}\u{440}\u{438} x\n".as_bytes();
    let euro = "\u{20ac} h\u{e9}\n".as_bytes();
    let marked = "\u{feff}x\n".as_bytes();
    let encodings = [
        "UTF-16",
        "UTF-16LE",
        "UTF-16BE",
        "UTF-16LE-BOM",
        "UTF-16BE-BOM",
        "utf-16le-bom",
        "utf16",
        "UTF-32",
        "UTF-32LE",
        "UTF-32BE",
        "utf8",
        "UTF-8",
        "ISO-8859-1",
        "latin1",
        "ISO-8859-15",
        "ISO-8859-2",
        "ISO-8859-5",
        "windows-1252",
        "CP1252",
        "windows-1251",
        "KOI8-R",
        "SHIFT-JIS",
        "SHIFT_JIS",
        "SJIS",
        "EUC-JP",
        "GB18030",
        "US-ASCII",
        "NOSUCH",
        "",
    ];
    let contents = [
        ("text", text),
        ("latin", latin),
        ("japanese", japanese),
        ("cyrillic", cyrillic),
        ("euro", euro),
        ("marked", marked),
        ("not-utf8", b"a\xff\n"),
        ("ascii", b"abc\n"),
        ("empty", b""),
    ];
    let mut rules = String::new();
    let mut files = vec![];
    for (number, encoding) in encodings.iter().enumerate() {
        writeln!(rules, "e{number}-* working-tree-encoding={encoding}").unwrap();
        for (name, bytes) in contents {
            // Characters that encoding_rs does not encode: JIS X 0212, and control characters.
            if *encoding == "EUC-JP" && matches!(name, "latin" | "euro" | "text") {
                continue;
            }
            files.push((format!("e{number}-{name}"), bytes));
        }
    }
    rules += "un-* -working-tree-encoding\nall-* working-tree-encoding=UTF-16LE eol=crlf ident export-subst\n\
              raw-* working-tree-encoding=ISO-8859-1 export-subst\n";
    files.push(("un-set".to_owned(), text));
    files.push(("all-of-it".to_owned(), b"$Id$\n$Format:%H$\n"));
    files.push(("raw-subst".to_owned(), "h\u{e9} $Format:%an$\n".as_bytes()));
    files.push((".gitattributes".to_owned(), rules.as_bytes()));
    let files: Vec<_> = files
        .iter()
        .map(|(name, bytes)| (&**name, *bytes))
        .collect();
    let repo = Repo::new();
    let commit = repo.files(&files);
    agree(&repo, &commit).await;
}

#[tokio::test]
async fn an_encoding_without_a_name_is_an_error_as_for_git() {
    let repo = Repo::new();
    let commit = repo.files(&[
        (".gitattributes", b"a working-tree-encoding\n"),
        ("a", b"x"),
    ]);
    let disk = Disk::new(repo.path());
    let request = request(&disk, &commit);
    let sink = WriteSink::new(Vec::new());
    let error = write(&disk, &repository(), &request, &sink)
        .await
        .expect_err("git fails as well");
    assert!(
        error.to_string().contains("`a`"),
        "it names the file: {error}"
    );
}

#[tokio::test]
async fn a_blob_with_many_conversions_is_fetched_once() {
    let repo = Repo::new();
    let text = b"a\nb $Id$ $Format:%h$\n".repeat(300);
    let commit = repo.commit(
        b"conversions\n",
        &[
            (
                b".gitattributes",
                Item::File(b"*.crlf text eol=crlf\n*.id ident\n*.sub export-subst\n"),
            ),
            (b"a", Item::File(&text)),
            (b"a.crlf", Item::File(&text)),
            (b"a.id", Item::File(&text)),
            (b"a.link", Item::Link(&text)),
            (b"a.sub", Item::Executable(&text)),
            (b"z/a", Item::File(&text)),
            (b"z/a.crlf", Item::Executable(&text)),
            (b"z/a.id", Item::File(&text)),
        ],
    );
    agree(&repo, &commit).await;
    let disk = Disk::new(repo.path());
    let (_, summary) = ours(&disk, &commit, "").await;
    assert_eq!(
        summary.requests,
        4,
        "two folders, .gitattributes and one blob: {:?}",
        disk.calls.lock().unwrap()
    );
}
