//! GPU time of a call: many launches in one CUDA graph, many replays of the graph, the median.

use std::borrow::Borrow;
use std::fmt;

use anyhow::Result;
use clap::Args;
use flashcore::driver::{Event, Graph};
use flashcore::{Device, Plan, Stream};
use flashcore_tests::cases::{Case, KERNEL_HEAD_DIMS};
use flashcore_tests::device::OnDevice;
use serde::{Deserialize, Serialize};

use crate::metrics::median;
use crate::shape::{Dtypes, Shapes};

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Protocol {
    /// Calls in one graph.
    pub(crate) launches: usize,
    /// GPU time of replays before those that count, at least. After a pause a card runs at its full clock for some 20
    /// to 50 ms, until its power limit is felt: up to 15 % faster. Whoever was measured in that time would win.
    pub(crate) settle_ms: f64,
    /// Replays of the graph, at least.
    pub(crate) min_replays: usize,
    /// GPU time of the replays, at least: short shapes are replayed more often, so that clock and power settle.
    pub(crate) min_ms: f64,
}

impl Protocol {
    /// What every figure is measured with.
    pub(crate) const STANDARD: Protocol =
        Protocol { launches: 10, settle_ms: 100.0, min_replays: 20, min_ms: 50.0 };
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Protocol { launches, settle_ms, min_replays, min_ms } = self;
        write!(
            f,
            "{launches} launches in one CUDA graph. The graph is replayed for {settle_ms} ms, until the power limit is felt, \
             then at least {min_replays} times and for at least {min_ms} ms; a time is the median over the latter, divided by \
             the launches."
        )
    }
}

/// Replays before the first one that counts, at least.
const WARM_UP: usize = 3;

/// A measured call.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Timing {
    /// Microseconds of one call.
    pub(crate) us: f64,
}

/// About how long a kernel takes, in milliseconds, whichever it is: rather too much.
pub(crate) fn guess_ms(case: &Case) -> f64 {
    const TILE: usize = 128;
    const FLOPS_A_MS: f64 = 300e9;
    let columns = KERNEL_HEAD_DIMS.into_iter().find(|&wide| wide >= case.head_dim).unwrap_or(case.head_dim);
    let heads = (case.batch * case.heads_q) as f64;
    let pairs = case.seqlen_q.next_multiple_of(TILE) as f64 * case.seqlen_kv.next_multiple_of(TILE) as f64;
    4.0 * heads * pairs * columns as f64 / FLOPS_A_MS
}

/// Calls on a case, recorded and ready to be replayed.
pub(crate) struct Recorded<T> {
    graph: Graph,
    stream: Stream,
    start: Event,
    end: Event,
    launches: usize,
    /// The graph holds addresses of this memory.
    _memory: T,
}

impl<T: Borrow<OnDevice>> Recorded<T> {
    /// Records `launches` calls on `tensors`.
    pub(crate) fn new(device: &Device, tensors: T, launches: usize) -> Result<Self> {
        Self::record(device, tensors, launches, |tensors, stream| tensors.borrow().run(stream))
    }

    /// Records `launches` launches of `plan`, which must be one for `tensors`.
    pub(crate) fn of_plan(device: &Device, tensors: T, plan: &Plan, launches: usize) -> Result<Self> {
        Self::record(device, tensors, launches, |tensors, stream| tensors.borrow().run_plan(plan, stream))
    }
}

impl<T> Recorded<T> {
    /// Records `launches` calls that use no memory but that of `memory`.
    pub(crate) fn record(
        device: &Device,
        memory: T,
        launches: usize,
        call: impl Fn(&T, &Stream) -> flashcore::Result<()>,
    ) -> Result<Self> {
        let stream = device.stream()?;
        let graph = Graph::capture(&stream, |stream| (0..launches).try_for_each(|_| call(&memory, stream)))?;
        let (start, end) = (Event::new(device)?, Event::new(device)?);
        Ok(Recorded { graph, stream, start, end, launches, _memory: memory })
    }

    /// Milliseconds of one replay.
    fn replay(&self) -> Result<f64> {
        self.start.record(&self.stream)?;
        // SAFETY: the memory of the recorded calls is kept as long as `self` lives.
        unsafe { self.graph.launch(&self.stream)? };
        self.end.record(&self.stream)?;
        Ok(f64::from(self.start.elapsed_ms(&self.end)?))
    }

    /// Microseconds of each of `calls` replays, divided by the calls in one, after `warm_up` that do not count.
    pub(crate) fn each_us(&self, warm_up: usize, calls: usize) -> Result<Vec<f64>> {
        (0..warm_up).try_for_each(|_| self.replay().map(drop))?;
        (0..calls).map(|_| Ok(1e3 * self.replay()? / self.launches as f64)).collect()
    }

    /// Times the recorded calls.
    pub(crate) fn measure(&self, protocol: &Protocol) -> Result<Timing> {
        let (mut warm_ups, mut settled) = (0, 0.0);
        while warm_ups < WARM_UP || settled < protocol.settle_ms {
            settled += self.replay()?;
            warm_ups += 1;
        }
        let (mut times, mut total) = (Vec::new(), 0.0);
        while times.len() < protocol.min_replays || total < protocol.min_ms {
            times.push(self.replay()?);
            total += times[times.len() - 1];
        }
        Ok(Timing { us: 1e3 * median(&mut times) / self.launches as f64 })
    }
}

/// Options of `one`.
#[derive(Args)]
#[command(after_help = "Example:\n  flashcore-lab one --shape 4,16,4096,128 --causal --repeat 3")]
pub(crate) struct OneOptions {
    #[command(flatten)]
    shapes: Shapes,
    /// Element type
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtypes,
    /// Launches of each shape
    #[arg(long, default_value_t = 1, value_name = "N")]
    repeat: usize,
}

/// Launches each shape `repeat` times, and no other kernel.
pub(crate) fn one(device: flashcore::Result<Device>, options: &OneOptions) -> Result<bool> {
    let device = device?;
    let cases = options.shapes.cases();
    anyhow::ensure!(!cases.is_empty(), "give a shape, such as --shape 4,16,4096,128");
    for case in cases {
        for &dtype in options.dtype.list() {
            let tensors = OnDevice::new(&device, &case, &case.inputs(dtype, 0))?;
            let stream = device.stream()?;
            for _ in 0..options.repeat {
                tensors.run(&stream)?;
            }
            stream.synchronize()?;
            println!("{} launches of {}", options.repeat, flashcore_tests::device::name(&case, dtype));
        }
    }
    Ok(true)
}
