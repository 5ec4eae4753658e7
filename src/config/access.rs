//! Addresses and logins that lie in files: read again whenever somebody connects, by the rules of the start.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::problem::Problems;
use super::settings::{AmqpSettings, ManagementSettings};
use super::values::Values;
use super::{address, management};

/// Keys of `bus.amqp` that name a file with an address, a login or a token.
const FILE_KEYS: [&str; 4] = ["url_file", "username_file", "password_file", TOKEN_KEY];

/// Of these the one that is sent anew without another login.
const TOKEN_KEY: &str = "oauth2.token_file";

/// Those of the management API, which has no session that they could outdate: each call reads them.
const MANAGEMENT_FILE_KEYS: [&str; 3] = ["management.url_file", "management.username_file", "management.password_file"];

/// The files of one process.
#[derive(Clone)]
pub struct AccessFiles(Arc<(Values, PathBuf)>);

impl fmt::Debug for AccessFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessFiles").finish_non_exhaustive()
    }
}

impl AccessFiles {
    /// `None` = nothing lies in files.
    pub(super) fn new(values: &Values, working_dir: &Path) -> Option<Self> {
        let amqp = values.section("bus.amqp");
        let is_there = FILE_KEYS.iter().chain(&MANAGEMENT_FILE_KEYS).any(|key| amqp.given(key).is_some());
        is_there.then(|| Self(Arc::new((values.clone(), working_dir.to_owned()))))
    }

    /// The keys that name a file, and where it is. Not that of a token: a new one is sent over the live connections.
    pub fn files(&self) -> Vec<(String, PathBuf)> {
        let (values, working_dir) = &*self.0;
        let amqp = values.section("bus.amqp");
        let keys = FILE_KEYS.into_iter().filter(|key| *key != TOKEN_KEY);
        let file = |key| Some((amqp.path(key).to_string(), working_dir.join(amqp.optional::<String>(key)?)));
        keys.filter_map(file).collect()
    }

    /// What the files of AMQP say now. Those of the management API are not looked at: their faults keep nobody from the
    /// broker.
    ///
    /// # Errors
    /// A file is gone, empty, or holds no address any more.
    pub fn read(&self) -> Result<AmqpSettings, Problems> {
        let (values, working_dir) = &*self.0;
        let mut problems = Problems::default();
        let settings = address::read(values, working_dir, &mut problems, &mut Vec::new());
        if problems.is_empty() { Ok(settings) } else { Err(problems.sorted()) }
    }

    /// Where the management API is now, who we are there, and the virtual host to ask for; `None` = it is not to be asked.
    ///
    /// # Errors
    /// As of [`AccessFiles::read`], for the files of both: what is not given for the management API is that of AMQP.
    pub fn management(&self) -> Result<Option<(ManagementSettings, String)>, Problems> {
        let (values, working_dir) = &*self.0;
        let amqp = self.read()?;
        let mut problems = Problems::default();
        let found =
            management::read(values, (working_dir, &amqp.login, amqp.tls.as_ref()), &mut problems, &mut Vec::new());
        let found = found.map(|management| (management, amqp.vhost));
        if problems.is_empty() { Ok(found) } else { Err(problems.sorted()) }
    }
}
