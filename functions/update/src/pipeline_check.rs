//! Warns of pipelines whose declaration does not fit the starts that are intended.
//!
//! Each pipeline is read once in the lifetime of the execution environment, beside its first
//! start, and once by each plan. A role that may not read it starts it all the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use branchline_core::ErrorKind;
use branchline_core::name::PipelineName;
use branchline_core::pipeline::{
    IntendedKey, IntendedStart, PipelineFinding, Pipelines, check_pipeline,
};
use tokio::sync::OnceCell;

use crate::artifact::S3Location;
use crate::config::{Config, RevisionPin};
use crate::filters::StartTarget;

type Findings = Arc<Vec<PipelineFinding>>;

/// Problems of the pipelines that were read.
#[derive(Debug, Default)]
pub(crate) struct PipelineChecks(Mutex<HashMap<PipelineName, Arc<OnceCell<Findings>>>>);

impl PipelineChecks {
    /// Returns the problems of starts of `target` on the artifact at `location`, read once.
    /// With `is_logged`, each is logged when it is read.
    pub(crate) async fn of(
        &self,
        pipelines: &dyn Pipelines,
        config: &Config,
        pin: RevisionPin,
        target: &StartTarget,
        location: &S3Location,
        is_logged: bool,
    ) -> Findings {
        let pipeline = &target.pipeline;
        let cell = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(pipeline.clone()).or_default())
        };
        let read = || async {
            let declaration = match pipelines.declaration(pipeline).await {
                Ok(declaration) => declaration,
                Err(error) if error.is_pipeline_missing() => {
                    // The pipeline may be created later.
                    return Err(vec![PipelineFinding::missing(pipeline)]);
                }
                Err(error) => {
                    tracing::debug!(
                        pipeline.name = %pipeline,
                        "the pipeline cannot be checked: {}", error.report()
                    );
                    return if error.kind() == ErrorKind::AccessDenied {
                        Ok(Arc::default())
                    } else {
                        Err(Vec::new())
                    };
                }
            };
            let variables: Vec<&str> = config.variables.iter().map(|one| one.name()).collect();
            let findings = check_pipeline(
                &declaration,
                &intended_start(pin, target, location, &variables),
            );
            for finding in findings.iter().filter(|_| is_logged) {
                tracing::warn!(pipeline.name = %pipeline, "{}", finding.report());
            }
            Ok(Arc::new(findings))
        };
        match cell.get_or_try_init(read).await {
            Ok(findings) => Arc::clone(findings),
            Err(findings) => Arc::new(findings),
        }
    }
}

fn intended_start<'a>(
    pin: RevisionPin,
    target: &'a StartTarget,
    location: &'a S3Location,
    variables: &'a [&'a str],
) -> IntendedStart<'a> {
    IntendedStart {
        pipeline: &target.pipeline,
        source_action: &target.source_action,
        bucket: &location.bucket,
        key: match pin {
            RevisionPin::KeyAndVersion => IntendedKey::Override,
            RevisionPin::Version | RevisionPin::None => {
                IntendedKey::Configured(location.key.as_str())
            }
        },
        variables,
    }
}
