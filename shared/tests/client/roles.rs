//! Requests in the name of a role: the credentials of STS sign them, and are renewed.

use std::sync::atomic::{AtomicBool, Ordering};

use branchline_core::codecommit::CodeCommit as _;
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::name::{BranchName, RepositoryName};
use branchline_core::role::{RoleArn, client};
use branchline_core::{Error, ErrorKind};
use tokio::io::AsyncWriteExt as _;

use crate::client::canned_http_server::{Request, Server, answer};

const ROLE: &str = "arn:aws:iam::444455556666:role/team/reader";

fn role() -> RoleArn {
    RoleArn::new(ROLE).unwrap()
}

/// Returns whether a request is `AssumeRole`.
fn assumes(request: &Request) -> bool {
    request.body.contains("Action=AssumeRole&")
}

/// Answer of STS with credentials that expire at `expiration`.
fn credentials(expiration: &str) -> String {
    let body = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId>\
         <SecretAccessKey>VERYSECRETKEY</SecretAccessKey>\
         <SessionToken>VERYSECRETTOKENOFTHEROLE</SessionToken>\
         <Expiration>{expiration}</Expiration></Credentials></AssumeRoleResult>\
         </AssumeRoleResponse>"
    );
    answer(200, &[("content-type", "text/xml")], &body)
}

/// Answer of STS to who may not assume the role.
fn denied() -> String {
    let body = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
                <Type>Sender</Type><Code>AccessDenied</Code><Message>User: arn:aws:sts::\
                111122223333:assumed-role/m/m is not authorized to perform: sts:AssumeRole\
                </Message></Error><RequestId>req-1</RequestId></ErrorResponse>";
    answer(403, &[], body)
}

/// Starts a server with a branch, whose STS answers with `assumed`.
async fn server(assumed: String) -> Server {
    Server::with(move |mut stream, request| {
        let text = if assumes(&request) {
            assumed.clone()
        } else {
            let id = "6b4ae12b0e1a4c9d8f7e6d5c4b3a291807f6e5d4";
            let branch = format!(r#"{{"branch":{{"branchName":"main","commitId":"{id}"}}}}"#);
            answer(200, &[], &branch)
        };
        async move {
            let _ = stream.write_all(text.as_bytes()).await;
        }
    })
    .await
}

/// Assumes the role, and then sends `count` requests with its credentials.
async fn requests_of_role(server: &Server, count: usize) -> Result<(), Error> {
    let aws = client::assume(&server.aws(), &role()).await?;
    let client = SdkCodeCommit::new(&aws);
    let repository = RepositoryName::new("repo").unwrap();
    let branch = BranchName::new("main").unwrap();
    for _ in 0..count {
        client.get_branch(&repository, &branch).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_role_is_assumed_once_and_signs_the_requests_after_it() {
    let server = server(credentials("2099-01-01T00:00:00Z")).await;
    requests_of_role(&server, 3).await.unwrap();
    let requests = server.requests();
    let [first, rest @ ..] = &requests[..] else {
        panic!("requests are sent");
    };
    assert!(assumes(first));
    assert!(first.body.contains("role%2Fteam%2Freader"), "{first:?}");
    let signed_by = |request: &Request, key: &str| {
        let authorization = request.header("authorization").unwrap();
        authorization.contains(&format!("Credential={key}/"))
    };
    assert!(signed_by(first, "AKIDEXAMPLE"), "{first:?}");
    assert_eq!(rest.len(), 3);
    for request in rest {
        assert!(!assumes(request));
        assert!(signed_by(request, "ASIAROLE"), "{request:?}");
        let token = request.header("x-amz-security-token");
        assert_eq!(token, Some("VERYSECRETTOKENOFTHEROLE"));
    }
}

#[tokio::test]
async fn credentials_that_expired_are_renewed_before_the_next_request() {
    let server = server(credentials("2020-01-01T00:00:00Z")).await;
    requests_of_role(&server, 2).await.unwrap();
    let requests = server.requests();
    let order: Vec<bool> = requests.iter().map(assumes).collect();
    // The first is the check that the role may be assumed.
    assert_eq!(order, [true, true, false, true, false]);
}

#[tokio::test]
async fn a_role_that_may_not_be_assumed_is_named_with_both_remedies() {
    let server = server(denied()).await;
    let error = requests_of_role(&server, 1)
        .await
        .expect_err("it is denied");
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
    assert_eq!(error.aws_code(), Some("AccessDenied"));
    let report = error.report();
    for part in [ROLE, "`sts:AssumeRole`", "trust policy"] {
        assert!(report.contains(part), "{part}: {report}");
    }
    assert!(!format!("{report}{error:?}").contains("VERYSECRET"));
    assert_eq!(server.requests().len(), 1, "a denial is not retried");
}

#[tokio::test]
async fn a_denied_renewal_is_reported_with_the_roles_own_remedy() {
    let first = AtomicBool::new(true);
    let server = Server::with(move |mut stream, _request| {
        let text = if first.swap(false, Ordering::Relaxed) {
            credentials("2020-01-01T00:00:00Z")
        } else {
            denied()
        };
        async move {
            let _ = stream.write_all(text.as_bytes()).await;
        }
    })
    .await;
    let error = requests_of_role(&server, 1)
        .await
        .expect_err("it is denied");
    assert_eq!(error.kind(), ErrorKind::AccessDenied, "{}", error.report());
    let report = error.report();
    for part in ["`GetBranch`", ROLE, "trust policy"] {
        assert!(report.contains(part), "{part}: {report}");
    }
    assert!(!format!("{report}{error:?}").contains("VERYSECRET"));
}

#[tokio::test]
async fn an_answer_without_credentials_is_corrupt() {
    let body = "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                <AssumeRoleResult></AssumeRoleResult></AssumeRoleResponse>";
    let server = server(answer(200, &[], body)).await;
    let error = requests_of_role(&server, 1).await.expect_err("none came");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
}
