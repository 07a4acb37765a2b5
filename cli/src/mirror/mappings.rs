//! Mappings of one run: from arguments, a file, the lines of standard input, or whole accounts.

use std::path::Path;

use branchline_core::codecommit::all_repositories;
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::mirror::{BatchLimits, Mapping, MirrorRequest, RequestOrigin};
use branchline_core::pattern::RepositoryPatterns;
use branchline_core::remote::url::{RemoteUrl, S3Url};
use branchline_core::retry::{RetryPolicy, Retrying};
use branchline_core::storage::ObjectStore as _;
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::{Error, ErrorKind, Result};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{MirrorArgs, name_of, usage_error};
use crate::remotes::TerminalRemotes;

/// Mappings in order. One that cannot be read does not end the others.
pub(crate) type MappingStream = BoxStream<'static, Result<Mapping>>;

/// Placeholder of the target of `--all`.
const REPOSITORY: &str = "{repository}";
/// Maximum length of a line of standard input in bytes.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Maximum number of concurrent requests to CodeCommit's API.
const CONCURRENT_REQUESTS: usize = 4;

/// Mappings, and the batch limits of a file that has some.
pub(crate) struct Requested {
    pub(crate) mappings: MappingStream,
    pub(crate) batch: Option<BatchLimits>,
}

impl Requested {
    fn list(mappings: Vec<Mapping>) -> Self {
        Self {
            mappings: stream::iter(mappings.into_iter().map(Ok)).boxed(),
            batch: None,
        }
    }
}

/// Reads the mappings that the arguments name.
///
/// # Errors
/// `Config` for a file that cannot be read, and failures of listing an account.
pub(super) async fn requested(
    remotes: &TerminalRemotes,
    origin: RequestOrigin,
    args: &MirrorArgs,
) -> Result<Requested> {
    let options = options(args);
    let plan = args.plan;
    if let Some(file) = &args.file {
        return if file == Path::new("-") {
            let mappings = lines(origin, options, plan);
            Ok(Requested {
                mappings,
                batch: None,
            })
        } else {
            from_file(origin, file, &options, plan)
        };
    }
    let source = args.source.as_deref().unwrap_or_default();
    let target = args.target.as_deref().unwrap_or_default();
    if args.all {
        let mappings = of_account(remotes, source, target).await?;
        let mappings = mappings.into_iter().map(|(source, target)| {
            let mapping = merged(&json!({ "source": source, "target": target }), &options);
            Mapping::read(origin, "", &mapping, plan)
        });
        return Ok(Requested::list(mappings.collect()));
    }
    if target.contains(REPOSITORY) {
        return Err(usage_error(format!(
            "`{REPOSITORY}` is only used with `--all`"
        )));
    }
    let (source, target) = (
        remotes.resolve(source).await?,
        remotes.resolve(target).await?,
    );
    let mapping = merged(&json!({ "source": source, "target": target }), &options);
    let mapping = Mapping::read(origin, "", &mapping, plan);
    Ok(Requested::list(vec![mapping]))
}

/// Returns the options of the command line as fields of a mapping.
fn options(args: &MirrorArgs) -> Map<String, Value> {
    let mut options = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            options.insert(name.to_owned(), value);
        }
    };
    set("layout", args.layout.map(|layout| name_of(&layout).into()));
    set("refs", (!args.refs.is_empty()).then(|| json!(args.refs)));
    let prune = args.prune.map(|prune| match prune {
        super::PruneArg::Yes => json!(true),
        super::PruneArg::All => json!("all"),
    });
    set("prune", prune);
    set("force", args.no_force.then_some(json!(false)));
    set("create", args.create.then_some(json!(true)));
    set("clean", args.clean.then_some(json!(true)));
    let lfs = args.lfs.map(|policy| name_of(&policy).into());
    set("lfs", args.no_lfs.then_some(json!(false)).or(lfs));
    options
}

/// Adds the options of the command line to a mapping, whose own fields take precedence.
fn merged(mapping: &Value, options: &Map<String, Value>) -> Value {
    let Value::Object(fields) = mapping else {
        return mapping.clone();
    };
    let mut all = options.clone();
    all.extend(fields.clone());
    Value::Object(all)
}

