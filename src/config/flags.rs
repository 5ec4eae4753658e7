//! The command line as a layer of settings: `--set KEY=VALUE` and the flags that stand for one key.

use config::Value;

use super::keys;
use super::load::LoadRequest;
use super::path::KeyPath;
use super::problem::{Fault, Problem, Problems};
use super::{environment, file, tree};
use crate::domain::masking::masked;

/// The flags as a tree.
pub(super) fn read(request: &LoadRequest, problems: &mut Problems) -> Value {
    let mut layer = tree::empty();
    let named = [
        ("--backend", "bus.backend", &request.flags.backend),
        ("--listen", "grpc.listen", &request.flags.listen),
        ("--admin", "admin.listen", &request.flags.admin),
        ("--log-level", "log.level", &request.flags.log_level),
    ];
    for (flag, key, value) in named {
        if let Some(value) = value {
            environment::set(&mut layer, &KeyPath::of(key), flag, value, problems);
        }
    }
    for (key, value) in &request.overrides {
        let Some(words) = file::parse_key(key) else {
            let fault = Fault::new("not a key").hint("write --set bus.amqp.prefetch_count=50");
            problems.push(Problem::new("--set", "--set", fault));
            continue;
        };
        let path: KeyPath = words.into_iter().collect();
        let origin = masked(&format!("--set {path}")).into_owned();
        // Set aside first: a table may hold a secret.
        let mut alone = tree::empty();
        environment::set(&mut alone, &path, &origin, value, &mut Problems::default());
        let secrets = secrets(&alone, &KeyPath::default());
        if secrets.is_empty() {
            environment::set(&mut layer, &path, &origin, value, problems);
        }
        for secret in secrets {
            let fault = Fault::new("a secret is not taken from the command line, which others can read");
            let hint = format!("set {} or its file", masked(&environment::variable_of(&secret)));
            problems.push(Problem::new(secret, "--set", fault.hint(hint)));
        }
    }
    layer
}

/// Keys of secrets in a tree.
fn secrets(node: &Value, path: &KeyPath) -> Vec<KeyPath> {
    if keys::find(path).is_some_and(keys::Key::is_secret) {
        return vec![path.clone()];
    }
    tree::entries(node).into_iter().flat_map(|(word, below)| secrets(below, &path.child(word))).collect()
}
