//! Constant time: what a kernel does, and how long it takes, must not tell anything of what is in the tensors.
//!
//! Two halves. The proof looks at the code: no branch, address, barrier or copy of any kernel depends on data (lint S06 of
//! the emulator, on the PTX), and no slow path of arithmetic was put into the machine code. The measurement times calls
//! on two classes of inputs, drawn at random, in the same memory, and compares the means by Welch's test.
//!
//! A kernel that skips work where data are 0 is the negative control of both.
//!
//! Not covered: power, electromagnetic and thermal emissions; clocks that follow them (a GPU at its power limit slows
//! down for random data, whatever the code does, so small shapes are measured, far from the limit); what others see of
//! caches and memory while the kernel runs; lengths, masks and the like, which are public.

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use flashcore::driver::{Event, Graph};
use flashcore::kernels::{IMAGES, KernelImage};
use flashcore::{Device, Dtype, Stream};
use flashcore_emulator::ir::Module;
use flashcore_emulator::lint::{self, Code, Config};
use flashcore_kernels::entry::entries;
use flashcore_tests::cases::{Case, Inputs};
use flashcore_tests::device::OnDevice;
use flashcore_tests::inputs::Fill;
use flashcore_tests::values::encode;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::faults::{self, Fault};
use crate::output::number;
use crate::sensors::{Sample, Sensors};
use crate::shape::{Bhsd, Dtypes, mask};
use crate::stats::{Moments, quantile, welch};

/// A difference of means that is so many standard errors is no chance: the limit of test vector leakage assessment.
pub(crate) const LIMIT: f64 = 4.5;
/// Quantile of the normal distribution: with it, nine of ten effects of the size that is stated are found.
const POWER: f64 = 1.28;
/// Calls in a sample, so that it is long beside the resolution of events.
const CALLS: usize = 10;
/// This part of the samples, from the first, does not count.
const WARM_UP: f64 = 0.1;
/// Samples above this quantile of both classes are interruptions, and do not count.
const CROP: f64 = 0.95;
/// Words of the negative control; each that is not 0 costs it some time.
const CONTROL_WORDS: u32 = 4096;

/// Options of `ct`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  flashcore-lab ct\n  flashcore-lab ct --static-only\n  flashcore-lab ct --shape 1,2,1024,64 --causal --samples 1000000"
)]
pub(crate) struct Options {
    /// Do not measure: look at the code alone, which needs no GPU
    #[arg(long)]
    static_only: bool,
    /// Shape to measure: a small one, which does not heat the GPU
    #[arg(long, value_name = "B,H,S,D", default_value = "1,4,1024,128")]
    shape: Bhsd,
    /// Measure with a causal mask
    #[arg(long)]
    causal: bool,
    /// Element type
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtypes,
    /// Samples of each class
    #[arg(long, default_value_t = SAMPLES, value_name = "N")]
    samples: usize,
}

/// Samples of each class, if nobody asks for more.
pub(crate) const SAMPLES: usize = 10_000;

/// What the code tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Proof {
    /// Kernels that were looked at.
    pub(crate) kernels: usize,
    /// Those of them with machine code.
    pub(crate) cubins: usize,
    /// What depends on data.
    pub(crate) findings: Vec<String>,
    /// Slow paths in machine code.
    pub(crate) slow_paths: Vec<String>,
    /// What was found in the negative control.
    pub(crate) control: Vec<String>,
}

impl Proof {
    fn holds(&self) -> bool {
        self.findings.is_empty() && self.slow_paths.is_empty() && !self.control.is_empty()
    }
}

/// What the measurement told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Timing {
    pub(crate) shapes: Vec<Timed>,
    /// The negative control, on zeros and on random words.
    pub(crate) control: Pair,
    /// What the sensors read meanwhile: a clock that moved would be seen here.
    pub(crate) trace: Vec<Sample>,
}

/// One shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Timed {
    pub(crate) shape: String,
    pub(crate) pairs: Vec<Pair>,
}

/// Two classes of inputs, compared twice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pair {
    pub(crate) classes: [String; 2],
    /// Samples of both classes that count, in each half of the measurement.
    pub(crate) samples: [usize; 2],
    /// Welch's t of each half.
    #[serde(deserialize_with = "number::two")]
    pub(crate) t: [f64; 2],
    /// Mean time of a call of each class, µs.
    pub(crate) mean_us: [f64; 2],
    /// Standard deviation of a sample, µs.
    pub(crate) deviation_us: f64,
    /// A difference of means so large would be seen nine times of ten, µs.
    pub(crate) detectable_us: f64,
}

