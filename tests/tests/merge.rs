//! Merging attention states: against an f64 oracle, in place, at the edge of what numbers can be, beside attention, in
//! graphs, and under many schedules of the emulator.

use std::process::ExitCode;

use flashcore::driver::{Code, Completion, EmulatorOptions, Graph};
use flashcore::kernels::{self, MERGE, MergeVariant};
use flashcore::{
    Attention, Device, Dtype, Error, Lse, Shape, Tensor, TensorView, merge_attention_states,
    merge_attention_states_into,
};
use flashcore_emulator::ir::Module;
use flashcore_tests::cases::{Case, Layout};
use flashcore_tests::device::{self, Failure, Outputs};
use flashcore_tests::merge::{self, Merge, OnDevice, Place, States, Sums};
use flashcore_tests::suite::{Resource, Suite, backends, other_schedules};
use flashcore_tests::values::decode;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

const DTYPES: [Dtype; 2] = [Dtype::F16, Dtype::Bf16];
/// Repeated runs of the same merge: on a GPU, and where each takes seconds.
const REPEATS: [usize; 2] = [100, 3];

fn base(dtype: Dtype) -> Merge {
    Merge {
        shape: Shape::new(2, 21, 5, 72),
        layouts: [Layout::Bhsd, Layout::Padded, Layout::Bshd],
        dtype,
        sums: Sums::Empty,
        place: Place::Apart,
    }
}

fn merges(emulated: bool) -> impl Strategy<Value = Merge> {
    let longest: usize = if emulated { 60 } else { 3000 };
    let shapes = (1..4usize, prop_oneof![1..9usize, 1..longest], 1..6usize, 1..=64usize);
    let layouts = [select(Layout::ALL.to_vec()), select(Layout::ALL.to_vec()), select(Layout::ALL.to_vec())];
    let rest = (layouts, select(DTYPES.to_vec()), select(Sums::ALL.to_vec()), select(Place::ALL.to_vec()));
    (shapes, rest).prop_map(|((batch, seqlen, heads, eighths), (layouts, dtype, sums, place))| {
        let shape = Shape { batch, seqlen, heads, head_dim: 8 * eighths };
        let written = match place {
            Place::Apart => None,
            Place::First => Some(0),
            Place::Second => Some(1),
        };
        // Rows of one place cannot be written apart.
        let place = if written.is_some_and(|i: usize| layouts[i] == Layout::Broadcast) {
            Place::Apart
        } else {
            place
        };
        Merge { shape, layouts, dtype, sums, place }
    })
}

fn random_merges(gpu: &Device) -> Result<(), String> {
    let emulated = gpu.emulator().is_some();
    let cases = if emulated { 100 } else { 400 };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let inputs = (merges(emulated), any::<u64>());
    let run = TestRunner::new(config).run(&inputs, |(merge, seed)| {
        merge::check(gpu, &merge, seed)
            .map(|_| ())
            .map_err(|failure| TestCaseError::fail(format!("{}: {failure}", merge::name(&merge))))
    });
    run.map_err(|error| error.to_string())
}

/// Merges states that `change` has changed, and compares.
fn check_changed(gpu: &Device, merge: &Merge, change: impl Fn(&mut States)) -> Result<Outputs, Failure> {
    let mut states = merge.states(3);
    change(&mut states);
    let tensors = OnDevice::new(gpu, merge, &states)?;
    tensors.run(&gpu.stream()?)?;
    let outputs = tensors.outputs()?;
    outputs.judge_by(&states.answers())?;
    Ok(outputs)
}

