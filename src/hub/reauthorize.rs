//! When what a connection may hear changes while it is open: channels are left at once, others are joined beside
//! those that stay, and come to the same connection.

use std::rc::Rc;

use bytes::Bytes;

use super::Listener;
use super::routing::{Hub, MemberId, MemberSlot, Outlet, Seats};
use crate::wire::Topic;

impl Hub {
    /// Returns the channels of a member.
    pub fn names_of(&self, id: MemberId) -> Vec<Topic> {
        let seats = self.members.get(id.index()).map_or(&[][..], |member| &member.seats);
        seats.iter().map(|seat| self.topics.name(seat.topic).clone()).collect()
    }

    /// Takes a member out of all channels but these.
    pub fn narrow(&mut self, id: MemberId, keep: &[Topic]) {
        let Some(member) = self.members.get_mut(id.index()) else { return };
        let seats = std::mem::take(&mut member.seats);
        let (kept, left): (Seats, Seats) =
            seats.into_iter().partition(|seat| keep.contains(self.topics.name(seat.topic)));
        for seat in left {
            if let Outlet::Open(listener) = &self.members[id.index()].outlet {
                listener.leave(seat.topic);
            }
            self.vacate(seat);
        }
        self.seat(id, kept);
    }

    /// Makes the channels that one member has joined those of another, which is open: their persisted values, then
    /// what was held, go to its connection, and whatever comes from now on.
    pub fn merge(
        &mut self,
        from: MemberId,
        into: MemberId,
        listener: &Rc<Listener>,
        persisted: &[Option<Bytes>],
    ) {
        // The place of a connection that has gone may be somebody else's by now.
        let open = |outlet: &Outlet| matches!(outlet, Outlet::Open(of) if Rc::ptr_eq(of, listener));
        if !self.members.get(into.index()).is_some_and(|member| open(&member.outlet)) {
            return;
        }
        let Some(member) = self.members.try_remove(from.index()) else { return };
        let Outlet::Joining(held) = member.outlet else { return };
        let topics: Vec<_> = member.seats.iter().map(|seat| seat.topic).collect();
        for (seat, (value, topic)) in persisted.iter().zip(&topics).enumerate() {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty() && !held.has(seat, value)) {
                let digest = self.digester.digest(value);
                let run = self.replays.encode(value, digest, listener.form);
                listener.deliver_value(*topic, &run, digest, &self.limits);
            }
        }
        for (seat, run) in held.into_seated_runs() {
            listener.deliver(topics[seat], &run, &self.limits, &self.digester);
        }
        let own = std::mem::take(&mut self.members[into.index()].seats);
        self.seat(into, own.into_iter().chain(member.seats).collect());
        for (value, topic) in persisted.iter().zip(topics) {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                self.note_replayed(into, topic, self.digester.digest(value));
            }
        }
    }

    /// Gives a member its seats, and tells their topics who sits there, and in which of them.
    fn seat(&mut self, id: MemberId, seats: Seats) {
        for (number, seat) in (0..).zip(&seats) {
            self.topics[seat.topic].listeners[seat.place as usize] =
                MemberSlot { member: id.number(), seat: number };
        }
        self.members[id.index()].seats = seats;
    }
}
