//! Machine code that all builds of a device crate share: what was assembled once is not assembled again.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::{Error, Ptxas, Result};

/// A folder of machine code, named after what it was made of.
pub(crate) struct Assembled {
    dir: PathBuf,
}

/// A kernel's machine code.
pub(crate) struct Code {
    /// The file.
    pub(crate) cubin: PathBuf,
    /// What ptxas printed.
    pub(crate) said: String,
    /// Seconds that ptxas took; `None` if it had been assembled before.
    pub(crate) seconds: Option<f64>,
}

impl Assembled {
    /// The folder in `target_dir`, which is made if it is not there.
    pub(crate) fn new(target_dir: &Path) -> Result<Self> {
        let dir = target_dir.join("assembled");
        fs::create_dir_all(&dir).map_err(Error::io("could not create", &dir))?;
        Ok(Assembled { dir })
    }

    /// The machine code of kernel `symbol`, whose PTX is `text` and lies in the file `ptx`.
    ///
    /// Several builds may ask at once: files appear whole, the log last.
    pub(crate) fn code(
        &self,
        ptxas: &Ptxas,
        line_tables: bool,
        symbol: &str,
        ptx: &Path,
        text: &str,
    ) -> Result<Code> {
        let mut hasher = DefaultHasher::new();
        (ptxas.identity(line_tables), text).hash(&mut hasher);
        let path = |extension: &str| self.dir.join(format!("{symbol}-{:016x}.{extension}", hasher.finish()));
        let (cubin, log) = (path("cubin"), path("log"));
        if let Ok(said) = fs::read_to_string(&log) {
            return Ok(Code { cubin, said, seconds: None });
        }
        let own = |extension: &str| path(&format!("{}.{extension}", std::process::id()));
        let (own_cubin, own_log) = (own("cubin"), own("log"));
        let started = Instant::now();
        let said = ptxas.assemble(symbol, ptx, &own_cubin, line_tables)?;
        let seconds = Some(started.elapsed().as_secs_f64());
        fs::write(&own_log, &said).map_err(Error::io("could not write", &own_log))?;
        for (own, shared) in [(&own_cubin, &cubin), (&own_log, &log)] {
            fs::rename(own, shared).map_err(Error::io("could not write", shared))?;
        }
        Ok(Code { cubin, said, seconds })
    }
}
