//! The benchmark of the data path: a bare AMQP client and Sidebus do the same job in turn, on the same broker and queue.
//!
//! `cargo bench` runs it all on a private broker; `cargo bench -- --help` names the rest. Read the ratios: both sides share the
//! machine with the broker, so absolute figures say more about the machine. It asserts nothing of speed; a job that loses a message
//! fails.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a broken benchmark ends by panicking")]
#![allow(clippy::disallowed_methods, reason = "the kinds of tasks are the product's own")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it reports to whoever started it")]

mod arguments;
mod bare;
mod figures;
mod handler;
mod jobs;
mod machine;
mod place;
mod publisher;
mod python;
mod report;

#[path = "../../tests/support/mod.rs"]
mod support;

use arguments::Arguments;
use clap::Parser as _;
use figures::Figures;
use place::Place;
use report::Report;

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let place = Place::find().await;
    let mut report = Report::new(&place).await;
    for queue_type in &arguments.queue_types {
        let stage = place.stage(*queue_type, &arguments).await;
        for job in &arguments.jobs {
            let mut figures = Figures::of(*job, *queue_type);
            for round in 0..arguments.rounds {
                // The first round warms both sides up and is not counted.
                let pair = jobs::run_both(*job, &stage, &arguments).await;
                if round > 0 || arguments.rounds == 1 {
                    figures.add(pair);
                }
                eprint!("{}", if round + 1 == arguments.rounds { "\n" } else { "." });
            }
            report.add(&figures);
        }
        report.peak(&stage);
        stage.leave().await;
    }
    print!("{}", report.text());
    if let Some(path) = &arguments.json {
        std::fs::write(path, report.json()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
