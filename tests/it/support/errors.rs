//! What a status tells a client: code, reason, metadata, details.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorInfo, StatusExt as _};

/// A refusal, taken apart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) retry_after: Option<Duration>,
    /// Paths of the fields that break a rule.
    pub(crate) fields: Vec<String>,
    pub(crate) text: String,
}

impl Refused {
    pub(crate) fn is(&self, code: Code, reason: &str) -> bool {
        self.code == code && self.reason == reason
    }

    /// The value of a key of the error's metadata; empty if there is none.
    pub(crate) fn value(&self, key: &str) -> &str {
        self.metadata.get(key).map(String::as_str).unwrap_or_default()
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().cloned().unwrap_or_else(|| ErrorInfo::new("", "", HashMap::new()));
        let fields =
            details.bad_request().map(|bad| bad.field_violations.iter().map(|one| one.field.clone()).collect());
        if !info.reason.is_empty() {
            assert_eq!(info.domain, "sidebus.v1", "{status:?}");
        }
        Self {
            code: status.code(),
            reason: info.reason,
            metadata: info.metadata,
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            fields: fields.unwrap_or_default(),
            text: status.message().to_owned(),
        }
    }
}

/// Checks a refusal and gives it back for a closer look.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, reason: &str) -> Refused {
    let refused = Refused::from(result.expect_err("must be refused"));
    assert!(refused.is(code, reason), "{code:?} {reason} expected, found {refused:?}");
    refused
}
