//! Rules of prose that a program can check.

use std::fs;

use super::model::{Crate, root};

const QUESTION_WORDS: [&str; 5] = ["What", "Who", "Which", "Where", "How"];

/// Returns file, line and text of each doc line of `file` that begins with a question word.
pub(crate) fn docs_that_begin_with_a_question_word(file: &str) -> Vec<String> {
    let source = fs::read_to_string(root().join(file)).expect("because the file was listed");
    let is_question = |line: &str| {
        let line = line.trim_start();
        let doc = line
            .strip_prefix("/// ")
            .or_else(|| line.strip_prefix("//! "));
        let first = doc.and_then(|doc| doc.split(' ').next());
        first.is_some_and(|first| QUESTION_WORDS.contains(&first))
    };
    let lines = source.lines().enumerate();
    lines
        .filter(|(_, line)| is_question(line))
        .map(|(number, line)| format!("{file}:{}: {}", number + 1, line.trim()))
        .collect()
}

/// Returns the string literals of `package` with an odd negation: "X is no Y" or "X is
/// another". "There is no X" is good English.
pub(crate) fn odd_negations(package: &Crate) -> Vec<String> {
    let is_odd = |text: &str| {
        let text = text
            .to_lowercase()
            .replace("there is no ", "")
            .replace("there are no ", "");
        ["is no ", "are no ", "is another"]
            .iter()
            .any(|odd| text.contains(odd))
    };
    let literals = package.literals.iter();
    literals
        .filter(|(_, text)| is_odd(text))
        .map(|(file, text)| format!("{file}: {text:?}"))
        .collect()
}
