//! One mapping of a request: its source, its target, and what to mirror.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::RequestOrigin;
use super::fields::{invalid_field, read_fields};
use crate::error::{Error, ErrorKind, Result};
use crate::mirror::{LfsPolicy, RefSelection};
use crate::name::RepositoryName;
use crate::remote::open::{RemoteRole, RemoteSpec, S3Layout};
use crate::remote::url::{RemoteUrl, S3Url};
use crate::role::RoleArn;
use crate::secret::SecretArn;

/// Displayed instead of a URL that is missing or not valid.
const UNKNOWN_URL: &str = "?";

/// The displayed URLs of a mapping, and its task or what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The source's URL without a user or password.
    pub source: String,
    /// The target's URL without a user or password.
    pub target: String,
    /// The task, unless a field is not valid.
    pub task: std::result::Result<MirrorTask, MappingError>,
}

/// An error that concerns one mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingError {
    /// `InvalidEvent` in an event, `Config` at a terminal.
    pub kind: ErrorKind,
    /// The rule that is broken, with the path of the field.
    pub message: String,
    /// The remedy.
    pub hint: Option<String>,
}

impl MappingError {
    fn new(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
        }
    }

    /// Converts into the error that the invocation reports.
    pub fn error(&self) -> Error {
        let error = Error::new(self.kind, &self.message);
        match &self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// One mirroring to run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a field of the request"
)]
pub struct MirrorTask {
    /// The remote that refs and objects are read from.
    pub source: RemoteSpec,
    /// The remote that they are written to.
    pub target: RemoteSpec,
    /// The refs to mirror.
    pub refs: RefSelection,
    /// Deletes selected refs of the target that the source does not have.
    pub prune: bool,
    /// Lets `prune` delete every selected ref.
    pub prune_all: bool,
    /// Moves refs that would not move forward.
    pub force: bool,
    /// Treatment of git LFS objects.
    pub lfs: LfsPolicy,
    /// Only answers what would be done, and changes nothing.
    pub plan: bool,
    /// Only removes the temporary tags of an unfinished migration from the target.
    pub clean: bool,
}

/// The fields of a mapping, of the right types and not validated any further.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MappingFields {
    source: Option<String>,
    target: Option<String>,
    layout: Option<String>,
    refs: Option<Vec<String>>,
    prune: Option<Prune>,
    force: Option<bool>,
    credentials: Option<String>,
    #[serde(rename = "roleArn")]
    role_arn: Option<RoleFields>,
    create: Option<bool>,
    lfs: Option<Value>,
    clean: Option<bool>,
}

/// The values of `roleArn`: one role for both sides, or a role for each.
#[derive(Debug, Clone)]
enum RoleFields {
    Both(String),
    Each(EachRole),
}

/// The fields of `roleArn`, if it is an object.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct EachRole {
    source: Option<String>,
    target: Option<String>,
}

impl<'de> Deserialize<'de> for RoleFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(arn) => Ok(Self::Both(arn)),
            object @ Value::Object(_) => {
                let each = EachRole::deserialize(object).map_err(D::Error::custom)?;
                Ok(Self::Each(each))
            }
            _ => Err(D::Error::custom(
                "it must be an ARN, or an object with `source` and `target`",
            )),
        }
    }
}

/// The values of `prune`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prune {
    No,
    /// Unless every selected ref would be deleted.
    Yes,
    /// Every selected ref, too.
    All,
}

impl<'de> Deserialize<'de> for Prune {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(false) => Ok(Self::No),
            Value::Bool(true) => Ok(Self::Yes),
            Value::String(text) if text == "all" => Ok(Self::All),
            _ => Err(D::Error::custom("it must be `true`, `false` or `all`")),
        }
    }
}

impl MirrorTask {
    /// Returns the roles that the task assumes.
    pub fn roles(&self) -> impl Iterator<Item = &RoleArn> {
        [&self.source, &self.target]
            .into_iter()
            .filter_map(|spec| spec.role_arn.as_ref())
    }
}

impl Mapping {
    /// Makes the mapping of a message that cannot be read.
    pub fn unreadable(error: &Error) -> Self {
        Self {
            source: UNKNOWN_URL.to_owned(),
            target: UNKNOWN_URL.to_owned(),
            task: Err(MappingError::new(error)),
        }
    }

    /// Returns the place of the target: `s3://` and `s3+zip://` can name one remote.
    pub fn target_location(&self) -> String {
        match self.task.as_ref().map(|task| &task.target.url) {
            Ok(RemoteUrl::S3(url)) => S3Url {
                zip: false,
                ..url.clone()
            }
            .to_string(),
            _ => self.target.clone(),
        }
    }

