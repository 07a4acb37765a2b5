//! A property test of the function: two accounts share a bucket, and have repositories of one name.
//!
//! Branches are pushed, deleted and given names that cannot be used; events arrive, late or never;
//! schedules run, with and without a plan; someone else writes objects. At each step, neither
//! account replaces or deletes what the other one made, no version is started twice, and a plan
//! writes nothing. In the end each account's schedule runs:
//!
//! 1. it does what its plan said;
//! 2. the artifact of every branch is that of its tip, unless the key has an artifact of the other
//!    account, which is an error that names the owner;
//! 3. no artifact of a missing branch is left;
//! 4. what someone else wrote is unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use branchline_core::ErrorKind;
use branchline_core::function::FunctionArn;
use branchline_core::lambda::FunctionContext as _;
use branchline_core::name::{CommitId, ObjectKey};
use branchline_core::storage::{ObjectMetadata, ObjectStore as _, PutOptions};
use branchline_core::testkit::{MemoryStore, StoredVersion};
use branchline_update::{Context, handle};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};

use crate::fixture::*;
use crate::model_runs::run_model;

/// Names of branches; some have the characters of keys and of other branches' keys.
const BRANCHES: [&str; 5] = ["main", "a", "a/b", "a.zip", "日本/x"];

/// Names that a push can make and the functions cannot use.
const ODD: [&str; 2] = ["HEAD", "-x"];

/// Keys that someone else writes: a neighbour of an artifact, a key that the template makes, and
/// others.
const FOREIGN: [&str; 4] = ["demo/notes.txt", "demo/a/notes.zip", "other/main.zip", "x"];

const ACCOUNTS: [&str; 2] = ["111122223333", "444455556666"];

#[derive(Debug, Clone)]
enum Op {
    /// A branch of an account's repository is pushed.
    Push(usize, usize),
    /// A branch of an account's repository is deleted.
    Delete(usize, usize),
    /// A push of a name that cannot be used.
    PushOdd(usize, usize),
    /// The event of a branch arrives.
    Event(usize, usize),
    /// lifecycle found a branch.
    Found(usize, usize),
    /// A schedule runs.
    Schedule(usize),
    /// A schedule runs with a plan.
    Plan(usize),
    /// Someone else writes an object.
    Write(usize),
    /// Someone of another account writes an object with the metadata of an artifact of this
    /// branch.
    WriteArtifact(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let account = || 0..ACCOUNTS.len();
    let branch = || 0..BRANCHES.len();
    prop_oneof![
        6 => (account(), branch()).prop_map(|(account, branch)| Op::Push(account, branch)),
        3 => (account(), branch()).prop_map(|(account, branch)| Op::Delete(account, branch)),
        1 => (account(), 0..ODD.len()).prop_map(|(account, name)| Op::PushOdd(account, name)),
        4 => (account(), branch()).prop_map(|(account, branch)| Op::Event(account, branch)),
        2 => (account(), branch()).prop_map(|(account, branch)| Op::Found(account, branch)),
        3 => account().prop_map(Op::Schedule),
        2 => account().prop_map(Op::Plan),
        1 => (0..FOREIGN.len()).prop_map(Op::Write),
        1 => branch().prop_map(Op::WriteArtifact),
    ]
}

/// The function and the repository of one account.
struct Account {
    fixture: UpdateFixture,
    context: Arc<Context>,
    tips: BTreeMap<usize, CommitId>,
    odd: BTreeSet<usize>,
}

struct Model {
    accounts: [Account; 2],
    store: Arc<MemoryStore>,
    key: &'static str,
    /// Objects of someone else, by their keys.
    foreign: BTreeMap<String, Vec<StoredVersion>>,
    pushes: u32,
}

fn fail(why: String) -> TestCaseError {
    TestCaseError::fail(why)
}

fn object_key(key: &str) -> Result<ObjectKey, TestCaseError> {
    ObjectKey::new(key).map_err(|error| fail(error.to_string()))
}

impl Model {
    fn new(key: &'static str) -> Self {
        let settings = [
            ("DELETE_ARTIFACTS", "true"),
            ("ARTIFACT_KEY", key),
            ("EXISTING_BRANCHES", "archive"),
        ];
        let mut store = None;
        let accounts = ACCOUNTS.map(|account| {
            let mut fixture = UpdateFixture::new(&settings);
            fixture.store = store.get_or_insert_with(|| fixture.store.clone()).clone();
            let context = fixture.context();
            let arn = format!("arn:aws:lambda:us-east-1:{account}:function:update");
            context.record_function(&FunctionArn::new(&arn).expect("it is an ARN"));
            Account {
                fixture,
                context,
                tips: BTreeMap::new(),
                odd: BTreeSet::new(),
            }
        });
        Self {
            accounts,
            store: store.expect("because there are accounts"),
            key,
            foreign: BTreeMap::new(),
            pushes: 0,
        }
    }

