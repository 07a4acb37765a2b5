//! Commands of a push, as a client sends them.

use std::collections::HashSet;

use bstr::{BString, ByteSlice as _};

use super::needs::refused;
use crate::error::Result;
use crate::refs::{RefUpdate, RefValue};
use crate::{HashKind, ObjectId, check_ref_name, corrupt, escaped_excerpt};

/// The commands of a push, and the capabilities that the client has chosen.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a capability of the protocol"
)]
pub(super) struct PushCommands {
    hash: HashKind,
    pub(super) updates: Vec<RefUpdate>,
    /// Commits that the client has without their parents.
    pub(super) shallow: Vec<ObjectId>,
    has_capabilities: bool,
    pub(super) report_status: bool,
    pub(super) side_band: bool,
    pub(super) atomic: bool,
    pub(super) quiet: bool,
}

impl PushCommands {
    /// Creates a push without commands, with ids of `hash`.
    pub(super) fn new(hash: HashKind) -> Self {
        Self {
            hash,
            updates: Vec::new(),
            shallow: Vec::new(),
            has_capabilities: false,
            report_status: false,
            side_band: false,
            atomic: false,
            quiet: false,
        }
    }

    /// Parses a line.
    ///
    /// # Errors
    /// `Corrupt` for a line of another form; `Config`, in git's words, for push certificates and
    /// for ids of another hash function.
    pub(super) fn add(&mut self, line: &[u8]) -> Result<()> {
        if let Some(id) = line.strip_prefix(b"shallow ") {
            self.shallow.push(self.id(id)?);
            return Ok(());
        }
        let (command, capabilities) = match line.split_once_str("\0") {
            Some((command, capabilities)) => (command, Some(capabilities)),
            None => (line, None),
        };
        if command.starts_with(b"push-cert") {
            return Err(refused("push certificates are not supported"));
        }
        if let Some(capabilities) = capabilities.filter(|_| !self.has_capabilities) {
            self.has_capabilities = true;
            for word in capabilities.split(|byte| *byte == b' ') {
                self.add_capability(word)?;
            }
        }
        let mut words = command.splitn(3, |byte| *byte == b' ');
        let mut word = || words.next().unwrap_or_default();
        let (old, new, name) = (self.id(word())?, self.id(word())?, word());
        if name.is_empty() {
            let shown = escaped_excerpt(line);
            return Err(corrupt(format!("expected old/new/ref, got '{shown}'")));
        }
        let present = |id: ObjectId| (!id.is_null()).then_some(id);
        self.updates.push(RefUpdate {
            name: name.into(),
            old: present(old),
            new: present(new).map(|id| RefValue { id, peeled: None }),
        });
        Ok(())
    }

    fn add_capability(&mut self, word: &[u8]) -> Result<()> {
        match word {
            b"report-status" | b"report-status-v2" => self.report_status = true,
            b"side-band-64k" => self.side_band = true,
            b"atomic" => self.atomic = true,
            b"quiet" => self.quiet = true,
            b"push-options" => return Err(refused("push options are not supported")),
            _ => {
                if let Some(format) = word.strip_prefix(b"object-format=")
                    && format != self.hash.to_string().as_bytes()
                {
                    let (hash, shown) = (self.hash, escaped_excerpt(format));
                    return Err(refused(format!(
                        "mismatched object format: server {hash}; client {shown}"
                    )));
                }
            }
        }
        Ok(())
    }

    fn id(&self, hex: &[u8]) -> Result<ObjectId> {
        let id = ObjectId::from_hex(hex).ok();
        id.filter(|id| id.kind() == self.hash).ok_or_else(|| {
            let shown = escaped_excerpt(hex);
            corrupt(format!(
                "expected an object id of {}, found '{shown}'",
                self.hash
            ))
        })
    }

    /// Returns whether the client sends a pack.
    pub(super) fn has_pack(&self) -> bool {
        self.updates.iter().any(|update| update.new.is_some())
    }

    /// Returns the reason, in git's words, for which each update cannot be carried out. `current`
    /// is the ref that `HEAD` names.
    pub(super) fn rejections(&self, current: Option<&BString>) -> Vec<Option<&'static str>> {
        let mut seen = HashSet::new();
        let mut twice = HashSet::new();
        for update in &self.updates {
            if !seen.insert(&update.name) {
                twice.insert(&update.name);
            }
        }
        let reason = |update: &RefUpdate| {
            let name = &update.name;
            if !name.starts_with(b"refs/") || check_ref_name(name.as_bstr()).is_err() {
                Some("funny refname")
            } else if twice.contains(name) {
                Some("multiple updates for ref not allowed")
            } else if update.new.is_none() && Some(name) == current && update.old.is_some() {
                Some(DELETES_CURRENT)
            } else {
                None
            }
        };
        self.updates.iter().map(reason).collect()
    }
}

/// The rejection of a deletion of the branch that `HEAD` names, in git's words.
pub(super) const DELETES_CURRENT: &str = "deletion of the current branch prohibited";

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "1111111111111111111111111111111111111111";
    const NEW: &str = "2222222222222222222222222222222222222222";
    const NULL: &str = "0000000000000000000000000000000000000000";

    fn commands(lines: &[String]) -> Result<PushCommands> {
        let mut commands = PushCommands::new(HashKind::Sha1);
        for line in lines {
            commands.add(line.as_bytes())?;
        }
        Ok(commands)
    }

    #[test]
    fn commands_and_capabilities_are_parsed() {
        let found = commands(&[
            format!("shallow {OLD}"),
            format!("{OLD} {NEW} refs/heads/a\0 report-status-v2 side-band-64k atomic"),
            format!("{OLD} {NULL} refs/heads/b"),
            format!("{NULL} {NEW} refs/heads/c d"),
        ])
        .unwrap();
        assert!(found.report_status && found.side_band && found.atomic && found.has_pack());
        assert_eq!(found.shallow.len(), 1);
        let head = BString::from("refs/heads/b");
        assert_eq!(
            found.rejections(Some(&head)),
            [None, Some(DELETES_CURRENT), Some("funny refname")]
        );
    }

    #[test]
    fn a_ref_is_updated_once() {
        let twice = format!("{OLD} {NEW} refs/heads/a");
        let found = commands(&[twice.clone(), twice]).unwrap();
        let reason = Some("multiple updates for ref not allowed");
        assert_eq!(found.rejections(None), [reason, reason]);
    }

    #[test]
    fn lines_that_git_refuses_are_refused() {
        for line in [
            String::new(),
            format!("{OLD} {NEW}"),
            format!("{OLD} {NEW} "),
            format!("{OLD} x refs/heads/a"),
            "push-cert\0atomic".to_owned(),
            format!("{OLD} {NEW} refs/heads/a\0push-options"),
            format!("{OLD} {NEW} refs/heads/a\0object-format=sha256"),
            "shallow x".to_owned(),
        ] {
            assert!(commands(std::slice::from_ref(&line)).is_err(), "{line}");
        }
    }
}
