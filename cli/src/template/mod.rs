//! `branchline template`: a directory with the stack, which `sam deploy` takes without a compiler.
//!
//! | module | content |
//! |---|---|
//! | `stack` | the template for AWS SAM and its settings, which name zips |
//! | `zips` | the directory with the functions of one processor, ready to be uploaded |

mod stack;
mod zips;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use branchline_core::{Error, ErrorKind, Result};
use clap::Args;
use serde_json::json;

use self::stack::{LICENSE, STATE_MACHINES, readme, samconfig, template};
use self::zips::{Architecture, RELEASED, Zips};
use crate::invocation::Invocation;

const EXAMPLES: &str = "\
Writes `template.yaml` for AWS SAM, `cloudformation.json` for everything that takes CloudFormation,
`samconfig.toml`, the state machines, and the functions as zips, which are those that were installed
with this program. A later version replaces these files, except `samconfig.toml`, in which
`sam deploy --guided` keeps answers.

Examples:
  branchline template --out stack && cd stack && sam deploy --guided
  branchline template --out stack --arch x86_64
  branchline template --out stack --zips branchline-0.1.0-stack-x86_64";

/// Arguments of `branchline template`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TemplateArgs {
    /// Directory to write; created if it is missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Directory of a stack whose zips are taken, as a release and `cargo xtask dist` have one for
    /// each processor.
    #[arg(long, value_name = "DIR", conflicts_with = "arch")]
    zips: Option<PathBuf>,
    /// Processor of the functions; `arm64`, which costs less, if it is installed with this program.
    #[arg(long, value_enum)]
    arch: Option<Architecture>,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Writes the stack.
pub(crate) fn write_stack(invocation: &Invocation, args: &TemplateArgs) -> Result<()> {
    let zips = match &args.zips {
        Some(folder) => Zips::read(folder)?,
        None => Zips::installed(invocation, args.arch)?,
    };
    let mut writer = Writer::new(&args.out);
    writer.write("template.yaml", template(zips.architecture))?;
    writer.write("README.md", readme(zips.architecture))?;
    writer.write("LICENSE", LICENSE)?;
    for (name, text) in STATE_MACHINES {
        writer.write(&format!("statemachines/{name}"), text)?;
    }
    for name in RELEASED {
        writer.copy(&zips.directory.join(name), name)?;
    }
    writer.write_once("samconfig.toml", samconfig())?;
    print(args, &zips, &writer);
    Ok(())
}

fn print(args: &TemplateArgs, zips: &Zips, writer: &Writer) {
    let out = args.out.display();
    if args.json {
        let result = json!({
            "event": "result",
            "out": out.to_string(),
            "architecture": zips.architecture.name(),
            "written": writer.written,
            "kept": writer.kept,
        });
        print_line(&result.to_string());
        return;
    }
    for name in &writer.written {
        print_line(&args.out.join(name).display().to_string());
    }
    for name in &writer.kept {
        let path = args.out.join(name);
        eprintln!("`{}` was there, and is kept as it is", path.display());
    }
    eprintln!("to deploy it: cd {out} && sam deploy --guided");
}

/// Prints a line to standard output. A reader that has gone away does not undo the work.
fn print_line(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Writes files of one directory.
struct Writer {
    directory: PathBuf,
    /// Names below the directory.
    written: Vec<String>,
    kept: Vec<&'static str>,
}

impl Writer {
    fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            written: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// Returns the path of a file, whose folder is created.
    fn place(&mut self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed("created", folder, error))?;
        }
        self.written.push(name.to_owned());
        Ok(path)
    }

    fn write(&mut self, name: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let path = self.place(name)?;
        std::fs::write(&path, text).map_err(|error| failed("written", &path, error))
    }

    /// Writes a file unless one with other content is there.
    fn write_once(&mut self, name: &'static str, text: impl AsRef<[u8]>) -> Result<()> {
        let path = self.directory.join(name);
        if std::fs::read(&path).is_ok_and(|present| present != text.as_ref()) {
            self.kept.push(name);
            return Ok(());
        }
        self.write(name, text)
    }

    fn copy(&mut self, from: &Path, name: &str) -> Result<()> {
        let bytes = std::fs::read(from).map_err(|error| failed("read", from, error))?;
        self.write(name, bytes)
    }
}

