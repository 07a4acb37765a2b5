//! [`Reviews`] under a [`RetryPolicy`](crate::retry::RetryPolicy): limited and retried.

use async_trait::async_trait;

use super::{ApprovalState, Page, Review, ReviewComment, Reviews};
use crate::error::Result;
use crate::retry::Retrying;

#[async_trait]
impl<R: Reviews> Reviews for Retrying<R> {
    async fn get_review(&self, pull_request: u64) -> Result<Review> {
        self.policy
            .run(|| self.inner.get_review(pull_request))
            .await
    }

    async fn list_comments(
        &self,
        pull_request: u64,
        next: Option<&str>,
    ) -> Result<Page<ReviewComment>> {
        self.policy
            .run(|| self.inner.list_comments(pull_request, next))
            .await
    }

    // The token prevents a second comment on a retry.
    async fn post_comment(
        &self,
        review: &Review,
        client_request_token: &str,
        content: &str,
    ) -> Result<()> {
        self.policy
            .run(|| {
                self.inner
                    .post_comment(review, client_request_token, content)
            })
            .await
    }

    async fn update_comment(&self, comment_id: &str, content: &str) -> Result<()> {
        self.policy
            .run(|| self.inner.update_comment(comment_id, content))
            .await
    }

    async fn set_approval(&self, review: &Review, state: ApprovalState) -> Result<()> {
        self.policy
            .run(|| self.inner.set_approval(review, state))
            .await
    }
}