impl Pair {
    /// What both halves agree on: the smaller `|t|`, or 0 where the signs differ. What leaks, leaks twice in the same
    /// direction; what drifts, does not.
    pub(crate) fn agreed_t(&self) -> f64 {
        let [first, second] = self.t;
        if first.is_nan() || second.is_nan() {
            return f64::NAN;
        }
        if first * second > 0.0 { first.abs().min(second.abs()) } else { 0.0 }
    }
}

impl Timing {
    /// The largest of the agreed `t`; NaN if one of them is.
    pub(crate) fn worst(&self) -> f64 {
        let pairs = self.shapes.iter().flat_map(|timed| &timed.pairs);
        pairs.map(Pair::agreed_t).fold(0.0, |worst, t| if t.is_nan() || t > worst { t } else { worst })
    }
}

/// Looks at the code, then measures; false if anything depends on data, or the negative control was not caught.
pub(crate) fn run(device: flashcore::Result<Device>, options: &Options) -> Result<bool> {
    let proof = prove()?;
    print!("{}", words(&proof));
    if options.static_only {
        return Ok(proof.holds());
    }
    let device = device.context("nothing can be measured (--static-only asks for the proof alone)")?;
    let dtypes = options.dtype.list();
    let cases: Vec<_> = dtypes.iter().map(|&dtype| (options.shape.case(options.causal), dtype)).collect();
    let timing = measure(&device, &cases, options.samples)?;
    println!("{}", table(&timing));
    let quiet = timing.worst() < LIMIT;
    let caught = timing.control.agreed_t() >= LIMIT;
    println!(
        "{}; the negative control was {}",
        if quiet { "no class was told from another" } else { "time depends on data" },
        if caught { "caught" } else { "NOT caught: this measurement proves nothing" }
    );
    Ok(proof.holds() && quiet && caught)
}

/// What of the PTX of a kernel depends on data, but for what `public` pointers point to.
fn dependences(image: &KernelImage, public: &[u32]) -> Result<Vec<String>> {
    let module = Module::parse(image.ptx).with_context(|| format!("the PTX of {}", image.symbol))?;
    let public_pointers = public.iter().copied().collect();
    let config = Config { constant_time: true, public_pointers, ..Config::default() };
    let findings = lint::check(&module, &config).into_iter();
    Ok(findings.filter(|finding| finding.code == Code::S06).map(|finding| finding.to_string()).collect())
}

/// Looks at every kernel of the product, and at the negative control.
pub(crate) fn prove() -> Result<Proof> {
    let control = Fault::Skip.kernel().context("the negative control is a kernel")?;
    let mut proof = Proof {
        kernels: 0,
        cubins: 0,
        findings: Vec::new(),
        slow_paths: Vec::new(),
        control: dependences(&control, &[])?,
    };
    for image in IMAGES {
        let entry = entries().find(|entry| entry.symbol == image.symbol);
        let entry = entry.with_context(|| format!("{} is in no table of kernels", image.symbol))?;
        proof.kernels += 1;
        proof.findings.extend(dependences(image, entry.public_pointers)?);
        if let Some(cubin) = image.cubin {
            proof.cubins += 1;
            let paths = lint::slow_paths(cubin).into_iter();
            proof.slow_paths.extend(paths.map(|path| format!("{}: {path}", image.symbol)));
        }
    }
    Ok(proof)
}

fn words(proof: &Proof) -> String {
    let Proof { kernels, cubins, findings, slow_paths, control } = proof;
    let mut text = String::new();
    for line in findings.iter().chain(slow_paths) {
        text += &format!("{line}\n");
    }
    text + &format!(
        "{kernels} kernels, {cubins} with machine code: {} dependences on data, {} slow paths; the negative control has {}\n",
        findings.len(),
        slow_paths.len(),
        control.len()
    )
}

/// A class of inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Random,
    /// Random as well, but others.
    OtherRandom,
    Zeros,
    OneHot,
    Flat,
    Rising,
    Falling,
    /// Keys with a score of -inf.
    Masked,
    Subnormal,
    Nan,
}

/// Classes that are compared, and the first of all, which must not differ whatever the code does.
const PAIRS: [[Class; 2]; 7] = [
    [Class::Random, Class::OtherRandom],
    [Class::Zeros, Class::Random],
    [Class::OneHot, Class::Flat],
    [Class::Rising, Class::Falling],
    [Class::Masked, Class::Random],
    [Class::Subnormal, Class::Random],
    [Class::Nan, Class::Random],
];

