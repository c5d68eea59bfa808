//! Reloads the settings: reads them as at the start, and passes on what does not need a restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::connection_limit::ConnectionLimits;
use super::systemd::notify;
use crate::admin::ReloadQuestion;
use crate::settings::{self, ReloadedKeys, Settings, SettingsError, SettingsSources};
use crate::shard::reload::ReloadCall;
use crate::telemetry::LogControl;

/// Reloads that wait for a shard, and questions for a reload that wait for the one before.
pub(super) const QUEUE_CAPACITY: usize = 1;

/// Time for a shard to apply settings.
const APPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the settings come from, and the log, whose levels they set.
pub struct ReloadSource {
    file: Option<PathBuf>,
    assignments: Vec<String>,
    start: Arc<SettingsSources>,
    log: LogControl,
}

impl ReloadSource {
    /// Creates it: the file of the flags, the settings of `--set`, the settings at the start, and the log.
    pub fn new(
        file: Option<PathBuf>,
        assignments: Vec<String>,
        start: SettingsSources,
        log: LogControl,
    ) -> Self {
        Self { file, assignments, start: Arc::new(start), log }
    }
}

/// Reloads the settings of a running gateway.
pub(super) struct Reloader {
    source: ReloadSource,
    /// The settings at the start.
    settings: Arc<Settings>,
    in_force: Arc<SettingsSources>,
    limits: ConnectionLimits,
    shards: Vec<mpsc::Sender<ReloadCall>>,
    /// A shard has not taken a reload after which open connections have to be authorized again.
    owes_grants: bool,
}

impl Reloader {
    pub(super) fn new(
        source: ReloadSource,
        settings: Arc<Settings>,
        limits: ConnectionLimits,
        shards: Vec<mpsc::Sender<ReloadCall>>,
    ) -> Self {
        let in_force = source.start.clone();
        Self { source, settings, in_force, limits, shards, owes_grants: false }
    }

    /// Reloads whenever it is told to. Never returns.
    ///
    /// Waits for SIGHUP and for questions of the admin listener.
    pub(super) async fn run(mut self, hangup: Arc<Notify>, mut questions: mpsc::Receiver<ReloadQuestion>) {
        loop {
            let question = tokio::select! {
                () = hangup.notified() => None,
                Some(question) = questions.recv() => Some(question),
            };
            let reloading = NotifyState::monotonic_usec_now();
            notify(&[NotifyState::Reloading].into_iter().chain(reloading.ok()).collect::<Vec<_>>());
            let outcome = self.reload().await.map_err(|error| error.to_string());
            let status = match &outcome {
                Ok(keys) => summary(keys),
                Err(error) => format!("settings not reloaded: {error}"),
            };
            if let Some(ReloadQuestion(answer)) = question {
                // Its client may have gone.
                let _ = answer.send(outcome);
            }
            // A status is one line.
            let status = status.replace(char::is_control, " ");
            notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        }
    }

    /// Reads all settings again, and applies those that need no restart. An error changes nothing.
    async fn reload(&mut self) -> Result<ReloadedKeys, SettingsError> {
        let (file, assignments) = (self.source.file.clone(), self.source.assignments.clone());
        // Files may be pipes, which block.
        let load = move || Settings::load(settings::file(file).as_deref(), std::env::vars_os(), &assignments);
        let loaded = tokio::task::spawn_blocking(load).await;
        let loaded = loaded.unwrap_or_else(|error| Err(SettingsError::unreadable(error.to_string())));
        let (read, sources) = loaded.inspect_err(|error| {
            error!("settings not reloaded, those before stay in force: {error}");
        })?;
        let keys = ReloadedKeys::compare(&self.source.start, &self.in_force, &sources);
        let changes_presence = read.grants_presence() && !self.settings.grants_presence();
        let merged = Arc::new(self.settings.with_reloaded(read));
        self.source.log.set_levels(&merged.log_levels);
        self.limits.set(merged.server.max_connections);
        let changes_grants = keys.changes_grants() || self.owes_grants;
        self.owes_grants = !self.apply(&merged, changes_grants).await && changes_grants;
        self.in_force = Arc::new(sources);
        for warning in &self.in_force.warnings {
            warn!("{warning}");
        }
        info!("{}", summary(&keys));
        if !keys.restart.is_empty() {
            warn!("{}", restart(&keys));
        }
        if changes_presence {
            warn!("[[access]] grants presence for the first time, which needs a restart");
        }
        Ok(keys)
    }

    /// Passes settings on to all shards, and waits until their new handshakes follow them. Returns whether all have answered.
    async fn apply(&self, settings: &Arc<Settings>, changes_grants: bool) -> bool {
        let mut have_answered = true;
        for (number, shard) in self.shards.iter().enumerate() {
            let (applied, is_applied) = oneshot::channel();
            let call = ReloadCall { settings: settings.clone(), changes_grants, applied };
            let applying = async {
                // A shard that has ended ends the process.
                let _ = shard.send(call).await;
                let _ = is_applied.await;
            };
            if timeout(APPLY_TIMEOUT, applying).await.is_err() {
                have_answered = false;
                warn!(
                    shard = number,
                    "a shard does not answer; it may follow the earlier settings; reload again"
                );
            }
        }
        have_answered
    }
}

fn summary(keys: &ReloadedKeys) -> String {
    if keys.changed.is_empty() {
        "settings reloaded; none that a reload applies has changed".to_owned()
    } else {
        format!("settings reloaded; changed: {}", keys.changed.join(", "))
    }
}

fn restart(keys: &ReloadedKeys) -> String {
    let need = if keys.restart.len() == 1 { "needs" } else { "need" };
    format!("{} {need} a restart; until then the values before stay in force", keys.restart.join(", "))
}
