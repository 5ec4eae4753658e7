//! From a request to checked settings: the layers in order, merged, typed, put together. Pure but for reading files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use config::Value;

use super::problem::{Fault, Problem, Problems, Warning};
use super::settings::{Backend, Settings};
use super::shape::{self, LayerKind};
use super::values::Values;
use super::{address, choices, environment, exchanges, file, flags, names, process, queues, tree};
use crate::domain::topology::TopologyMode;

/// The settings file of the whole host.
pub const SYSTEM_FILE: &str = "/etc/sidebus/sidebus.toml";

/// Who asks for the settings; decides what holds when no backend is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// The daemon: a broker must be named.
    Run,
    /// Development: the memory backend, and the worked example where no file is.
    Dev,
    /// A check of what [`Command::Run`] would do.
    Validate,
    /// A question to a running sidecar: only addresses matter, and no broker need be named.
    Client,
}

/// Flags that stand for one key each; `None` = not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--backend`: `bus.backend`.
    pub backend: Option<String>,
    /// `--listen`: `grpc.listen`.
    pub listen: Option<String>,
    /// `--admin`: `admin.listen`.
    pub admin: Option<String>,
    /// `--log-level`: `log.level`.
    pub log_level: Option<String>,
}

/// Everything that settings may come from. Begin with [`LoadRequest::new`].
#[derive(Clone)]
pub struct LoadRequest {
    /// Who asks.
    pub command: Command,
    /// `-c`: files, or directories of `*.toml`; later ones win. Empty = `BUS_CONFIG`, `./sidebus.toml`, the system's.
    pub files: Vec<PathBuf>,
    /// `--set KEY=VALUE`.
    pub overrides: Vec<(String, String)>,
    /// Flags that stand for one key each.
    pub flags: Flags,
    /// The environment: [`super::environment()`] or a test's own.
    pub environment: BTreeMap<String, String>,
    /// Where relative paths begin.
    pub working_dir: PathBuf,
    /// The last default file, [`SYSTEM_FILE`] but in tests.
    pub system_file: PathBuf,
    /// Names this sidecar where nothing else does.
    pub host_name: String,
}

impl LoadRequest {
    /// A request without flags, on this host.
    pub fn new(command: Command, environment: BTreeMap<String, String>, working_dir: PathBuf) -> Self {
        Self {
            command,
            files: Vec::new(),
            overrides: Vec::new(),
            flags: Flags::default(),
            environment,
            working_dir,
            system_file: PathBuf::from(SYSTEM_FILE),
            host_name: host_name(),
        }
    }
}

impl fmt::Debug for LoadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The environment and the overrides may hold secrets: names only.
        f.debug_struct("LoadRequest")
            .field("command", &self.command)
            .field("files", &self.files)
            .field("overrides", &self.overrides.iter().map(|(key, _)| key).collect::<Vec<_>>())
            .field("flags", &self.flags)
            .field("environment", &self.environment.keys().collect::<Vec<_>>())
            .field("working_dir", &self.working_dir)
            .field("system_file", &self.system_file)
            .field("host_name", &self.host_name)
            .finish()
    }
}

/// Name of this host as the kernel knows it; `sidebus` where it tells none.
fn host_name() -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = told.trim();
    if name.is_empty() { "sidebus".to_owned() } else { name.to_owned() }
}

/// Settings and what there is to say about them.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Every value in its bounds.
    pub settings: Settings,
    /// What works and may surprise.
    pub warnings: Vec<Warning>,
    /// Where each given value came from, by key: file and line, variable or flag. Keys left to their default are absent.
    pub origins: BTreeMap<String, String>,
}

/// Reads, merges and checks the settings: defaults, then files, then the environment, then flags.
///
/// # Errors
/// Every fault of every source, not only the first.
pub fn load(request: &LoadRequest) -> Result<Loaded, Problems> {
    let mut problems = Problems::default();
    let mut warnings = Vec::new();
    let Some(values) = gather(request, &mut problems, &mut warnings) else { return Err(problems.sorted()) };
    let settings = assemble(request, &values, &mut problems, &mut warnings);
    if !problems.is_empty() {
        return Err(problems.sorted());
    }
    warnings.sort();
    warnings.dedup();
    Ok(Loaded { settings, warnings, origins: values.origins() })
}

