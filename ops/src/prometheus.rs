//! Counters as text in Prometheus' exposition format, version 0.0.4.

use crate::Usage;
use millstream::{JobMetrics, LinkStats, Timestamp, VertexMetrics};
use std::fmt::Write;
use std::time::Duration;

/// The content type of what [`render`] gives.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

/// All metrics of a job, if there is one, and of this process.
pub fn render(job: Option<(&str, &JobMetrics)>, uptime: Duration, usage: &Usage) -> String {
    let mut text = Exposition::default();
    if let Some((name, metrics)) = job {
        text.job(name, metrics);
    }
    text.process(uptime, usage);
    text.0
}

/// A figure of one subtask of a vertex.
type OfSubtask = fn(&VertexMetrics, usize) -> f64;

/// A figure of a slot's connections.
type OfLinks = fn(&LinkStats) -> u64;

#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn job(&mut self, job: &str, metrics: &JobMetrics) {
        let of_job = labels(&[("job", job)]);

        let per_subtask: [(&str, &str, &str, OfSubtask); 4] = [
            (
                "millstream_records_in_total",
                "counter",
                "Records that came into a subtask",
                |vertex, subtask| vertex.subtasks[subtask].records_in() as f64,
            ),
            (
                "millstream_records_out_total",
                "counter",
                "Records that left a subtask",
                |vertex, subtask| vertex.subtasks[subtask].records_out() as f64,
            ),
            (
                "millstream_backpressure_ratio",
                "gauge",
                "Share of the polls with work in which the outputs had no credit",
                |vertex, subtask| vertex.subtasks[subtask].backpressure(),
            ),
            (
                "millstream_watermark_seconds",
                "gauge",
                "Event time of a subtask since the epoch; -Inf before the first, +Inf after the end",
                |vertex, subtask| seconds(vertex.subtasks[subtask].watermark()),
            ),
        ];
        for (name, kind, help, value) in per_subtask {
            self.head(name, kind, help);
            for (vertex_index, vertex) in metrics.vertices.iter().enumerate() {
                for subtask in 0..vertex.subtasks.len() {
                    // Two vertices may share a name, so the number tells them apart.
                    let labels = labels(&[
                        ("job", job),
                        ("vertex", &vertex_index.to_string()),
                        ("name", &vertex.name),
                        ("subtask", &subtask.to_string()),
                    ]);
                    self.sample(name, &labels, value(vertex, subtask));
                }
            }
        }

        self.head("millstream_late_records_total", "counter", "Records behind a closed window");
        self.sample("millstream_late_records_total", &of_job, metrics.counters.late() as f64);
        self.head("millstream_malformed_records_total", "counter", "Records that were no record");
        let malformed = metrics.counters.malformed();
        self.sample("millstream_malformed_records_total", &of_job, malformed as f64);

        self.checkpoints(&of_job, metrics);
        self.stores(job, metrics);
        self.links(job, metrics);

        let latency = metrics.latency();
        self.head(
            "millstream_latency_seconds",
            "summary",
            "How long latency markers were on their way from sources to sinks",
        );
        for quantile in QUANTILES {
            let labels = labels(&[("job", job), ("quantile", &quantile.to_string())]);
            let seconds = match latency.is_empty() {
                true => f64::NAN,
                false => latency.value_at_quantile(quantile) as f64 / 1e9,
            };
            self.sample("millstream_latency_seconds", &labels, seconds);
        }
        let sum = latency.mean() * latency.len() as f64 / 1e9;
        self.sample("millstream_latency_seconds_sum", &of_job, sum);
        self.sample("millstream_latency_seconds_count", &of_job, latency.len() as f64);
    }

    fn checkpoints(&mut self, of_job: &str, metrics: &JobMetrics) {
        let counters = &metrics.counters;
        let (newest, took) = match counters.last_checkpoint() {
            Some((id, took)) => (id.0 as f64, took.as_secs_f64()),
            None => (f64::NAN, f64::NAN),
        };
        let pauses = counters.snapshot_nanos();
        let longest = if pauses.is_empty() { f64::NAN } else { pauses.max() as f64 / 1e9 };
        for (name, kind, help, value) in [
            (
                "millstream_restarts_total",
                "counter",
                "How often the job has failed, whole or in part, and was started again",
                counters.restarts() as f64,
            ),
            (
                "millstream_region_restarts_total",
                "counter",
                "How often only some slots were started again while the others went on",
                counters.region_restarts() as f64,
            ),
            (
                "millstream_rollbacks_total",
                "counter",
                "How often a slot of this process went back to a checkpoint in place, without its files",
                counters.rollbacks() as f64,
            ),
            (
                "millstream_replicated_bytes_total",
                "counter",
                "Bytes of checkpoints that this process has sent to other hosts for a copy",
                counters.replicated_bytes() as f64,
            ),
            (
                "millstream_checkpoints_completed_total",
                "counter",
                "Checkpoints that have completed",
                counters.checkpoints_completed() as f64,
            ),
            (
                "millstream_checkpoints_failed_total",
                "counter",
                "Checkpoints that have failed",
                counters.checkpoints_failed() as f64,
            ),
            ("millstream_last_checkpoint_id", "gauge", "The newest completed checkpoint", newest),
            (
                "millstream_last_checkpoint_duration_seconds",
                "gauge",
                "How long it took from its announcement to its commit",
                took,
            ),
            (
                "millstream_checkpoint_pause_max_seconds",
                "gauge",
                "The longest time for which a snapshot has held up its slot",
                longest,
            ),
            (
                "millstream_checkpoint_in_flight_bytes_total",
                "counter",
                "Bytes in flight that barriers have overtaken and snapshots have taken",
                counters.in_flight_bytes() as f64,
            ),
        ] {
            self.head(name, kind, help);
            self.sample(name, of_job, value);
        }
    }

    /// What the stores of state tell: all have the same backend, and so the same figures.
    fn stores(&mut self, job: &str, metrics: &JobMetrics) {
        let stores: Vec<_> = metrics.slots.iter().map(|slot| slot.store()).collect();
        let Some(told) = stores.iter().find(|figures| !figures.is_empty()) else { return };
        for figure in told {
            let (end, kind) = if figure.is_total { ("_total", "counter") } else { ("", "gauge") };
            let name = format!("millstream_state_{}{end}", figure.name);
            self.head(&name, kind, figure.about);
            for (slot, figures) in stores.iter().enumerate() {
                if let Some(own) = figures.iter().find(|own| own.name == figure.name) {
                    let labels = labels(&[("job", job), ("slot", &slot.to_string())]);
                    self.sample(&name, &labels, own.value);
                }
            }
        }
    }

    /// Of slots that are connected with other hosts.
    fn links(&mut self, job: &str, metrics: &JobMetrics) {
        let links: Vec<_> = metrics.slots.iter().map(|slot| slot.links()).collect();
        if links.iter().all(|stats| *stats == LinkStats::default()) {
            return;
        }
        let figures: [(&str, &str, OfLinks); 6] = [
            ("sent_bytes", "Bytes sent to other hosts", |stats| stats.transport.bytes_sent),
            ("received_bytes", "Bytes received from other hosts", |stats| {
                stats.transport.bytes_received
            }),
            (
                "in_place_bytes",
                "Bytes of records that were read where they were received",
                |stats| stats.bytes_in_place,
            ),
            (
                "copied_bytes",
                "Bytes of records that were copied after they were received",
                |stats| stats.bytes_copied,
            ),
            ("zero_copy_sends", "Sends that the kernel was asked not to copy", |stats| {
                stats.transport.notifications
            }),
            ("zero_copy_sends_copied", "Those of them that it has copied nevertheless", |stats| {
                stats.transport.copied
            }),
        ];
        for (name, about, value) in figures {
            let name = format!("millstream_exchange_{name}_total");
            self.head(&name, "counter", about);
            // Those of other hosts are told there.
            let own = |stats: &&LinkStats| **stats != LinkStats::default();
            for (slot, stats) in links.iter().enumerate().filter(|(_, stats)| own(stats)) {
                let labels = labels(&[("job", job), ("slot", &slot.to_string())]);
                self.sample(&name, &labels, value(stats) as f64);
            }
        }
    }

    fn process(&mut self, uptime: Duration, usage: &Usage) {
        let cpu = usage.cpu.as_secs_f64();
        for (name, kind, help, value) in [
            (
                "millstream_uptime_seconds",
                "gauge",
                "Since metrics began to be served",
                uptime.as_secs_f64(),
            ),
            ("process_cpu_seconds_total", "counter", "Processor time, user and system", cpu),
            (
                "process_resident_memory_bytes",
                "gauge",
                "Resident memory",
                usage.resident_bytes as f64,
            ),
            ("process_threads", "gauge", "Threads", usage.threads as f64),
        ] {
            self.head(name, kind, help);
            self.sample(name, "", value);
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = match value {
            f64::INFINITY => writeln!(self.0, "{name}{labels} +Inf"),
            f64::NEG_INFINITY => writeln!(self.0, "{name}{labels} -Inf"),
            value => writeln!(self.0, "{name}{labels} {value}"),
        };
    }
}

