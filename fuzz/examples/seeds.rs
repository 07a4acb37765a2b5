//! Writes the seeds of every target into folders below the one that is named.

use std::path::Path;

use branchline_fuzz::TARGETS;
use branchline_fuzz::seeds::Seeds;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1);
    let folder = folder.ok_or_else(|| std::io::Error::other("name the folder to write to"))?;
    let seeds = Seeds::new();
    for target in TARGETS {
        let folder = Path::new(&folder).join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (n, seed) in (target.seeds)(&seeds).iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{n}")), seed)?;
        }
    }
    Ok(())
}
