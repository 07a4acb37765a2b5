//! Pointer blobs of LFS objects, parsed as by git-lfs 3 (`git lfs pointer --check`).

use std::collections::BTreeMap;

use bstr::ByteSlice as _;

use crate::git::pack::SMALL_BLOB;

/// Maximum size of a pointer, in bytes: git-lfs reads no more.
pub const MAX_POINTER: u64 = SMALL_BLOB;

/// Accepted versions: the current one, and two of pre-releases.
const VERSIONS: [&[u8]; 3] = [
    b"https://git-lfs.github.com/spec/v1",
    b"https://hawser.github.com/spec/v1",
    b"http://git-media.io/v/2",
];

/// Keys that every pointer has, in order.
const KEYS: [&[u8]; 3] = [b"version", b"oid", b"size"];

/// Object that an LFS pointer names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer {
    /// SHA-256 of the content, in lower-case hexadecimal digits.
    pub oid: String,
    /// Size of the content.
    pub size_bytes: u64,
}

impl Pointer {
    /// Parses a blob; `None` if it is not a pointer. An empty blob is not a pointer here,
    /// although git-lfs treats it as the pointer of an empty object.
    pub fn parse(blob: &[u8]) -> Option<Self> {
        if blob.len() as u64 > MAX_POINTER {
            return None;
        }
        let mut values = Vec::with_capacity(KEYS.len());
        let mut extensions = BTreeMap::new();
        // Lines end in LF or CR LF; empty lines are ignored.
        for line in blob.trim().lines().filter(|line| !line.is_empty()) {
            let (key, value) = line.split_once_str(" ")?;
            // Any line after the last key is an error.
            if key == *KEYS.get(values.len())? {
                values.push(value);
                continue;
            }
            let (priority, name) = extension(key)?;
            oid(value)?;
            // A repeated line counts once, as in git-lfs.
            if *extensions.entry(priority).or_insert(name) != name {
                return None;
            }
        }
        let [version, object, size] = values[..] else {
            return None;
        };
        if !VERSIONS.contains(&version) {
            return None;
        }
        let size: i64 = size.to_str().ok()?.parse().ok()?;
        Some(Self {
            oid: oid(object)?.to_owned(),
            size_bytes: u64::try_from(size).ok()?,
        })
    }

    /// Returns the blob that git-lfs writes for this pointer.
    pub fn to_blob(&self) -> String {
        let Self { oid, size_bytes } = self;
        let version = "https://git-lfs.github.com/spec/v1";
        format!("version {version}\noid sha256:{oid}\nsize {size_bytes}\n")
    }

    /// Returns the path of the object below `lfs/objects`, as in git-lfs.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}/{}", &self.oid[..2], &self.oid[2..4], self.oid)
    }
}

fn oid(value: &[u8]) -> Option<&str> {
    parse_oid(value.strip_prefix(b"sha256:")?)
}

/// Parses an id of 64 lower-case hexadecimal digits.
pub(super) fn parse_oid(hex: &[u8]) -> Option<&str> {
    let is_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    if hex.len() != 64 || !hex.iter().all(is_hex) {
        return None;
    }
    hex.to_str().ok()
}

