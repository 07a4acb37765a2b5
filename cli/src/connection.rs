//! Opens the remote of an S3 URL, as git's configuration, the environment and AWS's files say.

use std::num::ParseIntError;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use branchline_core::archive::ZipArchiver;
use branchline_core::aws::{Aws, AwsOverrides, HttpSettings};
use branchline_core::os;
use branchline_core::remote::Remote;
use branchline_core::remote::open::{
    OpenRemote as _, OpenerConfig, RemoteOpener, RemoteSpec, S3Layout,
};
use branchline_core::remote::url::{RemoteUrl, S3Url};
use branchline_core::settings::Settings;
use branchline_core::storage::{Encryption, S3Settings};
use branchline_core::{Error, ErrorKind, Result};

use crate::invocation::Invocation;
use crate::local_git::GitConfig;

/// Memory for packs in bytes.
pub(crate) const MEMORY_BYTES: usize = 512 << 20;
/// Memory of the one archive that is written, in bytes.
pub(crate) const ARCHIVE_MEMORY_BYTES: usize = 64 << 20;
/// Region where none is configured; a bucket in another region is found by S3's redirect.
pub(crate) const DEFAULT_REGION: &str = "us-east-1";
/// Default of `BRANCHLINE_CACHE_MIB`.
const DEFAULT_CACHE_MIB: u32 = 4096;
/// Largest lock lifetime in seconds.
const MAX_LOCK_SECONDS: u64 = 24 * 60 * 60;

/// Settings of one remote in git's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RemoteSettings {
    /// `remote.<name>.s3-profile`.
    profile: Option<String>,
    /// `remote.<name>.s3-region`.
    region: Option<String>,
    /// `remote.<name>.s3-endpoint` and `remote.<name>.s3-path-style`.
    s3: S3Settings,
    /// `remote.<name>.s3-sse` and `remote.<name>.s3-kms-key`.
    encryption: Option<Encryption>,
    /// `branchline.layout`: the layout of a new repository.
    new_layout: Option<S3Layout>,
}

impl RemoteSettings {
    /// Reads the settings of the remote `name`; without a name those of all remotes.
    ///
    /// # Errors
    /// `Config`, naming the key, for a value that is not valid.
    pub(crate) fn read(config: &GitConfig, name: Option<&str>) -> Result<Self> {
        let of_remote = |key: &str| {
            let key = format!("remote.{}.s3-{key}", name?);
            config.get(&key).map(|value| (key, value.to_owned()))
        };
        let value = |key| of_remote(key).map(|(_, value)| value);
        let path_style = of_remote("path-style").map(|(key, value)| {
            let invalid = || {
                let message = format!("`{key}` in git's configuration is not a boolean");
                Error::new(ErrorKind::Config, message).with_hint("use `true` or `false`")
            };
            match value.to_ascii_lowercase().as_str() {
                // A key without a value counts as true.
                "" | "true" | "yes" | "on" | "1" => Ok(true),
                "false" | "no" | "off" | "0" => Ok(false),
                _ => Err(invalid()),
            }
        });
        let new_layout = config.get("branchline.layout").map(|value| {
            S3Layout::new(value)
                .map_err(|error| error.context("`branchline.layout` in git's configuration"))
        });
        let (sse, key) = (of_remote("sse"), of_remote("kms-key"));
        let first = sse.as_ref().or(key.as_ref());
        let encryption = first.map(|(name, _)| {
            let value = |found: &Option<(String, String)>| {
                let value = found.as_ref().map(|(_, value)| value.clone());
                value.filter(|value| !value.is_empty())
            };
            Encryption::new(value(&sse).as_deref(), value(&key))
                .map_err(|error| error.context(format!("`{name}` in git's configuration")))
        });
        Ok(Self {
            profile: value("profile"),
            region: value("region"),
            s3: S3Settings {
                endpoint_url: value("endpoint"),
                path_style: path_style.transpose()?,
            },
            encryption: encryption.transpose()?,
            new_layout: new_layout.transpose()?,
        })
    }

    /// Returns these settings with the layout of a new repository.
    pub(crate) fn with_new_layout(self, layout: S3Layout) -> Self {
        Self {
            new_layout: Some(layout),
            ..self
        }
    }

    /// Returns the region, if one is set.
    pub(crate) fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// Returns the layout of a new repository.
    pub(crate) fn new_layout(&self) -> S3Layout {
        self.new_layout.unwrap_or(S3Layout::Bundle)
    }

