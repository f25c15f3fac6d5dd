//! Kernels as the emulator reads them: parsed once a process, since they never change.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use flashcore_emulator::ir::{Kernel, Module};

use crate::error::{Error, Result};
use crate::kernels::KernelImage;

/// A parsed kernel.
#[derive(Clone, Debug)]
pub(super) struct Parsed {
    module: Arc<Module>,
    symbol: &'static str,
}

/// Which image. Two may use one name, but texts live for ever, so that their addresses tell them apart.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    symbol: &'static str,
    text: *const str,
}

// SAFETY: an address that is only compared.
unsafe impl Send for Key {}

static PARSED: LazyLock<Mutex<HashMap<Key, Parsed>>> = LazyLock::new(Mutex::default);

impl Parsed {
    /// The kernel of `image`, parsed now if it was not before.
    pub(super) fn of(image: &KernelImage) -> Result<Self> {
        let key = Key { symbol: image.symbol, text: image.ptx };
        let mut all = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(parsed) = all.get(&key) {
            return Ok(parsed.clone());
        }
        let refused = |reason| Error::KernelRefused { symbol: image.symbol, reason };
        let module = Module::parse(image.ptx).map_err(|error| refused(error.to_string()))?;
        if module.kernel(image.symbol).is_none() {
            return Err(refused("its PTX has no entry of this name".into()));
        }
        let parsed = Parsed { module: Arc::new(module), symbol: image.symbol };
        all.insert(key, parsed.clone());
        Ok(parsed)
    }

    pub(super) fn module(&self) -> &Module {
        &self.module
    }

    pub(super) fn kernel(&self) -> &Kernel {
        self.module.kernel(self.symbol).expect("looked up when it was parsed")
    }
}
