//! A repository and an update function in memory, with the lifecycle function over them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use branchline_core::codecommit::{Trigger, TriggerEvent};
use branchline_core::lambda::InvocationError;
use branchline_core::name::RepositoryName;
use branchline_core::testkit::{CodeCommitOptions, Entry, MemoryCodeCommit, MemoryFunctions};
use branchline_core::trigger::plan::partition_owned;
use branchline_lifecycle::{Answer, Config, Context, RepositoryAnswer, handle};
use serde_json::{Value, json};

pub(crate) const UPDATE: &str = "arn:aws:lambda:us-east-1:111122223333:function:update";

pub(crate) struct LifecycleFixture {
    pub(crate) config: Config,
    pub(crate) codecommit: Arc<MemoryCodeCommit>,
    pub(crate) functions: Arc<MemoryFunctions>,
    pub(crate) context: Arc<Context>,
}

impl LifecycleFixture {
    pub(crate) fn new() -> Self {
        Self::with(&[], &CodeCommitOptions::default())
    }

    pub(crate) fn with(variables: &[(&str, &str)], options: &CodeCommitOptions) -> Self {
        let needed = std::iter::once(("UPDATE_FUNCTION_ARN", UPDATE));
        let settings = needed.chain(variables.iter().copied()).collect();
        let config = Config::read(&settings).unwrap();
        let codecommit = Arc::new(MemoryCodeCommit::with_options(CodeCommitOptions {
            region: "us-east-1".into(),
            ..options.clone()
        }));
        let functions = Arc::new(MemoryFunctions::with_functions(&[&config
            .policy
            .destination]));
        let context = Context::new(config.clone(), codecommit.clone(), functions.clone());
        Self {
            config,
            codecommit,
            functions,
            context: Arc::new(context),
        }
    }

    pub(crate) fn push(&self, branches: impl IntoIterator<Item = impl AsRef<str>>) {
        for branch in branches {
            let change = [("f", Entry::file(branch.as_ref()))];
            self.codecommit.commit(&demo(), branch.as_ref(), &change);
        }
    }

    pub(crate) async fn send(&self, event: Value) -> Result<Answer, InvocationError> {
        send(&self.context, event).await
    }

    /// Reconciles the demo repository by a manual request, and returns its answer.
    pub(crate) async fn reconcile(&self) -> RepositoryAnswer {
        let answer = self.send(json!({"repository": "demo"})).await.unwrap();
        let [repository] = <[_; 1]>::try_from(answer.repositories).unwrap();
        repository
    }

    pub(crate) fn triggers(&self) -> Vec<Trigger> {
        self.codecommit.triggers(&demo())
    }

    pub(crate) fn add_foreign(&self, triggers: &[Trigger]) {
        let mut all = self.triggers();
        all.extend_from_slice(triggers);
        self.codecommit.set_triggers(&demo(), all);
    }

    pub(crate) fn foreign(&self) -> Vec<Trigger> {
        partition_owned(&self.config.policy.prefix, &self.triggers()).1
    }

    /// Branches that owned triggers name, sorted, with duplicates.
    pub(crate) fn watched(&self) -> Vec<String> {
        let ours = partition_owned(&self.config.policy.prefix, &self.triggers()).0;
        let mut watched: Vec<_> = ours.into_iter().flat_map(|own| own.branches).collect();
        watched.sort();
        watched
    }

    /// Branches that update was invoked for, sorted, with duplicates.
    pub(crate) fn invoked(&self) -> Vec<String> {
        let invocations = self.functions.invocations(&self.config.policy.destination);
        let records = invocations
            .iter()
            .flat_map(|event| event["Records"].as_array().unwrap());
        let references =
            records.flat_map(|record| record["codecommit"]["references"].as_array().unwrap());
        let branch = |reference: &Value| {
            reference["ref"].as_str().unwrap()["refs/heads/".len()..].to_owned()
        };
        let mut branches: Vec<_> = references.map(branch).collect();
        branches.sort();
        branches
    }

    pub(crate) fn calls(&self) -> usize {
        self.codecommit.traffic().calls().len()
    }
}

pub(crate) async fn send(context: &Arc<Context>, event: Value) -> Result<Answer, InvocationError> {
    let deadline = Instant::now() + Duration::from_hours(1);
    handle(Arc::clone(context), event, deadline).await
}

pub(crate) fn demo() -> RepositoryName {
    RepositoryName::new("demo").unwrap()
}

pub(crate) fn foreign(number: usize) -> Trigger {
    Trigger {
        name: format!("mail-{number}"),
        destination_arn: "arn:aws:sns:us-east-1:111122223333:topic".into(),
        custom_data: None,
        branches: vec!["z".into(), "a".into()],
        events: vec![TriggerEvent::DeleteReference, TriggerEvent::CreateReference],
    }
}

pub(crate) fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("feature/{n:04}")).collect()
}

pub(crate) fn event(file: &str) -> Value {
    let path = format!("{}/../../events/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub(crate) fn texts(branches: &[branchline_core::name::BranchName]) -> Vec<&str> {
    branches.iter().map(AsRef::as_ref).collect()
}