impl Class {
    fn name(self) -> &'static str {
        match self {
            Class::Random => "random",
            Class::OtherRandom => "other random",
            Class::Zeros => "zeros",
            Class::OneHot => "one-hot",
            Class::Flat => "flat",
            Class::Rising => "rising scores",
            Class::Falling => "falling scores",
            Class::Masked => "-inf scores",
            Class::Subnormal => "subnormal",
            Class::Nan => "NaN",
        }
    }

    fn inputs(self, case: &Case, dtype: Dtype) -> Inputs {
        const SEED: u64 = 7;
        const OTHER_SEED: u64 = 8;
        let fill = match self {
            Class::OneHot => Fill::OneHot,
            Class::Flat => Fill::Constant,
            Class::Rising | Class::Falling => Fill::Rising,
            Class::Masked => Fill::Masked,
            _ => Fill::Normal,
        };
        let seed = if self == Class::OtherRandom { OTHER_SEED } else { SEED };
        let mut inputs = Case { fill, ..*case }.inputs(dtype, seed);
        let Inputs { q, k, v, .. } = &mut inputs;
        let everywhere = match self {
            Class::Zeros => Some(0),
            Class::Subnormal => Some(1),
            Class::Nan => Some(encode(dtype, f32::NAN)),
            _ => None,
        };
        if let Some(bits) = everywhere {
            [q, k, v].into_iter().for_each(|tensor| tensor.bits.fill(bits));
        } else if self == Class::Falling {
            const SIGN: u16 = 0x8000;
            q.bits.iter_mut().for_each(|bits| *bits ^= SIGN);
        }
        inputs
    }
}

/// Times every pair of classes on each case, and the negative control.
pub(crate) fn measure(device: &Device, cases: &[(Case, Dtype)], samples: usize) -> Result<Timing> {
    device.preload()?;
    let sensors = Sensors::new(device.properties().ordinal);
    let work = || -> Result<(Vec<Timed>, Pair)> {
        let shapes =
            cases.iter().map(|(case, dtype)| shape(device, case, *dtype, samples)).collect::<Result<_>>()?;
        Ok((shapes, control(device, samples)?))
    };
    let (done, trace) = match &sensors {
        Some(sensors) => {
            let (done, _, trace) = sensors.watch(work);
            (done, trace)
        }
        None => (work(), Vec::new()),
    };
    let (shapes, control) = done?;
    Ok(Timing { shapes, control, trace })
}

fn shape(device: &Device, case: &Case, dtype: Dtype, samples: usize) -> Result<Timed> {
    let tensors = OnDevice::new(device, case, &Class::Random.inputs(case, dtype))?;
    let stream = device.stream()?;
    let calls = Graph::capture(&stream, |stream| (0..CALLS).try_for_each(|_| tensors.run(stream)))?;
    let stopwatch = Stopwatch::new(device, stream, calls)?;
    let mut pairs = Vec::new();
    for classes in PAIRS {
        let staged = |class: Class| OnDevice::new(device, case, &class.inputs(case, dtype));
        let staged = [staged(classes[0])?, staged(classes[1])?];
        let stage = |class: usize, stream: &Stream| -> Result<()> {
            let from = &staged[class];
            for (to, from) in [(&tensors.q, &from.q), (&tensors.k, &from.k), (&tensors.v, &from.v)] {
                // SAFETY: tensors of one shape, which live on after the work: freeing them waits for it.
                unsafe { device.backend().copy(to.ptr(), from.ptr(), from.bytes(), stream.raw())? };
            }
            Ok(())
        };
        let times = stopwatch.times(samples, stage)?;
        pairs.push(judge(classes.map(Class::name), &times)?);
    }
    let shape = format!("{}, {}, {}", Bhsd::from(case), mask(case.causal), dtype.name());
    Ok(Timed { shape, pairs })
}

