//! What a backend tells of a plan that it has carried out. Knows no client library.

use std::fmt;

use crate::domain::difference::{Comparison, Difference};
use crate::domain::name::QueueName;

/// What was found while a plan was applied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// Declared now, such as `queue player-projector`.
    pub created: Vec<String>,
    /// Existed and is used as it is.
    pub adopted: Vec<Adopted>,
    /// What is used all the same and may surprise: what the broker's release takes without effect or is giving up, and
    /// bindings that are not as wanted where nobody makes them. One sentence each.
    pub remarks: Vec<String>,
}

/// An object that existed before and is used as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Such as `queue player-projector`.
    pub object: String,
    /// Our defaults that it has not, all of them that could be seen; empty = it differs in nothing, as far as known.
    pub lacks: Vec<Difference>,
    /// Why the whole could not be seen, in the broker's words; `None` = it was seen.
    pub unknown: Option<String>,
    /// Requeues that a queue allows, after which its broker gives a message up, as an argument or a policy of it says;
    /// `None` = nobody could see one. What a number below 0 means hangs on the broker's release.
    pub delivery_limit: Option<i64>,
}

impl Adopted {
    /// One that differs in nothing.
    pub fn same(object: String) -> Self {
        Self { object, lacks: Vec::new(), unknown: None, delivery_limit: None }
    }

    /// One that has everything that was named.
    pub fn compared(object: String, comparison: Comparison) -> Self {
        Self { object, lacks: comparison.lacks, unknown: None, delivery_limit: comparison.delivery_limit }
    }
}

impl Findings {
    /// Requeues that a queue allows which was there before; `None` = it was not, or nobody could see it.
    pub fn delivery_limit(&self, queue: &QueueName) -> Option<i64> {
        let object = format!("queue {queue}");
        self.adopted.iter().find(|adopted| adopted.object == object)?.delivery_limit
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[&str]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        let created: Vec<&str> = self.created.iter().map(String::as_str).collect();
        let adopted: Vec<&str> = self.adopted.iter().map(|adopted| adopted.object.as_str()).collect();
        write!(f, "created {}; found {}", list(&created), list(&adopted))
    }
}
