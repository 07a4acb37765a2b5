//! Memory for the tables of a mirroring, which grow with the repository.

use crate::error::{Error, ErrorKind, Result};
use crate::git::pack::PackLimits;

/// Memory for the tables of a mirroring: its refs, and the objects of its largest pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableMemory {
    /// Maximum bytes; `None` if the memory is not known.
    pub max_bytes: Option<usize>,
}

impl TableMemory {
    /// Bytes that a mirroring takes for each ref that one of the sides lists, at most. A name
    /// of 40 bytes is included.
    pub const BYTES_PER_REF: usize = 800;

    /// Bytes that a mirroring takes for each object of a pack, at most.
    pub const BYTES_PER_OBJECT: usize = 180;

    /// Limits the number of objects in a pack to those for which there is memory beside `refs`
    /// refs.
    ///
    /// # Errors
    /// `Config` if the refs alone need more.
    pub(super) fn limit(self, limits: PackLimits, refs: usize) -> Result<PackLimits> {
        let Some(max_bytes) = self.max_bytes else {
            return Ok(limits);
        };
        let needed = refs.saturating_mul(Self::BYTES_PER_REF);
        let Some(left) = max_bytes.checked_sub(needed) else {
            let (needed, max) = (needed.div_ceil(1 << 20), max_bytes >> 20);
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "the two sides list {refs} refs, which take {needed} MiB of memory, and \
                     {max} MiB are left beside the pack data"
                ),
            )
            .with_hint(
                "raise the function's memory (`MigrationMemorySize`), lower \
                 `MIGRATION_MEMORY_MIB`, or select fewer refs with `refs`",
            ));
        };
        let objects = u32::try_from(left / Self::BYTES_PER_OBJECT).unwrap_or(u32::MAX);
        Ok(PackLimits {
            objects: limits.objects.min(objects),
            ..limits
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refs_that_do_not_fit_are_an_error_that_names_the_setting_and_others_limit_the_objects() {
        let limits = PackLimits::default();
        let unlimited = TableMemory::default().limit(limits, usize::MAX);
        assert_eq!(unlimited.expect("nothing is known"), limits);
        let memory = TableMemory {
            max_bytes: Some(100 << 20),
        };
        let limited = memory.limit(limits, 1000).expect("there is room");
        let left = (100 << 20) - 1000 * TableMemory::BYTES_PER_REF;
        assert_eq!(
            limited.objects as usize,
            left / TableMemory::BYTES_PER_OBJECT
        );
        assert_eq!(limited.memory, limits.memory);
        let error = memory.limit(limits, 1_000_000).expect_err("it is too much");
        assert_eq!(error.kind(), ErrorKind::Config);
        let report = error.report();
        assert!(report.contains("1000000 refs") && report.contains("MIGRATION_MEMORY_MIB"));
    }
}
