//! Arguments of `git archive`, as a client transmits them.

use super::needs::refused;
use crate::error::Result;
use crate::escaped_excerpt;

/// The most arguments that are accepted. Git's value.
const MAX_ARGUMENTS: usize = 64;

/// A format of archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArchiveFormat {
    /// `tar`.
    Tar,
    /// `tgz` and `tar.gz`.
    TarGz,
    /// `zip`.
    Zip,
}

/// The names of the formats, as `git archive --list` prints them.
pub const ARCHIVE_FORMATS: &[(&str, ArchiveFormat)] = &[
    ("tar", ArchiveFormat::Tar),
    ("tgz", ArchiveFormat::TarGz),
    ("tar.gz", ArchiveFormat::TarGz),
    ("zip", ArchiveFormat::Zip),
];

/// The arguments of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveArguments {
    /// Only the formats are asked for.
    pub lists_formats: bool,
    /// The paths of the entries are asked for, too.
    pub verbose: bool,
    /// The format.
    pub format: ArchiveFormat,
    /// Text before each path.
    pub prefix: String,
    /// The level of compression, 0 to 9.
    pub level: Option<u32>,
    /// The time of the entries in seconds since 1970; that of the commit if `None`.
    pub time: Option<i64>,
    /// A ref, or a directory in it, as in `main:directory`.
    pub tree_ish: String,
    /// Pathspecs, of which one must match each path; none for all paths.
    pub paths: Vec<String>,
}

impl ArchiveArguments {
    /// Parses the arguments `lines`, each a line without `argument `.
    ///
    /// # Errors
    /// `Config` for arguments that git refuses, and for those that cannot be transmitted.
    pub(super) fn parse(lines: &[Vec<u8>]) -> Result<Self> {
        if lines.len() > MAX_ARGUMENTS {
            return Err(refused(format!("too many options (>{MAX_ARGUMENTS})")));
        }
        let mut parsed = Self {
            lists_formats: false,
            verbose: false,
            format: ArchiveFormat::Tar,
            prefix: String::new(),
            level: None,
            time: None,
            tree_ish: String::new(),
            paths: Vec::new(),
        };
        let mut words = lines.iter().map(|line| text(line));
        let mut rest = Vec::new();
        while let Some(word) = words.next() {
            let word = word?;
            if word == "--" {
                rest.extend(words.by_ref().collect::<Result<Vec<_>>>()?);
                break;
            }
            if !word.starts_with('-') || word == "-" {
                rest.push(word);
                continue;
            }
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word.clone(), None),
            };
            let mut value = || match value.clone() {
                Some(value) => Ok(value),
                None => words
                    .next()
                    .unwrap_or_else(|| Err(refused(format!("option `{word}' requires a value")))),
            };
            match name.as_str() {
                "-l" | "--list" => parsed.lists_formats = true,
                "-v" | "--verbose" => parsed.verbose = true,
                "--no-verbose" => parsed.verbose = false,
                "--format" => {
                    let format = value()?;
                    let known = ARCHIVE_FORMATS.iter().find(|(name, _)| *name == format);
                    let unknown = || refused(format!("Unknown archive format '{format}'"));
                    parsed.format = known.ok_or_else(unknown)?.1;
                }
                "--prefix" => parsed.prefix = value()?,
                "--mtime" => {
                    let time = value()?;
                    let seconds = time.strip_prefix('@').unwrap_or(&time).parse().ok();
                    parsed.time = Some(seconds.ok_or_else(|| {
                        refused(format!("'{time}' is not a time"))
                            .with_hint("give seconds since 1970, as in `--mtime=@1700000000`")
                    })?);
                }
                "--add-file"
                | "--add-virtual-file"
                | "--worktree-attributes"
                | "--output"
                | "-o"
                | "--remote"
                | "--exec" => {
                    return Err(refused(format!(
                        "options '{name}' and '--remote' cannot be used together"
                    )));
                }
                _ => match word[1..].parse::<u32>() {
                    Ok(level @ 0..=9) => parsed.level = Some(level),
                    _ => return Err(refused(format!("unknown option `{word}'"))),
                },
            }
        }
        let mut rest = rest.into_iter();
        match rest.next() {
            Some(tree_ish) => parsed.tree_ish = tree_ish,
            None if parsed.lists_formats => {}
            None => return Err(refused("an archive needs a branch, a tag or a tree")),
        }
        parsed.paths = rest.collect();
        Ok(parsed)
    }
}

fn text(line: &[u8]) -> Result<String> {
    String::from_utf8(line.to_vec())
        .map_err(|_| refused(format!("'{}' is not UTF-8", escaped_excerpt(line))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<ArchiveArguments> {
        let lines: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        ArchiveArguments::parse(&lines)
    }

    #[test]
    fn options_are_separated_from_the_tree_and_the_paths() {
        let words = [
            "--format=tgz",
            "--prefix",
            "p/",
            "-9",
            "main:a",
            "--",
            "-x",
            "b",
        ];
        let parsed = parse(&words).unwrap();
        assert_eq!(parsed.format, ArchiveFormat::TarGz);
        assert_eq!((parsed.prefix.as_str(), parsed.level), ("p/", Some(9)));
        assert_eq!(parsed.tree_ish, "main:a");
        assert_eq!(parsed.paths, ["-x", "b"]);
        assert_eq!(parse(&["main", "--mtime=@5"]).unwrap().time, Some(5));
        assert!(parse(&["--list"]).unwrap().lists_formats);
    }

    #[test]
    fn arguments_that_cannot_be_transmitted_are_refused() {
        for words in [
            &["--format=rar", "main"][..],
            &["--format"],
            &["--add-file=x", "main"],
            &["--worktree-attributes", "main"],
            &["--what", "main"],
            &["-10", "main"],
            &["--mtime=yesterday", "main"],
            &[],
            &["x"; 65],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
        assert!(ArchiveArguments::parse(&[b"\xff".to_vec()]).is_err());
    }
}