    /// The key of an account's artifact.
    fn key_of(&self, account: usize, branch: usize) -> String {
        self.key
            .replace("{account}", ACCOUNTS[account])
            .replace("{repository}", "demo")
            .replace("{branch}", BRANCHES[branch])
    }

    fn versions(&self, key: &str) -> Vec<StoredVersion> {
        self.store.versions(&bucket(), key)
    }

    /// The account that made a version, by its metadata.
    fn maker(version: &StoredVersion) -> Option<&str> {
        let origin = version.metadata.user.get("branchline-origin")?;
        origin.rsplit('/').next()
    }

    async fn send(&self, account: usize, event: Value) -> Result<Value, (ErrorKind, String)> {
        let context = Arc::clone(&self.accounts[account].context);
        match handle(context, event, soon()).await {
            Ok(answer) => Ok(serde_json::to_value(answer).expect("it serialises")),
            Err(failure) => Err((failure.kind(), failure.message().to_owned())),
        }
    }

    async fn write(&mut self, key: &str, user: &[(&str, &str)]) -> Result<(), TestCaseError> {
        let options = PutOptions {
            metadata: ObjectMetadata {
                user: user
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
                ..ObjectMetadata::default()
            },
            ..PutOptions::default()
        };
        let key = object_key(key)?;
        let body = bytes::Bytes::from_static(b"theirs");
        let written = self.store.put(&bucket(), &key, body, &options).await;
        written.map_err(|error| fail(error.to_string()))?;
        let versions = self.versions(key.as_str());
        self.foreign.insert(key.to_string(), versions);
        Ok(())
    }

    /// Sends an event that may fail only because the other account owns a key.
    async fn run(&self, account: usize, event: Value) -> Result<(), TestCaseError> {
        match self.send(account, event).await {
            Ok(_) => Ok(()),
            Err((ErrorKind::Config, message)) if message.contains("is an artifact of `") => Ok(()),
            Err((kind, message)) => Err(fail(format!("{kind}: {message}"))),
        }
    }

