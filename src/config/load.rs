//! From a request to checked settings: the layers in order, merged, typed, put together. Pure but for reading files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use config::Value;

use super::path::KeyPath;
use super::problem::{Fault, Problem, Problems, Warning};
use super::settings::{Backend, Settings};
use super::shape::{self, LayerKind};
use super::values::Values;
use super::{
    address, budget, choices, client, environment, exchanges, file, flags, management, names, patterns, process,
    queues, tree,
};
use crate::domain::masking::masked;
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
    /// Work on the broker itself, beside any sidecar: as [`Command::Run`], but what only a sidecar keeps need not be there.
    Broker,
    /// A question to a running sidecar: only addresses matter, no broker need be named and no secret is read.
    Client,
    /// A look at the settings and at what follows from them: as [`Command::Validate`], but no broker need be named, and
    /// files of secrets and certificates that cannot be read are warnings, and so is a missing state directory.
    Show,
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
        // The environment and the overrides may hold secrets: names only, and not even those where they are addresses.
        let name = |text: &str| masked(text).into_owned();
        f.debug_struct("LoadRequest")
            .field("command", &self.command)
            .field("files", &self.files.iter().map(|file| name(&file.to_string_lossy())).collect::<Vec<_>>())
            .field("overrides", &self.overrides.iter().map(|(key, _)| name(key)).collect::<Vec<_>>())
            .field("flags", &self.flags)
            .field("environment", &self.environment.keys().map(|variable| name(variable)).collect::<Vec<_>>())
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
    with_values(request).map(|(loaded, _)| loaded)
}

/// As [`load`], with the values that the settings were made of.
pub(super) fn with_values(request: &LoadRequest) -> Result<(Loaded, Values), Problems> {
    let mut problems = match request.command {
        Command::Show => Problems::without_files(),
        Command::Run | Command::Dev | Command::Validate | Command::Broker | Command::Client => Problems::default(),
    };
    let mut warnings = Vec::new();
    let Some(values) = gather(request, &mut problems, &mut warnings) else {
        return Err(problems.with(warnings));
    };
    let of_sources = warnings.len();
    let settings = assemble(request, &values, &mut problems, &mut warnings);
    if !problems.is_empty() {
        // What the settings would do is of no interest yet; a variable that nobody reads may be what is missing.
        warnings.truncate(of_sources);
        return Err(problems.with(warnings));
    }
    let unreadable = problems.unreadable().iter();
    warnings.extend(unreadable.map(|problem| Warning::new(&problem.key, &problem.origin, problem.why.clone())));
    warnings.sort();
    warnings.dedup();
    Ok((Loaded { settings, warnings, origins: values.origins() }, values))
}

/// The typed values of all layers; `None` when a file could not be read: what its keys would have said is not missed then,
/// but what the other sources say is held against its type all the same.
fn gather(request: &LoadRequest, problems: &mut Problems, warnings: &mut Vec<Warning>) -> Option<Values> {
    let mut file_problems = Problems::default();
    let files = file::read(request, &mut file_problems);
    let files: Vec<Value> = files.iter().map(|layer| shape::check(layer, LayerKind::Files, problems)).collect();
    let files = merged(&files, problems)?;
    let environment = environment::read(&request.environment, &files, problems, warnings);
    let environment = shape::check(&environment, LayerKind::Environment, problems);
    let flags = shape::check(&flags::read(request, problems), LayerKind::Flags, problems);
    let mut layers = [(LayerKind::Files, files), (LayerKind::Environment, environment), (LayerKind::Flags, flags)];
    let dropped = choices::settle(&mut layers, problems);
    let all = merged(layers.iter().map(|(_, layer)| layer), problems)?;
    let values = Values::read(&all, &layers, problems).with_dropped(dropped);
    let is_whole = file_problems.is_empty();
    problems.append(file_problems);
    is_whole.then_some(values)
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
    let defaults = queues::defaults(values, &exchange.name, problems, warnings);
    let settings = Settings {
        backend: backend(request, values, problems, warnings),
        instance: instance(request, values),
        state_dir: state_dir(request, values, problems),
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
        grpc: process::grpc(values, &request.working_dir, problems, warnings),
        admin: process::admin(values, problems, warnings),
        client: client::read(values),
        health: process::health(values),
        log: process::log(values, problems),
        redact_topology: values.section("telemetry").value("redact_topology"),
        shutdown: process::shutdown(values, problems),
        limits: process::limits(values),
    };
    process::refuse_shared_addresses(values, problems);
    names::check(&settings, values, problems);
    patterns::warn(&settings, values, warnings);
    budget::check(&settings, values, problems);
    settings
}