/// A log-sum-exp of NaN or +inf, and elements of NaN and infinity, in rows of their own.
fn numbers_that_are_none(gpu: &Device, dtype: Dtype) -> Result<(), Failure> {
    let merge = Merge { sums: Sums::Near, layouts: [Layout::Bhsd; 3], ..base(dtype) };
    let outputs = check_changed(gpu, &merge, |states| {
        states.lse[0][1] = f32::NAN;
        states.lse[1][2] = f32::NAN;
        (states.lse[0][3], states.lse[1][3]) = (f32::NAN, f32::NEG_INFINITY);
        (states.lse[0][4], states.lse[1][4]) = (f32::NEG_INFINITY, f32::NAN);
        (states.lse[0][5], states.lse[1][5]) = (f32::NAN, f32::NAN);
        states.lse[0][6] = f32::INFINITY;
        (states.lse[0][7], states.lse[1][7]) = (f32::NEG_INFINITY, f32::INFINITY);
        // Rows of (batch, heads, seqlen) follow each other in this layout.
        let width = merge.shape.head_dim;
        let infinity = if dtype == Dtype::F16 { 0x7C00 } else { 0x7F80 };
        states.o[0].bits[8 * width + 3] = 0xFFFF;
        states.o[1].bits[9 * width + 4] = infinity;
    })?;
    let values = outputs.out.values();
    for row in 1..8 {
        assert!(outputs.lse[row].is_nan() && values.row(0, row, 0).iter().all(|o| o.is_nan()), "row {row}");
    }
    Ok(())
}

/// A state that counts so little that its weight is 0 in f32 is still multiplied, unless it has no keys: 0 * NaN is
/// NaN.
fn weights_of_zero(gpu: &Device, dtype: Dtype) -> Result<(), Failure> {
    let merge = Merge { sums: Sums::Near, layouts: [Layout::Bhsd; 3], ..base(dtype) };
    let width = merge.shape.head_dim;
    let outputs = check_changed(gpu, &merge, |states| {
        for row in [0, 1] {
            (states.lse[0][row], states.lse[1][row]) = (0.0, -1000.0);
            states.o[1].bits[row * width] = 0xFFFF;
        }
        states.lse[1][1] = f32::NEG_INFINITY;
    })?;
    let values = outputs.out.values();
    assert!(values.row(0, 0, 0)[0].is_nan() && values.row(0, 0, 0)[1].is_finite());
    assert!(values.row(0, 1, 0).iter().all(|o| o.is_finite()));
    Ok(())
}

/// Where the other state has no keys, a state comes back as it was, to the last bit.
fn alone(gpu: &Device, dtype: Dtype) -> Result<(), Failure> {
    for alone in [0, 1] {
        let merge = Merge { sums: Sums::Near, layouts: [Layout::Bshd; 3], ..base(dtype) };
        let mut states = merge.states(4);
        states.lse[1 - alone].fill(f32::NEG_INFINITY);
        states.o[1 - alone].bits.fill(0xFFFF);
        let tensors = OnDevice::new(gpu, &merge, &states)?;
        tensors.run(&gpu.stream()?)?;
        let outputs = tensors.outputs()?;
        assert_eq!(outputs.out.bits, states.o[alone].bits);
        assert_eq!(outputs.lse, states.lse[alone]);
    }
    Ok(())
}

/// Every number of 16 bits survives where the other state has no keys, and NaN stays NaN.
fn every_number(gpu: &Device, dtype: Dtype) -> Result<(), Failure> {
    let shape = Shape::new(1, 1, 1024, 64);
    let merge = Merge { shape, sums: Sums::Near, layouts: [Layout::Bshd; 3], ..base(dtype) };
    let mut states = merge.states(4);
    states.o[0].bits = (0..=u16::MAX).collect();
    states.lse[1].fill(f32::NEG_INFINITY);
    let tensors = OnDevice::new(gpu, &merge, &states)?;
    tensors.run(&gpu.stream()?)?;
    for (bits, got) in (0..=u16::MAX).zip(tensors.outputs()?.out.values().data) {
        let number = decode(dtype, bits);
        // Subnormal bf16 numbers are subnormal in f32 too, where they count as zero.
        let number = if dtype == Dtype::Bf16 && number.is_subnormal() { 0.0 } else { number };
        assert!(
            got == number || got.is_nan() && number.is_nan(),
            "bits {bits:#06x}: {number:e} became {got:e}"
        );
    }
    Ok(())
}