/// `{name="value",…}`.
fn labels(pairs: &[(&str, &str)]) -> String {
    let escaped =
        |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<_> =
        pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

fn seconds(time: Timestamp) -> f64 {
    match time {
        Timestamp::MIN => f64::NEG_INFINITY,
        Timestamp::MAX => f64::INFINITY,
        time => time.as_nanos() as f64 / 1e9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream::{Config, Environment};

    #[test]
    fn every_line_is_a_comment_or_a_sample() {
        let config = Config::default().with_slots(2).set("state", "segments").unwrap();
        let env = Environment::new(config);
        env.from_collection("numbers", 0..1_000u64)
            .key_by(|n| n % 7)
            .count()
            .name("per \"key\"")
            .discard();
        let result = env.execute("count").unwrap();
        let usage = Usage::now();
        let text = render(Some(("count", &result.metrics)), Duration::from_secs(3), &usage);
        for line in text.lines().filter(|line| !line.starts_with("# ")) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("millstream_") || name.starts_with("process_"), "{line}");
            let number = value.strip_prefix('+').unwrap_or(value);
            assert!(number.parse::<f64>().is_ok(), "{line}");
        }
        let read: f64 = text
            .lines()
            .filter(|line| {
                line.starts_with("millstream_records_in_total{") && line.contains("vertex=\"0\"")
            })
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum();
        assert_eq!(read, 1_000.0, "{text}");
        assert!(text.contains("millstream_watermark_seconds"), "{text}");
        assert!(text.contains(r#"per \"key\""#), "{text}");
        assert!(text.contains("\nmillstream_uptime_seconds 3\n"), "{text}");
        assert!(text.contains("\nmillstream_checkpoints_completed_total{job=\"count\"} 0\n"));
        for slot in 0..2 {
            let live = format!("\nmillstream_state_live_bytes{{job=\"count\",slot=\"{slot}\"}} ");
            let (_, rest) = text.split_once(&live).expect(&text);
            let bytes: f64 = rest.lines().next().unwrap().parse().unwrap();
            // Seven keys in all, of which each slot has some: a record of 64 bytes for each.
            assert!((64.0..=7.0 * 64.0).contains(&bytes), "{bytes}");
        }
        assert!(text.contains("# TYPE millstream_state_written_bytes_total counter"), "{text}");
    }

    #[test]
    fn labels_escape_what_would_end_them() {
        assert_eq!(labels(&[("a", "x\"y\\z\n")]), r#"{a="x\"y\\z\n"}"#);
    }
}
