//! The conformance suites of the service traits, over the AWS SDK and the development
//! server: nothing is skipped.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use async_trait::async_trait;
use branchline_core::aws::{AccessKey, Aws};
use branchline_core::codecommit::CodeCommit;
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::name::{BucketName, CommitId, PipelineName, RepositoryName};
use branchline_core::pipeline::Pipelines;
use branchline_core::pipeline::client::SdkPipelines;
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::storage::{MIN_PART_BYTES, ObjectStore};
use branchline_core::testkit::Entry;
use branchline_core::testkit::conformance::{
    CodeCommitSetup, PipelinesSetup, StoreSetup, codecommit, object_store, pipelines,
};
use branchline_dev::s3::store::Versioning;
use branchline_test_support::git;
use branchline_tests::environment::{self, PIPELINE, Setup, TestEnvironment, UPDATE};
use serde_json::json;

/// The services by the SDK, and the server behind them.
struct Remote {
    stage: TestEnvironment,
    codecommit: SdkCodeCommit,
    store: SdkObjectStore,
    pipelines: SdkPipelines,
    count: AtomicUsize,
    folder: tempfile::TempDir,
    // One index for all commits.
    work: Mutex<()>,
}

impl Remote {
    async fn start() -> Result<Self> {
        // The suites set triggers themselves.
        let lifecycle = vec![("BRANCHES_EXCLUDE", "**".to_owned())];
        let stage = TestEnvironment::start(Setup {
            lifecycle,
            ..Setup::default()
        })
        .await?;
        let credentials = stage.server.credentials();
        let key = AccessKey {
            id: credentials.access_key_id.clone(),
            secret: credentials.secret_access_key.clone(),
            session_token: credentials.session_token.clone(),
        };
        let aws = Aws::fixed(
            &stage.server.account().region,
            &stage.server.endpoint(),
            &key,
        );
        Ok(Self {
            codecommit: SdkCodeCommit::new(&aws),
            store: SdkObjectStore::new(&aws),
            pipelines: SdkPipelines::new(&aws),
            count: AtomicUsize::new(0),
            folder: tempfile::tempdir()?,
            work: Mutex::new(()),
            stage,
        })
    }

    fn next(&self, what: &str) -> String {
        format!("{what}-{}", self.count.fetch_add(1, Ordering::SeqCst))
    }

    /// Makes a commit on top of a branch in a work tree of the repository.
    fn make_commit(&self, name: &str, branch: &str, changes: &[(&str, Entry)]) -> Result<String> {
        let _turn = self.work.lock().expect("no commit has panicked");
        let folder = self.folder.path().join(name);
        if !folder.exists() {
            git::init(&folder)?;
        }
        let full = format!("refs/heads/{branch}");
        let parent = git::git(&folder, ["rev-parse", "--verify", "--quiet", &full]).ok();
        let tree = if parent.is_some() {
            full.as_str()
        } else {
            "--empty"
        };
        git::git(&folder, ["read-tree", tree])?;
        // One process for all paths, because a case has hundreds of them.
        let mut index = Vec::new();
        for (path, entry) in changes {
            let (mode, id) = match entry {
                Entry::File(bytes) => ("100644", self.blob(&folder, bytes)?),
                Entry::Executable(bytes) => ("100755", self.blob(&folder, bytes)?),
                Entry::Symlink(target) => ("120000", self.blob(&folder, target.as_bytes())?),
                Entry::Submodule(commit) => ("160000", commit.to_string()),
                Entry::Removed => ("0", "0".repeat(40)),
            };
            index.extend(format!("{mode} {id}\t{path}\0").bytes());
        }
        let mut update = git::command(&folder);
        update.args(["update-index", "-z", "--index-info"]);
        git::run_with_input(&mut update, &index)?;
        let tree = git::git(&folder, ["write-tree", "--missing-ok"])?;
        let mut words = vec![
            "commit-tree".to_owned(),
            tree,
            "-m".into(),
            "a change".into(),
        ];
        if let Some(parent) = parent {
            words.extend(["-p".into(), parent]);
        }
        let commit = git::git(&folder, words)?;
        git::git(&folder, ["update-ref", &full, &commit])?;
        Ok(commit)
    }

    fn blob(&self, folder: &std::path::Path, bytes: &[u8]) -> Result<String> {
        let file = self.folder.path().join("blob");
        std::fs::write(&file, bytes)?;
        let mut hash = git::command(folder);
        hash.args(["hash-object", "-w", "--no-filters"]).arg(&file);
        git::run(&mut hash)
    }
}

#[async_trait]
impl StoreSetup for Remote {
    fn store(&self) -> &dyn ObjectStore {
        &self.store
    }

    async fn bucket(&self, versioned: bool) -> BucketName {
        let name = self.next("bucket");
        let store = self.stage.server.store();
        let bucket = store
            .create_bucket(&name, "us-east-1")
            .expect("the name is new");
        if versioned {
            bucket
                .set_versioning(Versioning::Enabled)
                .expect("the folder is writable");
        }
        BucketName::new(&name).expect("the name is legal")
    }

    fn min_part_bytes(&self) -> usize {
        MIN_PART_BYTES
    }
}

#[async_trait]
impl CodeCommitSetup for Remote {
    fn codecommit(&self) -> &dyn CodeCommit {
        &self.codecommit
    }

    async fn repository(&self) -> RepositoryName {
        let name = self.next("repository");
        let input = json!({ "repositoryName": name });
        self.stage
            .codecommit("CreateRepository", input)
            .await
            .expect("the name is new");
        RepositoryName::new(&name).expect("the name is legal")
    }

    async fn commit(
        &self,
        repository: &RepositoryName,
        branch: &str,
        changes: &[(&str, Entry)],
    ) -> CommitId {
        let name = repository.as_str();
        let commit = self
            .make_commit(name, branch, changes)
            .expect("git makes the commit");
        let refspec = format!("{commit}:refs/heads/{branch}");
        let folder = self.folder.path().join(name);
        self.stage
            .push(&folder, name, &[&refspec])
            .await
            .expect("the push succeeds");
        CommitId::new(&commit).expect("git prints ids")
    }

    async fn delete_branch(&self, repository: &RepositoryName, branch: &str) {
        let input = json!({ "repositoryName": repository, "branchName": branch });
        self.stage
            .codecommit("DeleteBranch", input)
            .await
            .expect("the branch is there");
    }

    fn function_arn(&self) -> String {
        self.stage.server.account().function_arn(UPDATE)
    }
}

#[async_trait]
impl PipelinesSetup for Remote {
    fn pipelines(&self) -> &dyn Pipelines {
        &self.pipelines
    }

    async fn pipeline(&self) -> PipelineName {
        let name = self.next(PIPELINE);
        let pipeline = environment::pipeline(&name, "source.zip");
        self.stage
            .pipelines("CreatePipeline", &pipeline)
            .expect("the name is new");
        PipelineName::new(&name).expect("the name is legal")
    }

    async fn executions(&self, pipeline: &PipelineName) -> Vec<String> {
        let all = self.stage.executions();
        let own = all
            .into_iter()
            .filter(|execution| execution.pipeline == pipeline.as_str());
        own.map(|execution| execution.id).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms() -> Result<()> {
    object_store(&Remote::start().await?).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn codecommit_conforms() -> Result<()> {
    codecommit(&Remote::start().await?).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn codepipeline_conforms() -> Result<()> {
    pipelines(&Remote::start().await?).await;
    Ok(())
}
