//! Consumers in Python: what people write by hand against what a handler of Sidebus is. Both use clients that are installed as
//! their users do, into a folder below `target/`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::OnceCell;

use super::figures::Sample;
use super::machine;
use super::place::Stage;
use super::support::process::Process;

/// No run takes as long.
const PATIENCE: Duration = Duration::from_mins(5);

/// What a program says of itself, from its first message to its last ack.
#[derive(Debug, Deserialize)]
struct Said {
    seconds: f64,
    cpu_seconds: f64,
}

/// Lets a client empty the queue: `pika`, `aio-pika` or `sidebus`.
pub(crate) async fn consume(stage: &Stage, client: &str, (messages, prefetch): (usize, u16)) -> Sample {
    static CLIENTS: OnceCell<PathBuf> = OnceCell::const_new();
    let clients = CLIENTS.get_or_init(async || install()).await;
    let address = if client == "sidebus" { &stage.sidecar.grpc } else { &stage.url };
    let mut command = Command::new(interpreter());
    command.arg(own("consume.py")).args([client, address, &stage.first().queue]);
    command.args([messages.to_string(), prefetch.to_string()]);
    let worked = || [machine::cpu(stage.sidecar.process.pid()), stage.broker_pid.map_or(Duration::ZERO, machine::cpu)];
    let before = worked();
    let path = clients.to_str().expect("a path that is text");
    let mut program = Process::start(client, command, &[("PYTHONPATH", path)]);
    assert!(program.end_within(PATIENCE).await.success(), "{client}: {}", program.said());
    let after = worked();
    let said: Said = serde_json::from_str(&program.output().concat()).expect("what it has measured");
    Sample {
        messages,
        wall: Duration::from_secs_f64(said.seconds),
        client: Duration::from_secs_f64(said.cpu_seconds),
        sidecar: after[0].saturating_sub(before[0]),
        broker: after[1].saturating_sub(before[1]),
        delays: Vec::new(),
    }
}

fn own(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/data_path/python").join(name)
}

fn interpreter() -> PathBuf {
    let interpreter = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/python/.venv/bin/python");
    assert!(interpreter.exists(), "no Python with the generated stubs: run scripts/setup.sh");
    interpreter
}

fn install() -> PathBuf {
    let wanted = std::fs::read_to_string(own("requirements.txt")).expect("a list of clients");
    let into = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-clients");
    // Written last, so that an installation that was cut short is begun again.
    let installed = into.join("installed");
    if std::fs::read_to_string(&installed).is_ok_and(|found| found == wanted) {
        return into;
    }
    let mut pip = Command::new(interpreter());
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--target"]).arg(&into);
    pip.arg("-r").arg(own("requirements.txt"));
    assert!(pip.status().is_ok_and(|status| status.success()), "pip installs the clients");
    std::fs::write(installed, wanted).expect("a mark");
    into
}
