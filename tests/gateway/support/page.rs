//! A page that follows facilities in version 2: it reconnects and resumes as ws4redis.js and `EventSource` do, and keeps what
//! it was told.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use super::client::{CLOSE, Frame, PING, PONG, Request, TEXT, TestClient, frame};
use super::live::SUBPROTOCOL;
use super::random::SeededRandom;

/// Text of the messages that end a page; an audience's last one has come.
pub const END: &str = "end";

/// Text of the messages from which on a page counts: it then knows an id of each audience.
pub const START: &str = "start";

/// Time before a page connects again, or subscribes again to a facility that could not be served.
const PAUSE: usize = 100;

/// What a page was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A connection was opened, with the number of losses of Redis so far.
    Opened,
    /// The answer to a subscription.
    Subscribed { recovered: Option<bool>, ids: Option<Value>, since: Option<Value> },
    /// A message: its audience, id, and text up to the first space.
    Message { audience: String, id: Option<String>, text: String },
    /// The gateway says that messages may have been lost.
    Gap,
    /// The page knows by itself that it has missed something.
    Missed,
}

/// How pages are controlled, and what they have in common.
#[derive(Debug, Default)]
pub struct PageControl {
    /// Whether pages break their connections by themselves.
    pub breaks: AtomicBool,
    /// Connections that pages have broken.
    pub broken: AtomicUsize,
}

/// One facility of a page.
#[derive(Debug)]
pub struct PageFacility {
    pub name: String,
    /// The audiences that it hears, as in messages.
    pub audiences: Vec<String>,
    /// Audiences whose first message it has got, and the last one.
    started: BTreeSet<String>,
    ended: BTreeSet<String>,
    ids: Map<String, Value>,
    was_subscribed: bool,
    is_waiting: bool,
    /// The gateway has said that it is not recovered, and the gap has not come.
    awaits_gap: bool,
    retry_at: Option<Instant>,
    since: Option<Value>,
    pub notes: Vec<(Instant, Note)>,
}

/// A page with one socket, or with one event stream for its one facility.
pub struct Page {
    pub number: usize,
    pub facilities: Vec<PageFacility>,
    address: SocketAddr,
    token: String,
    random: SeededRandom,
    is_stream: bool,
    last_event_id: String,
    /// How many of 100 reconnects come after seconds.
    pub absences: usize,
    /// Number of facilities that are subscribed now, and have got the first message of each audience.
    pub subscribed: Arc<AtomicUsize>,
}

impl PageFacility {
    pub fn new(name: String, audiences: &[String]) -> Self {
        Self {
            name,
            audiences: audiences.to_vec(),
            started: BTreeSet::new(),
            ended: BTreeSet::new(),
            ids: Map::new(),
            was_subscribed: false,
            is_waiting: true,
            awaits_gap: false,
            retry_at: None,
            since: None,
            notes: Vec::new(),
        }
    }

    fn flags(&self) -> Vec<String> {
        let names = self.audiences.iter().map(|audience| audience.split(':').next().unwrap());
        names.map(|name| format!("subscribe-{name}")).collect()
    }

    fn note(&mut self, note: Note) {
        self.notes.push((Instant::now(), note));
    }

    /// Returns the request to subscribe, from where the last connection ended.
    fn asking(&mut self) -> Value {
        let mut object = json!({"t": "sub", "f": self.name, "flags": self.flags()});
        self.since = None;
        if !self.ids.is_empty() {
            object["since"] = Value::Object(self.ids.clone());
            self.since = Some(object["since"].clone());
        }
        self.retry_at = None;
        object
    }

