//! Lists, page by page as JSON, or whole with one object a line (NDJSON).

use std::fmt::Display;
use std::str::FromStr;

use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Request, Response};
use serde_json::{Value, json};

use super::refusal::Refusal;
use super::reply::{self, ReplyBody};
use crate::wire::{parameters, query_pairs};

/// Objects on a page, if the request does not say.
const DEFAULT_LIMIT: usize = 100;

/// Most objects on a page.
const MAX_LIMIT: usize = 1_000;

/// Objects that a line-by-line list collects at once: each part of a list of names searches all of them.
const CHUNK: usize = MAX_LIMIT;

/// Most parts of a list that are searched for one page, so that a filter that matches little does not take long.
const MAX_PARTS: usize = 200;

/// The media type of a list with one object a line.
const NDJSON: &str = "application/x-ndjson";

/// A part of a list, and where the next one begins.
pub(super) struct ListPart<C> {
    pub(super) objects: Vec<Value>,
    pub(super) next: Option<C>,
}

/// How a list is requested.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListRequest<C> {
    limit: usize,
    after: C,
    is_lines: bool,
}

impl<C: FromStr> ListRequest<C> {
    /// Reads how a list is requested, from `start` on if the request does not say. `filters` are the parameters that it has
    /// in addition to `limit` and `after`.
    ///
    /// # Errors
    ///
    /// When a parameter is malformed, unknown or repeated: with a misspelt filter all objects would match.
    pub(super) fn read<B>(request: &Request<B>, start: C, filters: &[&'static str]) -> Result<Self, Refusal> {
        let query = request.uri().query();
        let mut seen = Vec::new();
        for (name, _) in query_pairs(query) {
            if !["limit", "after"].contains(&&*name) && !filters.contains(&&*name) {
                return Err(Refusal::UnknownParameter([&["limit", "after"], filters].concat().join(", ")));
            }
            if seen.contains(&name) {
                return Err(Refusal::Parameter("a parameter may be given once"));
            }
            seen.push(name);
        }
        let limit = match parameters(query, "limit").next() {
            None => DEFAULT_LIMIT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or(Refusal::Parameter("limit has to be a number from 1 to 1000"))?,
        };
        let after = match parameters(query, "after").next() {
            None => start,
            Some(text) => text
                .parse()
                .map_err(|_| Refusal::Parameter("after has to be the value of next on the page before"))?,
        };
        Ok(Self { limit, after, is_lines: accepts_lines(request.headers()) })
    }
}

/// Returns whether a client asks for one object a line.
fn accepts_lines(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(','));
    types.any(|kind| kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(NDJSON))
}

/// Answers with the objects that `collect` returns: it is called with where a part begins, and with the most objects that it
/// may have.
///
/// # Errors
///
/// When `collect` fails before anything is written.
pub(super) async fn respond<C, F>(
    name: &'static str,
    request: ListRequest<C>,
    collect: F,
) -> Result<Response<ReplyBody>, Refusal>
where
    C: Display + 'static,
    F: AsyncFn(C, usize) -> Result<ListPart<C>, Refusal> + 'static,
{
    let ListRequest { limit, after, is_lines } = request;
    if is_lines {
        let mut response = reply::response(lines(after, collect).await?);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
        return Ok(response);
    }
    let (mut found, mut next) = (Vec::new(), Some(after));
    for _ in 0..MAX_PARTS {
        let Some(from) = next.take_if(|_| found.len() < limit) else { break };
        let part = collect(from, limit - found.len()).await?;
        found.extend(part.objects);
        next = part.next;
    }
    Ok(reply::json(&json!({ name: found, "next": next.map(|next| next.to_string()) })))
}

/// Collects the next objects. The others are collected when these have been written.
async fn lines<C, F>(mut from: C, collect: F) -> Result<ReplyBody, Refusal>
where
    C: 'static,
    F: AsyncFn(C, usize) -> Result<ListPart<C>, Refusal> + 'static,
{
    loop {
        let ListPart { objects, next } = collect(from, CHUNK).await?;
        let mut text = String::new();
        for object in objects {
            text.push_str(&object.to_string());
            text.push('\n');
        }
        match next {
            Some(next) if text.is_empty() => from = next,
            next => {
                let rest = next.map(|next| Box::pin(lines(next, collect)) as _);
                return Ok(ReplyBody::new(text, rest));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn read(query: &str) -> Result<ListRequest<usize>, Refusal> {
        ListRequest::read(&Request::get(format!("/x?{query}")).body(()).unwrap(), 0, &["user"])
    }

    /// Returns the numbers below 250 from a number on; every part has 10 at most, and some have none.
    async fn numbers(from: usize, limit: usize) -> Result<ListPart<usize>, Refusal> {
        let to = from + if from.is_multiple_of(3) { limit.min(10) } else { 0 };
        let objects = (from..to).map(Value::from).collect();
        let next = if to == from { from / 3 * 3 + 3 } else { to };
        Ok(ListPart { objects, next: Some(next).filter(|next| *next < 250) })
    }

    #[test]
    fn a_page_is_bounded_and_its_parameters_are_checked() {
        assert_eq!(read(""), Ok(ListRequest { limit: 100, after: 0, is_lines: false }));
        assert_eq!(
            read("limit=1000&after=3&user="),
            Ok(ListRequest { limit: 1000, after: 3, is_lines: false })
        );
        for query in
            ["limit=0", "limit=1001", "limit=", "limit=ten", "limit=-1", "limit=99999999999999999999"]
        {
            assert!(read(query).is_err(), "{query}");
        }
        for query in
            ["after=", "after=x", "after=-1", "users=x", "User=x", "user=x&user=x", "limit=1&limit=1"]
        {
            assert!(read(query).is_err(), "{query}");
        }
    }

    #[test]
    fn lines_are_written_to_clients_that_ask_for_them() {
        for (accept, expected) in [
            ("application/x-ndjson", true),
            ("Application/X-NDJSON; q=0.9", true),
            ("application/json, application/x-ndjson", true),
            ("application/json", false),
            ("*/*", false),
            ("application/x-ndjson2", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(accepts_lines(&headers), expected, "{accept}");
        }
        assert!(!accepts_lines(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn pages_and_lines_have_the_same_objects() {
        let body = |response: Response<ReplyBody>| async {
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            String::from_utf8(bytes.to_vec()).unwrap()
        };
        let request = ListRequest { limit: 1, after: 0, is_lines: true };
        let lines = body(respond("numbers", request, numbers).await.unwrap()).await;
        let (mut all, mut after) = (String::new(), 0);
        loop {
            let request = ListRequest { limit: 7, after, is_lines: false };
            let page: Value =
                serde_json::from_str(&body(respond("numbers", request, numbers).await.unwrap()).await)
                    .unwrap();
            let found = page["numbers"].as_array().unwrap();
            assert!(found.len() <= 7);
            all.extend(found.iter().map(|number| format!("{number}\n")));
            let Some(next) = page["next"].as_str() else { break };
            after = next.parse().unwrap();
        }
        assert!(lines.lines().count() > 80, "{lines}");
        assert!(all.lines().count() > 80, "{all}");
    }
}
