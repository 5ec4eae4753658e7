//! What was measured, and what is made of it: rates, CPU for each message, delays, medians.

use std::time::Duration;

use serde::Serialize;

use super::arguments::{Job, QueueType};

/// One run of one side.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) messages: usize,
    pub(crate) wall: Duration,
    /// CPU of this process: the bare client, or the stubs and their handler.
    pub(crate) client: Duration,
    pub(crate) sidecar: Duration,
    /// Of a private broker, else nothing.
    pub(crate) broker: Duration,
    /// From publish to handler, where that is measured.
    pub(crate) delays: Vec<Duration>,
}

/// The runs of both sides.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) job: Job,
    pub(crate) queue_type: QueueType,
    bare: Vec<Sample>,
    sidebus: Vec<Sample>,
}

/// Lowest, median and highest of the runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

/// One side of a row.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Side {
    /// Messages a second.
    pub(crate) rate: Spread,
    /// Microseconds of CPU for each message: client, sidecar, private broker.
    pub(crate) client_us: f64,
    pub(crate) sidecar_us: f64,
    pub(crate) broker_us: f64,
    /// Cores that the private broker used.
    pub(crate) broker_cores: f64,
    /// From publish to handler in milliseconds.
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
}

/// Both sides and how they compare.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) job: Job,
    pub(crate) queue_type: QueueType,
    pub(crate) bare: Side,
    pub(crate) sidebus: Side,
    /// Median rate of Sidebus by that of the bare client.
    pub(crate) rate_ratio: f64,
    /// CPU of the sidecar by that of the bare client.
    pub(crate) cpu_ratio: f64,
}

impl Figures {
    pub(crate) fn of(job: Job, queue_type: QueueType) -> Self {
        Self { job, queue_type, bare: Vec::new(), sidebus: Vec::new() }
    }

    pub(crate) fn add(&mut self, (bare, sidebus): (Sample, Sample)) {
        self.bare.push(bare);
        self.sidebus.push(sidebus);
    }

    pub(crate) fn row(&self) -> Row {
        let (bare, sidebus) = (side(&self.bare), side(&self.sidebus));
        let (rate_ratio, cpu_ratio) =
            (sidebus.rate.median / bare.rate.median, sidebus.sidecar_us / bare.client_us.max(f64::EPSILON));
        Row { job: self.job, queue_type: self.queue_type, bare, sidebus, rate_ratio, cpu_ratio }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of messages are far below 2^52")]
fn side(samples: &[Sample]) -> Side {
    let micros = |of: fn(&Sample) -> Duration| {
        spread(samples.iter().map(|one| of(one).as_secs_f64() * 1e6 / one.messages as f64)).median
    };
    let mut delays: Vec<Duration> = samples.iter().flat_map(|sample| sample.delays.iter().copied()).collect();
    delays.sort_unstable();
    Side {
        rate: spread(samples.iter().map(|one| one.messages as f64 / one.wall.as_secs_f64())),
        client_us: micros(|one| one.client),
        sidecar_us: micros(|one| one.sidecar),
        broker_us: micros(|one| one.broker),
        broker_cores: spread(samples.iter().map(|one| one.broker.as_secs_f64() / one.wall.as_secs_f64())).median,
        p50_ms: percentile(&delays, 50),
        p99_ms: percentile(&delays, 99),
    }
}

fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (Some(min), Some(max)) = (values.first(), values.last()) else {
        return Spread { min: 0.0, median: 0.0, max: 0.0 };
    };
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
    Spread { min: *min, median, max: *max }
}

fn percentile(sorted: &[Duration], percent: usize) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[last * percent / 100].as_secs_f64() * 1e3)
}
