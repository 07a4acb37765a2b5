//! The workspace's crates as this crate's tests see them: modules, imports and types.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemUse, UseTree, Visibility};

/// Folders of crates, from the workspace's root. `functions` holds several.
const PRODUCTS: [&str; 6] = ["git", "shared", "functions", "cli", "devserver", "xtask"];
const FOR_TESTS: [&str; 4] = ["tests", "benches", "fuzz", "test-support"];

/// All crates with a `src` folder.
pub(crate) struct Workspace {
    pub(crate) crates: Vec<Crate>,
}

/// A package's library, or its program if it has no library.
pub(crate) struct Crate {
    /// Name in `use` lines: `branchline_core`.
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    /// By path from the crate's root, which is the empty path.
    pub(crate) modules: BTreeMap<Vec<String>, Module>,
    pub(crate) references: Vec<Reference>,
    /// Name and file of each struct, enum, union, trait and type alias that other files can use.
    pub(crate) public_types: Vec<(String, String)>,
    /// File and text of each string literal outside of attributes.
    pub(crate) literals: Vec<(String, String)>,
}

#[derive(Default)]
pub(crate) struct Module {
    pub(crate) file: String,
    /// Names of the items defined here.
    pub(crate) items: BTreeSet<String>,
    /// Names imported here, and their paths.
    pub(crate) imports: BTreeMap<String, Vec<String>>,
    /// Paths imported whole, by `*`.
    pub(crate) globs: Vec<Vec<String>>,
}

/// A path in the source, as it is written.
pub(crate) struct Reference {
    pub(crate) file: String,
    pub(crate) module: Vec<String>,
    pub(crate) path: Vec<String>,
}

impl Workspace {
    pub(crate) fn read() -> Self {
        let mut folders = Vec::new();
        for name in PRODUCTS.iter().chain(&FOR_TESTS) {
            let folder = root().join(name);
            if folder.join("src").is_dir() {
                folders.push(folder);
            } else if let Ok(entries) = fs::read_dir(&folder) {
                let inner = entries.map(|entry| entry.expect("because the folder is ours").path());
                folders.extend(inner.filter(|folder| folder.join("src").is_dir()));
            }
        }
        folders.sort();
        let crates = folders.into_iter().map(Crate::read).collect();
        Self { crates }
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Crate> {
        self.crates.iter().find(|package| package.name == name)
    }
}

impl Crate {
    fn read(folder: PathBuf) -> Self {
        let manifest = fs::read_to_string(folder.join("Cargo.toml"));
        let manifest = manifest.expect("because a folder with `src` is a package");
        let name = manifest
            .lines()
            .find_map(|line| line.strip_prefix("name = "));
        let name = name.expect("because a package has a name");
        let mut package = Self {
            name: name.trim_matches('"').replace('-', "_"),
            modules: BTreeMap::new(),
            references: Vec::new(),
            public_types: Vec::new(),
            literals: Vec::new(),
            folder,
        };
        let library = package.folder.join("src/lib.rs");
        let main = package.folder.join("src/main.rs");
        let start = if library.is_file() { library } else { main };
        if start.is_file() {
            package.read_module(&start, Vec::new());
        }
        package
    }

    /// Returns true if only tests, benchmarks and fuzzers use the crate.
    pub(crate) fn is_for_tests(&self) -> bool {
        FOR_TESTS.iter().any(|name| self.folder.ends_with(name))
    }

    fn read_module(&mut self, path: &Path, module: Vec<String>) {
        let source = fs::read_to_string(path).expect("because the module is declared");
        let source = syn::parse_file(&source).expect("because the workspace compiles");
        let mut reader = Reader {
            package: self,
            file: from_root(path),
            folder: module_folder(path),
            module,
            children: Vec::new(),
        };
        reader.enter();
        reader.visit_file(&source);
        for (path, module) in reader.children {
            self.read_module(&path, module);
        }
    }
}

struct Reader<'a> {
    package: &'a mut Crate,
    file: String,
    /// Folder of the child modules' files.
    folder: PathBuf,
    module: Vec<String>,
    children: Vec<(PathBuf, Vec<String>)>,
}

impl Reader<'_> {
    fn enter(&mut self) -> &mut Module {
        let module = self.package.modules.entry(self.module.clone());
        let module = module.or_default();
        module.file.clone_from(&self.file);
        module
    }

    fn refer(&mut self, path: Vec<String>) {
        self.package.references.push(Reference {
            file: self.file.clone(),
            module: self.module.clone(),
            path,
        });
    }

    fn import(&mut self, tree: &UseTree, mut path: Vec<String>, is_public: bool) {
        let (name, original) = match tree {
            UseTree::Path(inner) => {
                path.push(inner.ident.to_string());
                return self.import(&inner.tree, path, is_public);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, path.clone(), is_public);
                }
                return;
            }
            UseTree::Glob(_) => {
                if !is_public {
                    self.refer(path.clone());
                }
                return self.enter().globs.push(path);
            }
            UseTree::Name(name) => (name.ident.to_string(), name.ident.to_string()),
            UseTree::Rename(renamed) => (renamed.rename.to_string(), renamed.ident.to_string()),
        };
        let name = match (original.as_str(), path.last()) {
            ("self", Some(module)) if name == "self" => module.clone(),
            _ => name,
        };
        if original != "self" {
            path.push(original);
        }
        if !is_public {
            self.refer(path.clone());
        }
        self.enter().imports.insert(name, path);
    }

    fn define(&mut self, name: &syn::Ident, public_type: bool) {
        self.enter().items.insert(name.to_string());
        if public_type {
            let place = (name.to_string(), self.file.clone());
            self.package.public_types.push(place);
        }
    }
}

