//! Asking the site by HTTP who a visitor is: with bounds, with a deadline, and each question once at a time.

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
use self::cache::Answers;
pub use self::request::CallbackRequest;
use self::request::Digest;
pub use self::transport::{CallbackError, CallbackTransport};
use self::transport::{Caller, FORWARDED_FOR};
use super::{AuthSource, IdentifyError, Visitor};
use crate::access::Credentials;
use crate::access::session::KeyPattern;
use crate::metrics::Counters;
use crate::settings;
use crate::telemetry::LogThrottle;
use crate::wire::Handshake;

/// What comes of a call, for all who wait for it.
type Outcome = Result<Rc<Answer>, IdentifyError>;

/// Asks the site.
#[derive(Debug)]
pub struct Callback {
    caller: Caller,
    places: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    max_calls: usize,
    timeout: Duration,
    recheck: Duration,
    /// Whether the site is told the address at the other end of the socket.
    tells_address: bool,
    answers: RefCell<Answers>,
    under_way: RefCell<HashMap<Digest, Weak<OnceCell<Outcome>>, RandomState>>,
    /// Counts how often everything was forgotten.
    epoch: Cell<u64>,
    counters: Arc<Counters>,
    failures: LogThrottle,
    noted_refusal: Cell<bool>,
    noted_nameless: Cell<bool>,
}

/// One of those who wait for the same call.
struct Share<'a> {
    callback: &'a Callback,
    question: Digest,
    outcome: Rc<OnceCell<Outcome>>,
}

impl Callback {
    /// Takes the settings, the transport to the site, and the pattern of session keys.
    pub fn new(
        settings: &settings::Callback,
        transport: &CallbackTransport,
        pattern: KeyPattern,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            caller: Caller::new(settings, transport, pattern),
            places: transport.places.clone(),
            reserved: transport.reserved.clone(),
            max_calls: settings.max_calls,
            timeout: settings.timeout,
            recheck: Duration::from_secs(settings.recheck_seconds.into()),
            tells_address: !settings.forward.iter().any(|name| name == FORWARDED_FOR.as_str()),
            answers: RefCell::new(Answers::new(settings.cache)),
            under_way: RefCell::default(),
            epoch: Cell::new(0),
            counters,
            failures: LogThrottle::default(),
            noted_refusal: Cell::new(false),
            noted_nameless: Cell::new(false),
        }
    }

    /// Finds out who comes with these credentials, and this wish.
    ///
    /// # Errors
    ///
    /// When the site refuses the visitor, or does not say who it is.
    pub async fn identify(
        &self,
        credentials: &Credentials,
        handshake: &Handshake,
    ) -> Result<Visitor, IdentifyError> {
        let question = CallbackRequest::new(credentials, handshake, self.tells_address);
        let kept = self.answers.borrow().get(&question.id());
        match kept {
            Some(answer) => Ok(answer.visitor(AuthSource::Callback(Rc::new(question)))),
            None => self.ask_for(&Rc::new(question), &self.places).await,
        }
    }

    /// Asks about an open socket, whatever has been answered before.
    ///
    /// # Errors
    ///
    /// When the site refuses the visitor, or does not say who it is.
    pub async fn ask(&self, question: &Rc<CallbackRequest>) -> Result<Visitor, IdentifyError> {
        self.ask_for(question, &self.reserved).await
    }

    async fn ask_for(
        &self,
        question: &Rc<CallbackRequest>,
        places: &Semaphore,
    ) -> Result<Visitor, IdentifyError> {
        let deadline = Instant::now() + self.timeout;
        let share = self.share(question.id());
        // If the one who calls goes away, the next of them calls again, within its own time.
        let outcome = share.outcome.get_or_init(|| self.call(question, places, deadline));
        let outcome = timeout_at(deadline, outcome).await.unwrap_or(&Err(IdentifyError::NoAnswer));
        outcome.clone().map(|answer| answer.visitor(AuthSource::Callback(question.clone())))
    }

    /// Returns the time after which it is asked again for an open socket, at the latest.
    pub fn recheck(&self) -> Duration {
        self.recheck
    }

    /// Forgets all answers, also those that are still to come, but for those who wait for them.
    pub fn forget(&self) {
        self.epoch.set(self.epoch.get() + 1);
        self.answers.borrow_mut().clear();
        self.under_way.borrow_mut().clear();
    }

    fn share(&self, question: Digest) -> Share<'_> {
        let mut under_way = self.under_way.borrow_mut();
        let outcome = under_way.get(&question).and_then(Weak::upgrade).unwrap_or_else(|| {
            let outcome = Rc::default();
            under_way.insert(question, Rc::downgrade(&outcome));
            outcome
        });
        Share { callback: self, question, outcome }
    }

    async fn call(&self, question: &CallbackRequest, places: &Semaphore, deadline: Instant) -> Outcome {
        let epoch = self.epoch.get();
        let called = async {
            // Who gets a place late would have no time left for the call, and it would be for nothing.
            let turn = deadline - self.timeout * 2 / 3;
            let place = timeout_at(turn, places.acquire()).await;
            let _place = place.map_err(|_| CallbackError::Crowded(self.max_calls))?;
            let answer = timeout_at(deadline, self.caller.call(question)).await;
            answer.unwrap_or(Err(CallbackError::Late(self.timeout)))
        };
        match called.await {
            Ok(answer) => {
                let answer = Rc::new(answer);
                if answer.lacks_name() && !self.noted_nameless.replace(true) {
                    info!(
                        "the callback names a user by an empty name, so there is no user channel; give the user a name"
                    );
                }
                if epoch == self.epoch.get() {
                    self.answers.borrow_mut().put(question.id(), &answer);
                }
                Ok(answer)
            }
            Err(failure) => Err(self.note(&failure)),
        }
    }

    fn note(&self, failure: &CallbackError) -> IdentifyError {
        if matches!(failure, CallbackError::Refused(_)) {
            if !self.noted_refusal.replace(true) {
                info!("the callback refuses a visitor: {failure}; {}", failure.hint());
            }
            return IdentifyError::Refused;
        }
        Counters::count(&self.counters.failed_callbacks);
        if let Some(suppressed) = self.failures.allow() {
            warn!(suppressed, "the callback does not say who visitors are: {failure}; {}", failure.hint());
        }
        IdentifyError::NoAnswer
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        if !self.outcome.initialized() && Rc::strong_count(&self.outcome) > 1 {
            return;
        }
        let mut under_way = self.callback.under_way.borrow_mut();
        if under_way.get(&self.question).is_some_and(|own| own.as_ptr() == Rc::as_ptr(&self.outcome)) {
            under_way.remove(&self.question);
        }
    }
}

