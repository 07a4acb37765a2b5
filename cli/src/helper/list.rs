//! `list`: the refs of a remote.

use std::io::Write as _;

use branchline_core::git::HashKind;
use branchline_core::remote::{Head, Remote, Snapshot};
use branchline_core::{ErrorKind, Result};

use super::options::Options;

/// Returns the refs of a remote, in the lines of the protocol. A remote where nothing is stored
/// yet has none.
pub(super) async fn list(remote: &dyn Remote, for_push: bool, options: Options) -> Result<Vec<u8>> {
    let lines = match remote.source(&[]).await {
        Ok(source) => lines(source.snapshot(), for_push, options),
        Err(error) if is_empty(&error) => {
            lines(&Snapshot::empty(HashKind::Sha1), for_push, options)
        }
        Err(error) => return Err(error),
    };
    Ok(lines)
}

/// Returns whether nothing is stored at the prefix, in contrast to a missing bucket.
fn is_empty(error: &branchline_core::Error) -> bool {
    error.kind() == ErrorKind::NotFound && error.aws_code() != Some("NoSuchBucket")
}

/// `HEAD` first, then all refs by name.
fn lines(snapshot: &Snapshot, for_push: bool, options: Options) -> Vec<u8> {
    let mut lines = Vec::new();
    let to_memory = "because memory takes all bytes";
    if options.object_format {
        writeln!(lines, ":object-format {}", snapshot.hash).expect(to_memory);
    }
    match &snapshot.head {
        Some(Head::Symbolic(name)) if !for_push && snapshot.refs.contains_key(name) => {
            writeln!(lines, "@{name} HEAD").expect(to_memory);
        }
        Some(Head::Detached(id)) if !for_push => writeln!(lines, "{id} HEAD").expect(to_memory),
        _ => {}
    }
    for (name, target) in &snapshot.refs {
        writeln!(lines, "{} {name}", target.id).expect(to_memory);
    }
    lines.push(b'\n');
    lines
}

#[cfg(test)]
mod tests {
    use branchline_core::git::ObjectId;
    use branchline_core::remote::RefValue;

    use super::*;

    #[test]
    fn a_dangling_head_is_left_out() {
        let mut snapshot = Snapshot::empty(HashKind::Sha1);
        let id = ObjectId::null(HashKind::Sha1);
        let target = RefValue { id, peeled: None };
        snapshot.refs.insert("refs/heads/b".into(), target);
        snapshot.refs.insert("refs/heads/a".into(), target);
        let list = |snapshot: &Snapshot, for_push, object_format| {
            let options = Options {
                object_format,
                ..Options::default()
            };
            String::from_utf8(lines(snapshot, for_push, options)).expect("it is text")
        };
        let refs = format!("{id} refs/heads/a\n{id} refs/heads/b\n\n");
        snapshot.head = Some(Head::Symbolic("refs/heads/gone".into()));
        assert_eq!(list(&snapshot, false, false), refs);
        snapshot.head = Some(Head::Symbolic("refs/heads/b".into()));
        assert_eq!(
            list(&snapshot, false, false),
            format!("@refs/heads/b HEAD\n{refs}")
        );
        assert_eq!(
            list(&snapshot, true, true),
            format!(":object-format sha1\n{refs}")
        );
        snapshot.head = Some(Head::Detached(id));
        assert_eq!(list(&snapshot, false, false), format!("{id} HEAD\n{refs}"));
    }
}
