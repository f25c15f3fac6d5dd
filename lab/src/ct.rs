//! Constant time: what a kernel does, and how long it takes, must not tell anything of what is in the tensors.
//!
//! Two halves. The proof looks at the code: no branch, address, barrier or copy of any kernel depends on data (lint S06 of
//! the emulator, on the PTX), and no slow path of arithmetic was put into the machine code. The measurement counts the
//! cycles of calls on two classes of inputs, drawn at random, in the same memory, and compares the means by Welch's test.
//! It compares their times as well, which no code can keep apart from the data: see [`clocks`].
//!
//! A kernel that skips work where data are 0 is the negative control of both.
//!
//! Not covered: power, electromagnetic and thermal emissions; time, as far as the clock follows them; what others see
//! of caches and memory while the kernel runs; lengths, masks and the like, which are public.

mod clocks;

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

use self::clocks::{Clocks, Moment};
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
    /// The negative control, on zeros and on random words: its time.
    pub(crate) control: Pair,
    /// Its cycles; None in runs that did not count them.
    #[serde(default)]
    pub(crate) control_cycles: Option<Pair>,
    /// What the sensors read meanwhile: a clock that moved would be seen here.
    pub(crate) trace: Vec<Sample>,
}

/// One shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Timed {
    pub(crate) shape: String,
    /// Time of a call, µs.
    pub(crate) pairs: Vec<Pair>,
    /// Cycles of a call; none in runs that did not count them.
    #[serde(default)]
    pub(crate) cycles: Vec<Pair>,
}

/// Two classes of inputs, compared twice, by time or by cycles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pair {
    pub(crate) classes: [String; 2],
    /// Samples of both classes that count, in each half of the measurement.
    pub(crate) samples: [usize; 2],
    /// Welch's t of each half.
    #[serde(deserialize_with = "number::two")]
    pub(crate) t: [f64; 2],
    /// Mean of a call of each class, µs or cycles.
    #[serde(alias = "mean_us")]
    pub(crate) mean: [f64; 2],
    /// Standard deviation of a sample.
    #[serde(alias = "deviation_us")]
    pub(crate) deviation: f64,
    /// A difference of means so large would be seen nine times of ten.
    #[serde(alias = "detectable_us")]
    pub(crate) detectable: f64,
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
    /// The largest of the agreed `t` of cycles; NaN if one of them is.
    fn worst(&self) -> f64 {
        let pairs = self.shapes.iter().flat_map(|timed| &timed.cycles);
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
    let caught = timing.control_cycles.as_ref().is_some_and(|control| control.agreed_t() >= LIMIT);
    println!(
        "{}; the negative control was {}",
        if quiet { "cycles tell no class from another" } else { "cycles depend on data" },
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
    let work = || -> Result<(Vec<Timed>, [Pair; 2])> {
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
    let (shapes, [control, cycles]) = done?;
    Ok(Timing { shapes, control, control_cycles: Some(cycles), trace })
}

fn shape(device: &Device, case: &Case, dtype: Dtype, samples: usize) -> Result<Timed> {
    let tensors = OnDevice::new(device, case, &Class::Random.inputs(case, dtype))?;
    let stream = device.stream()?;
    let stopwatch = Stopwatch::new(device, stream, |stream| tensors.run(stream))?;
    let (mut pairs, mut cycles) = (Vec::new(), Vec::new());
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
        let [time, of_cycles] = judge(classes.map(Class::name), &stopwatch.samples(samples, stage)?)?;
        pairs.push(time);
        cycles.push(of_cycles);
    }
    let shape = format!("{}, {}, {}", Bhsd::from(case), mask(case.causal), dtype.name());
    Ok(Timed { shape, pairs, cycles })
}

/// The negative control on zeros and on random words: its time, its cycles.
fn control(device: &Device, samples: usize) -> Result<[Pair; 2]> {
    let kernel = Fault::Skip.kernel().context("the negative control is a kernel")?;
    device.load(&kernel)?;
    let backend = device.backend();
    let bytes = 4 * CONTROL_WORDS as usize;
    let mut random = StdRng::seed_from_u64(9);
    let words: Vec<u8> = (0..bytes).map(|_| random.random_range(1..=u8::MAX)).collect();
    // The words that it reads, a word of its own for each thread behind them, and both classes.
    let [data, zeros, others] = [2 * bytes, bytes, bytes].map(|bytes| backend.alloc(bytes));
    let (data, zeros, others) = (data?, zeros?, others?);
    let timed = || -> Result<[Pair; 2]> {
        // SAFETY: the memory was just allocated, so large.
        unsafe {
            backend.fill(zeros, 0, bytes)?;
            backend.upload(others, &words)?;
        }
        let stream = device.stream()?;
        // SAFETY: the kernel reads so many words and writes behind them.
        let call = |stream: &Stream| unsafe { faults::launch(&kernel, stream, data, CONTROL_WORDS) };
        let stopwatch = Stopwatch::new(device, stream, call)?;
        let stage = |class: usize, stream: &Stream| -> Result<()> {
            // SAFETY: both are as large; freed after the work.
            unsafe { Ok(backend.copy(data, [zeros, others][class], bytes, stream.raw())?) }
        };
        judge([Class::Zeros, Class::Random].map(Class::name), &stopwatch.samples(samples, stage)?)
    };
    let pair = timed();
    for ptr in [data, zeros, others] {
        // SAFETY: allocated above, and used no more.
        unsafe { backend.free(ptr) };
    }
    pair
}

/// What one sample came to.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sampled {
    /// Which of the two classes it is of.
    class: usize,
    /// Time of a call, µs.
    us: f64,
    /// Cycles of a call.
    cycles: f64,
}