    /// Reads the mapping at `path` of a request. With `plan` its task changes nothing.
    pub fn read(origin: RequestOrigin, path: &str, value: &Value, plan: bool) -> Self {
        let fields = read_fields(origin, path, value);
        let task = fields.and_then(|fields| task(origin, path, &fields));
        let task = task.map(|task| MirrorTask { plan, ..task });
        Self {
            source: displayed_url(value, "source"),
            target: displayed_url(value, "target"),
            task: task.map_err(|error| MappingError::new(&error)),
        }
    }
}

/// The URL in a field without a user or password.
fn displayed_url(mapping: &Value, name: &str) -> String {
    mapping
        .get(name)
        .and_then(Value::as_str)
        .and_then(|text| RemoteUrl::new(text).ok())
        .map_or_else(|| UNKNOWN_URL.to_owned(), |url| url.to_string())
}

fn task(origin: RequestOrigin, path: &str, fields: &MappingFields) -> Result<MirrorTask> {
    let field = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    let source = remote_url(origin, &field("source"), fields.source.as_deref())?;
    let target = remote_url(origin, &field("target"), fields.target.as_deref())?;
    let [source_layout, target_layout] = layouts(
        origin,
        &field("layout"),
        fields.layout.as_deref(),
        [&source, &target],
    )?;
    let [source_credentials, target_credentials] = credentials(
        origin,
        &field("credentials"),
        fields.credentials.as_deref(),
        [&source, &target],
    )?;
    let [source_role, target_role] = roles(
        origin,
        &field("roleArn"),
        fields.role_arn.as_ref(),
        [&source, &target],
    )?;
    let create = fields.create.unwrap_or(false);
    // A local target and one in S3 are created by the first push.
    let is_created = match origin {
        RequestOrigin::Event => matches!(target, RemoteUrl::CodeCommit(_)),
        RequestOrigin::Terminal { .. } => !matches!(target, RemoteUrl::Http(_)),
    };
    if create && !is_created {
        return Err(invalid_field(
            origin,
            &field("create"),
            "only a target in CodeCommit can be created",
        ));
    }
    let refs = match &fields.refs {
        None => RefSelection::default(),
        Some(patterns) => RefSelection::new(patterns.iter().map(String::as_str))
            .map_err(|error| in_field(origin, &field("refs"), &error))?,
    };
    Ok(MirrorTask {
        source: RemoteSpec {
            credentials: source_credentials,
            role_arn: source_role,
            layout: source_layout,
            layout_if_empty: None,
            create: false,
            role: RemoteRole::Source,
            url: source,
        },
        target: RemoteSpec {
            credentials: target_credentials,
            role_arn: target_role,
            layout: target_layout,
            layout_if_empty: match origin {
                RequestOrigin::Event => None,
                RequestOrigin::Terminal { new_layout } => Some(new_layout),
            },
            create,
            role: RemoteRole::Target,
            url: target,
        },
        refs,
        prune: !matches!(fields.prune, None | Some(Prune::No)),
        prune_all: fields.prune == Some(Prune::All),
        force: fields.force.unwrap_or(true),
        lfs: lfs_policy(origin, &field("lfs"), fields.lfs.as_ref())?,
        plan: false,
        clean: fields.clean.unwrap_or(false),
    })
}

/// Reads the treatment of git LFS objects.
fn lfs_policy(origin: RequestOrigin, field: &str, value: Option<&Value>) -> Result<LfsPolicy> {
    match value {
        None | Some(Value::Bool(true)) => Ok(LfsPolicy::Copy),
        Some(Value::Bool(false)) => Ok(LfsPolicy::Skip),
        Some(Value::String(text)) if text == "required" => Ok(LfsPolicy::Required),
        Some(Value::String(text)) if text == "verify" => Ok(LfsPolicy::Verify),
        Some(_) => Err(invalid_field(
            origin,
            field,
            "it must be `true`, `false`, `\"required\"` or `\"verify\"`",
        )),
    }
}

