//! Arguments of `git archive`, as a client transmits them.

use super::needs::refused;
use crate::error::{Error, Result};
use crate::escaped_excerpt;

/// The most arguments that are accepted. Git's value.
const MAX_ARGUMENTS: usize = 64;
/// The highest level of compression.
const MAX_LEVEL: u32 = 9;

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
    /// The time of the entries, as [`LocalTime`](crate::date::LocalTime) parses it; that of the
    /// commit if `None`.
    pub mtime: Option<String>,
    /// A ref, or a directory in it, as in `main:directory`.
    pub tree_ish: String,
    /// Pathspecs, of which one must match each path; none for all paths.
    pub paths: Vec<String>,
}

/// The options with long names, and whether they have a value.
const LONG_OPTIONS: &[(&str, bool)] = &[
    ("add-file", true),
    ("add-virtual-file", true),
    ("exec", true),
    ("format", true),
    ("list", false),
    ("mtime", true),
    ("output", true),
    ("prefix", true),
    ("remote", true),
    ("verbose", false),
    ("worktree-attributes", false),
];

/// Start of the name of an option that takes another one back.
const NEGATION: &str = "no-";

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
            mtime: None,
            tree_ish: String::new(),
            paths: Vec::new(),
        };
        let mut format = "tar".to_owned();
        let mut words = lines.iter().map(|line| text(line));
        let mut rest = Vec::new();
        while let Some(word) = words.next() {
            let word = word?;
            if word == "--" {
                rest.extend(words.by_ref().collect::<Result<Vec<_>>>()?);
                break;
            }
            if let Some(long) = word.strip_prefix("--") {
                let (name, value) = match long.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (long, None),
                };
                let option = LongOption::find(name)?;
                let value = match value {
                    None if option.takes_value() => {
                        let missing = || refused(format!("option `{name}' requires a value"));
                        Some(words.next().ok_or_else(missing)??)
                    }
                    Some(_) if !option.takes_value() => {
                        return Err(refused(format!("option `{name}' takes no value")));
                    }
                    value => value,
                };
                match option.name {
                    "list" => parsed.lists_formats = !option.is_negated,
                    "verbose" => parsed.verbose = !option.is_negated,
                    "format" => format = value.unwrap_or_else(|| "tar".to_owned()),
                    "prefix" => parsed.prefix = value.unwrap_or_default(),
                    "mtime" => parsed.mtime = value,
                    _ if option.is_negated => {}
                    name => return Err(only_local(name)),
                }
            } else if let Some(short) = word.strip_prefix('-').filter(|short| !short.is_empty()) {
                parsed.set_short_options(short)?;
            } else {
                rest.push(word);
            }
        }
        let known = ARCHIVE_FORMATS.iter().find(|(name, _)| *name == format);
        let unknown = || {
            let shown = escaped_excerpt(format.as_bytes());
            refused(format!("Unknown archive format '{shown}'"))
        };
        parsed.format = known.ok_or_else(unknown)?.1;
        if let Some(level) = parsed.level
            && (level > MAX_LEVEL || parsed.format == ArchiveFormat::Tar)
        {
            let message = format!("Argument not supported for format '{format}': -{level}");
            return Err(refused(message));
        }
        let mut rest = rest.into_iter();
        match rest.next() {
            Some(extra) if parsed.lists_formats => {
                let shown = escaped_excerpt(extra.as_bytes());
                return Err(refused(format!("extra command line parameter '{shown}'")));
            }
            Some(tree_ish) => parsed.tree_ish = tree_ish,
            None if parsed.lists_formats => {}
            None => return Err(refused("an archive needs a branch, a tag or a tree")),
        }
        parsed.paths = rest.collect();
        Ok(parsed)
    }

    /// Sets options of one letter, of which several may follow each other, as in `-9v`.
    fn set_short_options(&mut self, letters: &str) -> Result<()> {
        let mut rest = letters;
        while let Some(letter) = rest.chars().next() {
            match letter {
                'l' => self.lists_formats = true,
                'v' => self.verbose = true,
                'o' => return Err(only_local("output")),
                '0'..='9' => {
                    let after = rest.trim_start_matches(|letter: char| letter.is_ascii_digit());
                    let digits = &rest[..rest.len() - after.len()];
                    self.level = Some(digits.parse().unwrap_or(u32::MAX));
                    rest = after;
                    continue;
                }
                _ => {
                    let shown = letter.escape_debug();
                    return Err(refused(format!("unknown switch `{shown}'")));
                }
            }
            rest = &rest[letter.len_utf8()..];
        }
        Ok(())
    }
}

/// An option with a long name.
struct LongOption {
    name: &'static str,
    has_value: bool,
    is_negated: bool,
}

impl LongOption {
    /// Finds the option of a name, which may be cut where it stays unambiguous.
    fn find(name: &str) -> Result<Self> {
        let negated = name.strip_prefix(NEGATION);
        let (is_negated, wanted) = (negated.is_some(), negated.unwrap_or(name));
        let shown = escaped_excerpt(name.as_bytes());
        let mut found = LONG_OPTIONS
            .iter()
            .filter(|(known, _)| known.starts_with(wanted));
        let exact = found.clone().find(|(known, _)| *known == wanted);
        let (name, has_value) = match (exact, found.next(), found.next()) {
            (Some(exact), ..) => exact,
            (None, Some(only), None) if !wanted.is_empty() => only,
            (None, None, _) => return Err(refused(format!("unknown option `{shown}'"))),
            _ => return Err(refused(format!("ambiguous option: {shown}"))),
        };
        Ok(Self {
            name,
            has_value: *has_value,
            is_negated,
        })
    }

    fn takes_value(&self) -> bool {
        self.has_value && !self.is_negated
    }
}

fn only_local(name: &str) -> Error {
    let message = format!("options '--{name}' and '--remote' cannot be used together");
    refused(message)
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
        let mtime = parse(&["main", "--mtime=@5"]).unwrap().mtime;
        assert_eq!(mtime.as_deref(), Some("@5"));
        assert!(parse(&["--list"]).unwrap().lists_formats);
    }

    #[test]
    fn long_options_are_cut_and_negated_and_short_ones_joined() {
        let parsed = parse(&["--form=zip", "--pre=p/", "-v0", "main"]).unwrap();
        assert_eq!(parsed.format, ArchiveFormat::Zip);
        assert_eq!((parsed.prefix.as_str(), parsed.level), ("p/", Some(0)));
        assert!(parsed.verbose);
        let words = [
            "--format=zip",
            "--no-format",
            "--prefix=p/",
            "--no-prefix",
            "-v",
            "--no-verb",
            "--mtime=now",
            "--no-mtime",
            "--no-worktree-attributes",
            "main",
        ];
        let parsed = parse(&words).unwrap();
        assert_eq!(parsed, parse(&["main"]).unwrap());
    }

    #[test]
    fn arguments_that_cannot_be_transmitted_are_refused() {
        for words in [
            &["--format=rar", "main"][..],
            &["--format"],
            &["--add-file=x", "main"],
            &["--worktree-attributes", "main"],
            &["--what", "main"],
            &["--format=zip", "-10", "main"],
            &["-9", "main"],
            &["-x", "main"],
            &["-o", "x", "main"],
            &["--", "--list"][..1],
            &["--list", "main"],
            &["--verbose=1", "main"],
            &["--add=x", "main"],
            &["--no-", "main"],
            &["--mtime"],
            &[],
            &["x"; 65],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
        assert!(ArchiveArguments::parse(&[b"\xff".to_vec()]).is_err());
    }
}