/// The log-sum-exp is optional, and asking for it changes nothing else.
fn without_lse(gpu: &Device, dtype: Dtype) -> Result<(), Failure> {
    let merge = base(dtype);
    let states = merge.states(5);
    let [with, without] = [OnDevice::new(gpu, &merge, &states)?, OnDevice::new(gpu, &merge, &states)?];
    with.run(&gpu.stream()?)?;
    without.run_with(&gpu.stream()?, None)?;
    assert_eq!(with.outputs()?.out, without.outputs()?.out);
    assert!(without.outputs()?.lse.iter().all(|lse| lse.is_nan()), "LSE was written though nobody asked");
    Ok(())
}

/// The inputs stay as they were, unless the result takes their place.
fn inputs_stay(gpu: &Device, dtype: Dtype) -> Result<(), Failure> {
    let merge = base(dtype);
    let states = merge.states(6);
    let tensors = OnDevice::new(gpu, &merge, &states)?;
    tensors.run(&gpu.stream()?)?;
    for i in [0, 1] {
        assert_eq!(device::download(&tensors.o[i])?, states.o[i]);
        assert_eq!(tensors.lse[i].to_vec()?, states.lse[i]);
    }
    Ok(())
}

/// `tensor` without all but `keys` keys from `first` on.
fn narrowed(tensor: &Tensor, first: usize, keys: usize) -> TensorView<'_> {
    let (shape, strides) = (Shape { seqlen: keys, ..tensor.shape() }, tensor.strides());
    let skipped = if keys == 0 { 0 } else { first * strides.seqlen * Dtype::SIZE as usize };
    // SAFETY: a part of memory that the tensor owns.
    unsafe {
        let (ptr, bytes) = (tensor.ptr() + skipped as u64, tensor.bytes() - skipped);
        TensorView::from_raw_parts(ptr, bytes, tensor.dtype(), shape, strides)
    }
}

/// Attention over the keys of a case, `chunks` of them after each other, merged in place, is attention over all of
/// them. Under a causal mask the last chunk, which must have as many keys as there are queries, is the one that is
/// masked: a prompt worked on in chunks.
fn chunks_of_keys(gpu: &Device, case: &Case, dtype: Dtype, chunks: &[usize]) -> Result<(), Failure> {
    assert_eq!(chunks.iter().sum::<usize>(), case.seqlen_kv);
    let inputs = case.inputs(dtype, 7);
    let tensors = device::OnDevice::new(gpu, case, &inputs)?;
    let stream = gpu.stream()?;
    let attend = |first, keys, causal| {
        let (k, v) = (narrowed(&tensors.k, first, keys), narrowed(&tensors.v, first, keys));
        Attention::new().causal(causal).forward_with_lse(&stream, &tensors.q, &k, &v)
    };
    let mut first = 0;
    let mut merged: Option<(Tensor, Lse)> = None;
    for (i, &keys) in chunks.iter().enumerate() {
        let (o, lse) = attend(first, keys, case.causal && i == chunks.len() - 1)?;
        first += keys;
        match &merged {
            None => merged = Some((o, lse)),
            Some((all, all_lse)) => {
                let of_all = all_lse.view();
                merge_attention_states_into(&stream, all, of_all, &o, lse.view(), all, Some(of_all))?;
            }
        }
    }
    let (out, lse) = merged.expect("a chunk");
    let outputs = Outputs { out: device::download(&out)?, lse: lse.to_vec()? };
    outputs.judge(&inputs, &inputs.attention.rows(device::BUDGET, 7))?;
    Ok(())
}

/// A merge follows the attention whose results it merges, without anybody waiting, and attention follows the merge.
fn beside_attention(gpu: &Device, dtype: Dtype) -> Result<(), Failure> {
    let case = Case {
        batch: 1,
        seqlen_q: 70,
        seqlen_kv: 90,
        heads_q: 2,
        heads_kv: 2,
        head_dim: 64,
        ..Case::default()
    };
    let inputs = case.inputs(dtype, 8);
    let tensors = device::OnDevice::new(gpu, &case, &inputs)?;
    let stream = gpu.stream()?;
    let attention = Attention::new();
    let (o, lse) = attention.forward_with_lse(&stream, &tensors.q, &tensors.k, &tensors.v)?;
    // A state merged with itself is itself, but for its weight.
    let (same, twice) = merge_attention_states(&stream, &o, lse.view(), &o, lse.view())?;
    let next = attention.forward(&stream, &same, &tensors.k, &tensors.v)?;
    let expected = attention.forward(&stream, &o, &tensors.k, &tensors.v)?;
    assert_eq!(device::download(&same)?, device::download(&o)?);
    assert_eq!(device::download(&next)?, device::download(&expected)?);
    for (twice, once) in twice.to_vec()?.iter().zip(lse.to_vec()?) {
        let error = (twice - once - std::f32::consts::LN_2).abs();
        assert!(error <= 1e-5 * once.abs().max(1.0), "{twice} is not {once} + ln 2");
    }
    Ok(())
}

