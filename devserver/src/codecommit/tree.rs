//! Raw tree and commit objects, read with strict bounds.

use serde_json::{Value, json};

/// Modes of a tree entry that CodeCommit distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Tree,
    Normal,
    Executable,
    Symlink,
    Submodule,
}

impl Mode {
    /// Classifies by the file type first, then by the owner's execute bit, as git reads modes
    /// (old repositories hold 100664).
    fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits & 0o170_000 {
            0o040_000 => Self::Tree,
            0o100_000 if bits & 0o100 != 0 => Self::Executable,
            0o100_000 => Self::Normal,
            0o120_000 => Self::Symlink,
            0o160_000 => Self::Submodule,
            _ => return None,
        })
    }

    /// Returns the mode as `GetFolder` and `GetFile` name it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Executable => "EXECUTABLE",
            Self::Symlink => "SYMLINK",
            Self::Normal | Self::Tree | Self::Submodule => "NORMAL",
        }
    }
}

/// One entry of a tree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) mode: Mode,
    pub(crate) name: &'a [u8],
    id: &'a [u8; 20],
}

impl Entry<'_> {
    /// Returns the id in hexadecimal.
    pub(crate) fn id(&self) -> String {
        hex::encode(self.id)
    }
}

/// Reads a raw tree: entries of `<octal mode> SP <name> NUL <20 bytes of id>`.
pub(crate) fn parse_tree(mut data: &[u8]) -> Result<Vec<Entry<'_>>, &'static str> {
    let mut entries = Vec::new();
    while !data.is_empty() {
        let space = data
            .iter()
            .take(8)
            .position(|byte| *byte == b' ')
            .ok_or("a tree entry has no mode")?;
        let (mode, rest) = (data.get(..space), data.get(space + 1..));
        let (Some(mode), Some(rest)) = (mode, rest) else {
            return Err("a tree entry ends after its mode");
        };
        let bits = std::str::from_utf8(mode)
            .ok()
            .filter(|mode| mode.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|mode| u32::from_str_radix(mode, 8).ok())
            .and_then(Mode::from_bits)
            .ok_or("a tree entry has an unknown mode")?;
        let end = rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or("a tree entry's name has no end")?;
        if end == 0 {
            return Err("a tree entry has no name");
        }
        let (name, rest) = (rest.get(..end), rest.get(end + 1..));
        let (Some(name), Some((id, rest))) = (name, rest.and_then(<[u8]>::split_first_chunk::<20>))
        else {
            return Err("a tree entry's id is cut off");
        };
        entries.push(Entry {
            mode: bits,
            name,
            id,
        });
        data = rest;
    }
    Ok(entries)
}

/// Returns the tree that a raw commit records.
pub(crate) fn commit_tree(data: &[u8]) -> Option<String> {
    let id = data.strip_prefix(b"tree ")?.get(..40)?;
    let id = std::str::from_utf8(id).ok()?;
    super::objects::is_object_id(id).then(|| id.to_owned())
}

/// Converts a raw commit to the answer of `GetCommit`.
///
/// Headers without a member of their own (`gpgsig`, `encoding`, ..) go to
/// `additionalData` unchanged. Bytes that are not UTF-8 are replaced by U+FFFD.
pub(crate) fn commit_json(id: &str, data: &[u8]) -> Option<Value> {
    let tree = commit_tree(data)?;
    let split = data.windows(2).position(|pair| pair == b"\n\n");
    let (head, message) = match split {
        Some(at) => (data.get(..=at)?, data.get(at + 2..)?),
        None => (data, &b""[..]),
    };
    let head = String::from_utf8_lossy(head);
    let (mut parents, mut author, mut committer) = (Vec::new(), json!({}), json!({}));
    let mut additional: Vec<&str> = Vec::new();
    for line in head.lines() {
        match line.split_once(' ') {
            Some(("tree", _)) if additional.is_empty() => {}
            Some(("parent", parent)) => parents.push(parent.to_owned()),
            Some(("author", person)) => author = person_json(person),
            Some(("committer", person)) => committer = person_json(person),
            _ => additional.push(line),
        }
    }
    Some(json!({
        "commitId": id,
        "treeId": tree,
        "parents": parents,
        "message": String::from_utf8_lossy(message),
        "author": author,
        "committer": committer,
        "additionalData": additional.join("\n"),
    }))
}

/// Parses `Name <email> 1484167798 -0800` into three members.
fn person_json(person: &str) -> Value {
    let (name, rest) = person.split_once('<').unwrap_or((person, ""));
    let (email, date) = rest.rsplit_once('>').unwrap_or((rest, ""));
    json!({ "name": name.trim_end(), "email": email, "date": date.trim_start() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(mode: &str, name: &[u8]) -> Vec<u8> {
        let mut raw = mode.as_bytes().to_vec();
        raw.push(b' ');
        raw.extend_from_slice(name);
        raw.push(0);
        raw.extend_from_slice(&[0xab; 20]);
        raw
    }

    #[test]
    fn every_mode_that_git_writes_is_known() {
        let raw = [
            entry("100644", b"a"),
            entry("100664", b"b"),
            entry("100755", b"c"),
            entry("120000", b"d"),
            entry("160000", b"e"),
            entry("40000", b"f\xff"),
        ]
        .concat();
        let entries = parse_tree(&raw).unwrap();
        let modes: Vec<Mode> = entries.iter().map(|entry| entry.mode).collect();
        assert_eq!(
            modes,
            [
                Mode::Normal,
                Mode::Normal,
                Mode::Executable,
                Mode::Symlink,
                Mode::Submodule,
                Mode::Tree
            ]
        );
        assert_eq!(entries[5].name, b"f\xff");
        assert_eq!(entries[0].id(), "ab".repeat(20));
    }

    #[test]
    fn a_tree_cut_anywhere_inside_an_entry_is_refused() {
        let raw = entry("100644", b"name");
        for length in 1..raw.len() {
            assert!(
                parse_tree(&raw[..length]).is_err(),
                "{length} bytes are not an entry"
            );
        }
        assert!(parse_tree(&entry("777", b"x")).is_err());
        assert!(parse_tree(&entry("100644", b"")).is_err());
        assert!(parse_tree(&entry("+00644", b"x")).is_err());
    }

    #[test]
    fn headers_of_a_commit_are_mapped_to_members() {
        let raw = format!(
            "tree {t}\nparent {p}\nauthor A <b> C <a@x> 1484167798 -0800\ncommitter D <d@x> 5 +0000\n\
             encoding latin1\ngpgsig -----BEGIN\n line\n\nsubject\n\nbody\n",
            t = "1".repeat(40),
            p = "2".repeat(40)
        );
        let commit = commit_json("x", raw.as_bytes()).unwrap();
        assert_eq!(commit["parents"], json!(["2".repeat(40)]));
        assert_eq!(commit["author"]["name"], "A");
        assert_eq!(commit["author"]["date"], "1484167798 -0800");
        assert_eq!(commit["message"], "subject\n\nbody\n");
        assert_eq!(
            commit["additionalData"],
            "encoding latin1\ngpgsig -----BEGIN\n line"
        );
    }
}
