//! Where things lie.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::Shell;

/// The workspace that cargo runs this program in, else the one that it was built from.
pub(crate) struct Workspace {
    root: PathBuf,
    /// A shell whose working directory is the root.
    pub(crate) shell: Shell,
}

impl Workspace {
    pub(crate) fn locate() -> Result<Self> {
        // As cargo says now: with a target directory that checkouts share, another one may have built this program.
        let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&own).parent().context("xtask lies in the workspace")?.to_owned();
        let shell = Shell::new()?;
        shell.change_dir(&root);
        Ok(Workspace { root, shell })
    }

    /// A path below the root.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The folder of everything generated; `CARGO_TARGET_DIR` does not move it, so that build scripts find it.
    pub(crate) fn target(&self) -> PathBuf {
        self.path("target")
    }
}