fn from_file(
    origin: RequestOrigin,
    path: &Path,
    options: &Map<String, Value>,
    plan: bool,
) -> Result<Requested> {
    let shown = path.display();
    let text = std::fs::read(path).map_err(|error| {
        Error::new(ErrorKind::Config, format!("`{shown}` cannot be read")).with_source(error)
    })?;
    let mut value: Value = serde_json::from_slice(&text).map_err(|error| {
        Error::new(ErrorKind::Config, format!("`{shown}` is not JSON"))
            .with_source(error)
            .with_hint("one mapping a line is read from standard input, with `--file -`")
    })?;
    if let Some(mappings) = value.get_mut("mappings").and_then(Value::as_array_mut) {
        for mapping in mappings {
            *mapping = merged(mapping, options);
        }
    }
    if plan && let Value::Object(fields) = &mut value {
        fields.insert("plan".to_owned(), json!(true));
    }
    let request = MirrorRequest::read(origin, &value);
    let request = request.map_err(|error| error.context(format!("`{shown}`")))?;
    Ok(Requested {
        batch: Some(request.batch),
        ..Requested::list(request.mappings)
    })
}

/// Reads one mapping a line from standard input: JSON, or a source and a target with a space
/// between them.
fn lines(origin: RequestOrigin, options: Map<String, Value>, plan: bool) -> MappingStream {
    let input = BufReader::new(tokio::io::stdin());
    let lines = stream::unfold((input, 0_u64), |(mut input, number)| async move {
        let mut line = Vec::new();
        let read = input.read_until(b'\n', &mut line).await;
        match read {
            Ok(0) => None,
            Ok(_) => Some((Ok((number + 1, line)), (input, number + 1))),
            Err(error) => {
                let message = "standard input cannot be read";
                let error = Error::new(ErrorKind::Config, message).with_source(error);
                // The next read ends the stream, or fails again and again.
                Some((Err(error), (BufReader::new(tokio::io::stdin()), number)))
            }
        }
    });
    let mappings = lines.filter_map(move |line| {
        let parsed = line.and_then(|(number, line)| parse_line(&line, number));
        let mapping = match parsed {
            Ok(None) => None,
            Err(error) => Some(Err(error)),
            Ok(Some(value)) => {
                let mapping = merged(&value, &options);
                Some(Ok(Mapping::read(origin, "", &mapping, plan)))
            }
        };
        std::future::ready(mapping)
    });
    mappings.boxed()
}

/// Parses a line; `None` for an empty one.
fn parse_line(line: &[u8], number: u64) -> Result<Option<Value>> {
    let refused = |why: &str| {
        let message = format!("line {number} of the mappings: {why}");
        Error::new(ErrorKind::Config, message).with_hint(
            "write `{\"source\":\"..\",\"target\":\"..\"}`, or a source and a target with a space \
             between them",
        )
    };
    if line.len() > MAX_LINE_BYTES {
        return Err(refused("it is longer than 1 MiB"));
    }
    let text = std::str::from_utf8(line).map_err(|_| refused("it is not UTF-8"))?;
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    if text.starts_with('{') {
        let value = serde_json::from_str(text);
        return value
            .map(Some)
            .map_err(|error| refused(&format!("it is not JSON: {error}")));
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        [source, target] => Ok(Some(json!({ "source": source, "target": target }))),
        _ => Err(refused("it is neither JSON nor two URLs")),
    }
}

