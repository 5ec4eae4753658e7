//! The table of keys for readers: one key explained, a JSON Schema, the reference as Markdown. Reads no source.

mod explain;
mod markdown;
mod schema;
mod words;

pub use explain::{NoSuchKey, explain};
pub use markdown::markdown;
pub use schema::schema;
