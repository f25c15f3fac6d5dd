//! Files that runs leave behind.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Which program made a file of figures, and when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Version of flashcore.
    pub(crate) version: String,
    /// Commit it was built from.
    pub(crate) commit: Option<String>,
    /// When, RFC 3339.
    pub(crate) date: String,
}

impl Origin {
    /// This program, now.
    pub(crate) fn now() -> Self {
        let commit = option_env!("FLASHCORE_COMMIT").map(str::to_owned);
        Origin { version: env!("CARGO_PKG_VERSION").to_owned(), commit, date: now() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Origin { version, commit, date } = self;
        write!(f, "flashcore {version}, commit {}, {date}", commit.as_deref().unwrap_or("unknown"))
    }
}

/// The time, RFC 3339.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Writes `figures` to a JSON file, and makes its folder if there is none. Whoever reads it meanwhile, or after the
/// program was killed, finds the old file or the new one, whole.
pub(crate) fn write(figures: &impl Serialize, path: &Path) -> Result<()> {
    write_text(&serde_json::to_string_pretty(figures)?, path)
}

/// The same of text.
pub(crate) fn write_text(text: &str, path: &Path) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let draft = path.with_extension("draft");
    fs::write(&draft, text).with_context(failed)?;
    fs::rename(&draft, path).with_context(failed)
}

/// Reads a JSON file.
///
/// # Errors
/// There is no such file, or it is something else.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not of this lab", path.display()))
}

/// Numbers that may be none: JSON has no NaN, and gets null in its place.
pub(crate) mod number {
    use serde::{Deserialize, Deserializer};

    /// One.
    pub(crate) fn one<'a, D: Deserializer<'a>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
    }

    /// Two.
    pub(crate) fn two<'a, D: Deserializer<'a>>(from: D) -> Result<[f64; 2], D::Error> {
        Ok(<[Option<f64>; 2]>::deserialize(from)?.map(|number| number.unwrap_or(f64::NAN)))
    }

    /// A list.
    pub(crate) fn many<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<f32>, D::Error> {
        let numbers = Vec::<Option<f32>>::deserialize(from)?;
        Ok(numbers.into_iter().map(|number| number.unwrap_or(f32::NAN)).collect())
    }
}
