//! Commit objects, as `GetCommit` would tell them.

use std::borrow::Cow;

use bstr::ByteSlice as _;
use encoding_rs::Encoding;

use super::export_subst;
use crate::codecommit::{Commit, Signature};
use crate::error::{Result, corrupt};
use crate::git::ObjectId;
use crate::git::object::{ObjectKind, Reference, references};

/// Reads a commit. Text is made UTF-8, as git does it for people: from the encoding that
/// the commit names; what is broken then becomes U+FFFD. A time that is broken is the start
/// of the epoch, as for git.
///
/// # Errors
/// `Corrupt` when it names no tree, or something that is no id.
pub(super) fn parse(id: ObjectId, content: &[u8]) -> Result<Commit> {
    let (head, message) = content.split_once_str("\n\n").unwrap_or((content, b""));
    let mut tree = None;
    let mut parents = Vec::new();
    references(
        id.kind(),
        ObjectKind::Commit,
        content,
        |found| match found {
            Reference::Tree(id) => tree = Some(id),
            Reference::Parent(id) => parents.push(id.into()),
            Reference::Blob(_) | Reference::Target(..) => {}
        },
    )?;
    let tree = tree.ok_or_else(|| corrupt(format!("commit {id} has no tree")))?;
    let encoding = value(head, b"encoding ").and_then(Encoding::for_label);
    let text = |bytes| decoded(bytes, encoding);
    let person = |name: &[u8]| signature(&text(value(head, name).unwrap_or_default()));
    // Headers go on in lines that start with a space.
    let is_known = |line: &&[u8]| {
        let known: [&[u8]; 4] = [b"tree ", b"parent ", b"author ", b"committer "];
        known.iter().any(|name| line.starts_with(name))
    };
    let others: Vec<_> = head.lines().filter(|line| !is_known(line)).collect();
    Ok(Commit {
        commit_id: id.into(),
        tree_id: tree.into(),
        parents,
        message: text(message).into_owned(),
        author: person(b"author "),
        committer: person(b"committer "),
        additional_data: text(&others.join(&b"\n"[..])).into_owned(),
    })
}

fn value<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.lines().find_map(|line| line.strip_prefix(name))
}

fn decoded<'a>(bytes: &'a [u8], encoding: Option<&'static Encoding>) -> Cow<'a, str> {
    match encoding {
        Some(encoding) => encoding.decode_without_bom_handling(bytes).0,
        None => bytes.to_str_lossy(),
    }
}

/// `Name <address> 1484167798 -0800`
fn signature(line: &str) -> Signature {
    let (name, rest) = line.split_once('<').unwrap_or((line, ""));
    let (email, date) = rest.rsplit_once('>').unwrap_or((rest, ""));
    let date = date.trim();
    let is_time = export_subst::seconds(date).is_some();
    Signature {
        name: name.trim_end().to_owned(),
        email: email.to_owned(),
        date: if is_time { date } else { "0 +0000" }.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::HashKind;

    const TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

    fn read(rest: &[u8]) -> Commit {
        let content = [format!("tree {TREE}\n").as_bytes(), rest].concat();
        parse(ObjectId::null(HashKind::Sha1), &content).unwrap()
    }

    #[test]
    fn text_is_read_in_the_encoding_that_the_commit_names() {
        let commit = read(
            b"parent 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor J\xf6 <j@x> 5 +0100\n\
              committer K <k@x> 1500000000 -0800\nencoding ISO-8859-1\ngpgsig -----BEGIN\n \
              author not this\n\ngr\xf6\xdfer\n\nbody\n",
        );
        assert_eq!(commit.message, "gr\u{f6}\u{df}er\n\nbody\n");
        assert_eq!(commit.author.name, "J\u{f6}");
        assert_eq!(commit.author.date, "5 +0100");
        assert_eq!(commit.committer.email, "k@x");
        assert_eq!(commit.committer.date, "1500000000 -0800");
        assert_eq!(
            (commit.parents.len(), commit.tree_id.to_string()),
            (1, TREE.into())
        );
        assert!(
            commit
                .additional_data
                .contains("gpgsig -----BEGIN\n author not this")
        );
    }

    #[test]
    fn what_is_broken_is_read_as_far_as_it_goes() {
        let commit = read(b"author \xff\ncommitter K <k@x> soon\n\nbad \xff\n");
        assert_eq!(commit.author.name, "\u{fffd}");
        assert_eq!(commit.committer.date, "0 +0000");
        assert_eq!(commit.message, "bad \u{fffd}\n");
        let commit = read(b"");
        assert_eq!(
            (commit.message.as_str(), commit.author.name.as_str()),
            ("", "")
        );
        assert!(parse(ObjectId::null(HashKind::Sha1), b"author x\n").is_err());
    }
}