/// Parses priority and name of an extension's line: `ext-0-name`.
fn extension(key: &[u8]) -> Option<(u8, &[u8])> {
    let rest = key.strip_prefix(b"ext-")?;
    let [priority @ b'0'..=b'9', b'-', name @ ..] = rest else {
        return None;
    };
    let first = name.first()?;
    (first.is_ascii_alphanumeric() || *first == b'_').then_some((*priority, name))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    const OID: &str = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";

    fn plain() -> String {
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 12345\n")
    }

    /// Blobs, and whether git-lfs 3.3 accepts them as pointers.
    fn cases() -> Vec<(String, bool)> {
        let v1 = "version https://git-lfs.github.com/spec/v1\n";
        let sha = format!("sha256:{OID}");
        let upper = OID.to_ascii_uppercase();
        let with = |text: String, is_pointer: bool| (text, is_pointer);
        vec![
            with(plain(), true),
            with(plain().trim_end().to_owned(), true),
            with(plain().replace('\n', "\r\n"), true),
            with(plain().replace('\n', "\n\n"), true),
            with(format!("\n {}", plain()), true),
            with(format!("{v1}size 12345\noid {sha}\n"), false),
            with(format!("{}foo bar\n", plain()), false),
            with(format!("{}ext-0-foo {sha}\n", plain()), false),
            with(format!("{v1}ext-0-foo {sha}\noid {sha}\nsize 1\n"), true),
            with(format!("{v1}ext-0-foo-x {sha}\noid {sha}\nsize 1\n"), true),
            with(format!("ext-0-foo {sha}\n{}", plain()), true),
            with(format!("{v1}oid {sha}\next-9-_ {sha}\nsize 1\n"), true),
            with(
                format!("{v1}ext-0-foo {sha}\next-0-bar {sha}\noid {sha}\nsize 1\n"),
                false,
            ),
            with(
                format!("{v1}ext-0-foo {sha}\next-0-foo {sha}\noid {sha}\nsize 1\n"),
                true,
            ),
            with(
                format!("{v1}ext-0-foo {sha}\next-1-bar {sha}\noid {sha}\nsize 1\n"),
                true,
            ),
            with(
                format!("{v1}ext-0-foo md5:{OID}\noid {sha}\nsize 1\n"),
                false,
            ),
            with(format!("{v1}ext-10-foo {sha}\noid {sha}\nsize 1\n"), false),
            with(format!("{v1}ext-0- {sha}\noid {sha}\nsize 1\n"), false),
            with(
                plain().replace(
                    "https://git-lfs.github.com/spec/v1",
                    "http://git-media.io/v/2",
                ),
                true,
            ),
            with(plain().replace("git-lfs", "hawser"), true),
            with(plain().replace("spec/v1", "spec/v2"), false),
            with(plain().replace("spec/v1", "spec/v1 "), false),
            with(plain().replace("12345", "0"), true),
            with(plain().replace("12345", "-0"), true),
            with(plain().replace("12345", "-1"), false),
            with(plain().replace("12345", "+1"), true),
            with(plain().replace("12345", "007"), true),
            with(plain().replace("12345", "1_0"), false),
            with(plain().replace("12345", "0x10"), false),
            with(plain().replace("12345", " 1"), false),
            with(plain().replace("12345", "1 "), true),
            with(plain().replace("12345", ""), false),
            with(plain().replace("12345", &i64::MAX.to_string()), true),
            with(plain().replace("12345", "9223372036854775808"), false),
            with(plain().replace("oid ", "oid  "), false),
            with(plain().replace(OID, &format!("{OID} ")), false),
            with(plain().replace(OID, &upper), false),
            with(plain().replace(OID, &format!("{OID}ab")), false),
            with(plain().replace(OID, &OID[1..]), false),
            with(plain().replace(OID, &format!("z{}", &OID[1..])), false),
            with(plain().replace("oid", "oid\t"), false),
            with(format!("{}\u{a0}\u{2003}\n", plain()), true),
            with("version https://git-lfs.github.com/spec/v1\n".into(), false),
            with("hello\n".into(), false),
        ]
    }

    #[test]
    fn only_pointers_are_parsed() {
        for (text, is_pointer) in cases() {
            let found = Pointer::parse(text.as_bytes());
            assert_eq!(found.is_some(), is_pointer, "{text:?}");
            if let Some(found) = found {
                assert_eq!(found.oid, OID, "{text:?}");
            }
        }
        assert_eq!(
            Pointer::parse(plain().as_bytes()).unwrap().size_bytes,
            12345
        );
        let padded = |to: usize| format!("{:\n<to$}", plain());
        assert!(Pointer::parse(padded(1024).as_bytes()).is_some());
        assert!(
            Pointer::parse(padded(1025).as_bytes()).is_none(),
            "a pointer has at most 1024 bytes"
        );
        assert_eq!(Pointer::parse(b""), None, "an empty object is not copied");
    }

    /// Returns whether git-lfs accepts a pointer; `None` if git-lfs is not installed.
    fn git_lfs_accepts(text: &str) -> Option<bool> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("blob");
        std::fs::write(&file, text).unwrap();
        let output = Command::new("git")
            .args(["lfs", "pointer", "--check", "--file"])
            .arg(&file)
            .current_dir(folder.path())
            .env("HOME", folder.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        if message.contains("is not a git command") {
            eprintln!("skipped: git-lfs is not installed; `cargo xtask test` installs it");
            return None;
        }
        Some(output.status.success())
    }

    #[test]
    fn git_lfs_accepts_the_same_pointers() {
        let mut texts: Vec<String> = cases().into_iter().map(|(text, _)| text).collect();
        // Each line removed, repeated and moved; each class of bytes inserted.
        let plain = format!(
            "version https://git-lfs.github.com/spec/v1\next-1-a sha256:{OID}\noid sha256:{OID}\nsize 12345\n"
        );
        let lines: Vec<&str> = plain.lines().collect();
        for at in 0..lines.len() {
            for other in 0..lines.len() {
                let mut moved = lines.clone();
                let line = moved.remove(at);
                texts.push(moved.join("\n"));
                moved.insert(other, line);
                texts.push(moved.join("\n"));
                moved.insert(at, line);
                texts.push(moved.join("\n"));
            }
        }
        for inserted in [" ", "\r", "\t", "\u{b}", "\u{85}", "\u{2028}", "\0", "-"] {
            for at in [
                0,
                7,
                8,
                42,
                43,
                50,
                116,
                117,
                188,
                plain.len() - 1,
                plain.len(),
            ] {
                let mut text = plain.clone();
                text.insert_str(at, inserted);
                texts.push(text);
            }
        }
        texts.sort_unstable();
        texts.dedup();
        for text in texts {
            let Some(expected) = git_lfs_accepts(&text) else {
                return;
            };
            let ours = Pointer::parse(text.as_bytes()).is_some();
            assert_eq!(ours, expected, "git-lfs decides otherwise on {text:?}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_are_not_a_pointer(blob in proptest::collection::vec(any::<u8>(), 0..1100)) {
            prop_assert_eq!(Pointer::parse(&blob), None);
        }

        #[test]
        fn a_written_pointer_is_parsed_back(
            oid in "[0-9a-f]{64}",
            size in 0..=i64::MAX,
            at in 0..200_usize,
            byte in any::<u8>(),
        ) {
            let text = format!(
                "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"
            );
            let expected = Pointer { oid, size_bytes: u64::try_from(size).unwrap() };
            prop_assert_eq!(expected.to_blob(), text.as_str());
            prop_assert_eq!(Pointer::parse(text.as_bytes()), Some(expected));
            // After a change of one byte, a parsed pointer still has a valid id.
            let mut changed = text.into_bytes();
            let at = at % changed.len();
            changed[at] = byte;
            if let Some(found) = Pointer::parse(&changed) {
                prop_assert!(found.oid.len() == 64);
                prop_assert!(found.oid.bytes().all(|byte| byte.is_ascii_hexdigit()));
            }
        }
    }
}
