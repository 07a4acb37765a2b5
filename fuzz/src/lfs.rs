//! LFS pointers, the record of a mirror's LFS objects, and the lines that git-lfs sends to an agent.

use branchline_core::lfs::agent::{AgentAnswer, AgentEvent};
use branchline_core::lfs::{LfsRecord, Pointer};

/// Parses a blob as a pointer, an object of a bucket as a record, and a line as an event.
pub fn lfs(bytes: &[u8]) {
    if let Some(pointer) = Pointer::parse(bytes) {
        let is_hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        assert_eq!(pointer.oid.len(), 64, "an id has 64 digits");
        assert!(pointer.oid.bytes().all(is_hex), "the digits are lower-case");
    }
    if let Ok(record) = LfsRecord::parse(bytes) {
        let again = LfsRecord::parse(&record.to_bytes());
        let again = again.expect("because a record formats itself");
        assert!(again == record, "a record is read as it was written");
    }
    if let Ok(AgentEvent::Transfer(event)) = AgentEvent::parse(bytes) {
        let answer = AgentAnswer::Failed(&event.oid, "text").to_line();
        let lines = answer.iter().filter(|byte| **byte == b'\n');
        assert_eq!(lines.count(), 1, "an answer is one line");
        if let Ok(pointer) = event.pointer() {
            assert_eq!(pointer.oid.len(), 64, "an id has 64 digits");
        }
    }
}
