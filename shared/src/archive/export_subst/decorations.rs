//! Refs that name a commit, as git prints them for `%d`, `%D` and `%(decorate)`.

use bstr::{BString, ByteSlice as _};

use super::arguments::{argument, expanded};
use crate::git::ObjectId;
use crate::git::refs::{Head, RefValue};
use crate::git::server::RefSnapshot;

/// Refs that name one commit, in git's order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::archive) struct Decorations(Vec<Decoration>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Decoration {
    name: BString,
    is_tag: bool,
    // The branch that `HEAD` names, if that is this entry.
    branch: Option<BString>,
}

/// A text to set, its value, and the text after the argument.
type NextArgument<'o, 't> = (&'o mut Vec<u8>, Option<&'t [u8]>, &'t [u8]);

/// Texts around and between the refs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::archive) struct DecorationOptions {
    prefix: Vec<u8>,
    suffix: Vec<u8>,
    separator: Vec<u8>,
    pointer: Vec<u8>,
    tag: Vec<u8>,
}

impl Default for DecorationOptions {
    fn default() -> Self {
        Self {
            prefix: b" (".to_vec(),
            suffix: b")".to_vec(),
            separator: b", ".to_vec(),
            pointer: b" -> ".to_vec(),
            tag: b"tag: ".to_vec(),
        }
    }
}

impl DecorationOptions {
    /// Returns the options of `%D`.
    pub(in crate::archive) fn without_parentheses() -> Self {
        Self {
            prefix: Vec::new(),
            suffix: Vec::new(),
            ..Self::default()
        }
    }

    /// Parses the text after `(decorate`; returns the options and the text from the closing
    /// parenthesis on.
    pub(in crate::archive) fn parse(text: &[u8]) -> Option<(Self, &[u8])> {
        let mut options = Self::default();
        let mut rest = text;
        if let Some(arguments) = text.strip_prefix(b":") {
            rest = arguments;
            while let Some((place, value, after)) = options.next_argument(rest) {
                *place = expanded(value.unwrap_or_default());
                rest = after;
            }
        }
        rest.starts_with(b")").then_some((options, rest))
    }
}

impl DecorationOptions {
    /// Parses one argument; returns the text that it sets, the value and the text after it.
    fn next_argument<'o, 't>(&'o mut self, text: &'t [u8]) -> Option<NextArgument<'o, 't>> {
        let places = [
            ("prefix", &mut self.prefix),
            ("suffix", &mut self.suffix),
            ("separator", &mut self.separator),
            ("pointer", &mut self.pointer),
            ("tag", &mut self.tag),
        ];
        places.into_iter().find_map(|(name, place)| {
            let (value, after) = argument(text, name)?;
            Some((place, value, after))
        })
    }
}

impl Decorations {
    /// Lists the refs that name the commit `id`, or a tag of it.
    pub(in crate::archive) fn new(refs: &RefSnapshot, id: ObjectId) -> Self {
        let is_of_commit =
            |value: &RefValue| value.id == id || value.peeled.is_some_and(|peeled| peeled == id);
        let current = match &refs.head {
            Some(Head::Symbolic(name)) if name.starts_with(b"refs/heads/") => refs
                .refs
                .get(name)
                .filter(|value| is_of_commit(value))
                .map(|_| name),
            _ => None,
        };
        let mut listed = Vec::new();
        if refs.head_id() == Some(id) {
            listed.push(Decoration {
                name: "HEAD".into(),
                is_tag: false,
                branch: current.map(shortened),
            });
        }
        // git puts each ref before the ones that it has found.
        let named = refs
            .refs
            .iter()
            .rev()
            .filter(|(_, value)| is_of_commit(value));
        for (name, value) in named.filter(|(name, _)| Some(*name) != current) {
            if name.starts_with(b"refs/replace/") {
                continue;
            }
            listed.push(Decoration {
                name: shortened(name),
                is_tag: name.starts_with(b"refs/tags/") || value.peeled.is_some(),
                branch: None,
            });
        }
        Self(listed)
    }

    /// Appends the refs to `out`, and stops when that has more than `max_bytes`.
    pub(in crate::archive) fn append(
        &self,
        options: &DecorationOptions,
        out: &mut Vec<u8>,
        max_bytes: usize,
    ) {
        for (number, decoration) in self.0.iter().enumerate() {
            if out.len() > max_bytes {
                return;
            }
            out.extend_from_slice(match number {
                0 => &options.prefix,
                _ => &options.separator,
            });
            if decoration.is_tag {
                out.extend_from_slice(&options.tag);
            }
            out.extend_from_slice(&decoration.name);
            if let Some(branch) = &decoration.branch {
                out.extend_from_slice(&options.pointer);
                out.extend_from_slice(branch);
            }
        }
        if !self.0.is_empty() {
            out.extend_from_slice(&options.suffix);
        }
    }
}

/// Shortens the name of a branch, a tag or a remote's branch.
fn shortened(name: &BString) -> BString {
    let prefixes = ["refs/heads/", "refs/tags/", "refs/remotes/"];
    let mut short = prefixes
        .iter()
        .filter_map(|prefix| name.strip_prefix(prefix.as_bytes()));
    short.next().unwrap_or(name).as_bstr().to_owned()
}
