//! AWS STS: `AssumeRole`, with credentials that the other services accept.
//!
//! Roles are not created: each well-formed ARN is that of a role which trusts every caller, except
//! for those that the account closed.

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use crate::account::{Account, Credentials};
use crate::aws_json::ApiError;
use crate::faults::InFlight;

/// The operation that the server has.
pub(super) const ASSUME_ROLE: &str = "AssumeRole";

/// Lifetime of credentials. The server does not refuse them afterwards.
const LIFETIME: SignedDuration = SignedDuration::from_hours(1);

/// Answers a request of `principal`, whose body is a form.
pub(super) fn call(
    account: &Account,
    principal: &str,
    body: &[u8],
    in_flight: &InFlight,
) -> Response<Bytes> {
    match assume_role(account, principal, body, in_flight) {
        Ok(xml) => response(StatusCode::OK, xml),
        Err(error) => refuse(&error),
    }
}

fn assume_role(
    account: &Account,
    principal: &str,
    body: &[u8],
    in_flight: &InFlight,
) -> Result<String, ApiError> {
    let fields = form(body);
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    if field("Action") != ASSUME_ROLE {
        let message = format!("the development server has only {ASSUME_ROLE} of STS");
        return Err(ApiError::new("InvalidAction", message));
    }
    let (role, session) = (field("RoleArn"), field("RoleSessionName"));
    in_flight.resource(role.to_owned());
    let Some((id, name)) = role_of(role).filter(|_| !session.is_empty()) else {
        return Err(ApiError::new(
            "ValidationError",
            format!("`{role}` is not the ARN of a role, or the name of the session is missing"),
        ));
    };
    if !account.trusts_callers(role) {
        return Err(ApiError {
            status: StatusCode::FORBIDDEN,
            ..ApiError::new(
                "AccessDenied",
                format!(
                    "User: {principal} is not authorized to perform: sts:AssumeRole on resource: \
                     {role}"
                ),
            )
        });
    }
    let arn = format!("arn:aws:sts::{id}:assumed-role/{name}/{session}");
    let credentials = Credentials::of_session(arn);
    account.add(credentials.clone());
    let Credentials {
        access_key_id,
        secret_access_key,
        session_token,
        principal_arn,
    } = credentials;
    let token = session_token.unwrap_or_default();
    let expiration = Timestamp::now() + LIFETIME;
    let request_id = Uuid::new_v4();
    Ok(format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleResult><Credentials><AccessKeyId>{access_key_id}</AccessKeyId>\
         <SecretAccessKey>{secret_access_key}</SecretAccessKey>\
         <SessionToken>{token}</SessionToken>\
         <Expiration>{expiration:.0}</Expiration></Credentials>\
         <AssumedRoleUser><AssumedRoleId>AROADEVELOPMENT:{session}</AssumedRoleId>\
         <Arn>{principal_arn}</Arn></AssumedRoleUser></AssumeRoleResult>\
         <ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>\
         </AssumeRoleResponse>"
    ))
}

/// Returns account and name, without its path, of `arn:aws:iam::<account>:role/<path and name>`.
fn role_of(arn: &str) -> Option<(&str, &str)> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", _, "iam", "", id, resource] = parts.as_slice() else {
        return None;
    };
    let name = resource.strip_prefix("role/")?.rsplit('/').next()?;
    let is_account = id.len() == 12 && id.bytes().all(|digit| digit.is_ascii_digit());
    (is_account && !name.is_empty()).then_some((*id, name))
}

/// Returns the fields of `application/x-www-form-urlencoded`.
fn form(body: &[u8]) -> HashMap<String, String> {
    let decoded = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    let body = String::from_utf8_lossy(body);
    let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

/// Makes the answer of a failure.
pub(super) fn refuse(error: &ApiError) -> Response<Bytes> {
    let ApiError {
        status,
        code,
        message,
    } = error;
    let kind = if status.is_server_error() {
        "Receiver"
    } else {
        "Sender"
    };
    // A message may repeat the request.
    let message = message.replace('&', "&amp;").replace('<', "&lt;");
    let request_id = Uuid::new_v4();
    let xml = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
         <Type>{kind}</Type><Code>{code}</Code><Message>{message}</Message></Error>\
         <RequestId>{request_id}</RequestId></ErrorResponse>"
    );
    response(*status, xml)
}

fn response(status: StatusCode, xml: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(xml));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/xml"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{RequestLog, Service};

    fn answer(account: &Account, body: &str) -> (u16, String) {
        let log = RequestLog::default();
        let in_flight = log.begin(Service::Sts, ASSUME_ROLE, "sts:AssumeRole", None);
        let principal = "arn:aws:iam::123456789012:user/dev";
        let answer = call(account, principal, body.as_bytes(), &in_flight);
        let body = String::from_utf8(answer.body().to_vec()).expect("XML is text");
        (answer.status().as_u16(), body)
    }

    #[test]
    fn credentials_of_a_role_are_those_of_its_session() {
        let account = Account::new("123456789012", "us-east-1");
        let (status, xml) = answer(
            &account,
            "Action=AssumeRole&RoleArn=arn%3Aaws%3Aiam%3A%3A444455556666%3Arole%2Fteam%2Freader\
             &RoleSessionName=branchline",
        );
        assert_eq!(status, 200, "{xml}");
        let (_, rest) = xml.split_once("<AccessKeyId>").expect("there is a key");
        let (key, _) = rest.split_once('<').expect("the element ends");
        let credentials = account.find(key).expect("the key is accepted");
        assert_eq!(
            credentials.principal_arn,
            "arn:aws:sts::444455556666:assumed-role/reader/branchline"
        );
        assert!(
            credentials
                .session_token
                .is_some_and(|token| xml.contains(&token))
        );
    }

    #[test]
    fn a_closed_role_is_refused_as_by_its_trust_policy() {
        let account = Account::new("123456789012", "us-east-1");
        account.close_role("arn:aws:iam::444455556666:role/closed");
        for (role, expected) in [("closed", 403), ("open", 200)] {
            let (status, xml) = answer(
                &account,
                &format!(
                    "Action=AssumeRole&RoleArn=arn:aws:iam::444455556666:role/{role}\
                     &RoleSessionName=s"
                ),
            );
            assert_eq!(status, expected, "{xml}");
            let is_denied = xml.contains("<Code>AccessDenied</Code>")
                && xml.contains(
                    "User: arn:aws:iam::123456789012:user/dev is not authorized to perform: \
                     sts:AssumeRole on resource: arn:aws:iam::444455556666:role/closed",
                );
            assert_eq!(is_denied, expected == 403, "{xml}");
        }
    }

    #[test]
    fn a_request_without_a_role_or_session_is_refused() {
        let account = Account::new("123456789012", "us-east-1");
        for (body, code) in [
            ("Action=GetCallerIdentity", "InvalidAction"),
            (
                "Action=AssumeRole&RoleArn=r&RoleSessionName=s",
                "ValidationError",
            ),
            (
                "Action=AssumeRole&RoleArn=arn:aws:iam::444455556666:role/r",
                "ValidationError",
            ),
            (
                "Action=AssumeRole&RoleArn=arn:aws:iam::1:role/r&RoleSessionName=s",
                "ValidationError",
            ),
            (
                "Action=AssumeRole&RoleArn=arn:aws:iam::444455556666:user/u&RoleSessionName=s",
                "ValidationError",
            ),
        ] {
            let (status, xml) = answer(&account, body);
            assert_eq!(status, 400, "{body}");
            assert!(xml.contains(&format!("<Code>{code}</Code>")), "{xml}");
        }
    }
}
