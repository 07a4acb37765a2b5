//! `.lfsconfig`: the settings of git-lfs that a repository shares with its users. Pure.

use gix_config::{File, Source, file};

use crate::error::{Result, corrupt};

/// Name of the file, in the root folder of a commit.
pub const CONFIG_FILE: &str = ".lfsconfig";

/// Maximum size of the file that is read, in bytes.
const MAX_CONFIG_BYTES: usize = 64 << 10;
/// Keys of the URL of LFS objects, as git-lfs chooses among them; the second one is that of the
/// remote that a clone has.
const KEYS: [&str; 2] = ["lfs.url", "remote.origin.lfsurl"];

/// Returns the URL of LFS objects that the content of a `.lfsconfig` names.
///
/// # Errors
/// `Corrupt` for a file that git cannot read.
pub fn configured_url(content: &[u8]) -> Result<Option<String>> {
    if content.len() > MAX_CONFIG_BYTES {
        return Err(corrupt(format!(
            "`{CONFIG_FILE}` has {} bytes; {MAX_CONFIG_BYTES} are allowed",
            content.len()
        )));
    }
    let options = file::init::Options {
        lossy: true,
        ..file::init::Options::default()
    };
    let metadata = file::Metadata::from(Source::Local);
    let settings = File::from_bytes_no_includes(content, metadata, options).map_err(|error| {
        corrupt(format!("`{CONFIG_FILE}` is not a configuration of git")).with_source(error)
    })?;
    let urls = KEYS.iter().filter_map(|key| settings.string(*key));
    let urls = urls.filter_map(|url| String::from_utf8(url.into()).ok());
    Ok(urls
        .map(|url| url.trim().to_owned())
        .find(|url| !url.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_found_as_git_finds_it() {
        for (content, url) in [
            ("", None),
            ("[lfs]\n\tconcurrenttransfers = 3\n", None),
            (
                "[lfs]\n\turl = https://h/r.git/info/lfs\n",
                Some("https://h/r.git/info/lfs"),
            ),
            (
                "[LFS] URL=\"https://h/a b\" # place\n",
                Some("https://h/a b"),
            ),
            (
                "[lfs]\nurl = https://old/x\nurl = https://new/x\n",
                Some("https://new/x"),
            ),
            (
                "[remote \"origin\"]\nlfsurl = s3://bucket/p\n",
                Some("s3://bucket/p"),
            ),
            (
                "[remote \"origin\"]\nlfsurl = https://of.remote/\n[lfs]\nurl = https://of.all/\n",
                Some("https://of.all/"),
            ),
            ("[lfs]\nurl =\n", None),
            ("[lfs \"https://h/\"]\naccess = basic\n", None),
        ] {
            let found = configured_url(content.as_bytes()).expect(content);
            assert_eq!(found.as_deref(), url, "{content}");
        }
    }

    #[test]
    fn a_file_that_git_cannot_read_is_an_error() {
        let long = format!("[lfs]\nurl = {}\n", "x".repeat(MAX_CONFIG_BYTES));
        for content in ["[lfs\nurl = x\n", "[lfs]\n= x\n", &long] {
            let error = configured_url(content.as_bytes()).expect_err(content);
            assert_eq!(error.kind(), crate::ErrorKind::Corrupt, "{content}");
        }
    }
}
