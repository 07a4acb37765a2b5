//! Files of a release: zips with fixed times, checksums, and lists.

use std::fs::File;
use std::io::{BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// Name of the list of checksums.
pub(super) const CHECKSUMS: &str = "SHA256SUMS";

/// Effort of a compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Best,
    Fast,
}

/// Writes a zip whose bytes depend on the names, modes and contents of its entries alone.
pub(super) fn write_zip(
    path: &Path,
    entries: &[(String, PathBuf)],
    compression: Compression,
) -> Result<()> {
    let shown = path.display();
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort();
    let file = File::create(path).with_context(|| format!("`{shown}`"))?;
    let mut writer = ZipWriter::new(file);
    for (name, source) in sorted {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(match compression {
                Compression::Best => 9,
                Compression::Fast => 1,
            }))
            // The first moment that a zip can have.
            .last_modified_time(DateTime::default())
            .unix_permissions(if is_program(source) { 0o755 } else { 0o644 });
        writer.start_file(name, options).context("a zip's entry")?;
        let mut file = File::open(source).with_context(|| format!("`{}`", source.display()))?;
        std::io::copy(&mut file, &mut writer).with_context(|| format!("`{shown}`"))?;
    }
    writer.finish().with_context(|| format!("`{shown}`"))?;
    Ok(())
}

/// Returns whether a file is a program of Linux, or a script.
fn is_program(path: &Path) -> bool {
    let mut start = [0; 4];
    File::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok())
        && (start == *b"\x7fELF" || start.starts_with(b"#!"))
}

/// Copies a file with its mode, into a folder that is created.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("a file is in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("`{}`", folder.display()))?;
    std::fs::copy(from, to).with_context(|| format!("`{}`", to.display()))?;
    Ok(())
}

/// Returns the files below a folder, as sorted names with `/`.
pub(super) fn below(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        let path = folder.join(&inner);
        let entries = std::fs::read_dir(&path).with_context(|| format!("`{}`", path.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("`{}`", path.display()))?;
            let name = inner.join(entry.file_name());
            if entry.file_type().context("the type of a file")?.is_dir() {
                folders.push(name);
            } else {
                names.push(name.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    names.sort();
    Ok(names)
}

/// Returns the SHA-256 of a file in hexadecimal digits.
pub(super) fn sha256(path: &Path) -> Result<String> {
    use std::fmt::Write as _;

    let shown = path.display();
    let file = File::open(path).with_context(|| format!("`{shown}`"))?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = reader
            .read(&mut buffer)
            .with_context(|| format!("`{shown}`"))?;
        if length == 0 {
            let digest = hash.finalize();
            let mut hexadecimal = String::new();
            for byte in digest {
                let _ = write!(hexadecimal, "{byte:02x}");
            }
            return Ok(hexadecimal);
        }
        hash.update(&buffer[..length]);
    }
}

/// Writes the checksums of the files of a release, not of those in its folders, as
/// `sha256sum --check` reads them.
pub(super) fn write_checksums(release: &Path) -> Result<()> {
    let mut text = Vec::new();
    let files = below(release)?.into_iter();
    for name in files.filter(|name| !name.contains('/')) {
        let hash = sha256(&release.join(&name))?;
        writeln!(text, "{hash}  {name}").context("a line in memory")?;
    }
    std::fs::write(release.join(CHECKSUMS), text).context(CHECKSUMS)
}

/// Returns a line for each file of a release: its size, and its name.
pub(super) fn list(release: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for name in below(release)? {
        let size = std::fs::metadata(release.join(&name)).context("a file of the release")?;
        lines.push(format!("{:>10} {name}", size.len()));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zip_depends_on_names_and_contents_alone() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("text"), "text")?;
        std::fs::write(path("program"), b"\x7fELF..")?;
        let entry = |name: &str, file: &str| (name.to_owned(), path(file));
        let entries = [entry("b/text", "text"), entry("a", "program")];
        write_zip(&path("1.zip"), &entries, Compression::Best)?;
        std::fs::write(path("text"), "text")?;
        let turned = [entry("a", "program"), entry("b/text", "text")];
        write_zip(&path("2.zip"), &turned, Compression::Best)?;
        assert_eq!(std::fs::read(path("1.zip"))?, std::fs::read(path("2.zip"))?);

        let mut archive = zip::ZipArchive::new(File::open(path("1.zip"))?)?;
        let modes: Vec<_> = (0..2)
            .map(|index| archive.by_index(index).map(|entry| entry.unix_mode()))
            .collect::<Result<_, _>>()?;
        assert_eq!(modes, [Some(0o100_755), Some(0o100_644)]);
        Ok(())
    }

    #[test]
    fn checksums_are_those_of_sha256sum() -> Result<()> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("in"))?;
        std::fs::write(folder.path().join("in/unpacked"), "a")?;
        std::fs::write(folder.path().join("a"), "a")?;
        std::fs::write(folder.path().join("b"), "")?;
        write_checksums(folder.path())?;
        let text = std::fs::read_to_string(folder.path().join(CHECKSUMS))?;
        assert_eq!(text.lines().count(), 2);
        let mut check = std::process::Command::new("sha256sum");
        check.args(["--check", "--strict", CHECKSUMS]);
        let checked = check.current_dir(folder.path()).output()?;
        assert!(checked.status.success(), "{checked:?}");
        Ok(())
    }
}
