//! CodeCommit's API and git transport, called by the AWS SDK and by stock git.

#![expect(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "in a test a failed expectation should end it, and a table of cases is long"
)]

mod api;
mod auth;
mod contents;
mod fetch;
mod pull_requests;
mod push;
mod speed;
mod support;
mod triggers;
