//! The list of yunity-sockets, in the form that its server had for it.

use std::vec::IntoIter;

use super::connections::Cursor;
use super::refusal::Refusal;
use super::reply::ReplyBody;
use super::shards::Shards;
use crate::shard::ask::{Ask, YunityClient};
use crate::wire::socket_io::push_json_string;

/// Clients that are asked for at once.
const PAGE: usize = 100;

/// Bytes after which a chunk is written. The rest of a page is not copied before: the clients share their records with it.
const CHUNK_BYTES: usize = 64 * 1024;

/// A list under way.
struct Listing {
    shards: Shards,
    cursor: Cursor,
    page: IntoIter<YunityClient>,
    is_empty: bool,
}

/// Returns the list of all clients. It is collected as the client reads it.
///
/// # Errors
///
/// When a shard does not answer in time.
pub(super) async fn list(shards: &Shards) -> Result<ReplyBody, Refusal> {
    let (shards, page) = (shards.clone(), Vec::new().into_iter());
    let listing = Listing { shards, cursor: Cursor::START, page, is_empty: true };
    listing.chunk(String::from(r#"{"connections":["#)).await
}

impl Listing {
    /// Appends the next clients to a chunk.
    async fn chunk(mut self, mut out: String) -> Result<ReplyBody, Refusal> {
        loop {
            for client in self.page.by_ref() {
                if !std::mem::take(&mut self.is_empty) {
                    out.push(',');
                }
                push_client(&mut out, &client);
                if out.len() >= CHUNK_BYTES {
                    return Ok(ReplyBody::new(out, Some(Box::pin(self.chunk(String::new())))));
                }
            }
            if self.cursor.shard >= self.shards.count() {
                return Ok(ReplyBody::new(out + "]}\n", None));
            }
            self.next_page().await?;
        }
    }

    async fn next_page(&mut self) -> Result<(), Refusal> {
        let Cursor { shard, position } = self.cursor;
        let _listing = self.shards.begin_listing().await;
        let answer =
            self.shards.ask(shard, |answer| Ask::YunityClients { from: position, limit: PAGE, answer });
        let answer = answer.await.ok_or(Refusal::Unresponsive(shard))?;
        self.page = answer.clients.into_iter();
        self.cursor = self.cursor.after(answer.next);
        Ok(())
    }
}

/// Appends a client. What is not known is absent, as in the original.
fn push_client(out: &mut String, client: &YunityClient) {
    out.push_str(r#"{"connectionId":"#);
    push_json_string(out, client.id.as_deref().unwrap_or("***"));
    if client.has_session {
        out.push_str(r#","sessionId":"***""#);
    }
    if let Some(user) = &client.user {
        out.push_str(r#","userId":"#);
        push_json_string(out, user);
    }
    if let Some(handshake) = &client.handshake {
        out.push_str(r#","handshake":"#);
        out.push_str(handshake.as_str());
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::admin::ask_queues;
    use crate::shard::ask::YunityClients;

    /// Answers like a shard with this many clients, and ends after some answers.
    async fn answer(mut asks: mpsc::Receiver<Ask>, clients: usize, answers: usize) {
        for _ in 0..answers {
            let Some(Ask::YunityClients { from, limit, answer }) = asks.recv().await else { return };
            let ids = (from..clients).take(limit);
            let client = |id: usize| YunityClient {
                id: (id > 0).then(|| format!("{id}-{}", "x".repeat(2_000))),
                has_session: id > 1,
                user: (id > 1).then(|| "\"u\"".into()),
                handshake: None,
            };
            let next = Some(from + limit).filter(|next| *next < clients);
            let _ = answer.send(YunityClients { clients: ids.map(client).collect(), next });
        }
    }

    #[tokio::test]
    async fn all_clients_of_all_shards_are_listed_in_chunks() {
        let (shards, mut queues) = ask_queues(3, CancellationToken::new());
        for clients in [0, 301, 2] {
            tokio::spawn(answer(queues.pop().unwrap(), clients, usize::MAX));
        }
        let mut body = list(&shards).await.unwrap();
        let (mut text, mut chunks) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() < CHUNK_BYTES + 4_096, "{}", data.len());
            text.extend_from_slice(&data);
            chunks += 1;
        }
        let parsed: Value = serde_json::from_slice(&text).unwrap();
        let listed = parsed["connections"].as_array().unwrap();
        assert_eq!((listed.len(), chunks), (303, 10));
        assert_eq!(listed[0], json!({"connectionId": "***"}));
        assert_eq!(listed[4]["sessionId"], "***");
        assert_eq!(listed[4]["userId"], "\"u\"");
    }

    #[tokio::test]
    async fn a_shard_that_ends_meanwhile_breaks_the_list_off() {
        let (shards, mut queues) = ask_queues(1, CancellationToken::new());
        tokio::spawn(answer(queues.remove(0), 301, 2));
        let body = list(&shards).await.unwrap();
        assert_eq!(body.collect().await.err(), Some(Refusal::Unresponsive(0)));
        let failed = list(&shards).await.err();
        assert_eq!(failed, Some(Refusal::Unresponsive(0)), "at once if nothing was written");
    }
}