/// The backend that is named; else the one that follows from an address; else none, which only `dev` can do with.
fn backend(request: &LoadRequest, values: &Values, problems: &mut Problems, warnings: &mut Vec<Warning>) -> Backend {
    let bus = values.section("bus");
    let named: Option<&'static str> = bus.optional("backend");
    let memory = || Backend::Memory { bytes_max: bus.value("memory.max_bytes") };
    let address = address::key(values);
    if request.command == Command::Client {
        return memory();
    }
    if request.command == Command::Dev {
        if named == Some("amqp") && !file::is_example(&bus.origin("backend")) {
            let what = "dev always runs in memory; `sidebus run` goes to the broker";
            warnings.push(Warning::new("bus.backend", bus.origin("backend"), what));
        }
        return memory();
    }
    match named {
        Some("memory") => {
            warnings.extend(unused_in_memory(values));
            memory()
        }
        None if address.is_none() && request.command == Command::Show => memory(),
        None if address.is_none() && !problems.iter().any(may_have_named_a_broker) => {
            let fault = Fault::new("no broker is named");
            let hint = "set AMQP_URL or BUS_BACKEND, or try `sidebus dev`, which needs no broker";
            problems.push(Problem::new("bus.backend", "", fault.hint(hint)));
            memory()
        }
        Some(_) | None => {
            let mut amqp = address::read(values, &request.working_dir, problems, warnings);
            amqp.management =
                management::read(values, (&request.working_dir, &amqp.login, amqp.tls.as_ref()), problems, warnings);
            Backend::Amqp(Box::new(amqp))
        }
    }
}

/// Keys of `bus.amqp` that count in memory, too.
const IN_MEMORY: [&str; 10] = [
    "exchange",
    "exchange_type",
    "topology",
    "namespace",
    "prefetch_count",
    "prefetch_max",
    "publish.lanes",
    "publish.batch_max",
    "publish.window",
    "publish.window_bytes",
];

/// What is given and only RabbitMQ would use, in one warning.
fn unused_in_memory(values: &Values) -> Option<Warning> {
    let amqp = values.section("bus.amqp");
    let counts = |path: &KeyPath| IN_MEMORY.iter().any(|key| amqp.path(key) == *path);
    let below = |path: &KeyPath| path.words().starts_with(amqp.path("").words());
    let mut unused = values.all().filter(|(path, _)| below(path) && !counts(path));
    let (first, given) = unused.next()?;
    let others: Vec<String> = unused.map(|(path, _)| path.to_string()).collect();
    let what = "is not used: bus.backend is memory";
    let what = if others.is_empty() { what.to_owned() } else { format!("{what}; nor are {}", others.join(", ")) };
    Some(Warning::new(first, &given.origin, what))
}

/// True for a fault that may be the attempt to name a broker: then a second problem would only confuse.
fn may_have_named_a_broker(problem: &Problem) -> bool {
    let is_address = address::ADDRESS_KEYS.iter().any(|key| problem.key == format!("bus.amqp.{key}"));
    is_address || ["bus", "bus.amqp", "bus.backend"].contains(&problem.key.as_str()) || problem.why == shape::UNKNOWN
}

/// `bus.state_dir`, which a sidecar does not create: a volume that is not mounted would go unseen.
fn state_dir(request: &LoadRequest, values: &Values, problems: &mut Problems) -> Option<PathBuf> {
    let bus = values.section("bus");
    let dir = request.working_dir.join(bus.optional::<String>("state_dir")?);
    let is_needed = match request.command {
        Command::Run | Command::Dev | Command::Validate | Command::Show => true,
        Command::Broker | Command::Client => false,
    };
    if is_needed && !dir.is_dir() {
        let fault = Fault::new("is no directory").hint("create it, or mount a volume there");
        problems.push_unreadable(bus.problem("state_dir", fault));
    }
    Some(dir)
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