fn failed(done: &str, path: &Path, error: std::io::Error) -> Error {
    let message = format!("`{}` cannot be {done}", path.display());
    Error::new(ErrorKind::Config, message).with_source(error)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn args(out: PathBuf, zips: Option<PathBuf>) -> TemplateArgs {
        TemplateArgs {
            out,
            zips,
            arch: None,
            json: false,
        }
    }

    fn invocation(program: Option<PathBuf>) -> Invocation {
        Invocation {
            arguments: Vec::new(),
            variables: HashMap::new(),
            program,
        }
    }

    fn write_zips(directory: &Path, architecture: &str, version: &str) {
        std::fs::create_dir_all(directory.join("functions")).expect("a folder");
        for name in RELEASED {
            let text = if name.ends_with("functions.json") {
                json!({ "architecture": architecture, "version": version }).to_string()
            } else {
                format!("{name} itself")
            };
            std::fs::write(directory.join(name), text).expect("a file");
        }
    }

    const VERSION: &str = env!("CARGO_PKG_VERSION");

    #[test]
    fn the_functions_beside_the_installed_program_are_written() {
        let directory = tempfile::tempdir().expect("a folder");
        let prefix = directory.path();
        std::fs::create_dir(prefix.join("bin")).expect("a folder");
        let program = prefix.join("bin/branchline");
        std::fs::write(&program, "").expect("a file");
        write_zips(&prefix.join("share/branchline/arm64"), "arm64", VERSION);
        let out = prefix.join("new/stack");
        let invocation = invocation(Some(program));
        write_stack(&invocation, &args(out.clone(), None)).expect("it is written");
        for name in [
            "template.yaml",
            "cloudformation.json",
            "samconfig.toml",
            "README.md",
            "LICENSE",
            "statemachines/backup-watch.asl.json",
            "statemachines/mirror-fleet.asl.json",
        ] {
            assert!(out.join(name).is_file(), "{name}");
        }
        let zip = std::fs::read_to_string(out.join("functions/update.zip"));
        assert_eq!(zip.expect("a zip"), "functions/update.zip itself");

        let mut wrong = args(out.clone(), None);
        wrong.arch = Some(Architecture::X86_64);
        let error = write_stack(&invocation, &wrong).unwrap_err();
        assert!(error.report().contains("x86_64"), "{error}");

        // Answers of `sam deploy --guided` are not lost by an upgrade.
        std::fs::write(out.join("samconfig.toml"), "mine").expect("a file");
        std::fs::write(out.join("template.yaml"), "old").expect("a file");
        write_stack(&invocation, &args(out.clone(), None)).expect("it is written again");
        let read = |name: &str| std::fs::read_to_string(out.join(name)).expect("a file");
        assert_eq!(read("samconfig.toml"), "mine");
        assert_eq!(read("template.yaml"), template(Architecture::Arm64));
    }

    #[test]
    fn zips_that_are_missing_or_of_a_different_version_are_refused() {
        let directory = tempfile::tempdir().expect("a folder");
        let out = directory.path().join("stack");
        let error = write_stack(&invocation(None), &args(out.clone(), None)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.hint().is_some_and(|hint| hint.contains("--zips")));

        let zips = directory.path().join("zips");
        write_zips(&zips, "x86_64", "0.0.0");
        let error = write_stack(&invocation(None), &args(out.clone(), Some(zips.clone())));
        let error = error.unwrap_err();
        assert!(error.report().contains("0.0.0"), "{error}");

        write_zips(&zips, "x86_64", VERSION);
        std::fs::remove_file(zips.join("functions/migration.zip")).expect("it is there");
        let error = write_stack(&invocation(None), &args(out.clone(), Some(zips.clone())));
        let error = error.unwrap_err();
        assert!(error.report().contains("migration.zip"), "{error}");
        assert!(
            !out.exists(),
            "nothing is written before everything is found"
        );

        write_zips(&zips, "mips", VERSION);
        let error = write_stack(&invocation(None), &args(out, Some(zips))).unwrap_err();
        assert!(error.report().contains("functions.json"), "{error}");
    }
}