    /// Returns the endpoint of S3 and the form of its URLs.
    pub(crate) fn s3(&self) -> &S3Settings {
        &self.s3
    }

    /// Returns the encryption that the remote's own settings name; that of the environment is used
    /// if `None`.
    pub(crate) fn own_encryption(&self) -> Option<&Encryption> {
        self.encryption.as_ref()
    }

    /// Returns the profile whose credentials sign the requests: that of the URL takes precedence.
    pub(crate) fn profile<'a>(&'a self, url: &'a S3Url) -> Option<&'a str> {
        url.profile.as_deref().or(self.profile.as_deref())
    }
}

/// Parses the URL of a remote in S3.
///
/// # Errors
/// `Config` for another URL, and for one without a prefix.
pub(crate) fn s3_url(text: &str) -> Result<S3Url> {
    let example = "an example is `s3://bucket/prefix`, or `s3://profile@bucket/prefix`";
    let RemoteUrl::S3(url) = RemoteUrl::new(text).map_err(|error| match error.hint() {
        None => error.with_hint(example),
        Some(_) => error,
    })?
    else {
        let message = "the URL is not one of S3";
        return Err(Error::new(ErrorKind::Config, message).with_hint(example));
    };
    if url.prefix.is_none() {
        return Err(
            Error::new(ErrorKind::Config, format!("`{url}` has no prefix"))
                .with_hint("add the prefix of the repository, as in `s3://bucket/repository`"),
        );
    }
    Ok(url)
}

/// Opens the remote of a URL.
pub(crate) async fn open(
    invocation: &Invocation,
    url: &S3Url,
    settings: &RemoteSettings,
) -> Result<Arc<dyn Remote>> {
    let opener = opener(invocation, settings.profile(url), settings).await?;
    let spec = RemoteSpec {
        layout_if_empty: Some(settings.new_layout()),
        ..RemoteSpec::new(RemoteUrl::S3(url.clone()))
    };
    opener.open(&spec, MEMORY_BYTES).await
}

/// Makes the opener of remotes whose requests are signed with the credentials of `profile`; without
/// it, those of the environment.
pub(crate) async fn opener(
    invocation: &Invocation,
    profile: Option<&str>,
    settings: &RemoteSettings,
) -> Result<RemoteOpener> {
    let aws = Aws::load(AwsOverrides {
        region: settings.region.clone(),
        default_region: Some(DEFAULT_REGION.to_owned()),
        profile: profile.map(str::to_owned),
        endpoint_url: None,
        http: http_settings(invocation)?,
    })
    .await?;
    let (pack_cache, pack_cache_max_bytes) = pack_cache(invocation)?.unzip();
    let dumb_remotes = pack_cache
        .as_ref()
        .map(|packs| packs.with_file_name("dumb-remotes"));
    let config = OpenerConfig {
        encryption: match settings.own_encryption() {
            Some(encryption) => encryption.clone(),
            None => encryption(invocation)?,
        },
        pack_cache,
        pack_cache_max_bytes,
        dumb_remotes,
        s3: settings.s3.clone(),
        lock_lifetime: Some(lock_lifetime(invocation)),
        ..OpenerConfig::default()
    };
    let archiver = Arc::new(ZipArchiver::new(ARCHIVE_MEMORY_BYTES));
    Ok(RemoteOpener::new(aws, &config)?.with_archiver(archiver))
}

/// Reads the proxies and `AWS_CA_BUNDLE`.
pub(crate) fn http_settings(invocation: &Invocation) -> Result<HttpSettings> {
    let variables = invocation.variables.iter();
    let variables: Settings = variables
        .filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)))
        .collect();
    let mut settings = HttpSettings::read(&variables);
    if let Some(path) = invocation.variable("AWS_CA_BUNDLE") {
        let certificates = std::fs::read(path).map_err(|error| {
            let path = path.to_string_lossy();
            Error::new(ErrorKind::Config, format!("`{path}` cannot be read"))
                .with_source(error)
                .with_hint("`AWS_CA_BUNDLE` names a file of certificates in PEM")
        })?;
        settings.certificates.push(certificates);
    }
    Ok(settings)
}