/// The typed values of all layers; `None` when a file could not be read, since all else would follow from that.
fn gather(request: &LoadRequest, problems: &mut Problems, warnings: &mut Vec<Warning>) -> Option<Values> {
    let mut file_problems = Problems::default();
    let files = file::read(request, &mut file_problems);
    let files: Vec<Value> = files.iter().map(|layer| shape::check(layer, LayerKind::Files, problems)).collect();
    let files = merged(&files, problems)?;
    let environment = environment::read(&request.environment, &files, problems, warnings);
    let environment = shape::check(&environment, LayerKind::Environment, problems);
    let flags = shape::check(&flags::read(request, problems), LayerKind::Flags, problems);
    if !file_problems.is_empty() {
        problems.append(file_problems);
        return None;
    }
    let mut layers = [(LayerKind::Files, files), (LayerKind::Environment, environment), (LayerKind::Flags, flags)];
    choices::settle(&mut layers, problems);
    let all = merged(layers.iter().map(|(_, layer)| layer), problems)?;
    Some(Values::read(&all, &layers, problems))
}

fn merged<'a>(layers: impl IntoIterator<Item = &'a Value>, problems: &mut Problems) -> Option<Value> {
    let merged = tree::merge(layers);
    if merged.is_err() {
        // Without the error's text: it may quote a value.
        problems.push(Problem::new("settings", "", Fault::new("cannot be merged")));
    }
    merged.ok()
}

fn assemble(request: &LoadRequest, values: &Values, problems: &mut Problems, warnings: &mut Vec<Warning>) -> Settings {
    let amqp = values.section("bus.amqp");
    let (exchange, exchanges) = exchanges::read(values, problems);
    let defaults = queues::defaults(values, &exchange.name);
    let settings = Settings {
        backend: backend(request, values, problems, warnings),
        instance: instance(request, values),
        topology: match amqp.value("topology") {
            "verify" => TopologyMode::Verify,
            "off" => TopologyMode::Off,
            _ => TopologyMode::Create,
        },
        namespace: amqp.value("namespace"),
        subscriptions: queues::read(values, &defaults, problems, warnings),
        exchange,
        exchanges,
        delivery: defaults.delivery,
        retry: defaults.retry,
        dead_letter: defaults.dead_letter,
        publish: process::publish(values),
        grpc: process::grpc(values, problems, warnings),
        admin: process::admin(values, problems, warnings),
        health: process::health(values),
        log: process::log(values),
        shutdown: process::shutdown(values, problems),
        limits: process::limits(values),
    };
    process::refuse_shared_addresses(values, problems);
    names::check(&settings, values, problems);
    settings
}

/// The backend that is named; else the one that follows from an address; else none, which only `dev` can do with.
fn backend(request: &LoadRequest, values: &Values, problems: &mut Problems, warnings: &mut Vec<Warning>) -> Backend {
    let bus = values.section("bus");
    let named: Option<&'static str> = bus.optional("backend");
    let memory = || Backend::Memory { bytes_max: bus.value("memory.max_bytes") };
    let address = address::key(values);
    if request.command == Command::Dev {
        if named == Some("amqp") && !file::is_example(&bus.origin("backend")) {
            let what = "dev always runs in memory; `sidebus run` goes to the broker";
            warnings.push(Warning::new("bus.backend", bus.origin("backend"), what));
        }
        return memory();
    }
    match named {
        Some("memory") => {
            if let Some(key) = address {
                let what = "is not used: bus.backend is memory";
                warnings.push(Warning::new(
                    values.section("bus.amqp").path(key),
                    values.section("bus.amqp").origin(key),
                    what,
                ));
            }
            memory()
        }
        None if address.is_none() && request.command == Command::Client => memory(),
        None if address.is_none() && !problems.iter().any(may_have_named_a_broker) => {
            let fault = Fault::new("no broker is named");
            let hint = "set AMQP_URL or BUS_BACKEND, or try `sidebus dev`, which needs no broker";
            problems.push(Problem::new("bus.backend", "", fault.hint(hint)));
            memory()
        }
        Some(_) | None => Backend::Amqp(Box::new(address::read(values, &request.working_dir, problems, warnings))),
    }
}

/// True for a fault that may be the attempt to name a broker: then a second problem would only confuse.
fn may_have_named_a_broker(problem: &Problem) -> bool {
    let is_address = address::ADDRESS_KEYS.iter().any(|key| problem.key == format!("bus.amqp.{key}"));
    is_address || ["bus", "bus.amqp", "bus.backend"].contains(&problem.key.as_str()) || problem.why == shape::UNKNOWN
}

/// `bus.instance`, else the pod, else the host.
fn instance(request: &LoadRequest, values: &Values) -> String {
    let variable = |name: &str| request.environment.get(name).filter(|value| !value.is_empty());
    let pod = variable("POD_NAME").map(|pod| match variable("POD_NAMESPACE") {
        Some(namespace) => format!("{namespace}/{pod}"),
        None => pod.clone(),
    });
    values.section("bus").value_or("instance", pod.unwrap_or_else(|| request.host_name.clone()))
}
