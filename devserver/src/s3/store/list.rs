//! Lists of a bucket: keys, and versions, page by page.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::checksum::Algorithm;
use super::object::{Object, Version};

/// Selection of a list.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Prefix of the keys.
    pub prefix: String,
    /// Delimiter: keys that share the text up to it, behind the prefix, are rolled up.
    pub delimiter: Option<String>,
    /// Only keys, and rolled-up prefixes, after this one.
    pub after: Option<String>,
    /// In a list of versions: only versions of the key `after` that follow this one.
    pub after_version: Option<String>,
    /// Maximum number of keys and prefixes.
    pub limit: usize,
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedVersion {
    /// Object key.
    pub key: String,
    /// Version, `null` where there are none.
    pub version_id: String,
    /// True for the latest version of the key.
    pub latest: bool,
    /// Time of writing, in seconds since the epoch.
    pub last_modified: i64,
    /// Attributes of the object; `None` for a delete marker.
    pub object: Option<ListedObject>,
}

/// Attributes of an object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Entity tag, without quotes.
    pub etag: String,
    /// Size in bytes.
    pub size: u64,
    /// Algorithm of the checksum.
    pub algorithm: Option<Algorithm>,
    /// Storage class.
    pub storage_class: Option<String>,
}

/// One page of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects, and delete markers in a list of versions.
    pub versions: Vec<ListedVersion>,
    /// Rolled-up prefixes.
    pub prefixes: Vec<String>,
    /// Last key or prefix of this page, and the version, when more follow.
    pub next: Option<(String, Option<String>)>,
}

fn listed(key: &str, version: &Version, latest: bool) -> ListedVersion {
    ListedVersion {
        key: key.to_owned(),
        version_id: version.id.clone(),
        latest,
        last_modified: version.modified,
        object: version.object.as_ref().map(|object: &Object| ListedObject {
            etag: object.etag.clone(),
            size: object.size,
            algorithm: object.checksum.as_ref().map(|checksum| checksum.algorithm),
            storage_class: object.attributes.storage_class.clone(),
        }),
    }
}

/// Lists the current objects.
pub(super) fn objects(keys: &BTreeMap<String, Vec<Version>>, query: &Query) -> Page {
    page(keys, query, |key, versions, _| {
        versions
            .last()
            .filter(|version| version.object.is_some())
            .map(|version| listed(key, version, true))
            .into_iter()
            .collect()
    })
}

/// Lists all versions, the latest of each key first.
pub(super) fn versions(keys: &BTreeMap<String, Vec<Version>>, query: &Query) -> Page {
    page(keys, query, |key, versions, after| {
        let end = match after {
            // The version was removed since the last page: all versions of its key are listed.
            Some(after) => versions
                .iter()
                .position(|version| version.id == after)
                .unwrap_or(versions.len()),
            None => versions.len(),
        };
        (0..end)
            .rev()
            .map(|at| listed(key, &versions[at], at + 1 == versions.len()))
            .collect()
    })
}

fn page(
    keys: &BTreeMap<String, Vec<Version>>,
    query: &Query,
    select: impl Fn(&str, &[Version], Option<&str>) -> Vec<ListedVersion>,
) -> Page {
    let mut page = Page::default();
    if query.limit == 0 {
        return page;
    }
    let delimiter = query.delimiter.as_deref().filter(|text| !text.is_empty());
    let start = match &query.after {
        Some(after) if *after >= query.prefix => {
            if query.after_version.is_some() {
                Bound::Included(after.as_str())
            } else {
                Bound::Excluded(after.as_str())
            }
        }
        _ => Bound::Included(query.prefix.as_str()),
    };
    let mut last = None;
    let mut count = 0;
    let candidates = keys
        .range::<str, _>((start, Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(&query.prefix));
    for (key, of_key) in candidates {
        let rolled = delimiter.and_then(|delimiter| {
            let at = key[query.prefix.len()..].find(delimiter)?;
            Some(&key[..query.prefix.len() + at + delimiter.len()])
        });
        let resumed = query.after.as_deref() == Some(key.as_str());
        let after = query.after_version.as_deref().filter(|_| resumed);
        if let Some(prefix) = rolled {
            let seen = page.prefixes.last().map(String::as_str) == Some(prefix)
                || query.after.as_deref() == Some(prefix);
            if seen || select(key, of_key, after).is_empty() {
                continue;
            }
            if count == query.limit {
                page.next = last;
                return page;
            }
            count += 1;
            page.prefixes.push(prefix.to_owned());
            last = Some((prefix.to_owned(), None));
            continue;
        }
        for version in select(key, of_key, after) {
            if count == query.limit {
                page.next = last;
                return page;
            }
            count += 1;
            last = Some((key.clone(), Some(version.version_id.clone())));
            page.versions.push(version);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> BTreeMap<String, Vec<Version>> {
        let marker = |id: &str| Version {
            id: id.into(),
            modified: 0,
            object: None,
        };
        names
            .iter()
            .map(|name| ((*name).to_owned(), vec![marker("1"), marker("2")]))
            .collect()
    }

    fn walk(keys: &BTreeMap<String, Vec<Version>>, mut query: Query) -> (Vec<String>, Vec<String>) {
        let (mut found, mut prefixes) = (Vec::new(), Vec::new());
        loop {
            let page = versions(keys, &query);
            assert!(
                page.versions.len() + page.prefixes.len() <= query.limit,
                "a page never exceeds its limit"
            );
            found.extend(
                page.versions
                    .iter()
                    .map(|v| format!("{}@{}", v.key, v.version_id)),
            );
            prefixes.extend(page.prefixes);
            let Some((after, version)) = page.next else {
                return (found, prefixes);
            };
            query.after = Some(after);
            query.after_version = version;
        }
    }

    #[test]
    fn every_page_size_lists_the_same() {
        let keys = keys(&["a", "a/", "a/b", "a/b/c", "b", "c/x", "c/y", "é/ü"]);
        for delimiter in [None, Some("/".to_owned())] {
            let whole = walk(
                &keys,
                Query {
                    delimiter: delimiter.clone(),
                    limit: 1000,
                    ..Query::default()
                },
            );
            for limit in 1..6 {
                let query = Query {
                    delimiter: delimiter.clone(),
                    limit,
                    ..Query::default()
                };
                assert_eq!(
                    walk(&keys, query),
                    whole,
                    "pages of {limit} with the delimiter {delimiter:?} leave nothing out"
                );
            }
        }
    }

    #[test]
    fn a_delimiter_rolls_up_keys_behind_the_prefix() {
        let keys = keys(&["a", "a/", "a/b", "a/c/d", "b"]);
        let query = Query {
            prefix: "a/".into(),
            delimiter: Some("/".into()),
            limit: 1000,
            ..Query::default()
        };
        let (found, prefixes) = walk(&keys, query);
        assert_eq!(
            found,
            ["a/@2", "a/@1", "a/b@2", "a/b@1"],
            "only direct members"
        );
        assert_eq!(prefixes, ["a/c/"], "deeper keys are rolled up");
    }
}
