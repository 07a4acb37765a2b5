//! The functions as a Python package has them beside this program: zips for AWS Lambda, which are
//! unpacked once to be started here.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// Names of the functions, of their zips, and of their programs.
const NAMES: [&str; 3] = ["lifecycle", "migration", "update"];

/// AWS Lambda's name of this machine's processor.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    std::env::consts::ARCH
};

/// Returns the folder with the programs of the functions: the one that has `program`, as cargo builds
/// them, or one beside installed zips, into which they are unpacked.
///
/// # Errors
/// A zip cannot be read, or its program cannot be written.
pub(crate) fn folder(program: &Path) -> anyhow::Result<PathBuf> {
    let own = program.parent().unwrap_or(Path::new("."));
    let Some(prefix) = own.parent() else {
        return Ok(own.to_owned());
    };
    let share = prefix.join("share/branchline").join(ARCHITECTURE);
    let zips = share.join("functions");
    let has_zip = |name: &&str| zips.join(format!("{name}.zip")).is_file();
    if own.join(NAMES[0]).is_file() || !NAMES.iter().all(has_zip) {
        return Ok(own.to_owned());
    }
    let programs = share.join("programs");
    std::fs::create_dir_all(&programs).with_context(|| {
        format!(
            "the functions cannot be unpacked to `{}`",
            programs.display()
        )
    })?;
    for name in NAMES {
        unpack(&zips.join(format!("{name}.zip")), &programs.join(name))?;
    }
    Ok(programs)
}

/// Writes the bootstrap of a zip to `program`, unless it is there.
fn unpack(zip: &Path, program: &Path) -> anyhow::Result<()> {
    let failed = || format!("`{}` cannot be unpacked", zip.display());
    let mut archive = zip::ZipArchive::new(File::open(zip).with_context(failed)?)?;
    let mut bootstrap = archive.by_name("bootstrap").with_context(failed)?;
    // An upgrade replaces the zip, and the times of installed files say nothing.
    if std::fs::read(program).is_ok_and(|present| crc32fast::hash(&present) == bootstrap.crc32()) {
        return Ok(());
    }
    let folder = program.parent().context("a program is in a folder")?;
    // Written beside and renamed, because a different server may run the present one.
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
    let written = std::io::copy(&mut bootstrap, &mut file).with_context(failed)?;
    ensure!(written == bootstrap.size(), failed());
    file.flush().with_context(failed)?;
    let (_, path) = file.into_parts();
    set_executable(&path).with_context(failed)?;
    path.persist(program).with_context(failed)?;
    Ok(())
}

fn set_executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_zips(folder: &Path, text: &str) {
        std::fs::create_dir_all(folder).expect("a folder");
        for name in NAMES {
            let file = File::create(folder.join(format!("{name}.zip"))).expect("a file");
            let mut zip = zip::ZipWriter::new(file);
            let options = zip::write::SimpleFileOptions::default();
            zip.start_file("bootstrap", options).expect("an entry");
            zip.write_all(text.as_bytes()).expect("a text");
            zip.finish().expect("a zip");
        }
    }

    #[test]
    fn installed_zips_are_unpacked_once_and_again_after_an_upgrade() {
        let prefix = tempfile::tempdir().expect("a folder");
        let program = prefix.path().join("bin/branchline-dev");
        let own = prefix.path().join("bin");
        assert_eq!(
            folder(&program).expect("a folder"),
            own,
            "nothing is installed"
        );

        let share = prefix.path().join("share/branchline").join(ARCHITECTURE);
        write_zips(&share.join("functions"), "first");
        let found = folder(&program).expect("they are unpacked");
        assert_eq!(found, share.join("programs"));
        let read = || std::fs::read_to_string(found.join("update")).expect("a program");
        assert_eq!(read(), "first");
        write_zips(&share.join("functions"), "upgraded");
        folder(&program).expect("they are unpacked");
        assert_eq!(read(), "upgraded");

        std::fs::create_dir(&own).expect("a folder");
        std::fs::write(own.join("lifecycle"), "").expect("a file");
        assert_eq!(
            folder(&program).expect("a folder"),
            own,
            "built ones come first"
        );
    }
}