/// Returns the directory and the largest size of the pack cache, and creates the directories above
/// it; `None` where packs are not cached.
///
/// # Errors
/// `Config` for a `BRANCHLINE_CACHE_MIB` that is not a number.
pub(crate) fn pack_cache(invocation: &Invocation) -> Result<Option<(PathBuf, u64)>> {
    let mib = match invocation.text("BRANCHLINE_CACHE_MIB") {
        None => DEFAULT_CACHE_MIB,
        Some(text) => text.trim().parse().map_err(|error: ParseIntError| {
            let message = format!("`BRANCHLINE_CACHE_MIB` is `{}`", text.escape_debug());
            Error::new(ErrorKind::Config, message)
                .with_source(error)
                .with_hint("set it to the largest size of the cache in MiB; 0 turns the cache off")
        })?,
    };
    let base = invocation.base_directory("XDG_CACHE_HOME", ".cache");
    let Some(base) = base.filter(|_| mib > 0) else {
        return Ok(None);
    };
    let directory = base.join("branchline");
    if let Err(error) = os::create_private_dirs(&directory) {
        // For example a home directory that does not exist: not needed for the work itself.
        tracing::info!(%error, "packs are not cached");
        return Ok(None);
    }
    Ok(Some((directory.join("packs"), u64::from(mib) << 20)))
}

/// Reads `BRANCHLINE_SSE` and `BRANCHLINE_KMS_KEY_ID`: the encryption that writes to S3 request.
///
/// # Errors
/// `Config`, naming the variables.
pub(crate) fn encryption(invocation: &Invocation) -> Result<Encryption> {
    let key = invocation.text("BRANCHLINE_KMS_KEY_ID").map(str::to_owned);
    Encryption::new(invocation.text("BRANCHLINE_SSE"), key)
        .map_err(|error| error.context("`BRANCHLINE_SSE` and `BRANCHLINE_KMS_KEY_ID`"))
}

/// Reads `GIT_REMOTE_S3_LOCK_TTL_SECONDS` as the Python client does: 60 unless it is a number.
pub(crate) fn lock_lifetime(invocation: &Invocation) -> Duration {
    let text = invocation.text("GIT_REMOTE_S3_LOCK_TTL_SECONDS");
    let seconds = text.and_then(|text| text.trim().parse().ok()).unwrap_or(60);
    Duration::from_secs(seconds.clamp(1, MAX_LOCK_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_remote_are_read_from_its_section_and_those_of_new_ones_from_branchline() {
        let config = GitConfig::parse(
            b"remote.a.b.s3-profile\nwork\0remote.a.b.s3-path-style\nfalse\0\
              remote.other.s3-region\neu-west-1\0branchline.layout\ndumb\0\
              remote.a.b.s3-endpoint\nhttp://x\0remote.a.b.s3-kms-key\nkey-1\0",
        );
        let read = RemoteSettings::read(&config, Some("a.b")).expect("it is valid");
        let expected = RemoteSettings {
            profile: Some("work".to_owned()),
            region: None,
            s3: S3Settings {
                endpoint_url: Some("http://x".to_owned()),
                path_style: Some(false),
            },
            encryption: Some(Encryption::Kms(Some("key-1".to_owned()))),
            new_layout: Some(S3Layout::Dumb),
        };
        assert_eq!(read, expected);
        let read = RemoteSettings::read(&config, None).expect("it is valid");
        let expected = RemoteSettings {
            new_layout: Some(S3Layout::Dumb),
            ..RemoteSettings::default()
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn a_setting_that_is_not_valid_is_named() {
        for (config, name) in [
            (&b"branchline.layout\nflat\0"[..], "branchline.layout"),
            (b"remote.o.s3-path-style\nmaybe\0", "remote.o.s3-path-style"),
            (b"remote.o.s3-sse\naes\0", "remote.o.s3-sse"),
        ] {
            let error = RemoteSettings::read(&GitConfig::parse(config), Some("o")).unwrap_err();
            assert!(error.report().contains(name), "{}", error.report());
        }
    }

    #[test]
    fn a_url_is_of_s3_and_has_a_prefix() {
        for (text, part) in [
            ("s3://bucket", "prefix"),
            ("https://host/x", "not one of S3"),
            ("s3://UPPER:x/y", "bucket's name"),
            ("s4://bucket/x", "must start with"),
        ] {
            let error = s3_url(text).unwrap_err();
            assert!(error.report().contains(part), "{}", error.report());
            assert!(error.hint().is_some(), "{}", error.report());
        }
        let url = s3_url("s3://me@bucket/a/b").expect("it is valid");
        let settings = RemoteSettings {
            profile: Some("other".to_owned()),
            ..RemoteSettings::default()
        };
        assert_eq!(settings.profile(&url), Some("me"));
    }
}