/// Pairs of the repositories that a pattern matches, and their targets.
async fn of_account(
    remotes: &TerminalRemotes,
    pattern: &str,
    target: &str,
) -> Result<Vec<(String, String)>> {
    if !target.contains(REPOSITORY) {
        return Err(
            usage_error(format!("the target of `--all` must contain `{REPOSITORY}`"))
                .with_hint("an example is `s3://bucket/{repository}`"),
        );
    }
    let names = if pattern.starts_with("codecommit:") {
        codecommit_names(remotes, pattern).await?
    } else if pattern.starts_with("s3:") || pattern.starts_with("s3+zip:") {
        bucket_names(remotes, pattern).await?
    } else if pattern.contains("://") {
        return Err(usage_error(
            "`--all` lists repositories of CodeCommit, of S3 and of a directory only",
        )
        .with_hint("write the mappings into a file, and use `--file`"));
    } else {
        directory_names(Path::new(pattern))?
    };
    if names.is_empty() {
        let message = format!("`{pattern}` matches no repository");
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    let pairs = names.into_iter().map(|(url, name)| {
        let name = name.strip_suffix(".git").unwrap_or(&name);
        (url, target.replace(REPOSITORY, name))
    });
    Ok(pairs.collect())
}

/// Splits a URL at its last `://`.
fn split(pattern: &str) -> (&str, &str) {
    let at = pattern.find("://").map_or(pattern.len(), |at| at + 3);
    pattern.split_at(at)
}

async fn codecommit_names(
    remotes: &TerminalRemotes,
    pattern: &str,
) -> Result<Vec<(String, String)>> {
    let (start, rest) = split(pattern);
    let (profile, glob) = match rest.rsplit_once('@') {
        Some((profile, glob)) => (Some(profile), glob),
        None => (None, rest),
    };
    let region = start
        .strip_prefix("codecommit::")
        .and_then(|region| region.strip_suffix("://"));
    let aws = remotes.aws(profile, region).await?;
    let service = Retrying::new(
        SdkCodeCommit::new(&aws),
        RetryPolicy::new(CONCURRENT_REQUESTS),
    );
    let patterns = RepositoryPatterns::new(glob)?;
    let names = all_repositories(&service).await;
    let names = names.map_err(|error| error.context(format!("`{pattern}`")))?;
    let names = names.into_iter().filter(|name| patterns.matches(name));
    let before = profile.map_or_else(String::new, |profile| format!("{profile}@"));
    Ok(names
        .map(|name| (format!("{start}{before}{name}"), name.to_string()))
        .collect())
}

/// Parses the URL of a bucket or of a prefix.
fn bucket_url(text: &str) -> Result<S3Url> {
    match RemoteUrl::new(text)? {
        RemoteUrl::S3(url) => Ok(url),
        _ => Err(usage_error("the URL is not one of S3")),
    }
}

/// Lists the prefixes of one level, `s3://bucket/team/*`.
async fn bucket_names(remotes: &TerminalRemotes, pattern: &str) -> Result<Vec<(String, String)>> {
    let Some(folder) = pattern.strip_suffix('*').filter(|text| text.ends_with('/')) else {
        return Err(usage_error("a pattern of S3 ends with `/*`")
            .with_hint("an example is `s3://bucket/team/*`"));
    };
    let url = bucket_url(folder)?;
    let prefix = url.prefix.as_ref().map_or("", |prefix| prefix.as_str());
    let aws = remotes.aws_of_bucket(url.profile.as_deref(), None).await?;
    let store = Retrying::new(
        SdkObjectStore::new(&aws),
        RetryPolicy::new(CONCURRENT_REQUESTS),
    );
    let mut names = Vec::new();
    let mut next = None;
    loop {
        let page = store
            .list(&url.bucket, prefix, Some("/"), next.as_deref())
            .await?;
        names.extend(page.common_prefixes);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    let names = names.into_iter().filter_map(|key| {
        let name = key.strip_prefix(prefix)?.trim_end_matches('/');
        (!name.is_empty()).then(|| (format!("{folder}{name}"), name.to_owned()))
    });
    Ok(names.collect())
}

/// Lists the repositories in a directory, `/srv/git/*`.
fn directory_names(pattern: &Path) -> Result<Vec<(String, String)>> {
    if pattern.file_name().is_none_or(|name| name != "*") {
        return Err(usage_error("a pattern of directories ends with `/*`")
            .with_hint("an example is `/srv/git/*`, in quotes"));
    }
    let folder = pattern.parent().unwrap_or(Path::new(""));
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let failed = |error| {
        let message = format!("`{}` cannot be listed", folder.display());
        Error::new(ErrorKind::Config, message).with_source(error)
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_repository = path.join(".git").exists()
            || (path.join("HEAD").is_file() && path.join("refs").is_dir());
        let name = path.file_name().and_then(|name| name.to_str());
        if let (true, Some(name), Some(text)) = (is_repository, name, path.to_str()) {
            names.push((text.to_owned(), name.to_owned()));
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_or_two_urls() {
        let pair = json!({ "source": "a", "target": "b" });
        for (line, expected) in [
            ("", None),
            ("  # comment\n", None),
            ("a  b\n", Some(pair.clone())),
            ("{\"source\":\"a\",\"target\":\"b\"}\r\n", Some(pair)),
        ] {
            assert_eq!(parse_line(line.as_bytes(), 1).unwrap(), expected, "{line}");
        }
        for line in [&b"a"[..], b"a b c", b"{", b"\xff"] {
            let error = parse_line(line, 7).unwrap_err();
            assert!(error.to_string().starts_with("line 7"), "{error}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn fields_of_a_mapping_take_precedence_over_options() {
        let options = json!({ "layout": "dumb", "prune": true });
        let options = options.as_object().unwrap();
        let mapping = json!({ "source": "a", "layout": "bundle" });
        let expected = json!({ "source": "a", "layout": "bundle", "prune": true });
        assert_eq!(merged(&mapping, options), expected);
        assert_eq!(merged(&json!(7), options), json!(7));
    }
}
