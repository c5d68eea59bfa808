//! The auth callback: the site identifies a visitor over HTTP.
//!
//! Calls are bounded in number, each has a deadline, and concurrent calls for the same request are coalesced.

mod answer;
mod cache;
mod request;
mod transport;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use self::answer::Answer;
use self::cache::AnswerCache;
pub use self::request::CallbackRequest;
use self::request::Digest;
use self::transport::{CallbackClient, FORWARDED_FOR};
pub use self::transport::{CallbackError, CallbackTransport};
use super::{AuthSource, IdentifyError, Visitor};
use crate::access::Credentials;
use crate::access::session::KeyPattern;
use crate::metrics::{Counters, cells};
use crate::settings;
use crate::telemetry::LogThrottle;
use crate::wire::Handshake;

/// The result of a call, shared by all its waiters.
type AnswerResult = Result<Rc<Answer>, IdentifyError>;

/// Calls the site's auth callback.
#[derive(Debug)]
pub struct Callback {
    client: CallbackClient,
    permits: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    max_calls: usize,
    timeout: Duration,
    recheck: Duration,
    /// Whether the call carries the address of the visitor in X-Forwarded-For.
    sends_address: bool,
    answers: RefCell<AnswerCache>,
    in_flight: RefCell<HashMap<Digest, Weak<OnceCell<AnswerResult>>, RandomState>>,
    /// Increases with each eviction of all answers: answers of an older epoch are not cached.
    epoch: Cell<u64>,
    counters: Arc<Counters>,
    failures: LogThrottle,
    warned_refusal: Cell<bool>,
    warned_nameless: Cell<bool>,
}

/// One waiter of a call.
struct Waiter<'a> {
    callback: &'a Callback,
    request: Digest,
    outcome: Rc<OnceCell<AnswerResult>>,
}

impl Callback {
    /// Creates a callback client; session keys in its answers must match `pattern`.
    pub fn new(
        settings: &settings::CallbackSettings,
        transport: &CallbackTransport,
        pattern: KeyPattern,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            client: CallbackClient::new(settings, transport, pattern),
            permits: transport.permits.clone(),
            reserved: transport.reserved.clone(),
            max_calls: settings.max_calls,
            timeout: settings.timeout,
            recheck: Duration::from_secs(settings.recheck_seconds.into()),
            sends_address: !settings.forward.iter().any(|name| name == FORWARDED_FOR.as_str()),
            answers: RefCell::new(AnswerCache::new(settings.cache)),
            in_flight: RefCell::default(),
            epoch: Cell::new(0),
            counters,
            failures: LogThrottle::default(),
            warned_refusal: Cell::new(false),
            warned_nameless: Cell::new(false),
        }
    }

    /// Identifies the visitor of a handshake, from the cache if it has the answer.
    ///
    /// # Errors
    ///
    /// When the site refuses the visitor or gives no usable answer.
    pub async fn identify(
        &self,
        credentials: &Credentials,
        handshake: &Handshake,
    ) -> Result<Visitor, IdentifyError> {
        let request = CallbackRequest::new(credentials, handshake, self.sends_address);
        let cached = self.answers.borrow().get(&request.id());
        match cached {
            Some(answer) => Ok(answer.visitor(AuthSource::Callback(Rc::new(request)))),
            None => self.call_shared(&Rc::new(request), &self.permits).await,
        }
    }

    /// Revalidates the visitor of an open connection, bypassing the cache.
    ///
    /// # Errors
    ///
    /// When the site refuses the visitor or gives no usable answer.
    pub async fn revalidate(&self, request: &Rc<CallbackRequest>) -> Result<Visitor, IdentifyError> {
        self.call_shared(request, &self.reserved).await
    }

    async fn call_shared(
        &self,
        request: &Rc<CallbackRequest>,
        permits: &Semaphore,
    ) -> Result<Visitor, IdentifyError> {
        let deadline = Instant::now() + self.timeout;
        let waiter = self.join_call(request.id());
        // If the calling waiter is cancelled, the next one calls within its own deadline.
        let outcome = waiter.outcome.get_or_init(|| self.call(request, permits, deadline));
        let outcome = timeout_at(deadline, outcome).await.unwrap_or(&Err(IdentifyError::NoAnswer));
        outcome.clone().map(|answer| answer.visitor(AuthSource::Callback(request.clone())))
    }

    /// Returns the time after which the visitor of an open connection is revalidated at the latest.
    pub fn recheck(&self) -> Duration {
        self.recheck
    }

    /// Evicts all answers. Calls in flight complete for their current waiters only.
    pub fn evict_answers(&self) {
        self.epoch.set(self.epoch.get() + 1);
        self.answers.borrow_mut().clear();
        self.in_flight.borrow_mut().clear();
    }

    fn join_call(&self, request: Digest) -> Waiter<'_> {
        let mut in_flight = self.in_flight.borrow_mut();
        let outcome = in_flight.get(&request).and_then(Weak::upgrade).unwrap_or_else(|| {
            let outcome = Rc::default();
            in_flight.insert(request, Rc::downgrade(&outcome));
            outcome
        });
        Waiter { callback: self, request, outcome }
    }

    async fn call(&self, request: &CallbackRequest, permits: &Semaphore, deadline: Instant) -> AnswerResult {
        let epoch = self.epoch.get();
        let called = async {
            // A permit that comes later leaves too little time for the call.
            let latest = deadline - self.timeout * 2 / 3;
            let permit = timeout_at(latest, permits.acquire()).await;
            let _permit = permit.map_err(|_| CallbackError::Busy(self.max_calls))?;
            let answer = timeout_at(deadline, self.client.call(request)).await;
            answer.unwrap_or(Err(CallbackError::TimedOut(self.timeout)))
        };
        let begun = Instant::now();
        let called = called.await;
        cells(|cells| cells.callback_times.observe_time(begun.elapsed()));
        match called {
            Ok(answer) => {
                let answer = Rc::new(answer);
                if answer.lacks_name() && !self.warned_nameless.replace(true) {
                    info!(
                        "the callback returns a user with an empty name, so there is no user channel; give the user a name"
                    );
                }
                if epoch == self.epoch.get() {
                    self.answers.borrow_mut().put(request.id(), &answer);
                }
                Ok(answer)
            }
            Err(failure) => Err(self.report(&failure)),
        }
    }

    fn report(&self, failure: &CallbackError) -> IdentifyError {
        if matches!(failure, CallbackError::Refused(_)) {
            if !self.warned_refusal.replace(true) {
                info!("the callback refuses a visitor: {failure}; {}", failure.hint());
            }
            return IdentifyError::Refused;
        }
        Counters::count(&self.counters.failed_callbacks);
        if let Some(suppressed) = self.failures.allow() {
            warn!(suppressed, "the callback identifies no visitors: {failure}; {}", failure.hint());
        }
        IdentifyError::NoAnswer
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if !self.outcome.initialized() && Rc::strong_count(&self.outcome) > 1 {
            return;
        }
        let mut in_flight = self.callback.in_flight.borrow_mut();
        if in_flight.get(&self.request).is_some_and(|own| own.as_ptr() == Rc::as_ptr(&self.outcome)) {
            in_flight.remove(&self.request);
        }
    }
}

