//! Messages from a client.

use std::rc::Rc;

use bytes::Bytes;
use tokio::time::Instant;

use super::client::{LiveClient, send};
use super::publish::publish;
use super::reauthorize::reauthorize;
use super::refusal::RequestRefusal;
use super::request::{ClientAction, ClientRequest, InvalidRequest, read_request};
use super::subscribe::subscribe;
use crate::access::Token;
use crate::events::DisconnectReason;
use crate::hub::Listener;
use crate::shard::state::ShardState;
use crate::socket::Close;
use crate::visitors::watch::PartialHold;
use crate::wire::Form;
use crate::wire::live::{heartbeat, ok, user};
use crate::wire::websocket::Opcode;

/// Handles a message. Returns why the connection has to end, if it has to.
pub(super) fn receive(
    client: &mut LiveClient,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
    opcode: Opcode,
    message: &Bytes,
) -> Option<Close> {
    client.received += 1;
    if opcode != Opcode::Text {
        let refusal = RequestRefusal::Invalid("expected text, not a binary message");
        client.answers.refuse(None, None, refusal);
        return None;
    }
    let ClientRequest { number, action } = match read_request(message) {
        Ok(request) => request,
        Err(InvalidRequest::NotJson) => return Some(Close::NotJson),
        Err(InvalidRequest::Senseless(number, why)) => {
            client.answers.refuse(number, None, RequestRefusal::Invalid(why));
            return None;
        }
    };
    // What ends a subscription frees memory.
    let is_exempt = !matches!(action, ClientAction::Subscribe(..) | ClientAction::Authenticate(_));
    let max_facilities = state.settings.get().messages.max_facilities;
    if !is_exempt && !client.request_limit.take(max_facilities) {
        client.answers.refuse(number, action.facility(), RequestRefusal::TooOften);
        return None;
    }
    match action {
        ClientAction::Subscribe(handshake, resume) => {
            let facility = handshake.facility.clone();
            if let Err(refusal) = subscribe(client, listener, state, (handshake, resume), number) {
                client.answers.refuse(number, Some(facility.as_str()), refusal);
            }
        }
        ClientAction::Unsubscribe(facility) => {
            if let Some(position) = client.position(&facility) {
                let left = client.leave(position, DisconnectReason::ClientNamespaceDisconnect);
                if let Some(earlier) = left.request {
                    client.answers.refuse(Some(earlier), None, RequestRefusal::Superseded);
                }
                answer(client, number);
            } else {
                client.answers.refuse(number, Some(facility.as_str()), RequestRefusal::NotSubscribed);
            }
        }
        ClientAction::Publish(facility, audiences, payload) => {
            let published =
                publish(client, listener, state, &facility, audiences.as_deref(), payload, number);
            if let Err(refusal) = published {
                client.answers.refuse(number, Some(facility.as_str()), refusal);
            }
        }
        ClientAction::Authenticate(token) => {
            client.answers.flush(listener, state);
            match authenticate(client, listener, state, &Token::new(&token)) {
                Ok(()) => answer(client, number),
                Err(refusal) => client.answers.refuse(number, None, refusal),
            }
        }
        ClientAction::Heartbeat => {
            client.answers.add(&heartbeat(), listener.form);
            answer(client, number);
        }
    }
    None
}

/// Answers a request that is done, if it has a number.
fn answer(client: &mut LiveClient, number: Option<i64>) {
    if let Some(number) = number {
        client.answers.add(&ok(number), Form::Objects);
    }
}

/// Makes the client the owner of a token. A token that is not valid changes nothing.
fn authenticate(
    client: &mut LiveClient,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
    token: &Token,
) -> Result<(), RequestRefusal> {
    let identified = state.visitors.identifier.get().identify_token(token).ok_or(RequestRefusal::Token)?;
    let share = state.visitors.leases.add(identified?, Instant::now(), listener, None);
    let share = share.ok_or(RequestRefusal::Token)?;
    client.share = Some(PartialHold::new(share, listener));
    // What the callback has said was about another visitor.
    client.facilities.iter_mut().for_each(|facility| facility.own = None);
    let is_told = reauthorize(client, listener, state);
    if !is_told {
        send(listener, state, &user(client.identity.user.as_deref()));
    }
    Ok(())
}