/// Measures recorded calls, on inputs that are put in place before each.
struct Stopwatch<'a> {
    stream: Stream,
    calls: Graph,
    clocks: Clocks<'a>,
    start: Event,
    end: Event,
}

impl<'a> Stopwatch<'a> {
    /// `call` works on memory that outlives it.
    fn new(
        device: &'a Device,
        stream: Stream,
        call: impl Fn(&Stream) -> flashcore::Result<()>,
    ) -> Result<Self> {
        let clocks = Clocks::new(device)?;
        let calls = Graph::capture(&stream, |stream| {
            clocks.leave(stream, Moment::Before)?;
            (0..CALLS).try_for_each(|_| call(stream))?;
            clocks.leave(stream, Moment::Behind)
        })?;
        Ok(Stopwatch { stream, calls, clocks, start: Event::new(device)?, end: Event::new(device)? })
    }

    /// So many samples of each of two classes on average: the class is drawn at random.
    fn samples(&self, samples: usize, stage: impl Fn(usize, &Stream) -> Result<()>) -> Result<Vec<Sampled>> {
        let mut random = StdRng::seed_from_u64(10);
        let mut sample = || -> Result<Sampled> {
            let class = usize::from(random.random::<bool>());
            stage(class, &self.stream)?;
            self.start.record(&self.stream)?;
            // SAFETY: the caller of `new` vouches for the memory.
            unsafe { self.calls.launch(&self.stream)? };
            self.end.record(&self.stream)?;
            let us = 1e3 * f64::from(self.start.elapsed_ms(&self.end)?) / CALLS as f64;
            Ok(Sampled { class, us, cycles: self.clocks.between()? / CALLS as f64 })
        };
        (0..2 * samples).map(|_| sample()).collect()
    }
}

/// Compares two classes, in each half of their samples: by time, and by cycles.
fn judge(classes: [&str; 2], samples: &[Sampled]) -> Result<[Pair; 2]> {
    let by = |what: fn(&Sampled) -> f64| {
        let values: Vec<(usize, f64)> = samples.iter().map(|sample| (sample.class, what(sample))).collect();
        compare(classes, &values)
    };
    Ok([by(|sample| sample.us)?, by(|sample| sample.cycles)?])
}