/// Calls the callback once for a request without credentials, and describes the answer.
///
/// # Errors
///
/// With the problem and its cure.
pub async fn probe(settings: &settings::CallbackSettings, pattern: KeyPattern) -> Result<String, String> {
    let transport = CallbackTransport::new(settings).map_err(|error| error.to_string())?;
    let client = CallbackClient::new(settings, &transport, pattern);
    let call =
        timeout_at(Instant::now() + settings.timeout, client.call(&CallbackRequest::anonymous())).await;
    match call.unwrap_or(Err(CallbackError::TimedOut(settings.timeout))) {
        Ok(answer) if answer.names_user() => {
            Ok("answered 200, with a user for a request without credentials; check the rules of the view"
                .to_owned())
        }
        Ok(_) => Ok("answered 200".to_owned()),
        Err(failure) => Err(format!("{failure}; {}", failure.hint())),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::watch;

    use super::*;

    /// A site that answers the n-th request with user `n`, once `n` is among the allowed numbers.
    struct Site {
        callback: Callback,
        answered: watch::Sender<Vec<usize>>,
        calls: watch::Receiver<usize>,
    }

    async fn site(allowed: &[usize]) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let settings = settings::CallbackSettings {
            url: url.parse().unwrap(),
            secret: String::new(),
            forward: Vec::new(),
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
            max_calls: 10,
            cache: Duration::from_mins(10),
            recheck_seconds: 300,
        };
        let (answered, allowed) = watch::channel(allowed.to_vec());
        let (count, calls) = watch::channel(0);
        tokio::spawn(async move {
            for number in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, number, count.clone(), allowed.clone()));
            }
        });
        let transport = CallbackTransport::new(&settings).unwrap();
        let callback = Callback::new(&settings, &transport, KeyPattern::default(), Arc::default());
        Site { callback, answered, calls }
    }

    async fn answer(
        mut stream: TcpStream,
        number: usize,
        count: watch::Sender<usize>,
        mut allowed: watch::Receiver<Vec<usize>>,
    ) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
        count.send_modify(|calls| *calls += 1);
        allowed.wait_for(|allowed| allowed.contains(&number)).await.unwrap();
        let body = format!(r#"{{"user": "{number}", "expires_in": 60}}"#);
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    }

    impl Site {
        async fn identify(&self) -> Visitor {
            let handshake = Handshake::parse("/ws/x", Some("subscribe-user"), "/ws/").unwrap();
            self.callback.identify(&Credentials::default(), &handshake).await.unwrap()
        }
    }

    fn user(visitor: &Visitor) -> &str {
        visitor.identity.user.as_deref().unwrap()
    }

    #[tokio::test]
    async fn revalidation_bypasses_the_cache_and_refreshes_it() {
        let site = site(&[1, 2, 3]).await;
        let first = site.identify().await;
        assert_eq!((user(&first), user(&site.identify().await)), ("1", "1"));
        assert!(first.lives_ms.is_some_and(|ms| (50_000..=60_000).contains(&ms)), "{first:?}");
        let AuthSource::Callback(request) = &first.auth_source else { panic!("{first:?}") };
        let again = site.callback.revalidate(request).await.unwrap();
        assert_eq!((user(&again), &again.auth_source), ("2", &first.auth_source));
        assert_eq!(user(&site.identify().await), "2");
    }

    #[tokio::test]
    async fn an_answer_to_a_call_from_before_an_eviction_is_not_cached() {
        let site = site(&[2]).await;
        let mut calls = site.calls.clone();
        let mut early = pin!(site.identify());
        tokio::select! {
            visitor = &mut early => panic!("{visitor:?}"),
            called = calls.wait_for(|calls| *calls == 1) => assert!(called.is_ok()),
        }
        site.callback.evict_answers();
        assert_eq!(user(&site.identify().await), "2");
        site.answered.send_replace(vec![1]);
        assert_eq!(user(&early.await), "1");
        assert_eq!(user(&site.identify().await), "2");
        site.callback.evict_answers();
        site.answered.send_replace(vec![3]);
        assert_eq!(user(&site.identify().await), "3");
        assert!(site.callback.in_flight.borrow().is_empty());
    }
}