    fn receive(&mut self, object: &Value, random: &mut SeededRandom) {
        match object["t"].as_str().unwrap() {
            "msg" => {
                let audience = object["a"].as_str().unwrap().to_owned();
                if let Some(id) = object.get("id") {
                    self.ids.insert(audience.clone(), id.clone());
                }
                let id = object["id"].as_str().map(str::to_owned);
                let text = object["d"].as_str().unwrap().split(' ').next().unwrap().to_owned();
                match text.as_str() {
                    START => drop(self.started.insert(audience)),
                    END => drop(self.ended.insert(audience)),
                    _ => self.note(Note::Message { audience, id, text }),
                }
            }
            "sub" => {
                let recovered = object["recovered"].as_bool();
                let missed = self.was_subscribed && self.is_waiting && recovered.is_none();
                let ids = object.get("ids").cloned();
                if let Some(Value::Object(ids)) = &ids {
                    self.ids.extend(ids.clone());
                }
                (self.was_subscribed, self.is_waiting) = (true, false);
                let since = self.since.clone();
                self.note(Note::Subscribed { recovered, ids, since });
                if missed || self.awaits_gap {
                    self.note(Note::Missed);
                }
                self.awaits_gap = recovered == Some(false);
            }
            "gap" => {
                self.awaits_gap = false;
                self.note(Note::Gap);
            }
            "err" => {
                assert!([429, 503].contains(&object["code"].as_u64().unwrap()), "{object}");
                self.is_waiting = true;
                self.retry_at = Some(Instant::now() + random.millis(PAUSE));
            }
            _ => panic!("{object}"),
        }
    }

    fn has_ended(&self) -> bool {
        self.ended.len() == self.audiences.len()
    }
}

impl Page {
    /// Returns a page of a visitor with this token; with `is_stream` it has one facility.
    pub fn new(
        number: usize,
        facilities: Vec<PageFacility>,
        (address, token): (SocketAddr, String),
        random: SeededRandom,
        is_stream: bool,
    ) -> Self {
        let subscribed = Arc::default();
        let last_event_id = String::new();
        Self { number, facilities, address, token, random, is_stream, last_event_id, absences: 0, subscribed }
    }

    /// Connects again and again, until each audience has got its last message.
    pub async fn run(mut self, control: Arc<PageControl>) -> Self {
        while !self.facilities.iter().all(PageFacility::has_ended) {
            let connection = if self.is_stream {
                self.read_stream(&control).await
            } else {
                self.read_socket(&control).await
            };
            // The error is one of many ends.
            drop(connection);
            for facility in &mut self.facilities {
                (facility.is_waiting, facility.retry_at) = (true, None);
            }
            self.subscribed.store(0, Ordering::Relaxed);
            let is_absent = self.random.percent(self.absences) && control.breaks.load(Ordering::Relaxed);
            sleep(self.random.millis(if is_absent { 20 * PAUSE } else { PAUSE })).await;
        }
        self
    }

    /// Returns when the page breaks a connection that opens now.
    fn draw_break(&mut self, control: &PageControl) -> Option<Instant> {
        let breaks = control.breaks.load(Ordering::Relaxed) && self.random.percent(30);
        breaks.then(|| Instant::now() + self.random.millis(1_000))
    }

    fn count_subscribed(&self) {
        let is_ready = |facility: &&PageFacility| {
            !facility.is_waiting && facility.started.len() == facility.audiences.len()
        };
        let count = self.facilities.iter().filter(is_ready).count();
        self.subscribed.store(count, Ordering::Relaxed);
    }

    async fn read_socket(&mut self, control: &PageControl) -> io::Result<()> {
        let protocols = format!("{SUBPROTOCOL}, bearer.{}", self.token);
        let request =
            Request::handshake(self.address, "/ws/", "", 0).with("Sec-WebSocket-Protocol", protocols);
        let mut client = request.open().await;
        client.try_send_raw(&request.bytes()).await?;
        if client.read_response().await?.status != 101 {
            return Ok(());
        }
        let ends_at = self.draw_break(control);
        while !self.facilities.iter().all(PageFacility::has_ended) {
            let retry_at = self.facilities.iter().filter_map(|facility| facility.retry_at).min();
            let wakes_at = retry_at.into_iter().chain(ends_at).min();
            let wakes_at = wakes_at.unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
            let received = tokio::select! {
                received = client.read_frame_or_end() => received?,
                () = sleep_until(wakes_at) => {
                    if ends_at.is_some_and(|at| at <= Instant::now()) {
                        return self.break_off(client, control).await;
                    }
                    for facility in &mut self.facilities {
                        if facility.retry_at.is_some_and(|at| at <= Instant::now()) {
                            let request = facility.asking().to_string();
                            client.try_send_raw(&frame(0x80 | TEXT, request.as_bytes())).await?;
                        }
                    }
                    continue;
                }
            };
            let Some(Frame { opcode, payload, .. }) = received else { return Ok(()) };
            match opcode {
                PING => client.try_send_raw(&frame(0x80 | PONG, &payload)).await?,
                CLOSE => return Ok(()),
                TEXT => self.receive(&mut client, &serde_json::from_slice(&payload).unwrap()).await?,
                other => panic!("opcode {other}"),
            }
        }
        Ok(())
    }

