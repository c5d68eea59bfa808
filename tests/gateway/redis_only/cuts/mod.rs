//! Proof of history and gap in version 2: pages are cut at random moments, Redis' connections and gateways are killed, and
//! each page gets each message once and in order, or is told of a gap, and only then.
//!
//! `WS4REDIS_TESTS_LONG` makes the runs long; `WS4REDIS_TEST_SEED` repeats one.

mod flow;
mod oracle;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flow::{Flow, Published};
use oracle::Totals;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::support::client_proxy::ClientProxy;
use crate::support::page::{END, Page, PageControl, PageFacility, START};
use crate::support::random::{SeededRandom, seed};
use crate::support::tokens::{key_file, path, token};
use crate::support::{RedisServer, TestGateway, unique};

/// Users that pages belong to; each is in one of the groups.
const USERS: usize = 4;
const GROUPS: usize = 2;
const FACILITIES: usize = 4;

/// Messages that a short history keeps.
const KEPT: usize = 10;

/// What happens in a run.
struct Scenario {
    /// Messages that each channel keeps; none without a history.
    history: Option<usize>,
    messages: usize,
    pages: usize,
    /// Longest time between two batches of a publisher, in milliseconds.
    pause: usize,
    /// Most bytes between two cuts of a connection.
    cut_within: usize,
    /// Longest time between two losses, in milliseconds.
    losses: usize,
    /// How many of 100 reconnects come after seconds.
    absences: usize,
    /// Restarts of Redis with its data, and one without.
    restarts: usize,
    is_replaced: bool,
}

fn is_long() -> bool {
    std::env::var("WS4REDIS_TESTS_LONG").is_ok()
}

impl Scenario {
    /// A few seconds, or minutes.
    fn new(history: Option<usize>) -> Self {
        let short = Self {
            history,
            messages: 1_500,
            pages: 12,
            pause: 60,
            cut_within: 6_000,
            losses: 1_000,
            absences: 0,
            restarts: 0,
            is_replaced: false,
        };
        let long = Self {
            messages: 10_000,
            pages: 40,
            pause: 270,
            cut_within: 16_000,
            losses: 4_000,
            restarts: 3,
            ..short
        };
        if is_long() { long } else { short }
    }
}

/// A run with its servers.
struct Run {
    redis: RedisServer,
    /// Data of Redis, which survives its restart.
    data: PathBuf,
    namespace: String,
    rules: String,
    gateway: TestGateway,
    proxy: ClientProxy,
    random: SeededRandom,
    /// Losses of the subscription connection so far.
    losses: usize,
    published: Vec<Published>,
}

impl Run {
    async fn start(scenario: &Scenario, seed: u64) -> Self {
        let data = std::env::temp_dir().join(unique("ws4redis-cuts"));
        std::fs::create_dir_all(&data).unwrap();
        let dir = data.display().to_string();
        let mut options = vec!["--dir", &dir, "--stream-node-max-entries", "10"];
        if scenario.restarts > 0 || scenario.is_replaced {
            options.extend(["--appendonly", "yes", "--appendfsync", "always"]);
        }
        let redis = RedisServer::start_with(&options);
        let namespace = unique("cuts");
        let rules = scenario.history.map_or(String::new(), |messages| {
            format!("[[history]]\nfacility = [\"*\"]\nmessages = {messages}\n")
        });
        let gateway = start_gateway(&redis, &namespace, &rules).await;
        let proxy = ClientProxy::to(gateway.address(), SeededRandom::new(seed, 1)).await;
        let random = SeededRandom::new(seed, 2);
        Self { redis, data, namespace, rules, gateway, proxy, random, losses: 0, published: Vec::new() }
    }

