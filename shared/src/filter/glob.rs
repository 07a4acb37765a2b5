//! Globs of CodePipeline's filters.
//!
//! | pattern | matches |
//! |---|---|
//! | `*` | any characters but `/` |
//! | `**` | any characters |
//! | `**/` at the start of a path segment | any number of folders, zero included |
//! | `?` | one character but `/` |
//! | `[abc]`, `[a-z]`, `[!a-z]` | one character of a set, or none of it; never `/` |
//! | `{a,b}` | one of several patterns; groups are not nested |
//! | `\` | the next character as it is |
//!
//! A glob becomes a program whose states are followed in parallel, so that no pattern takes more
//! than its length times that of the text.

use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;

/// Maximum length of a glob in characters (CodePipeline API reference, `GitBranchFilterCriteria`).
pub const MAX_GLOB_CHARS: usize = 255;

/// Pattern that a whole name or path is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    text: Box<str>,
    program: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// This character.
    Character(char),
    /// One character but `/`.
    InSegment,
    /// Any character.
    Any,
    /// One character of ranges, or one of none of them.
    Class {
        ranges: Vec<(char, char)>,
        is_negated: bool,
    },
    /// Continues at each of these steps without a character.
    Fork(Vec<usize>),
    /// The pattern ends.
    End,
}

impl Glob {
    /// Parses `text`.
    ///
    /// # Errors
    /// `Config`, naming the rule that `text` breaks.
    pub fn new(text: &str) -> Result<Self> {
        let length = text.chars().count();
        let program = if (1..=MAX_GLOB_CHARS).contains(&length) {
            Compiler::default().compile(text)
        } else {
            Err("a pattern has 1 to 255 characters")
        };
        match program {
            Ok(program) => Ok(Self {
                text: text.into(),
                program,
            }),
            Err(rule) => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`{}` is not a valid glob: {rule}",
                    escaped_excerpt(text.as_bytes())
                ),
            )),
        }
    }

    /// Returns the pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns whether the pattern matches the whole of `text`.
    pub fn matches(&self, text: &str) -> bool {
        let mut states = States::new(self.program.len());
        states.enter(&self.program, 0);
        for character in text.chars() {
            if states.current.is_empty() {
                return false;
            }
            for state in states.take() {
                if self.program[state].accepts(character) {
                    states.enter(&self.program, state + 1);
                }
            }
        }
        states
            .current
            .iter()
            .any(|&at| self.program[at] == Step::End)
    }
}

impl Step {
    fn accepts(&self, character: char) -> bool {
        match self {
            Self::Character(own) => *own == character,
            Self::InSegment => character != '/',
            Self::Any => true,
            Self::Class { ranges, is_negated } => {
                let mut ranges = ranges.iter();
                let is_member = ranges.any(|&(first, last)| (first..=last).contains(&character));
                character != '/' && is_member != *is_negated
            }
            Self::Fork(_) | Self::End => false,
        }
    }
}

/// Steps that are reached by the characters so far.
struct States {
    current: Vec<usize>,
    entered: Vec<bool>,
}

impl States {
    fn new(steps: usize) -> Self {
        Self {
            current: Vec::new(),
            entered: vec![false; steps],
        }
    }

    /// Returns the reached steps, and begins the next set.
    fn take(&mut self) -> Vec<usize> {
        self.entered.fill(false);
        std::mem::take(&mut self.current)
    }

    /// Adds a step, or the steps that a fork leads to.
    fn enter(&mut self, program: &[Step], step: usize) {
        let mut open = vec![step];
        while let Some(step) = open.pop() {
            if std::mem::replace(&mut self.entered[step], true) {
                continue;
            }
            match &program[step] {
                Step::Fork(targets) => open.extend(targets),
                _ => self.current.push(step),
            }
        }
    }
}

/// A `{` that is not closed yet.
struct Group {
    fork: usize,
    starts: Vec<usize>,
    ends: Vec<usize>,
    is_segment_start: bool,
}

#[derive(Default)]
struct Compiler {
    steps: Vec<Step>,
    group: Option<Group>,
}