/// Compares two classes, in each half of their values.
fn compare(classes: [&str; 2], values: &[(usize, f64)]) -> Result<Pair> {
    let counted = &values[(WARM_UP * values.len() as f64) as usize..];
    let (first, second) = counted.split_at(counted.len() / 2);
    let halves = [half(first)?, half(second)?];
    let [a, b] = &halves[1];
    let error = (a.variance / a.count + b.variance / b.count).sqrt();
    Ok(Pair {
        classes: classes.map(str::to_owned),
        samples: halves.map(|[a, b]| (a.count + b.count) as usize),
        t: halves.map(|[a, b]| welch(&a, &b).t),
        mean: [a.mean, b.mean],
        deviation: ((a.variance + b.variance) / 2.0).sqrt(),
        detectable: (LIMIT + POWER) * error,
    })
}

/// Both classes of a half, without interruptions.
fn half(values: &[(usize, f64)]) -> Result<[Moments; 2]> {
    let mut sorted: Vec<f64> = values.iter().map(|&(_, value)| value).collect();
    sorted.sort_by(f64::total_cmp);
    let limit = quantile(&sorted, CROP).context("no samples")?;
    let of = |class| {
        let kept = values.iter().filter(|&&(its_class, value)| its_class == class && value <= limit);
        Moments::of(&kept.map(|&(_, value)| value).collect::<Vec<_>>())
    };
    let moments = of(0).zip(of(1));
    ensure!(moments.is_some(), "{} samples are too few", values.len());
    moments.map(<[Moments; 2]>::from).context("too few samples")
}

/// A row for each pair, by cycles and by time.
fn table(timing: &Timing) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "",
        "classes",
        "samples",
        "mean",
        "mean",
        "t",
        "t",
        "agreed |t|",
        "detectable",
    ]);
    const CYCLES: &str = "cycles";
    const TIME: &str = "µs";
    let shapes = timing.shapes.iter().flat_map(|timed| {
        let of = |pairs: &'_ [Pair], unit: &'static str| {
            pairs.iter().map(|pair| (timed.shape.clone(), pair.clone(), unit)).collect::<Vec<_>>()
        };
        [of(&timed.cycles, CYCLES), of(&timed.pairs, TIME)].concat()
    });
    let control = |pair: &Pair, unit| ("negative control".to_owned(), pair.clone(), unit);
    let controls = timing
        .control_cycles
        .iter()
        .map(|pair| control(pair, CYCLES))
        .chain([control(&timing.control, TIME)]);
    for (shape, pair, unit) in shapes.chain(controls) {
        table.add_row([
            shape,
            pair.classes.join(" / "),
            format!("{} + {}", pair.samples[0], pair.samples[1]),
            format!("{:.3}", pair.mean[0]),
            format!("{:.3} {unit}", pair.mean[1]),
            format!("{:.2}", pair.t[0]),
            format!("{:.2}", pair.t[1]),
            format!("{:.2}", pair.agreed_t()),
            format!("{:.4} {unit}", pair.detectable),
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
        let same = compare(["a", "b"], &noise(0.0)).unwrap();
        assert!(same.agreed_t() < LIMIT, "{same:?}");
        assert!(same.detectable > 0.001 && same.detectable < 0.02, "{same:?}");
        let apart = compare(["a", "b"], &noise(2.0 * same.detectable)).unwrap();
        assert!(apart.agreed_t() >= LIMIT, "{apart:?}");
        assert!(compare(["a", "b"], &[(0, 1.0), (1, 1.0)]).is_err());
    }

    /// A clock that follows the data shows in the time, and not in the cycles.
    #[test]
    fn cycles_are_judged_apart_from_time() {
        let (steady, apart) = (noise(0.0), noise(1.0));
        let samples: Vec<Sampled> = steady
            .iter()
            .zip(&apart)
            .map(|(&(class, cycles), &(_, us))| Sampled { class, us, cycles })
            .collect();
        let [time, cycles] = judge(["a", "b"], &samples).unwrap();
        assert!(time.agreed_t() >= LIMIT && cycles.agreed_t() < LIMIT, "{time:?} {cycles:?}");
    }

    #[test]
    fn halves_that_disagree_agree_on_nothing() {
        let pair = compare(["a", "b"], &noise(1.0)).unwrap();
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
