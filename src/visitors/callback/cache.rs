//! A cache of the callback's answers, bounded in number and in age.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::answer::Answer;
use super::request::Digest;

/// The cache's capacity. A typical answer takes less than 300 bytes with its key and its queue entry.
const MAX_ANSWERS: usize = 10_000;

/// The size limit of cached answers; a hundred groups take 4 KiB.
const MAX_ANSWER_BYTES: usize = 8 * 1024;

/// Answers by the digests of their requests.
#[derive(Debug)]
pub(super) struct AnswerCache {
    /// Longest time that an answer is cached.
    keep: Duration,
    kept: HashMap<Digest, CachedAnswer, RandomState>,
    /// In order of arrival.
    queue: VecDeque<(Digest, u64)>,
    number: u64,
}

#[derive(Debug)]
struct CachedAnswer {
    answer: Rc<Answer>,
    until: Instant,
    number: u64,
}

impl AnswerCache {
    /// Creates a cache that keeps answers for at most this time.
    pub fn new(keep: Duration) -> Self {
        Self { keep, kept: HashMap::default(), queue: VecDeque::new(), number: 0 }
    }

    /// Returns the cached answer to a request.
    pub fn get(&self, request: &Digest) -> Option<Rc<Answer>> {
        self.kept.get(request).filter(|kept| kept.until > Instant::now()).map(|kept| kept.answer.clone())
    }

    /// Caches an answer that has just arrived; the oldest ones are evicted.
    pub fn put(&mut self, request: Digest, answer: &Rc<Answer>) {
        let now = Instant::now();
        while let Some((oldest, number)) = self.queue.front() {
            let kept = self.kept.get(oldest).filter(|kept| kept.number == *number);
            if kept.is_some_and(|kept| kept.until > now) && self.queue.len() < MAX_ANSWERS {
                break;
            }
            if kept.is_some() {
                self.kept.remove(oldest);
            }
            self.queue.pop_front();
        }
        let keep = answer.cacheable_for(self.keep);
        if keep.is_zero() || answer.bytes() > MAX_ANSWER_BYTES {
            // An older answer to the same request is stale.
            self.kept.remove(&request);
            return;
        }
        self.number += 1;
        self.queue.push_back((request, self.number));
        self.kept
            .insert(request, CachedAnswer { answer: answer.clone(), until: now + keep, number: self.number });
    }

    /// Evicts all answers.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.queue.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::session::KeyPattern;

    fn answer(json: &str) -> Rc<Answer> {
        Rc::new(Answer::read(json.as_bytes(), &KeyPattern::default()).unwrap())
    }

    fn digest(number: usize) -> Digest {
        let mut digest = Digest::default();
        digest[..8].copy_from_slice(&number.to_le_bytes());
        digest
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_cached_until_it_expires() {
        let mut answers = AnswerCache::new(Duration::from_secs(5));
        let (long, short) = (answer("null"), answer(r#"{"user": "j", "expires_in": 2}"#));
        answers.put(digest(1), &long);
        answers.put(digest(2), &short);
        tokio::time::advance(Duration::from_millis(1999)).await;
        assert_eq!(answers.get(&digest(1)), Some(long.clone()));
        assert_eq!(answers.get(&digest(2)), Some(short));
        assert_eq!(answers.get(&digest(3)), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(answers.get(&digest(2)), None);
        answers.put(digest(1), &long);
        tokio::time::advance(Duration::from_millis(4999)).await;
        assert_eq!(answers.get(&digest(1)), Some(long), "a new answer restarts the time");
        answers.clear();
        assert_eq!(answers.get(&digest(1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_answers_are_evicted_and_expired_ones_are_removed() {
        let mut answers = AnswerCache::new(Duration::from_secs(5));
        let anonymous = answer("null");
        for number in 0..MAX_ANSWERS + 10 {
            answers.put(digest(number), &anonymous);
        }
        assert!(answers.kept.len() <= MAX_ANSWERS && answers.queue.len() <= MAX_ANSWERS);
        assert_eq!(answers.get(&digest(9)), None);
        assert!(answers.get(&digest(10)).is_some());
        for _ in 0..2 * MAX_ANSWERS {
            answers.put(digest(1), &anonymous);
        }
        assert!(answers.queue.len() <= MAX_ANSWERS, "{}", answers.queue.len());
        tokio::time::advance(Duration::from_secs(5)).await;
        answers.put(digest(1), &anonymous);
        assert_eq!((answers.kept.len(), answers.queue.len()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn large_and_expired_answers_are_not_cached() {
        let mut answers = AnswerCache::new(Duration::from_secs(5));
        let groups: Vec<_> = (0..10).map(|n| format!(r#""{n}{}""#, "g".repeat(1000))).collect();
        let large = format!(r#"{{"user": "j", "groups": [{}]}}"#, groups.join(","));
        answers.put(digest(1), &answer("null"));
        answers.put(digest(1), &answer(&large));
        assert_eq!(answers.get(&digest(1)), None);
        let mut answers = AnswerCache::new(Duration::ZERO);
        answers.put(digest(1), &answer("null"));
        assert_eq!(answers.get(&digest(1)), None);
    }
}
