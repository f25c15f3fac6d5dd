//! A launch in words: its shape and its arguments, as `flashcore-emu run` takes them and as a PTX file may name them
//! in a comment.
//!
//! ```text
//! // launch: --grid 2 --block 128 --shared 4096 --arg u32:5 --arg in-f32:64 --arg out:256
//! ```

mod argument;

use clap::{Args, FromArgMatches};

use crate::ir::{Kernel, Module};
use crate::tensor_map::TensorMapError;
use crate::{Device, DeviceError, Launch, Options, Report};

pub use argument::{Argument, ArgumentError};

/// CTAs of a grid or threads of a CTA, along x, y and z.
pub type Extent = [u32; 3];

/// Shape and arguments of a launch; what is not given is one, or nothing.
#[derive(Args, Clone, Debug, Default)]
pub struct Workload {
    /// CTAs of the grid
    #[arg(long, value_name = "X[,Y[,Z]]", value_parser = extent)]
    pub grid: Option<Extent>,
    /// Threads of a CTA
    #[arg(long, value_name = "X[,Y[,Z]]", value_parser = extent)]
    pub block: Option<Extent>,
    /// CTAs of a cluster
    #[arg(long, value_name = "X[,Y[,Z]]", value_parser = extent)]
    pub cluster: Option<Extent>,
    /// Bytes of dynamic shared memory
    #[arg(long, value_name = "BYTES")]
    pub shared: Option<u32>,
    /// An argument of the kernel, in the order of its parameters
    #[arg(long = "arg", value_name = "ARGUMENT")]
    pub args: Vec<Argument>,
}

/// Why a launch cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// The comment of a PTX file that says how to launch it is wrong.
    #[error("the `// launch:` comment of line {line}: {why}")]
    Comment {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// The device refuses.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A tensor map that the driver would refuse.
    #[error("argument {argument}: {why}")]
    TensorMap {
        /// Which argument, from 0.
        argument: usize,
        /// The rule that it breaks.
        why: TensorMapError,
    },
}

impl Workload {
    /// What the first comment `// launch: ...` of a PTX file says, with the options of the command.
    ///
    /// # Errors
    /// [`WorkloadError::Comment`]
    pub fn of_comment(text: &str) -> Result<Option<Workload>, WorkloadError> {
        let comment = |(line, text): (usize, &str)| {
            text.trim().strip_prefix("// launch:").map(|words| (line + 1, words.to_owned()))
        };
        let Some((line, words)) = text.lines().enumerate().find_map(comment) else { return Ok(None) };
        let command = Workload::augment_args(clap::Command::new("launch").no_binary_name(true));
        let parsed = command.try_get_matches_from(words.split_whitespace());
        let workload = parsed.and_then(|matches| Workload::from_arg_matches(&matches));
        workload.map(Some).map_err(|error| WorkloadError::Comment { line, why: error.to_string() })
    }

    /// This, and where it says nothing what `other` says.
    pub fn or(self, other: Workload) -> Workload {
        Workload {
            grid: self.grid.or(other.grid),
            block: self.block.or(other.block),
            cluster: self.cluster.or(other.cluster),
            shared: self.shared.or(other.shared),
            args: if self.args.is_empty() { other.args } else { self.args },
        }
    }

    /// Allocates and fills what the arguments need; `seed` decides about random values.
    ///
    /// # Errors
    /// [`WorkloadError::Device`] without memory, [`WorkloadError::TensorMap`]
    pub fn prepare(&self, device: &mut Device, seed: u64) -> Result<Prepared, WorkloadError> {
        let mut prepared = Prepared { workload: self.clone(), params: Vec::new(), buffers: Vec::new() };
        for (index, argument) in self.args.iter().enumerate() {
            let (param, buffer) = argument.prepare(device, index, seed)?;
            prepared.params.push(param);
            prepared.buffers.extend(buffer);
        }
        Ok(prepared)
    }
}

/// Memory behind an argument.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Which argument it belongs to, from 0.
    pub argument: usize,
    /// Its address on the device.
    pub address: u64,
    /// Its size in bytes.
    pub bytes: usize,
    /// What it holds before the launch; absent: nothing.
    pub before: Option<Vec<u8>>,
    /// Whether the kernel is meant to write it.
    pub output: bool,
}

/// A launch whose arguments are on a device.
#[derive(Clone, Debug)]
pub struct Prepared {
    workload: Workload,
    params: Vec<Vec<u8>>,
    /// Memory behind the arguments that have some, in their order.
    pub buffers: Vec<Buffer>,
}

impl Prepared {
    /// Launches a kernel.
    ///
    /// # Errors
    /// [`DeviceError::Launch`]
    pub fn launch(
        &self,
        device: &mut Device,
        module: &Module,
        kernel: &Kernel,
        options: &Options,
    ) -> Result<Report, DeviceError> {
        let params: Vec<&[u8]> = self.params.iter().map(Vec::as_slice).collect();
        let Workload { grid, block, cluster, shared, .. } = self.workload;
        let one = [1; 3];
        let launch = Launch {
            grid: grid.unwrap_or(one),
            block: block.unwrap_or(one),
            cluster: cluster.unwrap_or(one),
            shared_bytes: shared.unwrap_or(0),
            params: &params,
        };
        device.launch(module, kernel, &launch, options)
    }

    /// What the outputs hold now.
    ///
    /// # Errors
    /// [`DeviceError::NotAllocated`] on another device.
    pub fn outputs(&self, device: &Device) -> Result<Vec<Vec<u8>>, DeviceError> {
        let outputs = self.buffers.iter().filter(|buffer| buffer.output);
        outputs
            .map(|buffer| {
                let mut bytes = vec![0; buffer.bytes];
                device.read(buffer.address, &mut bytes).map(|()| bytes)
            })
            .collect()
    }
}

fn extent(text: &str) -> Result<Extent, String> {
    let mut extent = [1; 3];
    let numbers: Vec<&str> = text.split(',').collect();
    if numbers.len() > 3 {
        return Err(format!("{} numbers, at most 3 are possible", numbers.len()));
    }
    for (slot, number) in extent.iter_mut().zip(numbers) {
        *slot = number.parse().map_err(|_| format!("`{number}` is not a number"))?;
    }
    Ok(extent)
}
