//! What a page must have been told.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::flow::Published;
use crate::support::page::{Note, Page, PageFacility};

/// Time within which a gap follows the first message behind a hole.
const GAP_WITHIN: Duration = Duration::from_secs(3);

/// What was observed of all pages.
#[derive(Debug, Default)]
pub struct Totals {
    pub connections: usize,
    pub messages: usize,
    pub holes: usize,
    /// Gaps that the gateway has told.
    pub gaps: usize,
    /// Gaps that the pages know by themselves.
    pub missed: usize,
    /// The most gaps that the gateway has told one page of one facility.
    pub most_gaps: usize,
    pub faults: Vec<String>,
    /// Gaps for which there is no reason.
    pub unjustified: Vec<String>,
    /// The notes around each gap.
    pub around_gaps: Vec<String>,
}

/// Compares what pages were told with what was published.
pub fn compare(pages: &[Page], published: &Published, kept: Option<usize>) -> Totals {
    let mut totals = Totals::default();
    for page in pages {
        for facility in &page.facilities {
            let before = totals.gaps;
            for (index, (_, note)) in facility.notes.iter().enumerate() {
                if matches!(note, Note::Gap | Note::Missed) {
                    let notes = around(facility, index);
                    totals
                        .around_gaps
                        .push(format!("page {} of {}: {note:?}{notes}", page.number, facility.name));
                }
                match note {
                    Note::Opened => totals.connections += 1,
                    Note::Message { .. } => totals.messages += 1,
                    Note::Gap => totals.gaps += 1,
                    Note::Missed => totals.missed += 1,
                    Note::Subscribed { .. } => {}
                }
            }
            totals.most_gaps = totals.most_gaps.max(totals.gaps - before);
            let mut holes = Vec::new();
            for audience in &facility.audiences {
                let channel = channel_of(page, facility, audience);
                if let Err(fault) = compare_channel(facility, audience, &published[&channel], &mut holes) {
                    totals.faults.push(format!("page {} of {channel}: {fault}", page.number));
                }
            }
            totals.holes += holes.len();
            for index in unjustified_gaps(page, facility, published, (kept, &holes)) {
                let notes = around(facility, index);
                totals.unjustified.push(format!("page {} of {}: {notes}", page.number, facility.name));
            }
        }
    }
    totals
}

fn channel_of(page: &Page, facility: &PageFacility, audience: &str) -> String {
    let user = page.number % super::USERS;
    let name = if audience == "user" { format!("user:u{user}") } else { audience.to_owned() };
    format!("{name}:{}", facility.name)
}

/// Returns the gaps that belong to no hole and to no resumption behind which more was published than a history keeps.
fn unjustified_gaps(
    page: &Page,
    facility: &PageFacility,
    published: &Published,
    (kept, holes): (Option<usize>, &[Instant]),
) -> Vec<usize> {
    let lists: HashMap<_, _> = facility
        .audiences
        .iter()
        .map(|audience| (audience, &published[&channel_of(page, facility, audience)]))
        .collect();
    // Whether more was published behind the last message of an audience than its history keeps.
    let is_too_short = |received: &HashMap<&String, usize>, at: Instant| {
        let missed = |(audience, list): (&&String, &&Vec<(String, Instant)>)| {
            let so_far = list.iter().filter(|(_, time)| *time <= at).count();
            so_far.saturating_sub(received.get(audience).copied().unwrap_or_default())
        };
        kept.is_some_and(|kept| lists.iter().map(missed).max().unwrap_or_default() >= kept)
    };
    let mut received: HashMap<&String, usize> = HashMap::new();
    let mut is_too_late = false;
    let mut unjustified = Vec::new();
    for (index, (at, note)) in facility.notes.iter().enumerate() {
        match note {
            Note::Message { audience, text, .. } => {
                let position = lists[audience].iter().position(|(known, _)| known == text);
                received.insert(audience, position.map_or(0, |position| position + 1));
            }
            Note::Subscribed { recovered, .. } => {
                is_too_late = is_too_short(&received, *at);
                if *recovered == Some(false) && !is_too_late {
                    unjustified.push(index);
                }
            }
            Note::Gap => {
                let near = |hole: &Instant| *hole < *at + GAP_WITHIN && *at < *hole + GAP_WITHIN;
                if !is_too_late && !is_too_short(&received, *at) && !holes.iter().any(near) {
                    unjustified.push(index);
                }
                is_too_late = false;
            }
            Note::Opened | Note::Missed => {}
        }
    }
    unjustified
}

/// Each message comes once and in order, or a gap covers it.
fn compare_channel(
    facility: &PageFacility,
    audience: &str,
    published: &[(String, Instant)],
    holes: &mut Vec<Instant>,
) -> Result<(), String> {
    let positions: HashMap<_, _> =
        published.iter().enumerate().map(|(at, (text, _))| (text.as_str(), at)).collect();
    let mut expected = 0;
    let mut last_note = 0;
    let mut last_id = None;
    for (index, (at, note)) in facility.notes.iter().enumerate() {
        let Note::Message { audience: of, id, text } = note else { continue };
        if of != audience {
            continue;
        }
        let position = *positions.get(text.as_str()).ok_or_else(|| format!("{text} was never published"))?;
        if position < expected {
            return Err(format!("{text} again or too late{}", around(facility, index)));
        }
        if position > expected {
            holes.push(*at);
            let covers = |(told, note): &(Instant, Note)| {
                matches!(note, Note::Gap | Note::Missed) && *told < *at + GAP_WITHIN
            };
            if !facility.notes[last_note..].iter().any(covers) {
                let lost = &published[expected..position];
                return Err(format!("{lost:?} lost without a gap{}", around(facility, index)));
            }
        }
        let key = id.as_deref().map(key_of);
        if key.is_some() && key <= last_id {
            return Err(format!(
                "the id of {text} is not larger than the last one{}",
                around(facility, index)
            ));
        }
        last_id = key.or(last_id);
        (expected, last_note) = (position + 1, index);
    }
    let is_gap = |(_, note): &(_, Note)| matches!(note, Note::Gap | Note::Missed);
    if expected < published.len() && !facility.notes[last_note..].iter().any(is_gap) {
        return Err(format!("{:?} lost at the end without a gap", &published[expected..]));
    }
    Ok(())
}

fn key_of(id: &str) -> (u64, u64) {
    let (time, serial) = id.split_once('-').unwrap();
    (time.parse().unwrap(), serial.parse().unwrap())
}

/// Returns the notes around one of them.
fn around(facility: &PageFacility, index: usize) -> String {
    let notes = &facility.notes[index.saturating_sub(25)..(index + 10).min(facility.notes.len())];
    let begin = facility.notes[0].0;
    notes.iter().fold(String::new(), |all, (at, note)| all + &format!("\n    {:?} {note:?}", *at - begin))
}