impl Compiler {
    fn compile(mut self, text: &str) -> Result<Vec<Step>, &'static str> {
        let mut rest = text.chars();
        // Whether the next character begins a path segment.
        let mut is_segment_start = true;
        while let Some(character) = rest.next() {
            let was_segment_start = std::mem::replace(&mut is_segment_start, false);
            match character {
                '\\' => {
                    let escaped = rest.next().ok_or("the last `\\` escapes no character")?;
                    self.steps.push(Step::Character(escaped));
                }
                '?' => self.steps.push(Step::InSegment),
                '*' => {
                    let after = rest.as_str().trim_start_matches('*');
                    if after.len() == rest.as_str().len() {
                        self.repeat(Step::InSegment);
                        continue;
                    }
                    rest = after.chars();
                    match after.strip_prefix('/') {
                        Some(next) if was_segment_start => {
                            rest = next.chars();
                            self.folders();
                            is_segment_start = true;
                        }
                        _ => self.repeat(Step::Any),
                    }
                }
                '[' => {
                    let (class, after) = class(rest.as_str())?;
                    self.steps.push(class);
                    rest = after.chars();
                }
                '{' => {
                    self.open_group(was_segment_start)?;
                    is_segment_start = was_segment_start;
                }
                ',' if self.group.is_some() => is_segment_start = self.next_alternative(),
                '}' if self.group.is_some() => self.close_group(),
                other => {
                    self.steps.push(Step::Character(other));
                    is_segment_start = other == '/';
                }
            }
        }
        if self.group.is_some() {
            return Err("a `{` has no `}`");
        }
        self.steps.push(Step::End);
        Ok(self.steps)
    }

    /// Adds any number of characters that `step` accepts.
    fn repeat(&mut self, step: Step) {
        let fork = self.steps.len();
        self.steps.push(Step::Fork(vec![fork + 1, fork + 3]));
        self.steps.push(step);
        self.steps.push(Step::Fork(vec![fork]));
    }

    /// Adds any number of folders with their slashes.
    fn folders(&mut self) {
        let fork = self.steps.len();
        self.steps.push(Step::Fork(vec![fork + 1, fork + 5]));
        self.repeat(Step::Any);
        self.steps.push(Step::Character('/'));
    }

    fn open_group(&mut self, is_segment_start: bool) -> Result<(), &'static str> {
        if self.group.is_some() {
            return Err("groups in `{ }` cannot be nested");
        }
        let fork = self.steps.len();
        self.steps.push(Step::Fork(Vec::new()));
        self.group = Some(Group {
            fork,
            starts: vec![fork + 1],
            ends: Vec::new(),
            is_segment_start,
        });
        Ok(())
    }

    /// Begins the next pattern of a group; returns whether it begins a path segment.
    fn next_alternative(&mut self) -> bool {
        let Some(group) = &mut self.group else {
            return false;
        };
        group.ends.push(self.steps.len());
        self.steps.push(Step::Fork(Vec::new()));
        group.starts.push(self.steps.len());
        group.is_segment_start
    }

    fn close_group(&mut self) {
        let Some(group) = self.group.take() else {
            return;
        };
        let after = self.steps.len();
        for end in group.ends {
            self.steps[end] = Step::Fork(vec![after]);
        }
        self.steps[group.fork] = Step::Fork(group.starts);
    }
}

/// Reads a set of characters, after its `[`; returns the text after its `]`.
fn class(text: &str) -> Result<(Step, &str), &'static str> {
    let (is_negated, members) = match text.strip_prefix('!') {
        Some(members) => (true, members),
        None => (false, text),
    };
    let mut ranges = Vec::new();
    let mut rest = members.chars();
    loop {
        let first = match rest.next() {
            None => return Err("a `[` has no `]`"),
            Some(']') if ranges.is_empty() => return Err("a `[ ]` names no character"),
            Some(']') => break,
            Some('/') => return Err("a `[ ]` cannot contain `/`"),
            Some(first) => first,
        };
        let range = rest.as_str().strip_prefix('-');
        let last = range.and_then(|range| range.chars().next());
        match last {
            Some(last) if last != ']' => {
                if last == '/' {
                    return Err("a `[ ]` cannot contain `/`");
                }
                if last < first {
                    return Err("a range in `[ ]` ends before it begins");
                }
                ranges.push((first, last));
                rest.next();
                rest.next();
            }
            _ => ranges.push((first, first)),
        }
    }
    Ok((Step::Class { ranges, is_negated }, rest.as_str()))
}
