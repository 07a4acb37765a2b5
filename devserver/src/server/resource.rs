//! Resources of a request, as the ARNs that IAM checks its action against.

use http::request::Parts;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::classify::{RequestTarget, text};
use crate::account::Account;
use crate::faults::Service;

/// Returns the resources that path and headers identify.
pub(super) fn of_request(
    target: &RequestTarget,
    request: &Parts,
    account: &Account,
) -> Vec<String> {
    let path = request.uri.path().trim_start_matches('/');
    match target.service {
        Service::S3 => {
            let copied = text(&request.headers, "x-amz-copy-source");
            let copied = copied.map(|source| source.split('?').next().unwrap_or(source));
            let places = [Some(path), copied].into_iter().flatten();
            places.filter_map(of_s3).collect()
        }
        // v1/repos/<name>/..
        Service::Git => {
            let name = path.split('/').nth(2);
            name.map(|name| account.repository_arn(name))
                .into_iter()
                .collect()
        }
        // 2015-03-31/functions/<name or ARN>/..
        Service::Lambda => {
            let name = path.split('/').nth(2).map(decoded).unwrap_or_default();
            let name = name.split(':').nth(6).unwrap_or(&name);
            vec![account.function_arn(name)]
        }
        _ => Vec::new(),
    }
}

/// Returns the resources that the input of an operation identifies; `repository` is that of the
/// pull request or comment in it.
pub(super) fn of_input(
    target: &RequestTarget,
    input: &Value,
    account: &Account,
    repository: Option<&str>,
) -> Option<String> {
    let name = |field: &str| input[field].as_str();
    match target.service {
        Service::CodeCommit => {
            let is_of_review = ["pullRequestId", "commentId", "inReplyTo"]
                .iter()
                .any(|member| input.get(member).is_some());
            if is_of_review && name("repositoryName").is_none() && repository.is_none() {
                // The repository of a pull request that does not exist is not known.
                return None;
            }
            let of_target = || input["targets"][0]["repositoryName"].as_str();
            let name = name("repositoryName").or(repository).or_else(of_target);
            Some(name.map_or_else(|| "*".to_owned(), |name| account.repository_arn(name)))
        }
        Service::CodePipeline => {
            let (region, id) = (&account.region, &account.id);
            let name = name("name").or_else(|| name("pipelineName"))?;
            Some(format!("arn:aws:codepipeline:{region}:{id}:{name}"))
        }
        Service::Kms => Some(name("KeyId").unwrap_or("*").to_owned()),
        Service::EventBridge => {
            let bus = name("EventBusName").or_else(|| input["Entries"][0]["EventBusName"].as_str());
            let bus = bus.unwrap_or("default");
            let (region, id) = (&account.region, &account.id);
            Some(if bus.starts_with("arn:") {
                bus.to_owned()
            } else {
                format!("arn:aws:events:{region}:{id}:event-bus/{bus}")
            })
        }
        Service::SecretsManager => name("SecretId").map(str::to_owned),
        Service::Ssm => name("Name").map(str::to_owned),
        _ => None,
    }
}

/// Returns the ARN of a bucket, or of an object in it.
fn of_s3(place: &str) -> Option<String> {
    let place = decoded(place.trim_matches('/'));
    (!place.is_empty()).then(|| format!("arn:aws:s3:::{place}"))
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::classify::classify;
    use super::*;

    #[test]
    fn the_resources_of_a_request_are_identified() {
        let account = Account::new("123456789012", "us-east-1");
        for (method, uri, header, wanted) in [
            ("GET", "/b?list-type=2", ("a", "b"), &["arn:aws:s3:::b"][..]),
            (
                "PUT",
                "/b/x%2By/z.zip",
                ("a", "b"),
                &["arn:aws:s3:::b/x+y/z.zip"],
            ),
            (
                "PUT",
                "/b/new?partNumber=1&uploadId=x",
                ("x-amz-copy-source", "/c/old%20one?versionId=1"),
                &["arn:aws:s3:::b/new", "arn:aws:s3:::c/old one"],
            ),
            (
                "POST",
                "/v1/repos/demo/git-upload-pack",
                ("a", "b"),
                &["arn:aws:codecommit:us-east-1:123456789012:demo"],
            ),
            (
                "POST",
                "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Afunction%3Aupdate/invocations",
                ("a", "b"),
                &["arn:aws:lambda:us-east-1:123456789012:function:update"],
            ),
        ] {
            let request = http::Request::builder().method(method).uri(uri);
            let request = request.header(header.0, header.1).body(());
            let (parts, ()) = request.expect("it is a request").into_parts();
            assert_eq!(
                of_request(&classify(&parts), &parts, &account),
                wanted,
                "{uri}"
            );
        }
        for (operation, input, wanted) in [
            (
                "CodeCommit_20150413.GetFolder",
                json!({ "repositoryName": "demo" }),
                "arn:aws:codecommit:us-east-1:123456789012:demo",
            ),
            ("CodeCommit_20150413.ListRepositories", json!({}), "*"),
            (
                "CodePipeline_20150709.StartPipelineExecution",
                json!({ "name": "deploy" }),
                "arn:aws:codepipeline:us-east-1:123456789012:deploy",
            ),
        ] {
            let request = http::Request::builder().method("POST").uri("/");
            let request = request.header("x-amz-target", operation).body(());
            let (parts, ()) = request.expect("it is a request").into_parts();
            let arn = of_input(&classify(&parts), &input, &account, None);
            assert_eq!(arn.as_deref(), Some(wanted), "{operation}");
        }
    }
}
