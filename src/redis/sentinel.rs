//! Sentinel: asks all sentinels for the master. The answer with the highest configuration epoch wins.
//!
//! <https://redis.io/docs/latest/develop/reference/sentinel-clients/>

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::address::{ConnectOptions, ServerAddress};
use super::connection::RedisConnection;
use super::discovery::{Discovery, POLL_INTERVAL, POLL_TIMEOUT, ServerLocation, UNNOTICED};
use super::reply_value::ReplyValue;
use crate::settings::Servers;
use crate::telemetry::LogThrottle;

/// How long an answer remains valid.
const FRESH: Duration = Duration::from_secs(3);

/// The largest number of sentinels that are polled.
const MAX_SENTINELS: usize = 32;

/// Largest value in a sentinel's reply.
const MAX_BYTES: usize = 64 * 1024;

/// The master according to one sentinel.
#[derive(Debug, Clone)]
struct SentinelView {
    master: ServerAddress,
    /// Increases with each failover.
    epoch: u64,
    failing_over: bool,
    /// The other sentinels that it knows; requested on a new connection only.
    others: Vec<ServerAddress>,
}

/// The outcome of one poll of a sentinel, sent at `polled_at`.
struct SentinelReply {
    sentinel: ServerAddress,
    polled_at: Instant,
    result: Result<SentinelView, String>,
}

/// The service name, and the login at the sentinels.
#[derive(Clone)]
struct MasterQuery {
    name: String,
    user: Option<String>,
    password: Option<String>,
}

/// Keeps the location of the master up to date. Never returns.
pub(super) async fn follow(options: ConnectOptions, discovery: Arc<Discovery>, name: String) {
    let Servers::Sentinel { service, username, password, .. } = &options.url.servers else { return };
    let query = MasterQuery { name: service.clone(), user: username.clone(), password: password.clone() };
    let sentinels = options.addresses();
    let (reply, mut replies) = mpsc::channel(MAX_SENTINELS);
    let mut asking = JoinSet::new();
    let mut last: Vec<SentinelReply> = Vec::new();
    let unreachable = LogThrottle::default();
    let (mut known, mut settled) = (sentinels.clone(), Instant::now());
    for sentinel in sentinels {
        asking.spawn_local(ask(options.clone(), discovery.clone(), sentinel, query.clone(), reply.clone()));
    }
    while let Some(next) = replies.recv().await {
        if let Ok(view) = &next.result {
            for other in &view.others {
                if known.len() < MAX_SENTINELS && !known.contains(other) {
                    known.push(other.clone());
                    asking.spawn_local(ask(
                        options.clone(),
                        discovery.clone(),
                        other.clone(),
                        query.clone(),
                        reply.clone(),
                    ));
                }
            }
        }
        last.retain(|reply| reply.sentinel != next.sentinel);
        last.push(next);
        let fresh: Vec<_> = last
            .iter()
            .filter(|reply| reply.polled_at.elapsed() < FRESH)
            .filter_map(|reply| Some((reply.polled_at, reply.result.as_ref().ok()?)))
            .collect();
        let Some((_, best)) = fresh.iter().max_by_key(|(polled_at, view)| (view.epoch, *polled_at)) else {
            let reason = last.iter().rev().find_map(|reply| reply.result.as_ref().err());
            discovery.fail(reason.cloned().unwrap_or_default());
            if last.len() == known.len()
                && let Some(suppressed) = unreachable.allow()
            {
                warn!(redis = name, suppressed, error = ?reason, "no sentinel answers; a failover would not be noticed. Check the sentinels in redis.url");
            }
            continue;
        };
        let newest = fresh.iter().map(|(polled_at, _)| *polled_at).max().unwrap_or(settled);
        let before = discovery.watch().borrow().location.clone();
        let moved = matches!(&before, ServerLocation::Master(server) if *server != best.master);
        if moved {
            info!(redis = name, master = %best.master, "the sentinels name another master");
        }
        let doubtful = Instant::now().checked_sub(UNNOTICED).map_or(settled, |noticed| settled.min(noticed));
        discovery.set(ServerLocation::Master(best.master.clone()), newest, doubtful);
        if fresh.iter().all(|(_, view)| !view.failing_over && view.master == best.master) {
            settled = fresh.iter().map(|(polled_at, _)| *polled_at).min().unwrap_or(settled);
        }
    }
}

/// Polls one sentinel. Returns when the receiver is gone.
async fn ask(
    options: ConnectOptions,
    discovery: Arc<Discovery>,
    sentinel: ServerAddress,
    query: MasterQuery,
    reply: mpsc::Sender<SentinelReply>,
) {
    let mut connection = None;
    loop {
        let polled_at = Instant::now();
        let result = match timeout(POLL_TIMEOUT, question(&options, &sentinel, &query, &mut connection)).await
        {
            Ok(result) => result,
            Err(_) => Err("no answer".to_owned()),
        };
        if result.is_err() {
            connection = None;
        }
        let result = result.map_err(|reason| format!("sentinel {sentinel}: {reason}"));
        if reply.send(SentinelReply { sentinel: sentinel.clone(), polled_at, result }).await.is_err() {
            return;
        }
        discovery.wait_until_due(polled_at, POLL_INTERVAL).await;
    }
}

async fn question(
    options: &ConnectOptions,
    sentinel: &ServerAddress,
    query: &MasterQuery,
    connection: &mut Option<RedisConnection>,
) -> Result<SentinelView, String> {
    let name = query.name.as_str();
    let mut others = Vec::new();
    if connection.is_none() {
        let (user, password) = (query.user.as_deref(), query.password.as_deref());
        let mut new = RedisConnection::open(options, sentinel.clone(), user, password, MAX_BYTES).await?;
        // If this is refused, the sentinels in the URL are enough.
        let known = new.call(&["SENTINEL", "SENTINELS", name]).await?;
        others = known.list().iter().filter_map(address).collect();
        *connection = Some(new);
    }
    let Some(connection) = connection else { return Err("connection closed".to_owned()) };
    let master = connection.call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name]).await?;
    let master = match &master {
        ReplyValue::Error(reason) => return Err(reason.clone()),
        ReplyValue::Nil => return Err(format!("it knows no master named {name}")),
        answer => match answer.list() {
            [host, port] => server(host, port),
            _ => None,
        },
    };
    let details = connection.call(&["SENTINEL", "MASTER", name]).await?;
    let flags = details.field("flags").and_then(ReplyValue::text).unwrap_or_default();
    Ok(SentinelView {
        master: master.ok_or("no address")?,
        epoch: details.field("config-epoch").and_then(ReplyValue::number).unwrap_or(0),
        failing_over: flags.split(',').any(|flag| flag == "failover_in_progress"),
        others,
    })
}

fn address(sentinel: &ReplyValue) -> Option<ServerAddress> {
    server(sentinel.field("ip")?, sentinel.field("port")?)
}

fn server(host: &ReplyValue, port: &ReplyValue) -> Option<ServerAddress> {
    let host = host.text().filter(|host| !host.is_empty())?;
    Some(ServerAddress::new(host, u16::try_from(port.number()?).ok()?))
}