    fn spawn_pages(&self, scenario: &Scenario, seed: u64, control: &Arc<PageControl>) -> Vec<RunningPage> {
        let pages = (0..scenario.pages).map(|number| {
            let mut random = SeededRandom::new(seed, 100 + number as u64);
            // Each fifth one is an event stream.
            let is_stream = number % 5 == 4;
            let (user, group) = (number % USERS, number % GROUPS);
            let count = if is_stream { 1 } else { 1 + random.below(FACILITIES - 1) };
            let first = random.below(FACILITIES);
            let audiences = ["broadcast".to_owned(), "user".to_owned(), format!("group:g{group}")];
            let audiences = if is_stream { &audiences[..1] } else { &audiences };
            let facilities: Vec<_> = (0..count)
                .map(|n| PageFacility::new(format!("f-{}", (first + n) % FACILITIES), audiences))
                .collect();
            let wanted = facilities.len();
            let exp = "4102444800";
            let token = token("HS256", &format!(r#"{{"sub":"u{user}","groups":["g{group}"],"exp":{exp}}}"#));
            let mut page = Page::new(number, facilities, (self.proxy.address(), token), random, is_stream);
            page.absences = scenario.absences;
            let subscribed = page.subscribed.clone();
            let running = tokio::spawn(page.run(control.clone()));
            RunningPage {
                running,
                is_subscribed: Box::new(move || subscribed.load(Ordering::Relaxed) == wanted),
            }
        });
        pages.collect()
    }

    /// One of: Redis' connections are lost, or the gateway.
    async fn lose_something(&mut self) {
        match self.random.below(5) {
            0 | 1 => {
                self.losses += 1;
                self.redis.kill_clients("pubsub");
            }
            2 | 3 => drop(self.redis.kill_clients("normal")),
            _ => {
                let next = start_gateway(&self.redis, &self.namespace, &self.rules).await;
                self.gateway.signal("KILL");
                sleep(self.random.millis(100)).await;
                self.proxy.forward_to(next.address());
                self.gateway = next;
            }
        }
    }

    /// Kills Redis, and starts it again, with its data or without.
    async fn restart_redis(&mut self, flow: &Flow, with_data: bool) {
        self.losses += 1;
        if with_data {
            self.redis.kill();
        } else {
            self.published.push(flow.pause(|| {
                let published = flow.published(&self.redis);
                self.redis.kill();
                std::fs::remove_dir_all(&self.data).unwrap();
                std::fs::create_dir_all(&self.data).unwrap();
                published
            }));
        }
        sleep(self.random.millis(1_500)).await;
        self.redis.restart();
    }

    /// Returns what was published, in order.
    fn all_published(&self, flow: &Flow) -> Published {
        let mut all = Published::new();
        for part in self.published.iter().cloned().chain([flow.published(&self.redis)]) {
            for (channel, texts) in part {
                all.entry(channel).or_default().extend(texts);
            }
        }
        all
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

struct RunningPage {
    running: JoinHandle<Page>,
    is_subscribed: Box<dyn Fn() -> bool>,
}

async fn start_gateway(redis: &RedisServer, namespace: &str, rules: &str) -> TestGateway {
    let key = path(&key_file("HS256"));
    let builder = TestGateway::builder().redis(redis).namespace(namespace).rules(rules);
    let builder = builder.set("auth.jwt.algorithm", "HS256").set("auth.jwt.key_file", key.to_str().unwrap());
    builder.variable("RUST_LOG", "ws4redis=info").start().await
}

fn channels() -> Vec<String> {
    let facilities = (0..FACILITIES).map(|number| format!("f-{number}"));
    let of_facility = |facility: String| {
        let users = (0..USERS).map(|user| format!("user:u{user}"));
        let groups = (0..GROUPS).map(|group| format!("group:g{group}"));
        let names = users.chain(groups).chain(["broadcast".to_owned()]);
        names.map(|name| format!("{name}:{facility}")).collect::<Vec<_>>()
    };
    facilities.flat_map(of_facility).collect()
}

async fn all_are_subscribed(pages: &[RunningPage], meanwhile: impl Fn()) {
    let subscribed = async {
        while !pages.iter().all(|page| (page.is_subscribed)()) {
            meanwhile();
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_mins(1), subscribed).await.expect("all pages are subscribed");
}

/// Runs a scenario; returns what was observed, and the number of losses of Redis.
async fn run(scenario: Scenario) -> (Totals, usize) {
    let seed = seed();
    let mut run = Run::start(&scenario, seed).await;
    let control = Arc::new(PageControl::default());
    let pages = run.spawn_pages(&scenario, seed, &control);
    let channels = channels();
    let messages = (scenario.messages, scenario.pause);
    let mut flow = Flow::new(&run.redis, (&run.namespace, &channels), messages, scenario.history, seed);
    all_are_subscribed(&pages, || flow.publish_everywhere(&run.redis, START)).await;
    run.proxy.cut_within(scenario.cut_within);
    control.breaks.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    flow.start();
    let mut restarts = 0;
    let mut is_replaced = false;
    while !flow.has_ended() {
        let pause = run.random.millis(scenario.losses);
        sleep(pause).await;
        if restarts < scenario.restarts && run.random.percent(10) {
            restarts += 1;
            run.restart_redis(&flow, true).await;
        } else if scenario.is_replaced && !is_replaced && run.random.percent(20) {
            is_replaced = true;
            run.restart_redis(&flow, false).await;
        } else {
            run.lose_something().await;
        }
    }
    let took = begun.elapsed();
    run.proxy.cut_within(0);
    control.breaks.store(false, Ordering::Relaxed);
    all_are_subscribed(&pages, || ()).await;
    let mut ended = Vec::new();
    let ending = async {
        for page in pages {
            let mut running = page.running;
            ended.push(loop {
                flow.publish_everywhere(&run.redis, END);
                if let Ok(page) = timeout(Duration::from_millis(300), &mut running).await {
                    break page.unwrap();
                }
            });
        }
    };
    timeout(Duration::from_mins(2), ending).await.expect("each page gets the last message");
    let totals = oracle::compare(&ended, &run.all_published(&flow), scenario.history);
    let (cuts, broken) = (run.proxy.cuts(), control.broken.load(Ordering::Relaxed));
    #[expect(clippy::print_stderr, reason = "numbers of a run that is repeated by hand")]
    {
        let Totals { connections, messages, holes, gaps, missed, most_gaps, .. } = &totals;
        eprintln!(
            "{took:.1?}: {cuts} cuts, {broken} broken off, {} losses, {connections} subscriptions, {messages} messages, \
             {holes} holes, {gaps} gaps (at most {most_gaps} for one), {missed} missed, {} faults",
            run.losses,
            totals.faults.len()
        );
    }
    assert!(totals.faults.is_empty(), "{}", totals.faults[..totals.faults.len().min(30)].join("\n"));
    assert!(cuts > scenario.pages, "{cuts}");
    (totals, run.losses)
}

#[tokio::test]
async fn with_a_history_pages_that_are_cut_get_each_message_once_and_in_order_and_no_gap() {
    let (totals, _) = run(Scenario::new(Some(100_000))).await;
    assert!(totals.around_gaps.is_empty(), "{}", totals.around_gaps.join("\n"));
    assert_eq!(totals.holes, 0);
}

#[tokio::test]
async fn pages_whose_histories_are_too_short_are_told_of_a_gap_in_place_of_each_hole() {
    let (totals, _) = run(Scenario { absences: 20, ..Scenario::new(Some(KEPT)) }).await;
    assert!(totals.holes > 0, "nothing was lost, so nothing was tested");
    assert!(totals.unjustified.is_empty(), "{}", totals.unjustified.join("\n"));
}

#[tokio::test]
async fn without_a_history_each_loss_is_told_as_a_gap_and_nothing_else_is() {
    let (totals, losses) = run(Scenario::new(None)).await;
    assert!(totals.holes > 0, "nothing was lost, so nothing was tested");
    // One for each loss of Redis; pages know by themselves when their connection was lost.
    assert!(totals.most_gaps <= losses, "{} gaps and {losses} losses", totals.most_gaps);
}

#[tokio::test]
async fn a_redis_that_is_replaced_by_an_empty_one_leaves_one_gap() {
    if !is_long() {
        return;
    }
    let (totals, _) = run(Scenario { is_replaced: true, ..Scenario::new(Some(100_000)) }).await;
    assert!(totals.holes > 0, "nothing was lost, so nothing was tested");
    assert!(totals.most_gaps <= 2, "{}", totals.around_gaps.join("\n"));
}
