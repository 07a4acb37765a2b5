//! `GetDifferences`: compares two commits, or lists all files of one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::git::{self, GitError};
use super::input::{Input, path};
use super::{CodeCommitService, Repository, contents, page};
use crate::aws_json::{ApiError, ApiResult};

/// One side of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) path: String,
    pub(super) mode: String,
    pub(super) id: String,
}

/// Content of a continuation token: the commits as they were for the first page, so that
/// pages fit together while branches move.
#[derive(Debug, Serialize, Deserialize)]
struct Cursor {
    before: Option<String>,
    after: String,
    offset: usize,
}

impl CodeCommitService {
    pub(super) async fn get_differences(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        let after = input.required("afterCommitSpecifier", "CommitRequiredException")?;
        let before = input.text("beforeCommitSpecifier")?;
        let size = match input.integer("MaxResults")? {
            None => self.0.limits.differences_page,
            Some(size) => match usize::try_from(size) {
                Ok(size) if size > 0 => size.min(self.0.limits.differences_page),
                _ => {
                    return Err(ApiError::new(
                        "InvalidMaxResultsException",
                        "MaxResults must be a positive number",
                    ));
                }
            },
        };
        let given_path = |member| -> Result<Option<&str>, ApiError> {
            let given = input
                .text(member)?
                .map(|text| path(text, true))
                .transpose()?;
            Ok(given.filter(|path| !path.is_empty()))
        };
        let before_path = given_path("beforePath")?;
        let after_path = given_path("afterPath")?;
        let cursor = match input.text("NextToken")? {
            Some(token) => page::parse::<Cursor>(token)?,
            None => Cursor {
                before: match before {
                    Some(specifier) => {
                        let found = contents::resolve(&repository, Some(specifier)).await?;
                        Some(found.0)
                    }
                    None => None,
                },
                after: contents::resolve(&repository, Some(after)).await?.0,
                offset: 0,
            },
        };
        // A client can change its token, so only ids may reach a command line.
        let mut ids = cursor.before.iter().chain([&cursor.after]);
        let only_ids = ids.all(|id| super::objects::is_object_id(id));
        drop(ids);
        if !only_ids {
            return Err(page::invalid());
        }
        let differences = compare(&repository, &cursor, before_path, after_path).await?;
        if cursor.offset > differences.len() {
            return Err(page::invalid());
        }
        let shown: Vec<Value> = differences
            .iter()
            .skip(cursor.offset)
            .take(size)
            .map(difference_json)
            .collect();
        let end = cursor.offset + shown.len();
        let mut output = json!({ "differences": shown });
        if end < differences.len() {
            output["NextToken"] = page::token(&Cursor {
                offset: end,
                ..cursor
            })?
            .into();
        }
        Ok(output)
    }
}

/// A path before and after.
pub(super) type Difference = (Option<Side>, Option<Side>);

/// Returns all differences, limited to `before_path` and `after_path`. If only one is given,
/// it limits both sides; two different ones compare a folder with its renamed version.
async fn compare(
    repository: &Repository,
    cursor: &Cursor,
    before_path: Option<&str>,
    after_path: Option<&str>,
) -> Result<Vec<Difference>, ApiError> {
    let before_path = before_path.or(after_path);
    let after_path = after_path.or(before_path);
    let below = |path: &str, folder: Option<&str>| relative(path, folder).is_some();
    let Some(before) = &cursor.before else {
        let files = list(repository, &cursor.after).await?;
        let files: Vec<Difference> = files
            .into_iter()
            .filter(|file| below(&file.path, after_path))
            .map(|file| (None, Some(file)))
            .collect();
        check_path(!files.is_empty(), after_path)?;
        return Ok(files);
    };
    if before_path == after_path {
        let mut differences = diff(repository, before, &cursor.after).await?;
        differences.retain(|(before, after)| {
            let side = after.as_ref().or(before.as_ref());
            side.is_some_and(|side| below(&side.path, after_path))
        });
        if differences.is_empty() && after_path.is_some() {
            let mut files = list(repository, &cursor.after).await?;
            files.extend(list(repository, before).await?);
            check_path(
                files.iter().any(|file| below(&file.path, after_path)),
                after_path,
            )?;
        }
        return Ok(differences);
    }
    let keyed = |files: Vec<Side>, folder: Option<&str>| -> BTreeMap<String, Side> {
        let files = files.into_iter().filter_map(|file| {
            let key = relative(&file.path, folder)?.to_owned();
            Some((key, file))
        });
        files.collect()
    };
    let old = keyed(list(repository, before).await?, before_path);
    let mut new = keyed(list(repository, &cursor.after).await?, after_path);
    check_path(!old.is_empty(), before_path)?;
    check_path(!new.is_empty(), after_path)?;
    let mut differences: BTreeMap<String, Difference> = BTreeMap::new();
    for (key, side) in old {
        let other = new.remove(&key);
        if other
            .as_ref()
            .is_none_or(|o| o.id != side.id || o.mode != side.mode)
        {
            differences.insert(key, (Some(side), other));
        }
    }
    differences.extend(new.into_iter().map(|(key, side)| (key, (None, Some(side)))));
    Ok(differences.into_values().collect())
}

