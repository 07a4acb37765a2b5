//! Globs and filters against plain models.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::name::RepositoryName;

/// Part of a glob, of which the model knows the meaning.
#[derive(Debug, Clone)]
enum Part {
    Letter(char),
    Slash,
    One,
    Stars,
    AllStars,
    Class(bool, Vec<char>),
    Group(Vec<Vec<Part>>),
}

fn simple_part() -> impl Strategy<Value = Part> {
    prop_oneof![
        5 => prop::sample::select(vec!['a', 'b', 'c']).prop_map(Part::Letter),
        2 => Just(Part::Slash),
        1 => Just(Part::One),
        2 => Just(Part::Stars),
        2 => Just(Part::AllStars),
        1 => (any::<bool>(), prop::collection::vec(prop::sample::select(vec!['a', 'b']), 1..3))
            .prop_map(|(negated, members)| Part::Class(negated, members)),
    ]
}

fn part() -> impl Strategy<Value = Part> {
    let alternative = prop::collection::vec(simple_part(), 0..4);
    prop_oneof![
        6 => simple_part(),
        1 => prop::collection::vec(alternative, 1..4).prop_map(Part::Group),
    ]
}

fn written(parts: &[Part]) -> String {
    let texts = parts.iter().map(|part| match part {
        Part::Letter(letter) => letter.to_string(),
        Part::Slash => "/".to_owned(),
        Part::One => "?".to_owned(),
        Part::Stars => "*".to_owned(),
        Part::AllStars => "**".to_owned(),
        Part::Class(negated, members) => {
            let members: String = members.iter().collect();
            format!("[{}{members}]", if *negated { "!" } else { "" })
        }
        Part::Group(alternatives) => {
            let written: Vec<String> = alternatives.iter().map(|parts| written(parts)).collect();
            format!("{{{}}}", written.join(","))
        }
    });
    texts.collect()
}

/// Parts without groups, one list for each choice of alternatives.
fn expanded(parts: &[Part]) -> Vec<Vec<Part>> {
    let mut lists = vec![Vec::new()];
    for part in parts {
        let choices = match part {
            Part::Group(alternatives) => alternatives.clone(),
            other => vec![vec![other.clone()]],
        };
        lists = lists
            .iter()
            .flat_map(|list: &Vec<Part>| {
                let extended = choices.iter().map(|choice| {
                    let mut list = list.clone();
                    list.extend(choice.iter().cloned());
                    list
                });
                extended.collect::<Vec<_>>()
            })
            .collect();
    }
    lists
}

/// Compares by trying every division of the text.
fn model(parts: &[Part], text: &[char], at_start: bool) -> bool {
    let Some((first, rest)) = parts.split_first() else {
        return text.is_empty();
    };
    let one = |accepts: &dyn Fn(char) -> bool| {
        let next = text.first().copied();
        next.is_some_and(|c| accepts(c) && model(rest, &text[1..], c == '/'))
    };
    match first {
        Part::Letter(letter) => one(&|c| c == *letter),
        Part::Slash => one(&|c| c == '/'),
        Part::One => one(&|c| c != '/'),
        Part::Class(negated, members) => one(&|c| c != '/' && members.contains(&c) != *negated),
        Part::Stars => (0..=text.len())
            .any(|taken| !text[..taken].contains(&'/') && model(rest, &text[taken..], false)),
        Part::AllStars => {
            if let (true, Some((Part::Slash, after))) = (at_start, rest.split_first()) {
                let folders = (0..text.len()).filter(|&at| text[at] == '/');
                let mut starts = std::iter::once(0).chain(folders.map(|at| at + 1));
                return starts.any(|at| model(after, &text[at..], true));
            }
            (0..=text.len()).any(|taken| model(rest, &text[taken..], false))
        }
        Part::Group(_) => unreachable!("groups are expanded"),
    }
}

