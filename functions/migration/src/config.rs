//! The settings of the `migration` function, read once at initialisation.

use std::path::PathBuf;
use std::time::Duration;

use branchline_core::aws::HttpSettings;
use branchline_core::event_bus::BusName;
use branchline_core::mirror::{ReleaseLimit, TableMemory};
use branchline_core::name::KmsKey;
use branchline_core::role::RolePatterns;
use branchline_core::settings::Settings;
use branchline_core::storage::Encryption;
use branchline_core::{Error, ErrorKind, Result};

/// Minimum of `MIGRATION_MEMORY_MIB`.
const MIN_MEMORY_MIB: u32 = 32;
/// Memory that `MIGRATION_MEMORY_MIB` must leave to the program, its connections and the indexes
/// of packs, in MiB.
const PROGRAM_MEMORY_MIB: u32 = 64;

/// Memory of the program and its connections, in MiB; what is left beside that and the pack data is
/// for refs and the tables of packs.
const CODE_MEMORY_MIB: u32 = 32;

/// Settings of the function.
#[derive(Debug, Clone)]
pub struct Config {
    /// `MIGRATION_MEMORY_MIB`, in bytes: limit of the pack data in memory.
    pub memory: usize,
    /// Memory for refs and the tables of packs; unlimited if the function's memory is unknown.
    pub tables: TableMemory,
    /// `DEADLINE_MARGIN_SECONDS`: time before the deadline at which mirroring stops.
    pub margin: Duration,
    /// `SSE` and `KMS_KEY_ID`: encryption of the objects in S3.
    pub encryption: Encryption,
    /// `ASSUME_ROLE_ARNS`: roles that mappings may name.
    pub roles: RolePatterns,
    /// `EVENT_BUS_NAME`: the bus of the function's own events; `None` puts none.
    pub event_bus: Option<BusName>,
    /// `TMPDIR`: directory for temporary files; `/tmp` by default.
    pub temporary: PathBuf,
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`: proxies for git servers.
    pub http: HttpSettings,
}

impl Config {
    /// Reads the environment variables of `settings`.
    ///
    /// # Errors
    /// `Config`, naming the variable.
    pub fn read(settings: &Settings) -> Result<Self> {
        let function = settings.function_memory_mib()?;
        let half = (function / 2).max(MIN_MEMORY_MIB);
        let memory = settings.number("MIGRATION_MEMORY_MIB", half, MIN_MEMORY_MIB..=32_768)?;
        settings.require_function_memory_mib(MIN_MEMORY_MIB + PROGRAM_MEMORY_MIB)?;
        let known = settings.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE").is_some();
        if known && memory + PROGRAM_MEMORY_MIB > function {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`MIGRATION_MEMORY_MIB` is {memory}, which does not leave the {PROGRAM_MEMORY_MIB} MiB \
                     that the program needs of the function's {function} MiB"
                ),
            )
            .with_hint("leave `MIGRATION_MEMORY_MIB` out to use half of the function's memory"));
        }
        let kms_key_id = settings.optional("KMS_KEY_ID", |key| {
            let key = KmsKey::new(key)?.check_region(settings.function_region())?;
            Ok(key.to_string())
        })?;
        let margin = settings.number("DEADLINE_MARGIN_SECONDS", 30, 1..=600)?;
        let tables = function.saturating_sub(memory + CODE_MEMORY_MIB);
        Ok(Self {
            memory: memory as usize * 1024 * 1024,
            tables: TableMemory {
                max_bytes: known.then_some(tables as usize * 1024 * 1024),
            },
            margin: Duration::from_secs(margin.into()),
            encryption: Encryption::new(settings.get("SSE"), kms_key_id)?,
            roles: settings
                .optional("ASSUME_ROLE_ARNS", RolePatterns::new)?
                .unwrap_or_default(),
            event_bus: settings.optional("EVENT_BUS_NAME", BusName::new)?,
            temporary: settings.get("TMPDIR").unwrap_or("/tmp").into(),
            http: HttpSettings::read(settings),
        })
    }
}

impl Config {
    /// Returns the wait for the release of locks after mirroring has stopped, which leaves the rest
    /// of the margin to the answer.
    pub fn release_limit(&self) -> ReleaseLimit {
        let ReleaseLimit(longest) = ReleaseLimit::default();
        ReleaseLimit(longest.min(self.margin * 3 / 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config> {
        Config::read(&variables.iter().copied().collect())
    }

    #[test]
    fn memory_is_half_of_the_function_memory_unless_it_is_set() {
        let mib = 1024 * 1024;
        let of = |variables: &[_]| read(variables).expect("it is valid").memory / mib;
        assert_eq!(of(&[("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024")]), 512);
        assert_eq!(
            of(&[
                ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024"),
                ("MIGRATION_MEMORY_MIB", "700")
            ]),
            700
        );
        assert_eq!(of(&[]), 64);
    }

    #[test]
    fn memory_that_leaves_no_room_for_the_program_is_refused() {
        let of = |function, memory| {
            read(&[
                ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", function),
                ("MIGRATION_MEMORY_MIB", memory),
            ])
        };
        for memory in ["449", "512", "4096"] {
            let error = of("512", memory).expect_err("too little is left");
            assert_eq!(error.kind(), ErrorKind::Config);
            let named = format!("`MIGRATION_MEMORY_MIB` is {memory}");
            assert!(error.report().contains(&named), "{}", error.report());
        }
        assert_eq!(of("512", "448").expect("64 MiB are left").memory >> 20, 448);
        assert!(of("128", "").is_ok(), "half of the smallest function");
    }

    #[test]
    fn an_error_names_its_variable() {
        for name in ["MIGRATION_MEMORY_MIB", "DEADLINE_MARGIN_SECONDS"] {
            for bad in ["0", "-1", "many"] {
                let error = read(&[(name, bad)]).expect_err(bad);
                assert_eq!(error.kind(), ErrorKind::Config);
                assert!(error.to_string().contains(name), "{error}");
            }
        }
        let error = read(&[("ASSUME_ROLE_ARNS", "reader")]).expect_err("it is not an ARN");
        assert!(error.to_string().starts_with("`ASSUME_ROLE_ARNS` is not"));
        let key = "arn:aws:kms:eu-west-1:111122223333:key/k";
        for variables in [
            &[("KMS_KEY_ID", "a key")][..],
            &[("KMS_KEY_ID", key), ("AWS_REGION", "us-east-1")],
        ] {
            let error = read(variables).expect_err("the key is not valid or of another region");
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().starts_with("`KMS_KEY_ID`"), "{error}");
        }
        let here = read(&[("KMS_KEY_ID", key), ("AWS_REGION", "eu-west-1")]);
        let expected = Encryption::Kms(Some(key.to_owned()));
        assert_eq!(here.expect("it is valid").encryption, expected);
    }

    #[test]
    fn locks_are_released_within_the_margin_before_the_timeout() {
        for (margin, expected_ms) in [("1", 750), ("8", 6000), ("30", 10_000)] {
            let config = read(&[("DEADLINE_MARGIN_SECONDS", margin)]).expect("it is valid");
            let ReleaseLimit(limit) = config.release_limit();
            assert_eq!(limit.as_millis(), expected_ms, "of {margin} seconds");
            assert!(limit < config.margin);
        }
    }

    #[test]
    fn the_header_of_encryption_is_chosen_by_sse() {
        let key = ("KMS_KEY_ID", "arn:aws:kms:eu-west-1:111122223333:key/k");
        let of = |variables: &[_]| read(variables).map(|config| config.encryption);
        assert_eq!(of(&[]).expect("it is valid"), Encryption::Bucket);
        let aes = of(&[("SSE", "AES256")]);
        assert_eq!(aes.expect("it is valid"), Encryption::Aes256);
        let kms = of(&[("SSE", "aws:kms")]);
        assert_eq!(kms.expect("it is valid"), Encryption::Kms(None));
        for bad in [&[("SSE", "AES256"), key][..], &[("SSE", "aes")]] {
            let error = of(bad).expect_err("the settings contradict each other");
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().starts_with("`SSE`"), "{error}");
        }
    }
}