/// Records a merge once; replays it on states that were not there when it was recorded.
fn replay(gpu: &Device, merge: &Merge) -> Result<(), Failure> {
    let tensors = OnDevice::new(gpu, merge, &merge.states(0))?;
    let stream = gpu.stream()?;
    let graph = Graph::capture(&stream, |stream| tensors.run(stream))?;
    stream.synchronize()?;
    assert!(tensors.outputs()?.lse.iter().all(|lse| lse.is_nan()), "recording must not compute");
    for seed in 1..4 {
        let states = merge.states(seed);
        tensors.refill(&states)?;
        // SAFETY: the tensors that were recorded live until the end of this function, which waits.
        unsafe { graph.launch(&stream)? };
        stream.synchronize()?;
        tensors.outputs()?.judge_by(&states.answers())?;
    }
    Ok(())
}

/// The same states give the same bits.
fn repeat(gpu: &Device, merge: &Merge) -> Result<(), Failure> {
    let repeats = REPEATS[usize::from(gpu.emulator().is_some())];
    let states = merge.states(9);
    let tensors = OnDevice::new(gpu, merge, &states)?;
    let stream = gpu.stream()?;
    let mut first: Option<Outputs> = None;
    for repeat in 0..repeats {
        tensors.refill(&states)?;
        tensors.run(&stream)?;
        let outputs = tensors.outputs()?;
        let first = first.get_or_insert_with(|| outputs.clone());
        assert!(first.bits() == outputs.bits(), "repeat {repeat} differs from the first run");
    }
    Ok(())
}

/// The merge whose hazards are looked for: in place, several turns of the few warps, the last one not full. Rows of 48
/// chunks take their lanes twice, those of 9 leave lanes over.
fn in_place(variant: &MergeVariant, head_dim: usize) -> Merge {
    Merge {
        shape: Shape::new(1, 151, 2, head_dim),
        layouts: [Layout::Padded; 3],
        dtype: variant.dtype,
        sums: Sums::Empty,
        place: Place::Second,
    }
}

/// Every schedule gives the same bits, and not even a warning is found.
fn schedules(variant: &MergeVariant) -> Result<(), Failure> {
    for head_dim in [72, 384] {
        let merge = in_place(variant, head_dim);
        let states = merge.states(1);
        let mut first: Option<Outputs> = None;
        for completion in [Completion::Eager, Completion::Lazy, Completion::Random] {
            for seed in 0..10 {
                let options = EmulatorOptions { sm_count: 1, seed, completion, ..EmulatorOptions::default() };
                let gpu = Device::emulated_with(&options);
                let tensors = OnDevice::new(&gpu, &merge, &states)?;
                tensors.run(&gpu.stream()?)?;
                for kernel in gpu.emulator().expect("it is emulated").take_reports() {
                    assert!(kernel.report.findings.is_empty(), "{options:?}: {}", kernel.report);
                }
                let outputs = tensors.outputs()?;
                match &first {
                    None => outputs.judge_by(&states.answers()).map(|_| ())?,
                    Some(first) => assert!(first.bits() == outputs.bits(), "{completion:?}, seed {seed}"),
                }
                first.get_or_insert(outputs);
            }
        }
    }
    Ok(())
}

