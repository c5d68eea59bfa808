//! Changes of entries, and what is written of them.

use tokio::time::advance;

use super::*;

const SECONDS: u32 = 60;

fn john() -> EntryKey {
    EntryKey::Online("john".into())
}

fn ids() -> [Arc<str>; 2] {
    ["a", "b"].map(Into::into)
}

/// Takes the changes, and returns the only one with its added and removed ids.
fn change(table: &mut PresenceTable) -> (EntryWrite, Vec<Arc<str>>, Vec<Arc<str>>) {
    let mut writes = table.take_changed(10);
    assert_eq!(writes.len(), 1, "{writes:?}");
    let write = writes.remove(0);
    let Action::Keep { added, removed, .. } = &write.action else { panic!("{write:?}") };
    let (added, removed) = (added.clone(), removed.clone());
    (write, added, removed)
}

#[tokio::test(start_paused = true)]
async fn connections_that_come_and_go_do_not_postpone_the_refresh_of_the_others() {
    let (mut table, [first, second]) = (PresenceTable::default(), ids());
    table.enter(john(), SECONDS, &first);
    let (write, added, removed) = change(&mut table);
    assert_eq!((added, removed), (vec![first], vec![]));
    table.on_written(&write, Instant::now());
    let slack = Some(Duration::from_secs(10));
    for _ in 0..3 {
        assert!(table.refresh(0, 10, slack).0.is_empty(), "it was written less than 10 seconds ago");
        advance(Duration::from_secs(4)).await;
        table.enter(john(), SECONDS, &second);
        let (write, added, _) = change(&mut table);
        assert_eq!(added, std::slice::from_ref(&second));
        table.on_written(&write, Instant::now());
        table.leave(&john(), &second);
        let (write, added, removed) = change(&mut table);
        assert_eq!((added, removed), (vec![], vec![second.clone()]));
        table.on_written(&write, Instant::now());
    }
    let (writes, next) = table.refresh(0, 10, slack);
    assert_eq!((writes.len(), next), (1, None));
    table.on_written(&writes[0], Instant::now());
    assert!(table.refresh(0, 10, slack).0.is_empty());
    assert_eq!(table.refresh(0, 10, None).0.len(), 1, "after a loss of Redis all are written");
}

#[tokio::test(start_paused = true)]
async fn a_lost_write_is_repeated_without_what_has_ended_meanwhile() {
    let (mut table, [first, second]) = (PresenceTable::default(), ids());
    table.enter(john(), SECONDS, &first);
    table.enter(john(), SECONDS, &second);
    let (write, mut added, _) = change(&mut table);
    added.sort();
    assert_eq!(added, [first.clone(), second.clone()]);
    table.leave(&john(), &first);
    table.on_lost(write);
    let (write, added, removed) = change(&mut table);
    // Whether the first write has reached Redis is not known.
    assert_eq!((added, removed), (vec![second.clone()], vec![first]));
    assert!(matches!(write.action, Action::Keep { is_news: true, .. }));
    table.on_written(&write, Instant::now());
    table.leave(&john(), &second);
    assert!(table.take_left(10, Instant::now()).is_empty());
    advance(GRACE).await;
    let left = table.take_left(10, Instant::now()).remove(0);
    table.on_lost(left);
    advance(RETRY).await;
    let left = table.take_left(10, Instant::now()).remove(0);
    assert!(matches!(&left.action, Action::Leave { ids, is_valid: true } if *ids == [second]));
    table.on_written(&left, Instant::now());
    assert!(table.entries.is_empty() && table.slots.is_empty() && table.leaving.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_user_who_comes_back_while_the_entry_is_removed_is_new() {
    let (mut table, [first, second]) = (PresenceTable::default(), ids());
    table.enter(john(), SECONDS, &first);
    let (write, ..) = change(&mut table);
    table.on_written(&write, Instant::now());
    table.leave(&john(), &first);
    advance(GRACE).await;
    let left = table.take_left(10, Instant::now()).remove(0);
    table.enter(john(), SECONDS, &second);
    table.on_written(&left, Instant::now());
    let (write, added, removed) = change(&mut table);
    assert_eq!((added, removed), (vec![second], vec![]));
    assert!(matches!(write.action, Action::Keep { is_news: true, .. }));
}

#[tokio::test(start_paused = true)]
async fn what_was_never_written_ends_without_a_trace() {
    let (mut table, [id, _]) = (PresenceTable::default(), ids());
    for key in [john(), EntryKey::Visitor("x".into(), "john".into()), EntryKey::Anonymous("x".into())] {
        table.enter(key.clone(), SECONDS, &id);
        table.leave(&key, &id);
    }
    assert!(table.entries.is_empty() && table.take_changed(10).is_empty() && table.next_leave().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_number_of_anonymous_visitors_whose_write_was_lost_is_removed_with_the_one_before() {
    let (mut table, ids) = (PresenceTable::default(), ["a", "b", "c"].map(Arc::from));
    let key = || EntryKey::Anonymous("x".into());
    let change = |table: &mut PresenceTable| {
        let mut writes = table.take_changed(10);
        assert_eq!(writes.len(), 1, "{writes:?}");
        writes.remove(0)
    };
    let count = |write: &EntryWrite| match &write.action {
        Action::Count { before, now, .. } => (before.clone(), *now),
        _ => panic!("{write:?}"),
    };
    table.enter(key(), SECONDS, &ids[0]);
    let write = change(&mut table);
    assert_eq!(count(&write), (vec![], 1));
    table.on_written(&write, Instant::now());
    for id in &ids[1..] {
        table.enter(key(), SECONDS, id);
        let write = change(&mut table);
        table.on_lost(write);
    }
    // Redis may have any of them.
    table.leave(&key(), &ids[2]);
    let write = change(&mut table);
    assert_eq!(count(&write), (vec![1, 3], 2));
    table.on_written(&write, Instant::now());
    table.enter(key(), SECONDS, &ids[2]);
    assert_eq!(count(&change(&mut table)), (vec![2], 3));
}
