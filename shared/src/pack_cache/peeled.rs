//! Peeled ids of tags, in one file of the pack cache: lines of an id and the id that it peels to,
//! or `-` for an object that is not a tag.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use crate::git::ObjectId;
use crate::os;

/// The file in the directory of the cache.
const NAME: &str = "peeled-tags";
/// The size in bytes beyond which the file is begun again.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Peeled ids by id; `None` for an object that is not a tag.
pub(crate) type PeeledIds = HashMap<ObjectId, Option<ObjectId>>;

/// Reads the file; lines of another form, as of an interrupted write, are skipped.
pub(super) fn read(directory: &Path) -> PeeledIds {
    let text = fs::read_to_string(directory.join(NAME)).unwrap_or_default();
    let id = |hex: &str| ObjectId::from_hex(hex.as_bytes()).ok();
    let line = |line: &str| {
        let (tag, peeled) = line.split_once(' ')?;
        let tag = id(tag)?;
        match peeled {
            "-" => Some((tag, None)),
            peeled => {
                let peeled = id(peeled)?;
                (peeled.kind() == tag.kind()).then_some((tag, Some(peeled)))
            }
        }
    };
    text.lines().filter_map(line).collect()
}

/// Appends to the file.
pub(super) fn append(directory: &Path, ids: &[(ObjectId, Option<ObjectId>)]) -> io::Result<()> {
    let path = directory.join(NAME);
    let mut text = String::new();
    for (tag, peeled) in ids {
        let peeled = peeled.map_or("-".to_owned(), |peeled| peeled.to_string());
        writeln!(text, "{tag} {peeled}").expect("because a string accepts all text");
    }
    if fs::metadata(&path).is_ok_and(|file| file.len() > MAX_FILE_BYTES) {
        fs::remove_file(&path)?;
    }
    // One write, so that processes do not interleave their lines.
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    let mut file = os::only_for_this_user(&mut options).open(&path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back_and_broken_lines_are_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let id = |n: u8| ObjectId::from_bytes_or_panic(&[n; 20]);
        append(folder.path(), &[(id(1), Some(id(2))), (id(3), None)]).unwrap();
        let path = folder.path().join(NAME);
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"0101 -\nx\n\n01").unwrap();
        let expected = PeeledIds::from([(id(1), Some(id(2))), (id(3), None)]);
        assert_eq!(read(folder.path()), expected);
    }
}
