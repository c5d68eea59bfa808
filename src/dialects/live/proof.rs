//! What the stream of a channel proves: from where a client continues, and whether nothing is missing behind that.

use std::time::Duration;

use crate::redis::HistoryPage;
use crate::settings::HistoryLimits;
use crate::wire::EntryId;

/// By how much the clocks of a master and its successor may differ.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(2);

/// Returns the position behind all that a page knows of: a time, because the last entry may expire.
pub(super) fn position(page: &HistoryPage, limits: HistoryLimits) -> EntryId {
    let time = page.now_ms.map(|now| EntryId::at(now.saturating_sub(clock_difference_ms(limits))));
    page.last.max(time).unwrap_or_default()
}

/// Returns the position behind what was published before a moment that is some time ago.
pub(super) fn position_ago(page: &HistoryPage, ago: Duration, limits: HistoryLimits) -> Option<EntryId> {
    let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX).saturating_add(clock_difference_ms(limits));
    page.now_ms.map(|now| EntryId::at(now.saturating_sub(ago)))
}

/// Returns whether the stream has all messages behind a position. The page is the first one that was read behind it.
pub(super) fn reaches_back(page: &HistoryPage, since: EntryId, limits: HistoryLimits) -> bool {
    if since.is_time() && page.now_ms.is_some_and(|now| now < since.ms) {
        // Redis' clock was put back: what was published since may lie before the position.
        return false;
    }
    match page.first {
        // The client was told of a gap before this entry, and nothing behind it was removed.
        Some(first) if since == first.before() => true,
        // Only the oldest entries are removed. Without the client's own entry the end was lost, too, for example in a failover.
        Some(first) if first <= since => since.is_time() || page.has_entry,
        // The client's own entry was removed.
        _ if !since.is_time() => false,
        first => {
            let Some(now) = page.now_ms else { return false };
            // A message that came behind the position would have kept the stream alive until then.
            let lives_until = since.ms.saturating_add(lifetime_ms(limits));
            let is_unexpired = first.map_or(now, |first| first.ms) < lives_until;
            // A Redis that was started meanwhile may have forgotten messages. It tells the second of its start.
            let started = page.uptime_seconds.map(|uptime| (now / 1000).saturating_sub(uptime) * 1000);
            let is_same =
                started.is_some_and(|at| at <= since.ms.saturating_add(clock_difference_ms(limits)));
            is_untrimmed(page, limits) && is_unexpired && is_same
        }
    }
}

/// Returns whether the rules alone can have removed the client's entry. Otherwise Redis has lost messages.
pub(super) fn may_be_removed(page: &HistoryPage, since: EntryId, limits: HistoryLimits) -> bool {
    match page.first {
        _ if since.is_time() => true,
        Some(first) if first <= since => false,
        first => {
            // What was published behind it kept the stream alive.
            let Some(at) = first.map(|first| first.ms).or(page.now_ms) else { return false };
            let lived_until = since.ms.saturating_add(lifetime_ms(limits));
            !is_untrimmed(page, limits) || at.saturating_add(clock_difference_ms(limits)) >= lived_until
        }
    }
}

/// Returns whether no limit on the number of messages has removed one.
fn is_untrimmed(page: &HistoryPage, limits: HistoryLimits) -> bool {
    match page.added {
        Some(added) => added == page.length,
        // Before Redis 7.0 only the rule says what publishers keep.
        None => page.length < u64::from(limits.messages),
    }
}

fn lifetime_ms(limits: HistoryLimits) -> u64 {
    u64::from(limits.seconds) * 1000
}

