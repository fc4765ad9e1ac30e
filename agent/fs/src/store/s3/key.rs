//! Operations over an exchange of the access key: one that the store refuses because of its key is done again, with the
//! next one if the agent is about to bring it, or with a new one that the store does not know everywhere yet.

use super::S3Store;
use super::failure::failure;
use crate::store::StoreError;
use crate::store::retry::Failure;

/// How stores say that it is the key itself which they do not take (any more), not what it asks for.
const KEY_REFUSALS: [&str; 5] = [
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InactiveAccessKey",
    "InvalidToken",
    "ExpiredToken",
];

/// What a refusal without a body leaves of the store's word: answers to HEAD have none.
const WORDLESS: &str = "HTTP 403";

impl S3Store {
    /// Does something, and again where it was refused for its key and another one may be accepted.
    pub(super) async fn with_key<T, Run>(&self, operation: impl Fn() -> Run) -> Result<T, StoreError>
    where
        Run: Future<Output = Result<T, StoreError>>,
    {
        let Some(live) = &self.live else {
            return operation().await;
        };
        loop {
            let generation = live.generation();
            let outcome = operation().await;
            match &outcome {
                Ok(_) => live.accepted(generation),
                Err(StoreError::Denied { code }) => {
                    let for_its_key = self.is_refusal_of_the_key(code).await
                        // What has no word may have been refused for a key that is not in use any more.
                        || (code == WORDLESS && live.generation() != generation);
                    if for_its_key && live.may_be_accepted_later(generation).await {
                        continue;
                    }
                }
                Err(_) => {}
            }
            return outcome;
        }
    }

    async fn is_refusal_of_the_key(&self, code: &str) -> bool {
        if code != WORDLESS {
            return KEY_REFUSALS.contains(&code);
        }
        // The same key, asking something whose refusal has a word.
        let question = self.client.list_objects_v2().bucket(&self.bucket).max_keys(1);
        match question.send().await.map_err(failure) {
            Err(Failure {
                error: StoreError::Denied { code },
                again: _,
            }) => KEY_REFUSALS.contains(&code.as_str()),
            Ok(_) | Err(_) => false,
        }
    }
}
