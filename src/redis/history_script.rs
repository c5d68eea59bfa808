//! The script that writes a message to its stream and publishes it, and the encoding of its calls.

use std::fmt::Write;

use sha1::{Digest, Sha1};

use super::command_client::CommandBatch;
use crate::settings::HistoryLimits;
use crate::wire::{Channel, HistoryNames, StreamKey};

/// `KEYS`: the stream, the channel. `ARGV`: messages to keep, seconds to keep the stream, seconds to persist the message (0:
/// not), the message, the live channel. Returns the number of the channel's subscribers.
///
/// The live channel comes first and nothing comes between: the gateway then knows that the channel's message which follows
/// is the same one. The length is approximate: Redis trims whole nodes of a stream, which costs half as much.
pub(super) const PUBLISH: &str = include_str!("history.lua");

/// The names of a channel's stream and live channel.
pub(super) struct ChannelHistory {
    stream: StreamKey,
    live: Channel,
}

/// The history of a publication.
pub(super) struct PublicationHistory {
    limits: HistoryLimits,
    /// By channel; none for a channel that cannot have a history.
    channels: Box<[Option<ChannelHistory>]>,
}

impl PublicationHistory {
    pub(super) fn new(names: &HistoryNames, channels: &[Channel], limits: HistoryLimits) -> Self {
        let of_channel = |channel: &Channel| {
            Some(ChannelHistory { stream: names.stream(channel)?, live: names.live(channel)? })
        };
        Self { limits, channels: channels.iter().map(of_channel).collect() }
    }

    /// Returns whether the script publishes to the channel at this index.
    pub(super) fn has(&self, index: usize) -> bool {
        self.channels.get(index).is_some_and(Option::is_some)
    }
}

/// Encodes calls of the script, in one batch.
pub(super) struct ScriptCalls<'a> {
    digest: &'a str,
    /// Whether the batch has a call that loads the script.
    is_loaded: bool,
    /// In a cluster a redirected call may reach a node that has not loaded it.
    in_cluster: bool,
}

impl<'a> ScriptCalls<'a> {
    pub(super) fn new(digest: &'a str, in_cluster: bool) -> Self {
        Self { digest, is_loaded: false, in_cluster }
    }

    /// Appends the publication of a message to the channel at an index. Returns false if that has no history.
    ///
    /// The first call of a batch carries the script, the others its digest, which costs Redis a tenth less: no reply has to
    /// be awaited, and none of them can fail because the script is not loaded.
    pub(super) fn add(
        &mut self,
        batch: &mut CommandBatch,
        (channel, index): (&Channel, usize),
        history: &PublicationHistory,
        expire: &str,
        payload: &[u8],
    ) -> bool {
        let Some(Some(names)) = history.channels.get(index) else { return false };
        let (messages, seconds) = (history.limits.messages.to_string(), history.limits.seconds.to_string());
        let by_digest = self.is_loaded && !self.in_cluster;
        let (command, script) = if by_digest { ("EVALSHA", self.digest) } else { ("EVAL", PUBLISH) };
        self.is_loaded = true;
        let stream = names.stream.as_str().as_bytes();
        batch.add_keyed(
            command,
            stream,
            &[
                script.as_bytes(),
                b"2",
                stream,
                channel.as_str().as_bytes(),
                messages.as_bytes(),
                seconds.as_bytes(),
                expire.as_bytes(),
                payload,
                names.live.as_str().as_bytes(),
            ],
        );
        true
    }
}

/// Returns the digest of a message, or of a script, which EVALSHA takes as its name.
pub(super) fn digest(text: impl AsRef<[u8]>) -> String {
    Sha1::digest(text).iter().fold(String::with_capacity(40), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Returns whether an error reply means that Redis does not execute the script: it refuses scripts, or commands in it.
pub(super) fn is_refusal(error: &str) -> bool {
    let by_name = error.starts_with("NOPERM") || error.contains("unknown command");
    by_name || error.contains("executing the script")
}

/// The cure for a refusal.
pub(super) const CURE: &str = "grant +eval +evalsha and the rights of \"History\" in docs/security.md, or remove the [[history]] tables";
