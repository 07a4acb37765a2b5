//! Comparison of two builds, file by file.

use std::path::Path;

use anyhow::{Result, ensure};

use super::files::{below, sha256};

/// Fails unless two folders have the same files with the same bytes; names those that differ.
pub(super) fn ensure_equal(first: &Path, second: &Path) -> Result<()> {
    let names = below(first)?;
    let mut differences = Vec::new();
    for name in below(second)? {
        if !names.contains(&name) {
            differences.push(format!("{name} is only in the second"));
        }
    }
    for name in &names {
        if !second.join(name).is_file() {
            differences.push(format!("{name} is only in the first"));
        } else if sha256(&first.join(name))? != sha256(&second.join(name))? {
            differences.push(format!("{name} differs"));
        }
    }
    ensure!(
        differences.is_empty(),
        "two builds of the same sources differ:\n{}\nhint: `diffoscope` shows where two files differ",
        differences.join("\n")
    );
    eprintln!("two builds are equal: {} files", names.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_differ_are_named() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (first, second) = (folder.path().join("1"), folder.path().join("2"));
        for folder in [&first, &second] {
            std::fs::create_dir(folder)?;
            std::fs::write(folder.join("same"), "same")?;
        }
        ensure_equal(&first, &second)?;
        std::fs::write(first.join("changed"), "1")?;
        std::fs::write(second.join("changed"), "2")?;
        std::fs::write(second.join("new"), "")?;
        let error = ensure_equal(&first, &second).unwrap_err().to_string();
        assert!(error.contains("changed differs"), "{error}");
        assert!(error.contains("new is only in the second"), "{error}");
        Ok(())
    }
}
