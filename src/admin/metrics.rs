//! `GET /metrics`: what the shards have counted, in the text format of `OpenMetrics`.

use std::fmt;

use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::process::ProcessFigures;
use super::refusal::Refusal;
use super::reply::{self, ReplyBody};
use super::shards::Shards;
use crate::metrics::{HistogramSample, ShardSample};
use crate::shard::ask::Ask;

/// The text format, version 1.0.0.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Microseconds of a second.
const MICROSECONDS: f64 = 1_000_000.0;

/// No label.
pub(super) const PLAIN: [(&str, &str); 0] = [];

/// Returns what was counted so far.
///
/// # Errors
///
/// When a shard does not answer in time: without its part all sums would fall.
pub(super) async fn metrics(shards: &Shards) -> Result<Response<ReplyBody>, Refusal> {
    let listing = shards.begin_listing().await;
    let mut samples = Vec::with_capacity(shards.count());
    for (shard, sample) in shards.ask_all(Ask::Metrics).await.into_iter().enumerate() {
        samples.push(sample.ok_or(Refusal::Unresponsive(shard))?);
    }
    drop(listing);
    let mut registry = Registry::with_prefix("ws4redis");
    registry.register_collector(Box::new(GatewayFigures(samples)));
    let mut process = Registry::default();
    process.register_collector(Box::new(ProcessFigures::read()));
    // Writing to a String cannot fail.
    let mut text = String::new();
    let _ = encode(&mut text, &process);
    let end = text.rfind("# EOF").unwrap_or_default();
    text.truncate(end);
    let _ = encode(&mut text, &registry);
    let mut response = reply::response(ReplyBody::new(text, None));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
    Ok(response)
}

/// The figures of all shards.
#[derive(Debug)]
struct GatewayFigures(Vec<ShardSample>);

impl Collector for GatewayFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let [first, others @ ..] = &self.0[..] else { return Ok(()) };
        info(encoder, "build", "The program", &[("version", env!("CARGO_PKG_VERSION"))])?;
        let mut sums = first.cells.clone();
        for sample in others {
            sums.add(&sample.cells);
        }
        for (name, meaning, count) in &sums.sums {
            counter(encoder, name, meaning, [(PLAIN, *count)])?;
        }
        let process = first.process.iter();
        for (name, meaning, count) in process.clone().flat_map(|process| &process.counters) {
            counter(encoder, name, meaning, [(PLAIN, *count)])?;
        }
        for (name, meaning, level) in process.flat_map(|process| &process.levels) {
            gauge(encoder, name, meaning, [(PLAIN, *level)])?;
        }
        let by_status: Vec<_> = sums.by_status().collect();
        let by_status = by_status.iter().map(|(status, count)| ([("status", status.as_str())], *count));
        counter(encoder, "handshakes", "Answers to handshakes, by HTTP status", by_status)?;
        sessions(encoder, &sums.sessions_found, &sums.sessions_unusable)?;
        self.connections(encoder)?;
        for (name, meaning, times) in &sums.times {
            histogram(encoder, name, meaning, times, MICROSECONDS)?;
        }
        histogram(
            encoder,
            "run_messages",
            "Messages that each client gets with one write",
            &sums.run_lengths,
            1.0,
        )?;
        self.shards(encoder)
    }
}

impl GatewayFigures {
    fn connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let forms = self.0[0].forms.iter().enumerate().map(|(index, form)| {
            let clients = self.0.iter().map(|sample| sample.forms[index].clients).sum::<u64>();
            ([("dialect", form.dialect), ("form", form.form)], clients)
        });
        gauge(encoder, "connections", "Open connections of clients", forms)?;
        let largest = self.0.iter().map(|sample| sample.largest_outbox as u64).max();
        let meaning = "Bytes that wait for the client with the most";
        gauge(encoder, "largest_outbox_bytes", meaning, [(PLAIN, largest.unwrap_or_default())])
    }

    fn shards(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let numbers: Vec<_> = (0..self.0.len()).map(|number| number.to_string()).collect();
        let shards = || numbers.iter().map(|number| [("shard", number.as_str())]).zip(&self.0);
        let topics = shards().map(|(label, sample)| (label, sample.topics as u64));
        gauge(encoder, "topics", "Channels with listeners", topics)?;
        let redis = shards().flat_map(|([label], sample)| {
            let uses = ["messages", "sessions"].into_iter().zip(sample.has_redis);
            uses.map(move |(of, is_up)| ([label, ("use", of)], u64::from(is_up)))
        });
        gauge(encoder, "redis_up", "Whether Redis is connected", redis)?;
        let busy = shards().map(|(label, sample)| (label, sample.busy.as_secs_f64()));
        counter(encoder, "shard_busy_seconds", "Time for which the thread of a shard has worked", busy)
    }
}

fn sessions(encoder: &mut DescriptorEncoder<'_>, found: &[u64], unusable: &[(&str, u64)]) -> fmt::Result {
    let numbers: Vec<_> = (0..found.len()).map(|number| number.to_string()).collect();
    // Templates that are not there have found nothing.
    let found = numbers.iter().zip(found).filter(|(number, count)| **count > 0 || *number == "0");
    let found = found.map(|(number, count)| ([("outcome", "found"), ("key", number.as_str())], *count));
    let unusable = unusable.iter().map(|(outcome, count)| ([("outcome", *outcome), ("key", "")], *count));
    let meaning = "Lookups of sessions, by outcome and number of the template in session.keys";
    counter(encoder, "sessions", meaning, found.chain(unusable))
}

/// Encodes a counter; the format adds `_total` to its name.
pub(super) fn counter<L, N>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    meaning: &str,
    values: impl IntoIterator<Item = (L, N)>,
) -> fmt::Result
where
    L: EncodeLabelSet,
    ConstCounter<N>: EncodeMetric,
{
    let mut family = encoder.encode_descriptor(name, meaning, None, MetricType::Counter)?;
    for (labels, value) in values {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Encodes a gauge.
pub(super) fn gauge<L, N>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    meaning: &str,
    values: impl IntoIterator<Item = (L, N)>,
) -> fmt::Result
where
    L: EncodeLabelSet,
    ConstGauge<N>: EncodeMetric,
{
    let mut family = encoder.encode_descriptor(name, meaning, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn info(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    meaning: &str,
    labels: &[(&str, &str); 1],
) -> fmt::Result {
    encoder.encode_descriptor(name, meaning, None, MetricType::Info)?.encode_info(labels)
}

/// Encodes a histogram whose values are parts of a unit.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    meaning: &str,
    sample: &HistogramSample,
    parts: f64,
) -> fmt::Result {
    let bounds = sample.bounds.iter().map(|bound| *bound as f64 / parts).chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(sample.counts.iter().copied()).collect();
    let (sum, count) = (sample.sum as f64 / parts, sample.counts.iter().sum());
    let mut family = encoder.encode_descriptor(name, meaning, None, MetricType::Histogram)?;
    family.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)
}
