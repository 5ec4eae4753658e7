//! The process: command line → command → exit code.

use std::process::ExitCode;

use clap::Parser as _;
use sidebus::cli::args::Cli;
use sidebus::cli::console::Console;
use sidebus::cli::exit::ExitStatus;

fn main() -> ExitCode {
    let mut words = std::io::stderr();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return sidebus::cli::answer(&error, &mut words).into(),
    };
    sidebus::install_tls_provider();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            use std::io::Write as _;
            writeln!(words, "sidebus: the runtime cannot begin: {error}").ok();
            return ExitStatus::Failed.into();
        }
    };
    let status = runtime.block_on(async {
        let (mut input, mut output) = (tokio::io::BufReader::new(tokio::io::stdin()), std::io::stdout());
        let mut console = Console { input: &mut input, output: &mut output, words: &mut words };
        sidebus::cli::run(cli, &mut console).await
    });
    // Tasks that did not end in their time must not keep the process: a read of standard input cannot be cancelled.
    runtime.shutdown_background();
    status.into()
}