/// Returns by how much a position is older than the time at which it was read.
fn clock_difference_ms(limits: HistoryLimits) -> u64 {
    let most = u64::try_from(MAX_CLOCK_DIFFERENCE.as_millis()).unwrap_or(u64::MAX);
    most.min(lifetime_ms(limits) / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HistoryLimits = HistoryLimits { messages: 100, seconds: 60 };

    fn id(ms: u64) -> EntryId {
        EntryId { ms, seq: 0 }
    }

    /// A stream at the time 1,000 s on a Redis that has been running for ten days.
    fn stream(first: u64, last: u64) -> HistoryPage {
        let (now_ms, uptime_seconds) = (Some(1_000_000), Some(864_000));
        let (first, last) = (Some(id(first)), Some(id(last)));
        HistoryPage {
            now_ms,
            uptime_seconds,
            length: 5,
            added: Some(5),
            first,
            last,
            ..HistoryPage::default()
        }
    }

    fn absent() -> HistoryPage {
        HistoryPage { length: 0, added: None, first: None, last: None, ..stream(1, 1) }
    }

    #[test]
    fn a_stream_with_an_older_entry_and_the_clients_own_one_has_all_that_follow() {
        let with_entry = HistoryPage { has_entry: true, ..stream(1000, 9000) };
        assert!(reaches_back(&with_entry, id(1000), LIMITS) && reaches_back(&with_entry, id(9000), LIMITS));
        assert!(!reaches_back(&stream(1000, 9000), id(5000), LIMITS), "the entry was lost, others followed");
        assert!(reaches_back(&stream(1000, 9000), EntryId::at(9500), LIMITS));
        assert!(!reaches_back(&stream(1000, 9000), EntryId::at(1_000_001), LIMITS), "a time in the future");
        assert!(!reaches_back(&absent(), EntryId::at(u64::MAX), LIMITS), "a time in the future");
        assert!(!reaches_back(&stream(1000, 9000), id(9001), LIMITS), "the end is another one");
        assert!(!reaches_back(&stream(1000, 9000), id(999), LIMITS), "the client's entry was removed");
        assert!(!reaches_back(&absent(), id(999_999), LIMITS));
        // A position directly before the first entry, which a client gets with the gap that this entry follows.
        assert!(reaches_back(&stream(1000, 9000), id(1000).before(), LIMITS));
        assert!(!reaches_back(&stream(1001, 9000), id(1000).before(), LIMITS), "the first one was removed");
    }

    #[test]
    fn a_start_of_redis_behind_a_position_is_noticed_from_the_next_second_on() {
        // Read at 950 s, so it is 2 s older.
        let since = EntryId::at(948_000);
        for (uptime, is_same) in [(60, true), (50, true), (49, false), (48, false)] {
            let page = HistoryPage { uptime_seconds: Some(uptime), ..absent() };
            assert_eq!(reaches_back(&page, since, LIMITS), is_same, "{uptime}");
        }
    }

    #[test]
    fn from_a_time_on_nothing_is_missing_if_nothing_can_have_been_removed() {
        let since = EntryId::at(950_000);
        let recent = stream(960_000, 990_000);
        assert!(reaches_back(&absent(), since, LIMITS) && reaches_back(&recent, since, LIMITS));
        for (wrong, why) in [
            (HistoryPage { now_ms: Some(1_010_000), ..absent() }, "expired"),
            (stream(1_010_000, 1_020_000), "expired before the first one"),
            (HistoryPage { added: Some(6), ..recent.clone() }, "trimmed"),
            (HistoryPage { length: 100, added: None, ..recent.clone() }, "perhaps trimmed"),
            (HistoryPage { uptime_seconds: Some(40), ..absent() }, "Redis was started"),
            (HistoryPage { uptime_seconds: Some(40), ..recent.clone() }, "Redis was started"),
            (HistoryPage { now_ms: None, ..absent() }, "the time is not known"),
        ] {
            assert!(!reaches_back(&wrong, since, LIMITS), "{why}: {wrong:?}");
        }
        assert!(!reaches_back(&HistoryPage { uptime_seconds: None, ..absent() }, since, LIMITS), "not known");
        assert!(reaches_back(&HistoryPage { added: None, ..recent }, since, LIMITS), "before Redis 7.0");
    }

    #[test]
    fn an_entry_that_no_rule_can_have_removed_was_lost() {
        let trimmed = HistoryPage { added: Some(9), ..stream(990_000, 999_000) };
        assert!(may_be_removed(&trimmed, id(980_000), LIMITS));
        assert!(may_be_removed(&stream(990_000, 999_000), id(920_000), LIMITS), "the stream had expired");
        assert!(
            may_be_removed(&absent(), id(930_000), LIMITS)
                && may_be_removed(&absent(), EntryId::at(1), LIMITS)
        );
        assert!(!may_be_removed(&absent(), id(980_000), LIMITS), "younger than its lifetime");
        assert!(!may_be_removed(&stream(990_000, 999_000), id(980_000), LIMITS));
        assert!(!may_be_removed(&stream(900_000, 999_000), id(950_000), LIMITS), "an older one is left");
    }

    #[test]
    fn a_position_is_a_time_unless_a_later_entry_is_there() {
        assert_eq!(position(&absent(), LIMITS), EntryId::at(998_000));
        assert_eq!(position(&stream(1, 5000), LIMITS), EntryId::at(998_000));
        assert_eq!(position(&stream(1, 999_000), LIMITS), id(999_000));
        let short = HistoryLimits { seconds: 1, ..LIMITS };
        assert_eq!(position(&absent(), short), EntryId::at(999_750));
        assert_eq!(position(&HistoryPage::default(), LIMITS), EntryId::default());
        assert_eq!(position_ago(&absent(), Duration::from_secs(3), LIMITS), Some(EntryId::at(995_000)));
    }
}