/// Returns false for patterns whose meaning the model does not know: three stars in a row, which
/// are two for the glob, and a part whose segment begins in another alternative.
fn is_modelled(parts: &[Part]) -> bool {
    let is_star = |part: &Part| matches!(part, Part::Stars | Part::AllStars);
    let has_group = parts.iter().any(|part| matches!(part, Part::Group(_)));
    let lists = expanded(parts);
    let runs = lists.iter().any(|list| {
        list.windows(2)
            .any(|two| is_star(&two[0]) && is_star(&two[1]))
    });
    // With a group, only patterns without `**/` are compared.
    let folders = lists.iter().any(|list| {
        list.windows(2)
            .any(|two| matches!(two, [Part::AllStars, Part::Slash]))
    });
    !(runs || has_group && folders)
}

fn name() -> impl Strategy<Value = String> {
    "[abc]{1,2}(/[abc]{1,2}){0,2}"
}

#[derive(Debug, Clone)]
struct ModelCriteria {
    includes: Option<Vec<String>>,
    excludes: Option<Vec<String>>,
}

impl ModelCriteria {
    fn json(&self) -> Value {
        let mut object = json!({});
        if let Some(includes) = &self.includes {
            object["includes"] = json!(includes);
        }
        if let Some(excludes) = &self.excludes {
            object["excludes"] = json!(excludes);
        }
        object
    }

    /// Plain words, or a word and `**` behind it.
    fn has(list: Option<&Vec<String>>, text: &str) -> bool {
        list.into_iter()
            .flatten()
            .any(|glob| match glob.strip_suffix("/**") {
                Some(folder) => text.starts_with(&format!("{folder}/")),
                None => text == glob,
            })
    }

    fn matches(&self, text: &str) -> bool {
        let included = self.includes.is_none() || Self::has(self.includes.as_ref(), text);
        included && !Self::has(self.excludes.as_ref(), text)
    }
}

fn model_criteria() -> impl Strategy<Value = ModelCriteria> {
    let glob = prop_oneof![name(), "[abc]{1,2}/\\*\\*"];
    let list = prop::collection::vec(glob, 1..4);
    (prop::option::of(list.clone()), prop::option::of(list))
        .prop_filter("one list is needed", |(includes, excludes)| {
            includes.is_some() || excludes.is_some()
        })
        .prop_map(|(includes, excludes)| ModelCriteria { includes, excludes })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_glob_matches_what_a_search_of_all_divisions_matches(
        parts in prop::collection::vec(part(), 1..7),
        text in "[abc/]{0,8}",
    ) {
        prop_assume!(is_modelled(&parts));
        let glob = Glob::new(&written(&parts)).expect("it is valid");
        let letters: Vec<char> = text.chars().collect();
        let expected = expanded(&parts).iter().any(|parts| model(parts, &letters, true));
        prop_assert_eq!(glob.matches(&text), expected, "{} {}", glob.as_str(), text);
    }

    #[test]
    fn filters_start_what_a_plain_model_starts(
        filters in prop::collection::vec(
            (model_criteria(), prop::option::of(model_criteria())), 1..4),
        branch in name(),
        changed in prop::collection::vec(name(), 0..4),
    ) {
        let push: Vec<Value> = filters.iter().map(|(branches, paths)| {
            let mut filter = json!({"branches": branches.json()});
            if let Some(paths) = paths {
                filter["filePaths"] = paths.json();
            }
            filter
        }).collect();
        let json = json!([{"pipeline": "p", "gitConfiguration":
            {"sourceActionName": "S", "push": push}}]);
        let triggers = parse_triggers(&json.to_string()).expect("it is valid");
        let repository = RepositoryName::new("demo").expect("it is valid");
        let decision = triggers[0].match_branch(&repository, &branch);
        let starts = decision == PathMatch::Always
            || changed.iter().any(|path| decision.accepts(path));
        let expected = filters.iter().any(|(branches, paths)| {
            branches.matches(&branch) && match paths {
                None => true,
                Some(paths) => changed.iter().any(|path| paths.matches(path)),
            }
        });
        prop_assert_eq!(starts, expected);
    }

    #[test]
    fn no_pattern_panics_or_takes_long(pattern in "\\PC{0,60}", text in "\\PC{0,200}") {
        if let Ok(glob) = Glob::new(&pattern) {
            glob.matches(&text);
        }
        let stars = Glob::new(&"*a".repeat(120)).expect("it is valid");
        prop_assert!(!stars.matches(&"a".repeat(100)));
    }
}