/// The negative control on zeros and on random words.
fn control(device: &Device, samples: usize) -> Result<Pair> {
    let kernel = Fault::Skip.kernel().context("the negative control is a kernel")?;
    device.load(&kernel)?;
    let backend = device.backend();
    let bytes = 4 * CONTROL_WORDS as usize;
    let mut random = StdRng::seed_from_u64(9);
    let words: Vec<u8> = (0..bytes).map(|_| random.random_range(1..=u8::MAX)).collect();
    // The words that it reads, a word of its own for each thread behind them, and both classes.
    let [data, zeros, others] = [2 * bytes, bytes, bytes].map(|bytes| backend.alloc(bytes));
    let (data, zeros, others) = (data?, zeros?, others?);
    let timed = || -> Result<Pair> {
        // SAFETY: the memory was just allocated, so large.
        unsafe {
            backend.fill(zeros, 0, bytes)?;
            backend.upload(others, &words)?;
        }
        let stream = device.stream()?;
        // SAFETY: the kernel reads so many words and writes behind them.
        let call = |stream: &Stream| unsafe { faults::launch(&kernel, stream, data, CONTROL_WORDS) };
        let calls = Graph::capture(&stream, |stream| (0..CALLS).try_for_each(|_| call(stream)))?;
        let stage = |class: usize, stream: &Stream| -> Result<()> {
            // SAFETY: both are as large; freed after the work.
            unsafe { Ok(backend.copy(data, [zeros, others][class], bytes, stream.raw())?) }
        };
        let times = Stopwatch::new(device, stream, calls)?.times(samples, stage)?;
        judge([Class::Zeros, Class::Random].map(Class::name), &times)
    };
    let pair = timed();
    for ptr in [data, zeros, others] {
        // SAFETY: allocated above, and used no more.
        unsafe { backend.free(ptr) };
    }
    pair
}

/// Times recorded calls, on inputs that are put in place before each.
struct Stopwatch {
    stream: Stream,
    calls: Graph,
    start: Event,
    end: Event,
}

impl Stopwatch {
    /// `calls` are [`CALLS`] calls, on memory that outlives it.
    fn new(device: &Device, stream: Stream, calls: Graph) -> Result<Self> {
        Ok(Stopwatch { stream, calls, start: Event::new(device)?, end: Event::new(device)? })
    }

    /// So many samples of each of two classes on average: the class, drawn at random, and microseconds of a call.
    fn times(
        &self,
        samples: usize,
        stage: impl Fn(usize, &Stream) -> Result<()>,
    ) -> Result<Vec<(usize, f64)>> {
        let mut random = StdRng::seed_from_u64(10);
        let mut time = || -> Result<(usize, f64)> {
            let class = usize::from(random.random::<bool>());
            stage(class, &self.stream)?;
            self.start.record(&self.stream)?;
            // SAFETY: the caller of `new` vouches for the memory.
            unsafe { self.calls.launch(&self.stream)? };
            self.end.record(&self.stream)?;
            Ok((class, 1e3 * f64::from(self.start.elapsed_ms(&self.end)?) / CALLS as f64))
        };
        (0..2 * samples).map(|_| time()).collect()
    }
}

/// Compares two classes, in each half of their times.
fn judge(classes: [&str; 2], times: &[(usize, f64)]) -> Result<Pair> {
    let counted = &times[(WARM_UP * times.len() as f64) as usize..];
    let (first, second) = counted.split_at(counted.len() / 2);
    let halves = [half(first)?, half(second)?];
    let [a, b] = &halves[1];
    let deviation_us = ((a.variance + b.variance) / 2.0).sqrt();
    let error = (a.variance / a.count + b.variance / b.count).sqrt();
    Ok(Pair {
        classes: classes.map(str::to_owned),
        samples: halves.map(|[a, b]| (a.count + b.count) as usize),
        t: halves.map(|[a, b]| welch(&a, &b).t),
        mean_us: [a.mean, b.mean],
        deviation_us,
        detectable_us: (LIMIT + POWER) * error,
    })
}

/// Both classes of a half, without interruptions.
fn half(times: &[(usize, f64)]) -> Result<[Moments; 2]> {
    let mut sorted: Vec<f64> = times.iter().map(|&(_, us)| us).collect();
    sorted.sort_by(f64::total_cmp);
    let limit = quantile(&sorted, CROP).context("no samples")?;
    let of = |class| {
        let kept = times.iter().filter(|&&(its_class, us)| its_class == class && us <= limit);
        Moments::of(&kept.map(|&(_, us)| us).collect::<Vec<_>>())
    };
    let moments = of(0).zip(of(1));
    ensure!(moments.is_some(), "{} samples are too few", times.len());
    moments.map(<[Moments; 2]>::from).context("too few samples")
}

