//! `sidebus config`: the settings in effect, one key explained, the schema, the reference. Opens no socket.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::args::SettingsArgs;
use super::console::Console;
use super::exit::ExitStatus;
use super::settings;
use crate::config::{self, Command, Effective, Origin, Shown};

/// `sidebus config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What about them.
    #[command(subcommand)]
    pub question: Question,
}

/// Questions about settings.
#[derive(Debug, Subcommand)]
pub enum Question {
    /// Show the values in effect; secrets are masked
    Show(ShowArgs),
    /// Print a JSON Schema of the settings file (draft 2020-12)
    Schema,
    /// Explain one key or table, such as `bus.amqp.prefetch_count`, `queues.<name>.bindings` or `AMQP_URL`
    Explain {
        /// The key as a file writes it, or its variable
        key: String,
    },
    /// Print the reference of all keys as Markdown
    #[command(hide = true)]
    Reference,
}

/// `sidebus config show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Say where each value came from: file and line, variable, flag or default
    #[arg(long)]
    pub origin: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// How `config show` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines for people
    Table,
    /// An object by key for programs: value, origin, and how the value came about
    Json,
}

/// A value column is no wider than this, so that one long value does not push all origins off the screen.
const VALUE_CHARS_MAX: usize = 60;

/// Answers.
pub(super) fn run(args: &ConfigArgs, console: &mut Console<'_>) -> ExitStatus {
    match &args.question {
        Question::Show(args) => show(args, console),
        Question::Schema => {
            print(console, &format!("{:#}", config::schema()));
            ExitStatus::Ok
        }
        Question::Explain { key } => match config::explain(key) {
            Ok(text) => {
                print(console, &text);
                ExitStatus::Ok
            }
            Err(unknown) => {
                console.say(format_args!("{unknown}; try: sidebus config show"));
                ExitStatus::NotFound
            }
        },
        Question::Reference => {
            print(console, config::markdown().trim_end());
            ExitStatus::Ok
        }
    }
}

fn print(console: &mut Console<'_>, text: &str) {
    // A reader that has gone has seen enough.
    writeln!(console.output, "{text}").ok();
}

fn show(args: &ShowArgs, console: &mut Console<'_>) -> ExitStatus {
    let request = settings::request(Command::Show, &args.settings);
    let Shown { rows, warnings } = match config::show(&request) {
        Ok(shown) => shown,
        Err(problems) => {
            console.say(&problems);
            return ExitStatus::Settings;
        }
    };
    for warning in warnings {
        console.say(format_args!("warning: {warning}"));
    }
    let text = match args.output {
        Format::Table => table(&rows, args.origin),
        Format::Json => format!("{:#}", rows.iter().map(object).collect::<serde_json::Value>()),
    };
    print(console, &text);
    ExitStatus::Ok
}

fn table(rows: &[Effective], with_origin: bool) -> String {
    let line = |row: &Effective| format!("{} = {}", row.key, row.toml);
    let widest = rows.iter().map(|row| line(row).chars().count()).max().unwrap_or(0);
    let width = widest.min(VALUE_CHARS_MAX);
    let lines: Vec<String> = rows
        .iter()
        .filter(|row| with_origin || !matches!(row.origin, Origin::Dropped { .. }))
        .map(|row| if with_origin { format!("{:<width$}    {}", line(row), row.origin) } else { line(row) })
        .collect();
    lines.join("\n")
}

fn object(row: &Effective) -> serde_json::Value {
    let (kind, origin) = match &row.origin {
        Origin::Given(origin) => ("given", Some(origin.clone())),
        Origin::Default => ("default", None),
        Origin::From(other) => ("derived", Some(other.clone())),
        Origin::Dropped { given, winner } => {
            return json!({ "key": row.key, "value": null, "source": "dropped", "origin": given, "winner": winner });
        }
    };
    json!({ "key": row.key, "value": row.json, "source": kind, "origin": origin })
}