/// Returns `path` relative to `folder`; empty when both are equal.
fn relative<'a>(path: &'a str, folder: Option<&str>) -> Option<&'a str> {
    let Some(folder) = folder else {
        return Some(path);
    };
    let rest = path.strip_prefix(folder)?;
    if rest.is_empty() {
        return Some(rest);
    }
    rest.strip_prefix('/')
}

fn check_path(exists: bool, path: Option<&str>) -> Result<(), ApiError> {
    match path {
        Some(path) if !exists => Err(ApiError::new(
            "PathDoesNotExistException",
            format!("Could not find path {path}"),
        )),
        _ => Ok(()),
    }
}

fn difference_json((before, after): &Difference) -> Value {
    let side = |side: &Side| json!({ "blobId": side.id, "path": side.path, "mode": side.mode });
    let kind = match (before, after) {
        (None, _) => "A",
        (_, None) => "D",
        _ => "M",
    };
    let mut json = Map::new();
    json.insert("changeType".into(), kind.into());
    if let Some(before) = before {
        json.insert("beforeBlob".into(), side(before));
    }
    if let Some(after) = after {
        json.insert("afterBlob".into(), side(after));
    }
    json.into()
}

async fn list(repository: &Repository, commit: &str) -> Result<Vec<Side>, GitError> {
    let mut command = git::command(&repository.dir);
    command.args(["ls-tree", "-r", "-z", "--full-tree", commit]);
    let output = git::run("ls-tree", &mut command).await?;
    parse_list(&output).ok_or_else(|| GitError::new("ls-tree", "its output has no shape"))
}

/// Compares the trees of two commits, without renames.
pub(super) async fn diff(
    repository: &Repository,
    before: &str,
    after: &str,
) -> Result<Vec<Difference>, GitError> {
    let mut command = git::command(&repository.dir);
    command.args([
        "diff-tree",
        "-r",
        "-z",
        "--raw",
        "--no-renames",
        "--no-abbrev",
    ]);
    command.args([before, after]);
    let output = git::run("diff-tree", &mut command).await?;
    parse_diff(&output).ok_or_else(|| GitError::new("diff-tree", "its output has no shape"))
}

/// Reads records of `<mode> SP <type> SP <id> TAB <path> NUL`.
fn parse_list(output: &[u8]) -> Option<Vec<Side>> {
    records(output)
        .map(|record| {
            let (head, path) = record.split_once('\t')?;
            let mut words = head.split(' ');
            Some(Side {
                mode: words.next()?.to_owned(),
                id: words.nth(1)?.to_owned(),
                path: path.to_owned(),
            })
        })
        .collect()
}

/// Reads records of `:<mode> SP <mode> SP <id> SP <id> SP <letter> NUL <path> NUL`.
fn parse_diff(output: &[u8]) -> Option<Vec<Difference>> {
    let mut records = records(output);
    let mut differences = Vec::new();
    while let Some(head) = records.next() {
        let path = records.next()?;
        let head = head.strip_prefix(':')?;
        let words: Vec<&str> = head.split(' ').collect();
        let [old_mode, new_mode, old_id, new_id, _] = words.as_slice() else {
            return None;
        };
        let side = |mode: &str, id: &str| {
            (mode != "000000").then(|| Side {
                path: path.clone(),
                mode: mode.to_owned(),
                id: id.to_owned(),
            })
        };
        differences.push((side(old_mode, old_id), side(new_mode, new_id)));
    }
    Some(differences)
}

fn records(output: &[u8]) -> impl Iterator<Item = String> {
    output
        .split(|byte| *byte == 0)
        .filter(|record| !record.is_empty())
        .map(|record| String::from_utf8_lossy(record).into_owned())
}
