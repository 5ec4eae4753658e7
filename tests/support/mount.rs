//! Files as a platform mounts them for a process.

use std::path::PathBuf;

use tempfile::TempDir;

/// A folder of one test.
#[derive(Debug)]
pub(crate) struct Mount(TempDir);

impl Mount {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// Where a file is, or would be.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, over what was there.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a file");
        path
    }
}
