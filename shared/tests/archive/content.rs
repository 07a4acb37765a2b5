//! `export-subst`: every placeholder, expanded by git and by branchline.

use super::compare::{agree, entries, ours};
use super::fake_codecommit::Disk;
use super::git::Repo;

/// Placeholders that depend only on the commit, of the table in `archive::export_subst`.
const SAME: &[&str] = &[
    "%H",
    "%T",
    "%P",
    "%h",
    "%t",
    "%p",
    "%an",
    "%ae",
    "%al",
    "%at",
    "%ad",
    "%aD",
    "%ai",
    "%aI",
    "%as",
    "%aN",
    "%aE",
    "%aL",
    "%cn",
    "%ce",
    "%cl",
    "%ct",
    "%cd",
    "%cD",
    "%ci",
    "%cI",
    "%cs",
    "%cN",
    "%cE",
    "%cL",
    "%s",
    "%f",
    "%b",
    "%B",
    "%e",
    "%m",
    "%n",
    "%%",
    "%x41",
    "%xzz",
    "%x4",
    "%N",
    "%S",
    "%G?",
    "%GG",
    "%GS",
    "%GK",
    "%GF",
    "%GP",
    "%GT",
    "%Gx",
    "%gD",
    "%gd",
    "%gs",
    "%gn",
    "%gN",
    "%ge",
    "%gE",
    "%gx",
    "%q",
    "%",
    "%a",
    "%ax",
    "%c",
    "%Cred x",
    "%Cgreen",
    "%Cblue",
    "%Creset",
    "%Cpink",
    "%C(red)x%C(reset)",
    "%C(auto)%h",
    "%C(bold",
    "a%+s",
    "a%+b",
    "a%+ex",
    "a%-ex",
    "a\n\n%-ex",
    "a% s",
    "a% ex",
    "%+q",
    "% q",
    "%-q",
    "%+%h",
    "%+w(1)",
    "plain",
    "",
    "%h%n%s%n%b",
    "[%<(12)%h]",
    "[%>(12)%h]",
    "[%><(12)%h]",
    "[%><(13)%h]",
    "a   [%>>(9)%h]",
    "abc    %>>(9)%H",
    "[%<(4)%h]",
    "[%<(5,trunc)%h]",
    "[%<(5,ltrunc)%h]",
    "[%<(5,mtrunc)%h]",
    "[%<(6,mtrunc)%s]",
    "[%<(2,trunc)%h]",
    "[%<(30,trunc)%an]",
    "[%<(8,trunc)%an]",
    "[%<(0)%h]",
    "[%<(-5)%h]",
    "[%<()%h]",
    "[%<(x)%h]",
    "[%<(5,x)%h]",
    "[%<(5%h",
    "ab%<|(12)%h]",
    "ab%>|(12)%h]",
    "ab%><|(13)%h]",
    "%<(10)%Cred%h]",
    "%<(10)%s%h",
    "%<(6)%%%h]",
    "%<(20)%e]",
    "%<(12)text%h]",
    "%<( 12)%h]",
    "%<(12, trunc)%H]",
    "%<(12,trunc )%H]",
    "%<(99999)%h",
    "%w",
    "%<",
    "%>",
    "%><",
    "%(unknown)",
    "%(",
    "%d",
    "%D",
    "x% d",
    "%w(40",
    "%(describexx)",
];

fn file(placeholders: &[&str]) -> Vec<u8> {
    let mut file = Vec::new();
    for placeholder in placeholders {
        let named = placeholder.replace('%', "");
        file.extend(format!("{named} = <$Format:{placeholder}$>\n").into_bytes());
    }
    file
}

#[tokio::test]
async fn placeholders_of_the_commit_expand_as_by_git() {
    for message in [
        "subject\n",
        "Subject with (odd) characters: \u{e9} & more... v1.2.\n\nbody\n\nmore  \n",
        "\n\n  two line \n subject\t\n \nbody",
        "no line feed",
        "",
        "trailing dots and dashes ---...\n\n\n\n",
        "a \u{65e5}\u{672c}\u{8a9e} subject\n\nKey: value\n",
    ] {
        let repo = Repo::new();
        repo.files(&[("first", b"1")]);
        let files: Vec<(String, Vec<u8>)> = SAME
            .iter()
            .enumerate()
            .map(|(number, placeholder)| (format!("f{number:03}"), file(&[placeholder])))
            .chain([
                ("all".to_owned(), file(SAME)),
                (
                    ".gitattributes".to_owned(),
                    b"* export-subst\nplain -export-subst\n".to_vec(),
                ),
                ("plain".to_owned(), file(SAME)),
                (
                    "open".to_owned(),
                    b"$Format:%h $Format:%h$ $Format:$ $Format:%h\0%s$ $Format:%h\n%s".to_vec(),
                ),
                ("lines".to_owned(), b"$Format:%h\n%s$$Format:%h$".to_vec()),
            ])
            .collect();
        let items: Vec<_> = files
            .iter()
            .map(|(name, bytes)| (name.as_bytes(), super::git::Item::File(bytes)))
            .collect();
        let commit = repo.commit(message.as_bytes(), &items);
        // Without refs git prints no decorations.
        repo.git(["update-ref", "-d", "refs/heads/main"], b"");
        agree(&repo, &commit).await;
    }
}

#[tokio::test]
async fn a_merge_lists_all_parents() {
    let repo = Repo::new();
    let one = repo.files(&[("a", b"1")]);
    let two = repo.files(&[("a", b"2")]);
    let blob = b"<$Format:%P$> <$Format:%p$> <$Format:%<(20,trunc)%P$>";
    let tip = repo.files(&[("f", blob), (".gitattributes", b"f export-subst\n")]);
    let commit = repo.git(
        [
            "commit-tree",
            "-m",
            "merge",
            "-p",
            &one,
            "-p",
            &two,
            &format!("{tip}^{{tree}}"),
        ],
        b"",
    );
    agree(&repo, &super::git::line(&commit)).await;
}

/// Placeholders that depend on more than the commit, with the documented replacement.
#[tokio::test]
async fn placeholders_beyond_the_commit_expand_as_documented() {
    let cases = [
        ("%ar", "Wed Jan 11 12:49:58 2017 -0800"),
        ("%ch", "Fri Jul 14 08:10:01 2017 +0530"),
        ("%(describe)", ""),
        ("%(describe:tags=true)", ""),
        ("%(trailers)", "%(trailers)"),
        ("%w(40,1,2)", ""),
        ("%d", ""),
    ];
    let placeholders: Vec<_> = cases.iter().map(|(placeholder, _)| *placeholder).collect();
    let repo = Repo::new();
    let commit = repo.files(&[
        ("f", &file(&placeholders)),
        (".gitattributes", b"f export-subst\n"),
    ]);
    repo.git(["tag", "v1", &commit], b"");
    let (zip, _) = ours(&Disk::new(repo.path()), &commit, "").await;
    let (entries, _) = entries(&zip);
    let text = String::from_utf8(entries[1].bytes.clone()).unwrap();
    for ((placeholder, expected), line) in cases.iter().zip(text.lines()) {
        let name = placeholder.replace('%', "");
        assert!(
            line == format!("{name} = <{expected}>") || line.contains(&format!("<{expected}>")),
            "{placeholder}: {line}"
        );
    }
}