/// Returns whether other files can use an item.
fn is_public(visibility: &Visibility) -> bool {
    !matches!(visibility, Visibility::Inherited)
}

fn is_only_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Mod(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Const(item) => &item.attrs,
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    /// Ignores the path of `pub(super)` and `pub(in ..)`.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_item(&mut self, item: &'ast Item) {
        if is_only_for_tests(attributes(item)) {
            return;
        }
        match item {
            Item::Struct(item) => self.define(&item.ident, is_public(&item.vis)),
            Item::Enum(item) => self.define(&item.ident, is_public(&item.vis)),
            Item::Union(item) => self.define(&item.ident, is_public(&item.vis)),
            Item::Trait(item) => self.define(&item.ident, is_public(&item.vis)),
            Item::Type(item) => self.define(&item.ident, is_public(&item.vis)),
            Item::Fn(item) => self.define(&item.sig.ident, false),
            Item::Const(item) => self.define(&item.ident, false),
            Item::Static(item) => self.define(&item.ident, false),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        self.module.push(name.clone());
        if item.content.is_some() {
            self.enter();
            self.folder.push(&name);
            visit::visit_item_mod(self, item);
            self.folder.pop();
        } else {
            let child = child_file(&self.folder, &name);
            self.children.push((child, self.module.clone()));
        }
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let is_public = !matches!(item.vis, Visibility::Inherited);
        self.import(&item.tree, Vec::new(), is_public);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter();
        self.refer(segments.map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
        let literal = (self.file.clone(), literal.value());
        self.package.literals.push(literal);
    }

    /// Visits the arguments of macros that have expressions, such as `format!`.
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        visit::visit_path(self, &call.path);
        let expressions =
            syn::punctuated::Punctuated::<syn::Expr, syn::Token![,]>::parse_terminated;
        if let Ok(expressions) = call.parse_body_with(expressions) {
            for expression in &expressions {
                Visit::visit_expr(self, expression);
            }
        }
    }
}

/// Returns the workspace's folder.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent()
        .expect("because test-support is in the workspace")
        .to_owned()
}

fn from_root(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.to_string_lossy().into_owned()
}

/// Returns the folder with the files of the child modules of the module in `file`.
fn module_folder(file: &Path) -> PathBuf {
    let folder = file.parent().expect("because a file is in a folder");
    let stem = file.file_stem().expect("because a file has a name");
    if is_root(file) || stem == "mod" {
        folder.to_owned()
    } else {
        folder.join(stem)
    }
}

fn child_file(folder: &Path, name: &str) -> PathBuf {
    let flat = folder.join(format!("{name}.rs"));
    if flat.is_file() {
        flat
    } else {
        folder.join(name).join("mod.rs")
    }
}

/// Returns true if cargo compiles `file` as the root of a crate.
fn is_root(file: &Path) -> bool {
    let package = file
        .ancestors()
        .find(|folder| folder.join("Cargo.toml").is_file());
    let package = package.expect("because each source file is in a package");
    let inside = file
        .strip_prefix(package)
        .expect("because it is an ancestor");
    let manifest = fs::read_to_string(package.join("Cargo.toml")).expect("because it is a file");
    let inside_text = inside.to_string_lossy();
    if manifest.contains(&format!("path = \"{inside_text}\"")) {
        return true;
    }
    let is_main = file.file_name().is_some_and(|name| name == "main.rs");
    let parts: Vec<_> = inside.iter().filter_map(|part| part.to_str()).collect();
    match parts.as_slice() {
        ["build.rs"]
        | ["src", "lib.rs" | "main.rs"]
        | ["src", "bin", _]
        | ["src", "bin", _, "main.rs"]
        | ["examples" | "benches", _] => true,
        ["tests", _] => !manifest.contains("autotests = false"),
        ["tests", _, _] => is_main && !manifest.contains("autotests = false"),
        _ => false,
    }
}

/// Returns all Rust files of the workspace, by their paths from its root.
pub(crate) fn source_files() -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("because the workspace is readable") {
            let path = entry.expect("because the workspace is readable").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if Path::new(name)
                .extension()
                .is_some_and(|extension| extension == "rs")
            {
                files.push(from_root(&path));
            }
        }
    }
    files.sort();
    files
}

/// Returns the files that cargo compiles: roots of crates, and what their `mod` items name.
pub(crate) fn compiled_files() -> BTreeSet<String> {
    let all = source_files().into_iter().map(|file| root().join(file));
    let mut open: Vec<PathBuf> = all.filter(|file| is_root(file)).collect();
    let mut reached = BTreeSet::new();
    while let Some(file) = open.pop() {
        let source = fs::read_to_string(&file);
        let source = source.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let source = syn::parse_file(&source).expect("because the workspace compiles");
        declared(&source.items, &module_folder(&file), &mut open);
        reached.insert(from_root(&file));
    }
    reached
}

fn declared(items: &[Item], folder: &Path, files: &mut Vec<PathBuf>) {
    for item in items {
        let Item::Mod(item) = item else { continue };
        let name = item.ident.to_string();
        match &item.content {
            Some((_, inner)) => declared(inner, &folder.join(name), files),
            None => files
                .push(path_attribute(item, folder).unwrap_or_else(|| child_file(folder, &name))),
        }
    }
}

/// Returns the file that `#[path = ".."]` names, from the folder of the declaring file.
fn path_attribute(item: &syn::ItemMod, folder: &Path) -> Option<PathBuf> {
    let attribute = item
        .attrs
        .iter()
        .find(|attribute| attribute.path().is_ident("path"))?;
    let syn::Meta::NameValue(pair) = &attribute.meta else {
        return None;
    };
    match &pair.value {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(path),
            ..
        }) => Some(folder.join(path.value())),
        _ => None,
    }
}
