//! The report: a table for eyes, JSON for programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::arguments::{Job, QueueType};
use super::figures::{Figures, Row, Side};
use super::machine;
use super::place::{Place, Stage};

/// Everything that a run has found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    broker: String,
    /// Of this machine; broker, client and sidecar share them where the broker is a private one.
    cores: usize,
    is_broker_private: bool,
    rows: Vec<Row>,
    memory: Vec<Memory>,
}

/// Memory of the sidecar in KiB.
#[derive(Debug, Serialize)]
struct Memory {
    queue_type: QueueType,
    /// Ready, before any work.
    idle: u64,
    /// The most while it worked.
    peak: u64,
}

impl Report {
    pub(crate) async fn new(place: &Place) -> Self {
        Self {
            broker: format!("RabbitMQ {}", place.broker.version().await),
            cores: machine::cores(),
            is_broker_private: place.broker.node.is_some(),
            rows: Vec::new(),
            memory: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, figures: &Figures) {
        self.rows.push(figures.row());
    }

    pub(crate) fn peak(&mut self, stage: &Stage) {
        let peak = stage.sidecar.process.memory("VmHWM") / 1024;
        self.memory.push(Memory { queue_type: stage.queue_type, idle: stage.idle_kib, peak });
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain values") + "\n"
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let place = if self.is_broker_private { "on the same machine" } else { "elsewhere" };
        let _ = writeln!(text, "{}, {place}; {} cores", self.broker, self.cores);
        let _ = writeln!(
            text,
            "\n{:<14} {:<8} {:>20} {:>20} {:>6} {:>24} {:>6} {:>8}",
            "job", "queue", "bare, 1/s", "sidebus, 1/s", "ratio", "CPU us: bare/side/stubs", "ratio", "broker"
        );
        for row in &self.rows {
            let (bare, sidebus) = (&row.bare, &row.sidebus);
            let _ = writeln!(
                text,
                "{:<14} {:<8} {:>20} {:>20} {:>6.2} {:>24} {:>6.2} {:>8}",
                name(row.job),
                row.queue_type.as_str(),
                rate(bare),
                rate(sidebus),
                row.rate_ratio,
                format!("{:.1}/{:.1}/{:.1}", bare.client_us, sidebus.sidecar_us, sidebus.client_us),
                row.cpu_ratio,
                format!("{:.1}/{:.1}", bare.broker_cores, sidebus.broker_cores),
            );
            if let (Some([b50, b99]), Some([s50, s99])) = (delays(bare), delays(sidebus)) {
                let _ = writeln!(
                    text,
                    "  from publish to handler in ms, p50 and p99: bare {b50:.2} {b99:.2}, sidebus {s50:.2} {s99:.2}, added {:.2} {:.2}",
                    s50 - b50,
                    s99 - b99,
                );
            }
        }
        for memory in &self.memory {
            let mib = |kib: u64| kib.div_ceil(1_024);
            let (kind, idle, peak) = (memory.queue_type.as_str(), mib(memory.idle), mib(memory.peak));
            let _ = writeln!(text, "memory of the sidecar, {kind}: idle {idle} MiB, at most {peak} MiB");
        }
        text
    }
}

fn name(job: Job) -> &'static str {
    match job {
        Job::Consume => "consume",
        Job::PublishStream => "publish-stream",
        Job::Publish => "publish",
        Job::Pika => "pika",
        Job::AioPika => "aio-pika",
        Job::Latency => "latency",
    }
}

fn rate(side: &Side) -> String {
    format!("{:.0} ({:.0}-{:.0})", side.rate.median, side.rate.min, side.rate.max)
}

fn delays(side: &Side) -> Option<[f64; 2]> {
    Some([side.p50_ms?, side.p99_ms?])
}