    async fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Push(account, branch) => {
                self.pushes += 1;
                let content = self.pushes.to_string();
                let account = &mut self.accounts[account];
                let tip = account.fixture.push(BRANCHES[branch], &content);
                account.tips.insert(branch, tip);
            }
            Op::Delete(account, branch) => {
                let account = &mut self.accounts[account];
                let codecommit = &account.fixture.codecommit;
                codecommit.delete_branch(&repository(), BRANCHES[branch]);
                account.tips.remove(&branch);
            }
            Op::PushOdd(account, name) => {
                let account = &mut self.accounts[account];
                if account.odd.insert(name) {
                    let codecommit = &account.fixture.codecommit;
                    codecommit.add_odd_branch(&repository(), ODD[name]);
                }
            }
            Op::Event(account, branch) => {
                if let Some(tip) = self.accounts[account].tips.get(&branch).copied() {
                    let mut event = moved(BRANCHES[branch], tip);
                    Self::address(&mut event, account);
                    self.run(account, event).await?;
                }
            }
            Op::Found(account, branch) => {
                let reference = format!("refs/heads/{}", BRANCHES[branch]);
                let mut event = records(&[json!({"existing": true, "ref": reference})]);
                Self::address(&mut event, account);
                self.run(account, event).await?;
            }
            Op::Schedule(account) => self.run(account, json!({"schedule": true})).await?,
            Op::Plan(account) => self.plan(account).await.map(drop)?,
            Op::Write(which) => self.write(FOREIGN[which], &[]).await?,
            Op::WriteArtifact(branch) => {
                let key = self.key_of(0, branch).replace(ACCOUNTS[0], "777788889999");
                if self
                    .versions(&key)
                    .last()
                    .is_none_or(|last| last.body.is_none())
                {
                    let user = [
                        ("branchline-repository", "demo"),
                        ("branchline-branch", BRANCHES[branch]),
                        ("branchline-origin", "us-east-1/777788889999"),
                    ];
                    // A branch's name beyond ASCII is encoded in metadata.
                    if BRANCHES[branch].is_ascii() {
                        self.write(&key, &user).await?;
                    }
                }
            }
        }
        self.check_owners()
    }

    /// Makes an event one of the account's own repository.
    fn address(event: &mut Value, account: usize) {
        let arn = format!("arn:aws:codecommit:us-east-1:{}:demo", ACCOUNTS[account]);
        event["Records"][0]["eventSourceARN"] = json!(arn);
    }

    async fn plan(&self, account: usize) -> Result<Option<Value>, TestCaseError> {
        let before = (self.store.journal(), self.started());
        let answer = self
            .send(account, json!({"schedule": true, "plan": true}))
            .await;
        if (self.store.journal(), self.started()) != before {
            return Err(fail("a plan has written".to_owned()));
        }
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err((ErrorKind::Config, _)) => Ok(None),
            Err((kind, message)) => Err(fail(format!("plan: {kind}: {message}"))),
        }
    }

    fn started(&self) -> usize {
        let accounts = self.accounts.iter();
        accounts
            .map(|account| account.fixture.executions().len())
            .sum()
    }

    /// Checks that each version was followed by one of the same account, and that no version was
    /// started twice.
    fn check_owners(&self) -> Result<(), TestCaseError> {
        for account in 0..ACCOUNTS.len() {
            for branch in 0..BRANCHES.len() {
                let key = self.key_of(account, branch);
                let versions = self.versions(&key);
                for pair in versions.windows(2) {
                    let (old, new) = (Self::maker(&pair[0]), Self::maker(&pair[1]));
                    if pair[0].body.is_some() && pair[1].body.is_some() && old != new {
                        return Err(fail(format!("`{key}`: {new:?} replaced {old:?}")));
                    }
                }
            }
            let mut seen = BTreeSet::new();
            for execution in self.accounts[account].fixture.executions() {
                let source = execution.request.source;
                let source = source.map(|source| (source.object_key, source.object_version_id));
                if !seen.insert(source.clone()) {
                    return Err(fail(format!("{source:?} was started twice")));
                }
            }
        }
        for (key, versions) in &self.foreign {
            if self.versions(key).get(..versions.len()) != Some(versions.as_slice())
                || self.versions(key).len() != versions.len()
            {
                return Err(fail(format!("`{key}` of someone else was changed")));
            }
        }
        Ok(())
    }

    async fn finish(&self) -> Result<(), TestCaseError> {
        for (account, own_account) in ACCOUNTS.into_iter().enumerate() {
            let plan = self.plan(account).await?;
            let answer = self.send(account, json!({"schedule": true})).await;
            let answer = match answer {
                Ok(answer) => Some(answer),
                Err((ErrorKind::Config, _)) => None,
                Err((kind, message)) => return Err(fail(format!("{kind}: {message}"))),
            };
            let said = |answer: &Option<Value>| {
                let counts = answer.as_ref().map(|answer| answer["counts"].clone());
                counts.unwrap_or_default()
            };
            if said(&plan) != said(&answer) {
                return Err(fail(format!("planned {plan:?}, done {answer:?}")));
            }
            self.check_owners()?;
            let mut owned_by_others = 0;
            for branch in 0..BRANCHES.len() {
                let key = self.key_of(account, branch);
                let versions = self.versions(&key);
                let live = versions.last().filter(|version| version.body.is_some());
                let is_own = |version: &&StoredVersion| Self::maker(version) == Some(own_account);
                let own = live.filter(is_own);
                let tip = self.accounts[account].tips.get(&branch);
                match (tip, live, own) {
                    (Some(tip), _, Some(own)) => {
                        let commit = own.metadata.user.get("branchline-commit");
                        if commit != Some(&tip.to_string()) {
                            return Err(fail(format!("`{key}` is {commit:?}, not {tip}")));
                        }
                    }
                    (Some(_), Some(_), None) => owned_by_others += 1,
                    (Some(tip), None, None) => {
                        return Err(fail(format!("`{key}` at {tip} was not archived")));
                    }
                    (None, _, Some(_)) => {
                        return Err(fail(format!("`{key}` of a missing branch is left")));
                    }
                    (None, _, None) => {}
                }
            }
            if answer.is_some() != (owned_by_others == 0) {
                return Err(fail(format!(
                    "{owned_by_others} keys are taken: {answer:?}"
                )));
            }
        }
        Ok(())
    }
}

#[test]
fn accounts_that_share_a_bucket_keep_their_own_artifacts() {
    for key in [
        "{repository}/{branch}.zip",
        "{account}/{repository}/{branch}.zip",
    ] {
        run_model(key, op(), 30, &async |ops: &[Op]| {
            let mut model = Model::new(key);
            for op in ops {
                model.apply(op).await?;
            }
            model.finish().await
        });
    }
}
