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
    "%w()%s",
    "%w(0)%b",
    "%w(12)%s%w(20,3,5) and %b",
    "%w(10,2,4)%B%w()|%B",
    "%w(0,2,4)%B",
    "a word %w(8,1)%an %ae",
    "%w(8,1,)%B",
    "%w(8,1,2,3)%B",
    "%w( 8 )%B",
    "%w(+9,-0)%B",
    "%w(-1)%B",
    "%w(99999)%B",
    "%w(x)%B",
    "%w(10)tab\tand %x1b[31mred%x1b[m words \u{65e5}\u{672c}\u{8a9e} %x01 x",
    "%w(10)not UTF-8 %xff%xfe words that are long",
    "%w(10)zero %x00 byte and words",
    "%<(30)%w(5)%s|",
    "%<|(-60)%h]",
    "%<|(-80)%h]",
    "%<|(-81)%h]",
    "%(trailers)",
    "[%(trailers:)]",
    "[%(trailers:only)]",
    "[%(trailers:only=no)]",
    "[%(trailers:only=maybe)]",
    "[%(trailers:only=maybe,unfold)]",
    "[%(trailers:only=yes,unfold=on)]",
    "[%(trailers:unfold)]",
    "[%(trailers:keyonly)]",
    "[%(trailers:valueonly,only)]",
    "[%(trailers:key=Acked-by)]",
    "[%(trailers:key=acked-BY:,separator=%x2C )]",
    "[%(trailers:key=Signed-off-by,key=Key,valueonly,separator=%n)]",
    "[%(trailers:key=Key,only=no)]",
    "[%(trailers:key)]",
    "[%(trailers:key=)]",
    "[%(trailers:separator)]",
    "[%(trailers:separator=;,key_value_separator=%%=)]",
    "[%(trailers:key_value_separator=,unfold)]",
    "[%(trailers:other)]",
    "[%(trailers",
    "[%<(10,trunc)%(trailers:only,separator=;)]",
    "%w(20,1,3)%(trailers:only)%w()",
    "a%+(trailers:key=None)b%-(trailers:key=Key)",
    "%(decorate)",
    "%(count",
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
        "s\n\nbody\n\nSigned-off-by: A <a@b>\nAcked-by: B\n  more of it\n and more\nKey : v\nlast-key:\n",
        "s\n\nbody\n\nnot a trailer\nnor this\nSigned-off-by: A <a@b>\nKey: x\n\n",
        "s\n\nnone\nSigned-off-by: A\nb\nc\nd\n",
        "s\n\nKey: value\n# comment\nAcked-by: x\n\n# at the end\n\n",
        "s\n\n(cherry picked from commit abc)\nfoo\n\nConflicts:\n\ta/b\n\tc\n",
        "Key: only a title\nAcked-by: y\n",
        "s\n\nKey: v\n---\nAcked-by: z\n",
        "s\n\nKey: v\n\n# ------------------------ >8 ------------------------\nAcked-by: z\n",
        "s\n\n  indented: x\nKey: v\n\tfolded\n\n \n",
        "a subject of many words that are longer than a line\n\nA paragraph\nthat has lines.\n\n* item\n* item\n\tand tab\n",
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

/// Pieces of random formats.
const PIECES: &[&str] = &[
    "%h",
    "%H",
    "%s",
    "%b",
    "%B",
    "%an",
    "%cI",
    "%n",
    "%%",
    "%x20",
    "%x41",
    "%x01",
    "%d",
    "%e",
    "%m",
    "%f",
    "%w(",
    "%w()",
    "%w(12)",
    "%w(20,2)",
    "%w(9,1,3)",
    "%w(0,3,1)",
    "%w(40,0,8)",
    "%<(12)",
    "%>(9)",
    "%><(14)",
    "%>>(5)",
    "%<|(30)",
    "%>|(25)",
    "%<(8,trunc)",
    "%<(9,ltrunc)",
    "%<(10,mtrunc)",
    "%<|(-70)",
    "%+",
    "%-",
    "% ",
    "%+b",
    "%-e",
    "% s",
    "%+d",
    "%Cred",
    "%C(bold)",
    "%(trailers)",
    "%(trailers:only)",
    "%(trailers:unfold,separator=;)",
    "%(trailers:key=Key,valueonly)",
    "%(trailers:keyonly,only=no)",
    "%(trailers:key_value_separator==,only)",
    "%(",
    "%",
    "word",
    "two words ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "gr\u{fc}\u{df}e \u{65e5}\u{672c} ",
    "a-long-word-that-does-not-fit",
    ".",
    "e\u{301}",
    "\u{1f600}",
];

/// Messages of random formats.
const MESSAGES: &[&str] = &[
    "subject\n",
    "A subject that has two\nlines and some words\n\nA body of several words\nin lines.\n\n\nKey: value\n\
     Acked-by: B\n  folded\nNo trailer\nSigned-off-by: C <c@d>\n",
    "\u{65e5}\u{672c}\u{8a9e} \u{1f600} subject\n\n\ttab\n* item\n\nKey: v\nkey-2 : w\n\n\n",
    "s\n\n# no comment\n\n(cherry picked from commit 1)\nKey: v\nother\n",
];

#[tokio::test]
async fn random_formats_expand_as_by_git() {
    let mut random = super::history::Random::new(7);
    for message in MESSAGES {
        let repo = Repo::new();
        let files: Vec<(String, String)> = (0..400)
            .map(|number| {
                let mut text = "text before <$Format:".to_owned();
                for _ in 0..=random.below(9) {
                    text.push_str(PIECES[random.below(PIECES.len())]);
                }
                text.push_str("$> after\n$Format:%h %s$\n");
                (format!("f{number:03}"), text)
            })
            .collect();
        let mut items: Vec<_> = files
            .iter()
            .map(|(name, text)| (name.as_bytes(), super::git::Item::File(text.as_bytes())))
            .collect();
        let attributes = super::git::Item::File(b"f* export-subst\n");
        items.push((b".gitattributes", attributes));
        let commit = repo.commit(message.as_bytes(), &items);
        // Without refs git prints no decorations.
        repo.git(["update-ref", "-d", "refs/heads/main"], b"");
        agree(&repo, &commit).await;
    }
}