/// A row for each pair.
fn table(timing: &Timing) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "",
        "classes",
        "samples",
        "µs",
        "µs",
        "t",
        "t",
        "agreed |t|",
        "detectable",
    ]);
    let control = ("negative control", &timing.control);
    let shapes = timing.shapes.iter();
    for (shape, pair) in
        shapes.flat_map(|timed| timed.pairs.iter().map(|pair| (timed.shape.as_str(), pair))).chain([control])
    {
        table.add_row([
            shape.to_owned(),
            pair.classes.join(" / "),
            format!("{} + {}", pair.samples[0], pair.samples[1]),
            format!("{:.3}", pair.mean_us[0]),
            format!("{:.3}", pair.mean_us[1]),
            format!("{:.2}", pair.t[0]),
            format!("{:.2}", pair.t[1]),
            format!("{:.2}", pair.agreed_t()),
            format!("{:.1} ns", 1e3 * pair.detectable_us),
        ]);
    }
    table.column_iter_mut().skip(2).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_no_kernel_depends_on_data_but_that_of_the_control_does() {
        let proof = prove().unwrap();
        assert_eq!(proof.kernels, IMAGES.len());
        assert_eq!((&proof.findings, &proof.slow_paths), (&Vec::new(), &Vec::new()));
        assert!(!proof.control.is_empty() && proof.holds());
        assert!(!Proof { control: Vec::new(), ..proof.clone() }.holds());
        assert!(!Proof { slow_paths: vec!["a".to_owned()], ..proof }.holds());
    }

    /// Normal noise around 10 µs, and so much more for the second class.
    fn noise(apart: f64) -> Vec<(usize, f64)> {
        let mut random = StdRng::seed_from_u64(1);
        let mut normal = || (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
        (0..20_000).map(|i| (i % 2, 10.0 + 0.1 * normal() + if i % 2 == 1 { apart } else { 0.0 })).collect()
    }

    #[test]
    fn equal_classes_are_equal_and_others_are_told_apart() {
        let same = judge(["a", "b"], &noise(0.0)).unwrap();
        assert!(same.agreed_t() < LIMIT, "{same:?}");
        assert!(same.detectable_us > 0.001 && same.detectable_us < 0.02, "{same:?}");
        let apart = judge(["a", "b"], &noise(2.0 * same.detectable_us)).unwrap();
        assert!(apart.agreed_t() >= LIMIT, "{apart:?}");
        assert!(judge(["a", "b"], &[(0, 1.0), (1, 1.0)]).is_err());
    }

    #[test]
    fn halves_that_disagree_agree_on_nothing() {
        let pair = judge(["a", "b"], &noise(1.0)).unwrap();
        assert_eq!(Pair { t: [9.0, -9.0], ..pair.clone() }.agreed_t(), 0.0);
        assert_eq!(Pair { t: [-9.0, -5.0], ..pair.clone() }.agreed_t(), 5.0);
        assert!(Pair { t: [f64::NAN, 1.0], ..pair }.agreed_t().is_nan());
    }

    /// Instructions that the emulator counts while `work` runs.
    fn instructions(device: &Device, work: impl FnOnce()) -> u64 {
        let emulator = device.emulator().unwrap();
        emulator.take_reports();
        work();
        emulator.take_reports().iter().map(|kernel| kernel.report.counters.warp_instructions).sum()
    }

    #[test]
    fn every_class_costs_as_many_instructions_but_not_in_the_control() {
        let device = Device::emulated();
        let case =
            Case { seqlen_q: 70, seqlen_kv: 200, heads_q: 1, heads_kv: 1, batch: 1, ..Case::default() };
        let of = |class: Class| {
            let tensors = OnDevice::new(&device, &case, &class.inputs(&case, Dtype::F16)).unwrap();
            instructions(&device, || tensors.run(&device.stream().unwrap()).unwrap())
        };
        let random = of(Class::Random);
        assert!(random > 0);
        for class in PAIRS.into_iter().flatten() {
            assert_eq!(of(class), random, "{}", class.name());
        }

        let kernel = Fault::Skip.kernel().unwrap();
        let data = device.backend().alloc(1024).unwrap();
        let of = |byte: u8| {
            instructions(&device, || {
                // SAFETY: 64 words to read, and as many to write.
                unsafe {
                    device.backend().fill(data, byte, 1024).unwrap();
                    faults::launch(&kernel, &device.stream().unwrap(), data, 64).unwrap();
                }
            })
        };
        assert!(of(1) > 2 * of(0));
    }
}