    async fn receive(&mut self, client: &mut TestClient, object: &Value) -> io::Result<()> {
        if object["t"] == "hello" {
            for facility in &mut self.facilities {
                facility.note(Note::Opened);
                let request = frame(0x80 | TEXT, facility.asking().to_string().as_bytes());
                client.try_send_raw(&request).await?;
            }
            return Ok(());
        }
        let facility = self.facilities.iter_mut().find(|facility| facility.name == object["f"]);
        facility.unwrap_or_else(|| panic!("{object}")).receive(object, &mut self.random);
        self.count_subscribed();
        Ok(())
    }

    /// Ends the connection by a close frame, or without.
    async fn break_off(&mut self, mut client: TestClient, control: &PageControl) -> io::Result<()> {
        control.broken.fetch_add(1, Ordering::Relaxed);
        if self.random.percent(50) {
            client.try_send_raw(&frame(0x80 | CLOSE, &1000_u16.to_be_bytes())).await?;
            client.expect_disconnect().await;
        }
        Ok(())
    }

    async fn read_stream(&mut self, control: &PageControl) -> io::Result<()> {
        let target = format!(
            "/ws/{}?v=2&{}&access_token={}",
            self.facilities[0].name,
            self.facilities[0].flags().join("&"),
            self.token
        );
        let request = Request::handshake(self.address, &target, "", 0).with("Accept", "text/event-stream");
        let request = ["Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version"]
            .iter()
            .fold(request, |r, name| r.without(name));
        let mut request = request.with("Connection", "keep-alive");
        if !self.last_event_id.is_empty() {
            request = request.with("Last-Event-ID", &self.last_event_id);
        }
        self.facilities[0].since = (!self.last_event_id.is_empty()).then(|| json!(self.last_event_id));
        let mut client = request.open().await;
        client.try_send_raw(&request.bytes()).await?;
        if client.read_until("\r\n\r\n").await?.get(9..12) != Some(&b"200"[..]) {
            return Ok(());
        }
        let ends_at = self.draw_break(control);
        while !self.facilities[0].has_ended() {
            let wakes_at = ends_at.unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
            let event = tokio::select! {
                event = client.read_until("\n\n") => event?,
                () = sleep_until(wakes_at) => {
                    if ends_at.is_some_and(|at| at <= Instant::now()) {
                        return Ok(());
                    }
                    continue;
                }
            };
            self.receive_event(&String::from_utf8(event).unwrap());
        }
        Ok(())
    }

    /// Applies the fields of an event, as the HTML standard says.
    fn receive_event(&mut self, event: &str) {
        let (mut kind, mut data) = ("", None);
        for line in event.lines() {
            match line.split_once(": ") {
                Some(("id", id)) => id.clone_into(&mut self.last_event_id),
                Some(("event", name)) => kind = name,
                Some(("data", text)) => data = Some(text),
                _ => {}
            }
        }
        let Some(data) = data.filter(|_| kind.is_empty()) else { return };
        let object: Value = serde_json::from_str(data).unwrap_or_else(|_| panic!("{event}"));
        let facility = &mut self.facilities[0];
        if object["t"] == "hello" {
            facility.note(Note::Opened);
        } else {
            facility.receive(&object, &mut self.random);
            self.count_subscribed();
        }
    }
}
