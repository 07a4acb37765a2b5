//! `.gitmodules`: the URLs of submodules by their paths.

use std::collections::HashMap;

use bstr::ByteSlice as _;
use gix_config::{File, Source, file};

use crate::error::{Error, ErrorKind, Result};

/// The submodules of a repository.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::archive) struct Modules(HashMap<String, String>);

impl Modules {
    /// Parses the file. Includes are not followed, as by git.
    ///
    /// # Errors
    /// `Config` for a file that git cannot read.
    pub(in crate::archive) fn parse(bytes: &[u8]) -> Result<Self> {
        let options = file::init::Options {
            lossy: true,
            ..file::init::Options::default()
        };
        let metadata = file::Metadata::from(Source::Local);
        let parsed = File::from_bytes_no_includes(bytes, metadata, options).map_err(|error| {
            Error::new(ErrorKind::Config, "`.gitmodules` cannot be read")
                .with_source(error.to_string())
        })?;
        let mut urls = HashMap::new();
        for section in parsed.sections_by_name("submodule").into_iter().flatten() {
            let value = |key: &str| Some(section.value(key)?.to_str().ok()?.to_owned());
            if let (Some(path), Some(url)) = (value("path"), value("url")) {
                urls.insert(path.trim_end_matches('/').to_owned(), url);
            }
        }
        Ok(Self(urls))
    }

    /// Returns the URL of the submodule at `path`.
    pub(in crate::archive) fn url(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_found_by_path() {
        let text = b"[submodule \"a name\"]\n\tpath = libs/a\n\turl = ../a.git\n# x\n\
                     [submodule \"b\"]\n\turl = https://h/b\n\tpath = b/\n[other]\npath = c\n";
        let modules = Modules::parse(text).unwrap();
        assert_eq!(modules.url("libs/a"), Some("../a.git"));
        assert_eq!(modules.url("b"), Some("https://h/b"));
        assert_eq!(modules.url("c"), None);
        assert_eq!(Modules::parse(b"").unwrap(), Modules::default());
        for broken in [&b"[submodule"[..], b"\xff\xfe[", b"[a]\nb = \"x\n"] {
            assert!(Modules::parse(broken).is_err(), "{}", broken.as_bstr());
        }
    }
}
