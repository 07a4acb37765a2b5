//! A commit with its text as UTF-8, whether an API or an object database served it.

use std::borrow::Cow;

use bstr::ByteSlice as _;
use encoding_rs::Encoding;

use super::{ObjectKind, Reference, references};
use crate::error::Result;
use crate::{ObjectId, corrupt};

/// An author or committer with a date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The name, without the address.
    pub name: String,
    /// The address, without `<` and `>`.
    pub email: String,
    /// Seconds since the epoch and the zone, `1484167798 -0800`.
    pub date: String,
}

impl Signature {
    /// Returns the seconds since the epoch; `None` when the date does not start with a number.
    pub fn seconds(&self) -> Option<i64> {
        seconds(&self.date)
    }

    /// Parses `Name <address> 1484167798 -0800`. A date that is not valid is the epoch, as
    /// for git.
    fn parse(line: &str) -> Self {
        let (name, rest) = line.split_once('<').unwrap_or((line, ""));
        let (email, date) = rest.rsplit_once('>').unwrap_or((rest, ""));
        let date = date.trim();
        let is_valid = seconds(date).is_some();
        Self {
            name: name.trim_end().to_owned(),
            email: email.to_owned(),
            date: if is_valid { date } else { "0 +0000" }.to_owned(),
        }
    }
}

fn seconds(date: &str) -> Option<i64> {
    date.split(' ').next()?.parse().ok()
}

/// A commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The id of the commit.
    pub id: ObjectId,
    /// The id of the root tree.
    pub tree: ObjectId,
    /// The ids of the parents, in order.
    pub parents: Vec<ObjectId>,
    /// The author and the date of the change.
    pub author: Signature,
    /// The committer and the date of the commit.
    pub committer: Signature,
    /// The lines of all other headers (`gpgsig`, ..), joined by line feeds.
    pub extra_headers: String,
    /// The message: subject and body.
    pub message: String,
}

impl Commit {
    /// Decodes the content of the commit `id`. Text is converted to UTF-8 from the encoding
    /// that the commit names; bytes that are not valid in it are U+FFFD.
    ///
    /// Headers that are missing or malformed are empty, as git reads them. gitoxide's
    /// decoder is not used because it refuses such commits, for example one whose author has
    /// no address.
    ///
    /// # Errors
    /// `Corrupt` when the commit names no tree, or a tree or parent is not an id.
    pub fn decode(id: ObjectId, content: &[u8]) -> Result<Self> {
        let (head, message) = content.split_once_str("\n\n").unwrap_or((content, b""));
        let mut tree = None;
        let mut parents = Vec::new();
        references(
            id.kind(),
            ObjectKind::Commit,
            content,
            |found| match found {
                Reference::Tree(id) => tree = Some(id),
                Reference::Parent(id) => parents.push(id),
                Reference::Blob(_) | Reference::Target(..) => {}
            },
        )?;
        let tree = tree.ok_or_else(|| corrupt(format!("commit {id} has no tree")))?;
        let encoding = header(head, b"encoding ").and_then(Encoding::for_label);
        let text = |bytes| to_utf8(bytes, encoding);
        let signature =
            |name: &[u8]| Signature::parse(&text(header(head, name).unwrap_or_default()));
        // Continuation lines start with a space, so they are never taken for these headers.
        let is_extra = |line: &&[u8]| {
            let fields: [&[u8]; 4] = [b"tree ", b"parent ", b"author ", b"committer "];
            !fields.iter().any(|name| line.starts_with(name))
        };
        let extra: Vec<_> = head.lines().filter(is_extra).collect();
        Ok(Self {
            id,
            tree,
            parents,
            author: signature(b"author "),
            committer: signature(b"committer "),
            extra_headers: text(&extra.join(&b"\n"[..])).into_owned(),
            message: text(message).into_owned(),
        })
    }

    /// Returns the subject as git's `%s`: the lines up to the first empty one, joined by
    /// spaces.
    pub fn subject(&self) -> String {
        subject_and_body(&self.message).0
    }

    /// Returns the body as git's `%b`: the message after the subject.
    pub fn body(&self) -> &str {
        subject_and_body(&self.message).1
    }

    /// Returns the message without the empty lines at its start.
    pub fn message_from_subject(&self) -> &str {
        skip_empty_lines(&self.message)
    }

    /// Returns the first line of the message that is not empty.
    pub fn first_line(&self) -> &str {
        split_line(skip_empty_lines(&self.message)).0
    }
}

fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.lines().find_map(|line| line.strip_prefix(name))
}

fn to_utf8<'a>(bytes: &'a [u8], encoding: Option<&'static Encoding>) -> Cow<'a, str> {
    match encoding {
        Some(encoding) => encoding.decode_without_bom_handling(bytes).0,
        None => bytes.to_str_lossy(),
    }
}

fn subject_and_body(message: &str) -> (String, &str) {
    let mut rest = skip_empty_lines(message);
    let mut lines = Vec::new();
    while !rest.is_empty() {
        let (line, after) = split_line(rest);
        let line = line.trim_end_matches(is_space);
        if line.is_empty() {
            break;
        }
        lines.push(line);
        rest = after;
    }
    (lines.join(" "), skip_empty_lines(rest))
}

fn skip_empty_lines(mut text: &str) -> &str {
    while !text.is_empty() {
        let (line, after) = split_line(text);
        if !line.trim_end_matches(is_space).is_empty() {
            break;
        }
        text = after;
    }
    text
}

fn split_line(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HashKind;

    const TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

    fn decode(headers: &[u8]) -> Commit {
        let content = [format!("tree {TREE}\n").as_bytes(), headers].concat();
        Commit::decode(ObjectId::null(HashKind::Sha1), &content).unwrap()
    }

    #[test]
    fn text_is_decoded_from_the_encoding_that_the_commit_names() {
        let commit = decode(
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
            (commit.parents.len(), commit.tree.to_string()),
            (1, TREE.into())
        );
        assert!(
            commit
                .extra_headers
                .contains("gpgsig -----BEGIN\n author not this")
        );
    }

    #[test]
    fn malformed_headers_of_a_commit_do_not_hide_the_others() {
        let commit = decode(b"author \xff\ncommitter K <k@x> soon\n\nbad \xff\n");
        assert_eq!(commit.author.name, "\u{fffd}");
        assert_eq!(commit.committer.date, "0 +0000");
        assert_eq!(commit.message, "bad \u{fffd}\n");
        let commit = decode(b"");
        assert_eq!(
            (commit.message.as_str(), commit.author.name.as_str()),
            ("", "")
        );
        assert!(Commit::decode(ObjectId::null(HashKind::Sha1), b"author x\n").is_err());
    }

    #[test]
    fn a_subject_ends_at_the_first_empty_line() {
        let commit = decode(b"\n\n \nTwo \nlines\n \n\nBody\n");
        assert_eq!(commit.subject(), "Two lines");
        assert_eq!(commit.body(), "Body\n");
        assert_eq!(commit.first_line(), "Two ");
    }
}