/// Validates the URL of a remote. A function has neither profiles nor repositories of its own, and
/// its events are kept, so that no password may be in them.
fn remote_url(origin: RequestOrigin, field: &str, text: Option<&str>) -> Result<RemoteUrl> {
    let text = text.ok_or_else(|| invalid_field(origin, field, "it is missing"))?;
    let url = RemoteUrl::new(text).map_err(|error| in_field(origin, field, &error))?;
    if origin != RequestOrigin::Event {
        return Ok(url);
    }
    let profile = match &url {
        RemoteUrl::CodeCommit(url) => url.profile.as_ref(),
        RemoteUrl::S3(url) => url.profile.as_ref(),
        RemoteUrl::Http(url) if url.credentials().is_some() => {
            return Err(
                invalid_field(origin, field, "a user and password in a URL are not used")
                    .with_hint(
                        "store them as a secret, and name its ARN in `credentials`; change this \
                     password, because a request that fails is kept as a dead letter",
                    ),
            );
        }
        RemoteUrl::Http(_) => None,
        RemoteUrl::Local(path) => {
            let error = invalid_field(origin, field, "the function has no repositories of its own");
            let name = path.to_str().map(RepositoryName::new);
            return Err(match name {
                Some(Ok(name)) => error.with_hint(format!(
                    "use `codecommit://{name}` for a repository in CodeCommit, or a URL that \
                     starts with `https://` or `s3://`"
                )),
                _ => error
                    .with_hint("use a URL that starts with `codecommit://`, `https://` or `s3://`"),
            });
        }
    };
    if profile.is_some() {
        return Err(invalid_field(
            origin,
            field,
            "the function has a role and no profiles",
        ));
    }
    Ok(url)
}

/// The S3 layouts of the source and of the target. If both are in S3, `layout` is the
/// target's.
fn layouts(
    origin: RequestOrigin,
    field: &str,
    layout: Option<&str>,
    urls: [&RemoteUrl; 2],
) -> Result<[Option<S3Layout>; 2]> {
    let layout = layout
        .map(S3Layout::new)
        .transpose()
        .map_err(|error| in_field(origin, field, &error))?;
    let is_s3 = urls.map(|url| matches!(url, RemoteUrl::S3(_)));
    let layouts = match is_s3 {
        [_, true] => [None, layout],
        [true, false] => [layout, None],
        [false, false] if layout.is_some() => {
            return Err(invalid_field(
                origin,
                field,
                "neither the source nor the target is in S3",
            ));
        }
        [false, false] => [None, None],
    };
    for (url, layout) in urls.into_iter().zip(layouts) {
        if let RemoteUrl::S3(url) = url {
            S3Layout::of(url, layout).map_err(|error| in_field(origin, field, &error))?;
        }
    }
    Ok(layouts)
}

/// The secrets of the source and of the target. The secret is the source's if that is an
/// HTTP remote, else the target's.
fn credentials(
    origin: RequestOrigin,
    field: &str,
    arn: Option<&str>,
    urls: [&RemoteUrl; 2],
) -> Result<[Option<SecretArn>; 2]> {
    let arn = arn
        .map(SecretArn::new)
        .transpose()
        .map_err(|error| in_field(origin, field, &error))?;
    match urls.map(|url| matches!(url, RemoteUrl::Http(_))) {
        _ if arn.is_none() => Ok([None, None]),
        [true, _] => Ok([arn, None]),
        [false, true] => Ok([None, arn]),
        [false, false] => Err(invalid_field(
            origin,
            field,
            "only a remote at `https://` is logged in to with a secret",
        )),
    }
}

/// The roles in whose names the source and the target are accessed. One role for both is that of
/// the sides in AWS.
fn roles(
    origin: RequestOrigin,
    field: &str,
    roles: Option<&RoleFields>,
    urls: [&RemoteUrl; 2],
) -> Result<[Option<RoleArn>; 2]> {
    let in_aws = urls.map(|url| matches!(url, RemoteUrl::CodeCommit(_) | RemoteUrl::S3(_)));
    let read = |field: &str, arn: &str| {
        let role = RoleArn::new(arn).map_err(|error| in_field(origin, field, &error))?;
        Ok::<_, Error>(Some(role))
    };
    match roles {
        None => Ok([None, None]),
        Some(RoleFields::Both(arn)) => {
            let role = read(field, arn)?;
            if in_aws == [false, false] {
                let why = "neither the source nor the target is in CodeCommit or S3";
                return Err(invalid_field(origin, field, why));
            }
            Ok(in_aws.map(|is_in_aws| role.clone().filter(|_| is_in_aws)))
        }
        Some(RoleFields::Each(EachRole { source, target })) => {
            let of = |side: &str, arn: Option<&String>, is_in_aws: bool| {
                let field = format!("{field}.{side}");
                match arn {
                    None => Ok(None),
                    Some(_) if !is_in_aws => Err(invalid_field(
                        origin,
                        &field,
                        "only CodeCommit and S3 are accessed with a role",
                    )),
                    Some(arn) => read(&field, arn),
                }
            };
            Ok([
                of("source", source.as_ref(), in_aws[0])?,
                of("target", target.as_ref(), in_aws[1])?,
            ])
        }
    }
}

/// Names the field in an error of a lower layer, whose message does not repeat a password.
fn in_field(origin: RequestOrigin, field: &str, error: &Error) -> Error {
    let wrapped = invalid_field(origin, field, &error.to_string());
    match error.hint() {
        Some(hint) => wrapped.with_hint(hint),
        None => wrapped,
    }
}