/// Without an instruction that orders its accesses the kernel is wrong, and the emulator says so: the wait for the grid
/// before, and that of the lanes before one of them overwrites what the others read.
fn mutants(variant: &MergeVariant) -> Result<(), Failure> {
    let ptx = kernels::image(variant.symbol)?.ptx;
    let merge = in_place(variant, 72);
    let states = merge.states(2);
    for (instruction, code) in [("griddepcontrol.wait;", Code::E50), ("bar.warp.sync", Code::E02)] {
        assert_eq!(ptx.matches(instruction).count(), 1, "{instruction}");
        let mutant: String =
            ptx.lines().filter(|line| !line.contains(instruction)).collect::<Vec<_>>().join("\n");
        let gpu = Device::emulated();
        gpu.emulator()
            .expect("it is emulated")
            .substitute(Module::parse(&mutant).expect("PTX without a line"));
        let tensors = OnDevice::new(&gpu, &merge, &states)?;
        let stream = gpu.stream()?;
        // The second one reads what the first one wrote.
        let result = tensors.run(&stream).and_then(|()| tensors.run(&stream));
        match result {
            Err(Error::Hazards { report, .. }) if report.has(code) => {}
            other => panic!("without {instruction} {other:?}"),
        }
    }
    Ok(())
}

/// Many rows for each warp, at the largest strides that memory has room for.
fn large(gpu: &Device, dtype: Dtype) -> Result<(), Failure> {
    let emulated = gpu.emulator().is_some();
    let shape = if emulated { Shape::new(1, 500, 3, 64) } else { Shape::new(4, 9000, 16, 128) };
    let merge = Merge { shape, sums: Sums::Near, ..base(dtype) };
    merge::check(gpu, &merge, 11).map(|_| ())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    for (seed, merge) in merge::cases().into_iter().enumerate() {
        suite.test(merge::name(&merge), move |gpu| merge::check(gpu, &merge, seed as u64).map(|_| ()));
    }
    suite.test("random_merges", random_merges);
    for dtype in DTYPES {
        type Test = fn(&Device, Dtype) -> Result<(), Failure>;
        let tests: [(&str, Test); 8] = [
            ("every_number", every_number),
            ("numbers_that_are_none", numbers_that_are_none),
            ("weights_of_zero", weights_of_zero),
            ("alone", alone),
            ("without_lse", without_lse),
            ("inputs_stay", inputs_stay),
            ("beside_attention", beside_attention),
            ("large", large),
        ];
        for (name, test) in tests {
            suite.test(format!("{name}_{}", dtype.name()), move |gpu| test(gpu, dtype));
        }
        suite.test(format!("replay_{}", dtype.name()), move |gpu| replay(gpu, &base(dtype)));
        for place in Place::ALL {
            let merge = Merge { place, ..base(dtype) };
            suite.test(format!("repeat_{}", merge::name(&merge)), move |gpu| repeat(gpu, &merge));
        }
        for head_dim in [64, 128, 192] {
            let full = Case {
                batch: 1,
                seqlen_q: 60,
                seqlen_kv: 150,
                heads_q: 2,
                heads_kv: 1,
                head_dim,
                ..Case::default()
            };
            let causal = Case { causal: true, ..full };
            for (case, chunks) in [
                (full, &[75, 75][..]),
                (full, &[1, 149]),
                (full, &[0, 150]),
                (full, &[150, 0]),
                (full, &[40, 70, 13, 27]),
                (causal, &[90, 60]),
                (causal, &[30, 60, 60]),
            ] {
                let name = format!("chunks_{chunks:?}_{}", device::name(&case, dtype)).replace(", ", "_");
                suite.test(name, move |gpu| chunks_of_keys(gpu, &case, dtype, chunks));
            }
        }
    }
    let mut small = Suite::on(other_schedules());
    for dtype in DTYPES {
        let merge = base(dtype);
        small.test(merge::name(&merge), move |gpu| merge::check(gpu, &merge, 12).map(|_| ()));
    }
    let mut emulated = Suite::on(vec![Resource::new("emulated", Ok(()))]);
    for variant in MERGE {
        emulated.test(format!("schedules_{}", variant.symbol), |()| schedules(variant));
        emulated.test(format!("mutants_{}", variant.symbol), |()| mutants(variant));
    }
    // While one test records, the driver refuses whatever in another one waits for the device.
    suite.and(small).and(emulated).run_serially()
}