/// Calls once as for a visitor who shows nothing, and says in plain words what came of it.
///
/// # Errors
///
/// With what is wrong, and what to do about it.
pub async fn probe(settings: &settings::Callback, pattern: KeyPattern) -> Result<String, String> {
    let transport = CallbackTransport::new(settings).map_err(|error| error.to_string())?;
    let caller = Caller::new(settings, &transport, pattern);
    let call =
        timeout_at(Instant::now() + settings.timeout, caller.call(&CallbackRequest::of_nobody())).await;
    match call.unwrap_or(Err(CallbackError::Late(settings.timeout))) {
        Ok(answer) if answer.names_somebody() => {
            Ok("answered 200, with a user for a request that shows nothing: is that meant?".to_owned())
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

    /// A site that answers each question with its number as the user, once that is among those it may answer.
    struct Site {
        callback: Callback,
        answered: watch::Sender<Vec<usize>>,
        asked: watch::Receiver<usize>,
    }

    async fn site(may: &[usize]) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let settings = settings::Callback {
            url: url.parse().unwrap(),
            secret: String::new(),
            forward: Vec::new(),
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
            max_calls: 10,
            cache: Duration::from_mins(10),
            recheck_seconds: 300,
        };
        let (answered, may) = watch::channel(may.to_vec());
        let (count, asked) = watch::channel(0);
        tokio::spawn(async move {
            for number in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, number, count.clone(), may.clone()));
            }
        });
        let transport = CallbackTransport::new(&settings).unwrap();
        let callback = Callback::new(&settings, &transport, KeyPattern::default(), Arc::default());
        Site { callback, answered, asked }
    }

    async fn answer(
        mut stream: TcpStream,
        number: usize,
        count: watch::Sender<usize>,
        mut may: watch::Receiver<Vec<usize>>,
    ) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
        count.send_modify(|asked| *asked += 1);
        may.wait_for(|may| may.contains(&number)).await.unwrap();
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
    async fn asking_again_passes_over_what_is_kept_and_renews_it() {
        let site = site(&[1, 2, 3]).await;
        let first = site.identify().await;
        assert_eq!((user(&first), user(&site.identify().await)), ("1", "1"));
        assert!(first.lives_ms.is_some_and(|ms| (50_000..=60_000).contains(&ms)), "{first:?}");
        let AuthSource::Callback(question) = &first.auth_source else { panic!("{first:?}") };
        let again = site.callback.ask(question).await.unwrap();
        assert_eq!((user(&again), &again.auth_source), ("2", &first.auth_source));
        assert_eq!(user(&site.identify().await), "2");
    }

    #[tokio::test]
    async fn what_was_asked_before_all_was_forgotten_serves_nobody_else() {
        let site = site(&[2]).await;
        let mut asked = site.asked.clone();
        let mut early = pin!(site.identify());
        tokio::select! {
            visitor = &mut early => panic!("{visitor:?}"),
            asked = asked.wait_for(|asked| *asked == 1) => assert!(asked.is_ok()),
        }
        site.callback.forget();
        assert_eq!(user(&site.identify().await), "2");
        site.answered.send_replace(vec![1]);
        assert_eq!(user(&early.await), "1");
        assert_eq!(user(&site.identify().await), "2");
        site.callback.forget();
        site.answered.send_replace(vec![3]);
        assert_eq!(user(&site.identify().await), "3");
        assert!(site.callback.under_way.borrow().is_empty());
    }
}
