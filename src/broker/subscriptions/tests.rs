//! Subscriptions without Redis: the tests answer in its place.

use smallvec::smallvec;

use super::retries::{FIRST_PAUSE, LAST_RETRY};
use super::*;

const LINGER: Duration = Duration::from_secs(2);
const REFUSED: &str = "NOPERM this user has no permissions to access one of the channels";

fn channel(name: &str) -> Channel {
    Channel::from_redis(name)
}

fn generation(number: u32) -> Generation {
    Generation::new(number).unwrap()
}

/// Has shard 0 want a channel.
fn want(subscriptions: &mut Subscriptions, name: &str, number: u32) -> bool {
    subscriptions.subscribe(&channel(name), Source::Relay, 0, generation(number))
}

/// Sends the next change, and confirms it.
fn confirm_next(subscriptions: &mut Subscriptions, now: Instant) -> Vec<Confirmed> {
    let change = subscriptions.next_change(now);
    subscriptions.confirm(change.subscribe, now)
}

fn confirmed(name: &str, shard: usize, number: u32, was_refused: bool) -> Confirmed {
    let generations = smallvec![(shard, generation(number))];
    Confirmed { channel: channel(name), source: Source::Relay, generations, was_refused }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_can_be_left_before_redis_has_confirmed_it() {
    let (mut subscriptions, now) = (Subscriptions::new(LINGER), Instant::now());
    assert!(!want(&mut subscriptions, "a", 1));
    let change = subscriptions.next_change(now);
    assert_eq!(change.subscribe, [channel("a")]);
    subscriptions.unsubscribe(&channel("a"), 0, now);
    assert!(!subscriptions.subscribe(&channel("a"), Source::Relay, 1, generation(7)), "not confirmed yet");
    assert_eq!(subscriptions.confirm(change.subscribe, now), [confirmed("a", 1, 7, false)]);
    assert!(subscriptions.next_change(now + LINGER * 2).unsubscribe.is_empty(), "a shard wants it");
}

#[tokio::test(start_paused = true)]
async fn an_idle_channel_lingers_and_a_new_listener_keeps_it() {
    let (mut subscriptions, now) = (Subscriptions::new(LINGER), Instant::now());
    want(&mut subscriptions, "a", 1);
    confirm_next(&mut subscriptions, now);
    subscriptions.unsubscribe(&channel("a"), 0, now);
    assert!(subscriptions.next_change(now + LINGER / 2).unsubscribe.is_empty());
    assert!(want(&mut subscriptions, "a", 2), "still confirmed");
    subscriptions.unsubscribe(&channel("a"), 0, now + LINGER / 2);
    assert!(subscriptions.next_change(now + LINGER).unsubscribe.is_empty(), "the second idle period counts");
    assert_eq!(subscriptions.next_change(now + LINGER * 2).unsubscribe, [channel("a")]);
    assert!(!want(&mut subscriptions, "a", 3), "no longer confirmed");
}

#[tokio::test(start_paused = true)]
async fn after_a_loss_wanted_channels_are_subscribed_again() {
    let (mut subscriptions, now) = (Subscriptions::new(LINGER), Instant::now());
    want(&mut subscriptions, "a", 1);
    want(&mut subscriptions, "b", 2);
    confirm_next(&mut subscriptions, now);
    subscriptions.unsubscribe(&channel("b"), 0, now);
    subscriptions.reset();
    assert!(subscriptions.confirmed(Source::Relay).is_empty());
    assert_eq!(confirm_next(&mut subscriptions, now), [confirmed("a", 0, 1, false)]);
    assert_eq!(subscriptions.confirmed(Source::Relay), [(channel("a"), vec![0])]);
}

#[tokio::test(start_paused = true)]
async fn the_control_channel_stays_without_listeners_and_a_refused_key_until_it_is_unpinned() {
    let (mut subscriptions, now) = (Subscriptions::new(LINGER), Instant::now());
    let (control, key) = (channel("ws4redis:control"), channel("__keyspace@0__:k"));
    subscriptions.pin(&control, Source::Control);
    subscriptions.subscribe(&key, Source::Keyspace, 0, generation(1));
    let change = subscriptions.next_change(now);
    assert_eq!(subscriptions.refuse(change.subscribe, "NOPERM to run the", now).len(), 2);
    subscriptions.pin(&key, Source::Keyspace);
    subscriptions.unsubscribe(&key, 0, now);
    let now = now + LAST_RETRY;
    let confirmed = confirm_next(&mut subscriptions, now);
    assert_eq!(confirmed.len(), 2);
    assert!(confirmed.iter().all(|confirmed| confirmed.was_refused && confirmed.generations.is_empty()));
    subscriptions.unpin(&key, now);
    assert!(subscriptions.next_change(now + LINGER).unsubscribe.contains(&key));
    subscriptions.pin(&key, Source::Keyspace);
    subscriptions.reset();
    assert_eq!(subscriptions.next_change(now).subscribe, [control], "a loss ends what was refused");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_narrowed_down_to_the_channels_concerned() {
    let (mut subscriptions, now) = (Subscriptions::new(LINGER), Instant::now());
    for name in ["a", "b", "bad", "c"] {
        want(&mut subscriptions, name, 1);
    }
    let (mut refused, mut confirmed) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let change = subscriptions.next_change(now);
        if change.subscribe.contains(&channel("bad")) {
            refused.extend(subscriptions.refuse(change.subscribe, REFUSED, now));
        } else {
            confirmed.extend(subscriptions.confirm(change.subscribe, now));
        }
    }
    let generations = smallvec![(0, generation(1))];
    let bad = Refused { channel: channel("bad"), source: Source::Relay, generations, is_new: true };
    assert_eq!(refused, [bad]);
    assert_eq!(confirmed.len(), 3);
    assert!(!subscriptions.has_queued() && !subscriptions.is_behind());
}

#[tokio::test(start_paused = true)]
async fn a_refused_channel_is_tried_again_with_back_off_as_long_as_it_is_wanted() {
    let (mut subscriptions, begun) = (Subscriptions::new(LINGER), Instant::now());
    want(&mut subscriptions, "bad", 1);
    let (mut now, mut pauses) = (begun, Vec::new());
    for _ in 0..7 {
        let change = subscriptions.next_change(now);
        assert_eq!(change.subscribe, [channel("bad")]);
        subscriptions.refuse(change.subscribe, REFUSED, now);
        let due = subscriptions.next_due().unwrap();
        assert!(subscriptions.next_change(now).subscribe.is_empty(), "too early");
        pauses.push((due - now).as_secs());
        now = due;
    }
    assert_eq!(pauses, [1, 1, 2, 4, 8, 16, 30]);
    assert_eq!(confirm_next(&mut subscriptions, now), [confirmed("bad", 0, 1, true)]);
    want(&mut subscriptions, "worse", 2);
    let change = subscriptions.next_change(now);
    subscriptions.refuse(change.subscribe, REFUSED, now);
    subscriptions.unsubscribe(&channel("worse"), 0, now);
    assert!(subscriptions.next_change(now + LAST_RETRY).subscribe.is_empty(), "no longer wanted");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_command_itself_refuses_all_channels_at_once() {
    let (mut subscriptions, now) = (Subscriptions::new(LINGER), Instant::now());
    for number in 0..2000 {
        want(&mut subscriptions, &number.to_string(), 1);
    }
    let change = subscriptions.next_change(now);
    let reason = "NOPERM User default has no permissions to run the 'subscribe' command";
    assert_eq!(subscriptions.refuse(change.subscribe, reason, now).len(), 2000);
    assert!(!subscriptions.is_behind());
    // They are retried in parts: once the first part is allowed, the others follow at once.
    let mut now = subscriptions.next_due().unwrap();
    let mut again = Vec::new();
    for _ in 0..4 {
        again.extend(confirm_next(&mut subscriptions, now));
        now = subscriptions.next_due().unwrap_or(now);
    }
    assert_eq!(again.len(), 2000);
    assert!(again.iter().all(|confirmed| confirmed.was_refused));
}

#[tokio::test(start_paused = true)]
async fn a_temporary_error_postpones_channels_and_refuses_none() {
    let (mut subscriptions, now) = (Subscriptions::new(LINGER), Instant::now());
    want(&mut subscriptions, "a", 1);
    let change = subscriptions.next_change(now);
    subscriptions.postpone(change.subscribe, now);
    assert!(subscriptions.is_behind() && !subscriptions.has_queued());
    assert!(subscriptions.next_change(now).subscribe.is_empty());
    let due = subscriptions.next_due().unwrap();
    assert_eq!(due, now + FIRST_PAUSE);
    assert_eq!(confirm_next(&mut subscriptions, due), [confirmed("a", 0, 1, false)]);
}

#[tokio::test(start_paused = true)]
async fn patterns_are_subscribed_by_a_command_of_their_own() {
    let (mut subscriptions, now) = (Subscriptions::new(LINGER), Instant::now());
    subscriptions.pin(&channel("control"), Source::Control);
    subscriptions.pin(&channel("a#*"), Source::Emitter);
    want(&mut subscriptions, "b", 1);
    let change = subscriptions.next_change(now);
    assert_eq!((change.subscribe.len(), change.by_pattern), (2, false));
    subscriptions.confirm(change.subscribe, now);
    assert!(subscriptions.is_behind());
    let change = subscriptions.next_change(now);
    assert_eq!((&change.subscribe[..], change.by_pattern), (&[channel("a#*")][..], true));
    subscriptions.refuse(change.subscribe, REFUSED, now);
    assert!(!subscriptions.is_behind());
    let change = subscriptions.next_change(subscriptions.next_due().unwrap());
    assert!(change.by_pattern, "the retry");
    subscriptions.confirm(change.subscribe, now);
    subscriptions.reset();
    assert!(!subscriptions.next_change(now).by_pattern);
    assert!(subscriptions.next_change(now).by_pattern);
}
