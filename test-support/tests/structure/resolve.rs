//! Arrows between files: for each path in a source, the file that defines what it names.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Crate, Module, Workspace};

/// From file to file, with the names that are used.
pub(crate) type Edges = BTreeMap<(String, String), BTreeSet<String>>;

/// A chain of re-exports is shorter than this.
const MAX_REEXPORTS: usize = 16;

/// A place in the workspace's module trees.
pub(crate) struct Target<'a> {
    pub(crate) package: &'a Crate,
    /// The module that defines the item.
    pub(crate) module: Vec<String>,
    pub(crate) file: &'a str,
}

/// Returns the arrows inside of `package`. Re-exports are not arrows: they lead to the file
/// that defines the item. Neither is a `mod` item.
///
/// A module and its direct child modules are one unit: the parent declares its children and
/// builds on them, and they use the types that it defines for them. So arrows between the two
/// are left out, while circles between siblings remain visible.
pub(crate) fn edges(workspace: &Workspace, package: &Crate) -> Edges {
    let mut edges = Edges::new();
    for reference in &package.references {
        let Some(target) = resolve(workspace, package, &reference.module, &reference.path) else {
            continue;
        };
        let is_outside = target.file != reference.file
            && !is_parent(&target.module, &reference.module)
            && !is_parent(&reference.module, &target.module);
        if target.package.name == package.name && is_outside {
            let name = reference.path.last().cloned().unwrap_or_default();
            let edge = (reference.file.clone(), target.file.to_owned());
            edges.entry(edge).or_default().insert(name);
        }
    }
    edges
}

fn is_parent(parent: &[String], child: &[String]) -> bool {
    child.split_last().is_some_and(|(_, above)| above == parent)
}

/// Returns the definition that `path` names in `module` of `package`; `None` if it is of a
/// foreign crate, of the prelude, or local.
pub(crate) fn resolve<'a>(
    workspace: &'a Workspace,
    package: &'a Crate,
    module: &[String],
    path: &[String],
) -> Option<Target<'a>> {
    lookup(workspace, package, module, path, MAX_REEXPORTS)
}

fn lookup<'a>(
    workspace: &'a Workspace,
    package: &'a Crate,
    module: &[String],
    path: &[String],
    left: usize,
) -> Option<Target<'a>> {
    let left = left.checked_sub(1)?;
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => descend(workspace, package, Vec::new(), rest, left),
        "self" => descend(workspace, package, module.to_vec(), rest, left),
        "super" => {
            let parent = module.split_last()?.1;
            if rest.first().is_some_and(|next| next == "super") {
                return lookup(workspace, package, parent, rest, left);
            }
            descend(workspace, package, parent.to_vec(), rest, left)
        }
        name => {
            if let Some(other) = workspace.named(name) {
                return descend(workspace, other, Vec::new(), rest, left);
            }
            let here = package.modules.get(module)?;
            let child = [module, std::slice::from_ref(first)].concat();
            let known = package.modules.contains_key(&child)
                || here.imports.contains_key(name)
                || here.items.contains(name);
            known.then(|| descend(workspace, package, module.to_vec(), path, left))?
        }
    }
}

/// Follows `path` down from `module`, and through re-exports.
fn descend<'a>(
    workspace: &'a Workspace,
    package: &'a Crate,
    mut module: Vec<String>,
    path: &[String],
    left: usize,
) -> Option<Target<'a>> {
    let mut path = path;
    while let Some((next, rest)) = path.split_first() {
        module.push(next.clone());
        if !package.modules.contains_key(&module) {
            module.pop();
            break;
        }
        path = rest;
    }
    let here: &Module = package.modules.get(&module)?;
    if let Some((name, rest)) = path.split_first() {
        if let Some(import) = here.imports.get(name) {
            let whole = [import.as_slice(), rest].concat();
            // Of a foreign crate, if it is not found.
            return lookup(workspace, package, &module, &whole, left);
        }
        if !here.items.contains(name) {
            for glob in &here.globs {
                let whole = [glob.as_slice(), path].concat();
                if let Some(found) = lookup(workspace, package, &module, &whole, left)
                    && found.package.modules[&found.module].items.contains(name)
                {
                    return Some(found);
                }
            }
        }
    }
    Some(Target {
        package,
        file: &here.file,
        module,
    })
}
