//! Random histories: edits, renames, modes, symbolic links, submodules, attributes, merges,
//! reverts and forced pushes.

use std::collections::BTreeMap;

use branchline_core::name::CommitId;
use branchline_core::testkit::Entry;

/// The files of a commit by path.
pub(crate) type Files = BTreeMap<String, Entry>;

/// A commit of a history.
pub(crate) struct Step {
    /// Indexes of the parents.
    pub parents: Vec<usize>,
    pub files: Files,
}

/// A source of numbers that a seed determines.
pub(crate) struct Random(u64);

const NAMES: [&str; 11] = [
    "a.txt", "b.txt", "c.c", "d.log", "e.u", "x", "x.y", "x-y", "x0", "run", "ü é",
];

/// Folders whose names sort before and after those of files that start like them.
const FOLDERS: [&str; 8] = ["", "a/", "a/b/", "x/", "x/y/", "x.d/", "log/", "ü/d/"];

const CONTENTS: [&str; 7] = [
    "",
    "a\nb\n",
    "a\r\nb\n",
    "$Id$ and $Id: x $\n",
    "$Format:%H %an %s$\n",
    "é and text that is long enough to be deflated, deflated, deflated, deflated\n",
    "a\0b\n",
];

const RULES: [&str; 16] = [
    "*.log export-ignore\n",
    "*.log -export-ignore\n",
    "a/ export-ignore\n",
    "a/b export-ignore\n",
    "log/* export-ignore\n",
    "x export-ignore\n",
    "*.txt text eol=crlf\n",
    "*.txt text=auto\n",
    "*.txt !eol\n",
    "c.c ident\n",
    "*.c export-subst\n",
    "run export-subst\n",
    "*.u text working-tree-encoding=UTF-16\n",
    "b.txt binary\n",
    ".gitattributes export-ignore\n",
    "# nothing\n",
];

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15))
    }

    /// Returns a number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % end as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    fn path(&mut self) -> String {
        self.pick(&FOLDERS).to_owned() + self.pick(&NAMES)
    }

    fn content(&mut self) -> String {
        let content = self.pick(&CONTENTS);
        let times = if self.below(8) == 0 { 40 } else { 1 };
        let mut text = content.repeat(times);
        if self.below(3) > 0 {
            text += &self.below(1000).to_string();
            text.push('\n');
        }
        text
    }

    fn entry(&mut self) -> Entry {
        match self.below(12) {
            0 => Entry::executable(self.content()),
            1 => Entry::symlink(self.pick(&["a.txt", "../x", "x/y"])),
            2 => {
                let id = format!("{:040x}", self.below(usize::MAX));
                Entry::Submodule(CommitId::new(&id).unwrap())
            }
            _ => Entry::file(self.content()),
        }
    }

    fn rules(&mut self) -> Entry {
        let lines = self.below(4);
        let lines: String = (0..lines).map(|_| self.pick(&RULES)).collect();
        Entry::file(lines)
    }

    fn existing(&mut self, files: &Files) -> Option<String> {
        let paths: Vec<_> = files.keys().collect();
        (!paths.is_empty()).then(|| paths[self.below(paths.len())].clone())
    }

    /// Changes a commit's files.
    fn change(&mut self, files: &mut Files) {
        match self.below(14) {
            0..=3 => {
                if let Some(path) = self.existing(files) {
                    let content = self.content();
                    files.insert(path, Entry::file(content));
                }
            }
            4 | 5 => put(files, self.path(), Self::entry, self),
            6 | 7 => {
                if let Some(path) = self.existing(files) {
                    files.remove(&path);
                }
            }
            8 => {
                if let Some(path) = self.existing(files) {
                    let entry = files.remove(&path).unwrap();
                    put(files, self.path(), |_| entry, self);
                }
            }
            9 => {
                // Renames a folder.
                let (from, to) = (self.pick(&FOLDERS[1..]), self.pick(&FOLDERS[1..]));
                let moved: Vec<_> = files
                    .keys()
                    .filter(|p| p.starts_with(from))
                    .cloned()
                    .collect();
                for path in moved {
                    let entry = files.remove(&path).unwrap();
                    let path = to.to_owned() + &path[from.len()..];
                    put(files, path, |_| entry, self);
                }
            }
            10 => {
                if let Some(path) = self.existing(files)
                    && let Entry::File(content) = files[&path].clone()
                {
                    files.insert(path, Entry::Executable(content));
                }
            }
            11 => {
                let path = self.pick(&FOLDERS).to_owned() + ".gitattributes";
                put(files, path, Self::rules, self);
            }
            12 => {
                let path = self.pick(&FOLDERS).to_owned() + ".gitattributes";
                files.remove(&path);
            }
            _ => {
                if let Some(path) = self.existing(files) {
                    let entry = self.entry();
                    files.insert(path, entry);
                }
            }
        }
    }
}

/// Adds a file in place of what is at its path, above it, or below it.
fn put(
    files: &mut Files,
    path: String,
    entry: impl FnOnce(&mut Random) -> Entry,
    random: &mut Random,
) {
    let below = format!("{path}/");
    files.retain(|known, _| !known.starts_with(&below) && !path.starts_with(&format!("{known}/")));
    files.insert(path, entry(random));
}

/// Makes a history.
pub(crate) fn history(seed: u64) -> Vec<Step> {
    let mut random = Random::new(seed);
    for _ in 0..10 {
        random.below(2);
    }
    let mut files = Files::new();
    for _ in 0..random.below(30) + 4 {
        put(&mut files, random.path(), Random::entry, &mut random);
    }
    if random.below(2) == 0 {
        put(
            &mut files,
            ".gitattributes".into(),
            Random::rules,
            &mut random,
        );
    }
    let mut steps = vec![Step {
        parents: Vec::new(),
        files,
    }];
    for _ in 0..4 {
        let last = steps.len() - 1;
        let other = random.below(steps.len());
        let (parents, mut files) = match random.below(8) {
            // A merge with the files of both.
            0 => {
                let mut files = steps[last].files.clone();
                for (path, entry) in steps[other].files.clone() {
                    put(&mut files, path, |_| entry, &mut random);
                }
                (vec![last, other], files)
            }
            // A revert.
            1 => (vec![last], steps[other].files.clone()),
            // A forced push to another history.
            2 => (vec![other], steps[other].files.clone()),
            // A commit without changes.
            3 => {
                let files = steps[last].files.clone();
                steps.push(Step {
                    parents: vec![last],
                    files,
                });
                continue;
            }
            _ => (vec![last], steps[last].files.clone()),
        };
        for _ in 0..=random.below(3) {
            random.change(&mut files);
        }
        steps.push(Step { parents, files });
    }
    steps
}
