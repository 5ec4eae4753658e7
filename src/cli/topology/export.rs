//! `sidebus topology export`: what the settings want, in the forms of other tools.

use super::{Ended, ExportArgs, Format, graph, json, print, wanted, words};
use crate::cli::console::Console;
use crate::cli::exit::ExitStatus;
use crate::config::{Backend, Command, Settings};

/// The virtual host of a broker that nobody has named.
const VHOST_DEFAULT: &str = "/";

/// Prints the objects.
pub(super) fn run(args: &ExportArgs, console: &mut Console<'_>) -> Ended {
    let (settings, desired) = wanted(Command::Show, &args.selection, console)?;
    let objects = desired.objects();
    let text = match args.format {
        Format::Text => words::objects(&objects),
        Format::Json => format!("{:#}", json::objects(&objects)),
        Format::Dot => graph::dot(&objects),
        Format::Mermaid => graph::mermaid(&objects),
        Format::Definitions => {
            let (lasting, exclusive) = objects.lasting();
            for queue in &exclusive {
                console.say(format_args!("queue {queue} is left out: it is exclusive and made by whoever consumes it"));
            }
            for exchange in &lasting.foreign {
                console.say(format_args!(
                    "exchange {exchange} must be there before: the settings bind to it and do not make it"
                ));
            }
            if !args.selection.delay_slots {
                console.say(format_args!(
                    "delay slots are left out; a sidecar that may not declare {}.delay.* needs them: --delay-slots",
                    settings.namespace
                ));
            }
            format!("{:#}", json::definitions(&lasting, vhost(&settings)))
        }
    };
    print(&text, console)?;
    Ok(ExitStatus::Ok)
}

fn vhost(settings: &Settings) -> &str {
    match &settings.backend {
        Backend::Amqp(amqp) => &amqp.vhost,
        Backend::Memory { .. } => VHOST_DEFAULT,
    }
}
