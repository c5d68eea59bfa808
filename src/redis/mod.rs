//! Connections to Redis: discovery, commands, reads, publications, and the pub/sub subscriber.
//!
//! [`Store`] serves one shard, [`Lookups`] reads secret keys, and `Subscriber` receives messages for the whole
//! process. Not here: the meaning of messages and channels.

mod address;
mod cluster;
mod command_client;
mod connection;
mod discovery;
pub mod error_reply;
mod history_reader;
mod history_script;
mod lookups;
mod mailboxes;
mod one_shot;
mod pipeline;
mod publish_acks;
mod publisher;
mod publisher_pool;
mod reads;
mod reply;
mod reply_value;
mod rights;
mod sentinel;
mod slots;
mod store;
mod subscriber;
mod tap;
mod target;
mod tls;
mod topology;

pub(crate) use command_client::{CommandBatch, CommandClient};
pub(crate) use connection::RedisConnection;
pub(crate) use discovery::pause;
pub use history_reader::{HistoryEntry, HistoryPage};
pub use lookups::Lookups;
pub(crate) use mailboxes::{MailboxContent, MailboxReader};
pub use one_shot::{
    PublishFailure, PublishedMessage, ServerReport, examine, has_keys, probe_history, publish_once,
};
pub use publish_acks::{PublishAcks, PublishError};
pub use reads::{ReadFailed, StoredValue};
pub(crate) use reply::{CommandFailure, CommandReply};
pub(crate) use reply_value::ReplyValue;
pub use rights::{Permission, RightsTrial};
pub use store::Store;
pub(crate) use subscriber::{Subscriber, SubscriberEvent, SubscriptionChange};
pub use tap::{Tap, TapEvent};
pub use target::{Target, TargetError};
