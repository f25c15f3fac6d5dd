//! Files that runs leave behind.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::Serialize;

/// Which program made a file of figures, and when.
#[derive(Serialize)]
pub(crate) struct Origin {
    version: &'static str,
    commit: Option<&'static str>,
    date: String,
}

impl Origin {
    /// This program, now.
    pub(crate) fn now() -> Self {
        let commit = option_env!("FLASHCORE_COMMIT");
        Origin { version: env!("CARGO_PKG_VERSION"), commit, date: now() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Origin { version, commit, date } = self;
        write!(f, "flashcore {version}, commit {}, {date}", commit.unwrap_or("unknown"))
    }
}

/// The time, RFC 3339.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Writes `figures` to a JSON file, and makes its folder if there is none.
pub(crate) fn write(figures: &impl Serialize, path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(path, serde_json::to_string_pretty(figures)?)
        .with_context(|| format!("cannot write {}", path.display()))
}
