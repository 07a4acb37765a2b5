//! A program that runs beside a test.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, ensure};

/// A running program; killed when dropped, as when a test fails before it ends the program.
#[derive(Debug)]
pub struct RunningProgram {
    child: Child,
    banner: String,
}

impl RunningProgram {
    /// Starts a program, and waits for the first line of its standard output.
    ///
    /// # Errors
    /// The program cannot be started, or ends without a line.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("because it is piped")?;
        let mut program = Self {
            child,
            banner: String::new(),
        };
        let mut out = BufReader::new(out);
        out.read_line(&mut program.banner)?;
        ensure!(
            program.banner.ends_with('\n'),
            "the program printed no line: `{}`",
            program.banner
        );
        // The rest is read, so that the program never waits for a reader.
        std::thread::spawn(move || out.lines().for_each(drop));
        Ok(program)
    }

    /// Returns the first line that the program printed.
    pub fn banner(&self) -> &str {
        self.banner.trim_end()
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `-TERM`, and waits for the end.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn stop(mut self, signal: &str) -> Result<ExitStatus> {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status()?;
        ensure!(sent.success(), "kill {signal} {id}");
        Ok(self.child.wait()?)
    }
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
