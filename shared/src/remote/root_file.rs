//! One file in the root folder of a commit, such as `.lfsconfig`.

use bytes::Bytes;

use crate::error::Result;
use crate::git::ObjectId;
use crate::git::object::{ObjectKind, Reference, references, tree_entries};
use crate::git::odb::Database;

/// Reads the file `name` in the root folder of the commit or tag `id`; `None` without such a file.
pub(super) async fn read(database: &Database, id: ObjectId, name: &str) -> Result<Option<Bytes>> {
    let Some(blob) = find(database, id, name).await? else {
        return Ok(None);
    };
    Ok(Some(database.read_kind(blob, ObjectKind::Blob).await?))
}

/// Returns the id of the file `name` in the root folder of the commit or tag `id`, without reading
/// the file.
pub(super) async fn find(
    database: &Database,
    id: ObjectId,
    name: &str,
) -> Result<Option<ObjectId>> {
    let (id, kind) = database.peel(id).await?;
    if kind != ObjectKind::Commit {
        return Ok(None);
    }
    let commit = database.read_kind(id, kind).await?;
    let mut tree = None;
    references(database.hash(), kind, &commit, |reference| {
        if let Reference::Tree(id) = reference {
            tree = Some(id);
        }
    })?;
    let Some(tree) = tree else {
        return Ok(None);
    };
    let listing = database.read_kind(tree, ObjectKind::Tree).await?;
    let mut found = None;
    tree_entries(database.hash(), &listing, |entry| {
        // Neither a folder, nor a symbolic link, nor a submodule.
        let is_file = entry.mode & 0o170_000 == 0o100_000;
        if is_file && entry.name == name.as_bytes() {
            found = Some(entry.id);
        }
    })?;
    Ok(found)
}
