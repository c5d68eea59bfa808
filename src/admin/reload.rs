//! Reloading the settings for the operator.

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::refusal::Refusal;
use super::shards::Shards;
use crate::settings::ReloadedKeys;

/// Asks the gateway to reload its settings. The answer has the keys that have changed, or why nothing has.
#[derive(Debug)]
pub struct ReloadQuestion(pub oneshot::Sender<Result<ReloadedKeys, String>>);

/// Reloads the settings, and returns the keys that have changed and those that need a restart.
///
/// # Errors
///
/// When the settings have an error, or the server stops.
pub(super) async fn reload(shards: &Shards) -> Result<Value, Refusal> {
    let (sender, answer) = oneshot::channel();
    if !shards.ask_to_reload(ReloadQuestion(sender)).await {
        return Err(Refusal::Draining);
    }
    match answer.await {
        Ok(Ok(ReloadedKeys { changed, restart })) => Ok(json!({ "changed": changed, "restart": restart })),
        Ok(Err(problem)) => Err(Refusal::Settings(problem)),
        Err(_) => Err(Refusal::Draining),
    }
}
