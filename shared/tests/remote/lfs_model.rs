//! LFS objects of the model of mirrors: some are missing at the source, some vanish from the target.

use std::collections::BTreeSet;
use std::path::PathBuf;

use branchline_core::lfs::TransferReport;
use branchline_core::name::ObjectKey;
use branchline_core::storage::{ObjectStoreExt as _, Precondition};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use branchline_test_support::lfs_server::oid;
use branchline_test_support::repo::Repo;

use crate::remote::ref_layouts::{Layout, Mirrored};
use crate::remote::{s3_bundle_fixture, s3_dumb_fixture};

/// An LFS object that a commit of the source names.
#[derive(Debug)]
struct LargeFile {
    content: Vec<u8>,
    /// Id of the blob with the pointer.
    blob: String,
    /// A complete run has mirrored a ref that needs the object.
    is_mirrored: bool,
}

/// All LFS objects that commits of the source have named.
#[derive(Debug, Default)]
pub(crate) struct LargeFiles(Vec<LargeFile>);

impl LargeFiles {
    /// Makes the pointer to a new object, which the source has if it `is_there`.
    pub(crate) fn add(&mut self, source: &Repo, is_there: bool) -> String {
        let content = format!("large file {}\n", self.0.len()).into_bytes();
        let pointer = format!(
            "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n",
            oid(&content),
            content.len()
        );
        let blob = source.input(&["hash-object", "--stdin"], pointer.as_bytes());
        let file = LargeFile {
            content,
            blob: String::from_utf8(blob).unwrap().trim().to_owned(),
            is_mirrored: false,
        };
        if is_there {
            file.provide(source);
        }
        self.0.push(file);
        pointer
    }

    /// Has the source have all objects.
    pub(crate) fn provide_all(&self, source: &Repo) {
        for file in &self.0 {
            file.provide(source);
        }
    }

    /// Returns the numbers of the objects that the refs of a repository need.
    fn needed_by(&self, repo: &Repo) -> BTreeSet<usize> {
        let listed = repo.git(&["rev-list", "--objects", "--no-object-names", "--all"]);
        let blobs: BTreeSet<&str> = listed.lines().collect();
        let files = self.0.iter().enumerate();
        files
            .filter(|(_, file)| blobs.contains(file.blob.as_str()))
            .map(|(number, _)| number)
            .collect()
    }

    /// Deletes an object of the mirror, as a careless user does.
    pub(crate) async fn lose(&self, place: &Mirrored, number: usize) {
        if self.0.is_empty() {
            return;
        }
        let key = self.0[number % self.0.len()].key(place);
        let key = ObjectKey::new(&key).unwrap();
        let bucket = bucket(place);
        let deleted = place.store().delete(&bucket, &key, &Precondition::None);
        deleted.await.unwrap();
    }

    /// Checks the target after a complete run: it has what the source has, and the rest is counted.
    pub(crate) fn check_mirror(
        &mut self,
        source: &Repo,
        place: &Mirrored,
        report: &TransferReport,
    ) -> TestCaseResult {
        for number in self.needed_by(source) {
            self.0[number].is_mirrored = true;
        }
        let mut missing = BTreeSet::new();
        for file in self.0.iter().filter(|file| file.is_mirrored) {
            let id = oid(&file.content);
            let stored = place
                .store()
                .versions(&bucket(place), &file.key(place))
                .last()
                .and_then(|version| version.body.clone());
            if let Some(stored) = stored {
                prop_assert_eq!(&stored[..], &file.content[..], "{}", id);
            } else {
                prop_assert!(!file.is_at(source), "{} is not copied", id);
                missing.insert(id);
            }
        }
        prop_assert_eq!(report.missing, missing.len() as u64);
        for named in &report.missing_oids {
            prop_assert!(missing.contains(named), "{} is not missing", named);
        }
        Ok(())
    }

    /// Checks a git server after a run. Refs that it rejected may have left objects missing.
    pub(crate) fn check_server(
        &self,
        source: &Repo,
        target: &Repo,
        stored: &BTreeSet<String>,
        report: &TransferReport,
    ) -> TestCaseResult {
        let mut missing = 0;
        for number in self.needed_by(target) {
            let file = &self.0[number];
            let id = oid(&file.content);
            if !stored.contains(&id) {
                prop_assert!(!file.is_at(source), "{} is not copied", id);
                missing += 1;
            }
        }
        prop_assert!(report.missing >= missing, "{:?}", report);
        Ok(())
    }
}

impl LargeFile {
    fn path_at(&self, source: &Repo) -> PathBuf {
        let id = oid(&self.content);
        let path = format!("lfs/objects/{}/{}/{id}", &id[..2], &id[2..4]);
        source.path.join(path)
    }

    fn provide(&self, source: &Repo) {
        let path = self.path_at(source);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &self.content).unwrap();
    }

    fn is_at(&self, source: &Repo) -> bool {
        self.path_at(source).exists()
    }

    fn key(&self, place: &Mirrored) -> String {
        let id = oid(&self.content);
        match place.layout {
            Layout::Bundle => format!("r/lfs/{id}"),
            Layout::Dumb | Layout::Loose => {
                let prefix = s3_dumb_fixture::PREFIX;
                format!("{prefix}lfs/objects/{}/{}/{id}", &id[..2], &id[2..4])
            }
        }
    }
}

fn bucket(place: &Mirrored) -> branchline_core::name::BucketName {
    match place.layout {
        Layout::Bundle => {
            let s3_bundle_fixture::BundleFixture { bucket, .. } = &place.bundle;
            bucket.clone()
        }
        Layout::Dumb | Layout::Loose => s3_dumb_fixture::bucket(),
    }
}
