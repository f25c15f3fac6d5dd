//! Attention over q, k and v of 8 bits.

use std::iter::zip;
use std::process::ExitCode;

use flashcore::{Attention, Device, Dtype, Error, Fp8, Fp8Qkv, Fp8Rounding, Shape, attention_fp8};
use flashcore_kernels::fp8::value_position;
use flashcore_tests::cases::Layout;
use flashcore_tests::device::{download, upload};
use flashcore_tests::extras::{Extras, ExtrasOnDevice, Numbers, Prefix};
use flashcore_tests::fp8::{Format, Narrow, OnDevice, attend, one_neighbour, rotated};
use flashcore_tests::inputs::{Fill, normal};
use flashcore_tests::narrow::score_error;
use flashcore_tests::oracle::{self, Mask, Tokens};
use flashcore_tests::side_inputs::Lengths;
use flashcore_tests::suite::{Resource, Suite, backends, other_schedules};
use flashcore_tests::values::{HostTensor, Values};
use float8::{F8E4M3, F8E5M2};
use rand::{Rng, SeedableRng, rngs::StdRng};

const FORMATS: [Fp8; 2] = [Fp8::E4m3, Fp8::E5m2];

/// What a kernel wrote.
type Outputs = (&'static str, (Vec<f32>, Vec<f32>));

#[derive(Clone, Copy, Debug)]
struct Case {
    head_dim: usize,
    causal: bool,
    lengths: (usize, usize),
    heads: (usize, usize),
    fill: Fill,
    fp8: Fp8,
    dtype: Dtype,
    extras: Extras,
}

impl Case {
    /// Sequences; packed ones are more.
    fn sequences(&self) -> usize {
        let Extras { packed_q, packed_kv, .. } = self.extras;
        if packed_q.is_some() || packed_kv.is_some() { 6 } else { 2 }
    }

    fn name(&self) -> String {
        let Case { head_dim, causal, lengths: (q, k), heads: (of_q, of_k), fill, fp8, dtype, extras } = self;
        let causal = if *causal { "_causal" } else { "" };
        let types = format!("{}_{}", fp8.name(), dtype.name());
        format!("d{head_dim}_sq{q}_sk{k}_h{of_q}_{of_k}{causal}_{fill:?}{extras}_{types}")
    }

    /// The numbers that go along.
    fn numbers(&self) -> Numbers {
        let [q, k] = self.shapes();
        self.extras.numbers(self.sequences(), q.seqlen, k.seqlen, q.heads, 1)
    }

    fn shapes(&self) -> [Shape; 2] {
        let Case { head_dim, lengths: (q, k), heads: (of_q, of_k), .. } = *self;
        let shape = |packed: Option<Lengths>, seqlen, heads| match packed {
            Some(lengths) => Shape::new(1, Extras::total(lengths, self.sequences()), heads, head_dim),
            None => Shape::new(self.sequences(), seqlen, heads, head_dim),
        };
        [shape(self.extras.packed_q, q, of_q), shape(self.extras.packed_kv, k, of_k)]
    }
}

/// Attention, plain or under a causal mask.
fn plain(q: &Values, k: &Values, v: &Values, causal: bool) -> oracle::Attention {
    let scale = 1.0 / (q.shape.head_dim as f64).sqrt();
    let mask = if causal { Mask::causal() } else { Mask::full() };
    oracle::Attention { mask, ..oracle::Attention::new(q.clone(), k.clone(), v.clone(), scale) }
}

/// What all kernels that can do it make of these inputs.
fn run<T: Format>(
    device: &Device,
    inputs: &[Narrow<T>; 3],
    causal: bool,
    extras: (Extras, &Numbers),
    dtype: Dtype,
) -> flashcore::Result<Vec<Outputs>> {
    let (tensors, stream) = (OnDevice::new(device, inputs, causal, extras, dtype)?, device.stream()?);
    tensors.run(&stream)?;
    let mut outputs = vec![("attention", tensors.outputs()?)];
    for plan in tensors.plans()? {
        tensors.poison()?;
        tensors.run_plan(&plan, &stream)?;
        outputs.push((plan.variant.symbol, tensors.outputs()?));
    }
    Ok(outputs)
}

fn agrees(device: &Device, case: &Case) -> Result<(), String> {
    match case.fp8 {
        Fp8::E4m3 => agrees_in::<F8E4M3>(device, case),
        Fp8::E5m2 => agrees_in::<F8E5M2>(device, case),
    }
}

/// Bounds are the same for all formats, since weights are always e4m3.
fn agrees_in<T: Format>(device: &Device, case: &Case) -> Result<(), String> {
    let [q, k] = case.shapes();
    let numbers = case.numbers();
    let [q, k, v] = case.fill.values(q, k, 1);
    let narrow = Narrow::<T>::of_sequences;
    let inputs = [narrow(&q, &numbers.queries), narrow(&k, &numbers.keys), narrow(&v, &numbers.keys)];
    let [q, k, v] = inputs.each_ref().map(|x| &x.values);
    let answer = attend(&case.extras.judged_by(case.causal, &numbers, plain(q, k, v, case.causal)));
    let score_error = score_error(q, k, case.fill);
    let outputs = run(device, &inputs, case.causal, (case.extras, &numbers), case.dtype);
    for (symbol, (out, lse)) in outputs.map_err(|error| error.to_string())? {
        answer
            .judge(&out, &lse, case.dtype, score_error)
            .map_err(|failure| format!("{symbol}: {failure}"))?;
    }
    Ok(())
}

/// Where all scores are equal, and V has small integers, nothing is rounded but the last division.
fn equal_weights_are_exact<T: Format>(device: &Device, head_dim: usize) -> Result<(), String> {
    let shape = Shape::new(1, 200, 2, head_dim);
    let zeros = Values::zeros(shape);
    let v = Values::from_fn(shape, |_, s, h, d| if s % head_dim == d { (1 + h + s % 7) as f32 } else { 0.0 });
    let inputs = [zeros.clone(), zeros, v].map(|values| Narrow::<T>::new(&values));
    let nothing = (Extras::default(), &Numbers::default());
    let outputs = run(device, &inputs, false, nothing, Dtype::F16);
    for (symbol, (out, _)) in outputs.map_err(|error| error.to_string())? {
        for (i, got) in out.into_iter().enumerate() {
            let (h, d) = (i / head_dim % 2, i % head_dim);
            let sum: f32 = (0..200).map(|s| inputs[2].values.row(0, s, h)[d]).sum();
            let want = half::f16::from_f32(sum / 200.0).to_f32();
            if (got - want).abs() > want / 1024.0 {
                return Err(format!("{symbol}: element {i} is {got}, should be {want}"));
            }
        }
    }
    Ok(())
}

/// Where V has a mean, O grows with every key, and what tensor cores cut off, always towards zero, would add up: in one
/// sum over these keys, to a twentieth.
fn sums_do_not_drift<T: Format>(device: &Device, head_dim: usize) -> Result<(), String> {
    let [q, kv] = [Shape::new(1, 64, 1, head_dim), Shape::new(1, 4096, 1, head_dim)];
    let [q, k, mut v] = Fill::Normal.values(q, kv, 3);
    v.data.iter_mut().for_each(|x| *x += 1.0);
    let inputs = [q, k, v].map(|values| Narrow::<T>::new(&values));
    let [q, k, v] = inputs.each_ref().map(|x| &x.values);
    let answer = attend(&plain(q, k, v, false));
    let nothing = (Extras::default(), &Numbers::default());
    let outputs = run(device, &inputs, false, nothing, Dtype::Bf16);
    for (symbol, (out, lse)) in outputs.map_err(|error| error.to_string())? {
        let errors = answer.errors(&out, &lse);
        println!("{symbol}: {errors:?}");
        if errors.shrinkage.abs() > 4e-3 {
            return Err(format!("{symbol}: {errors:?}"));
        }
    }
    Ok(())
}

/// What is large among the inputs, and by how much.
#[derive(Clone, Copy, Debug)]
enum Outliers {
    /// One number in a thousand.
    Numbers(f32),
    /// One column in 32 of q and k.
    Columns(f32),
    /// One token in 32.
    Tokens(f32),
}

/// q, k and v of 16 bits, of any size.
fn wide(shapes: [Shape; 3], dtype: Dtype, layout: Layout, outliers: Outliers) -> [HostTensor; 3] {
    let mut rng = StdRng::seed_from_u64(7);
    let mut tensor = 0;
    shapes.map(|shape| {
        let mut values = normal(shape, 1.0, &mut rng);
        for (i, x) in values.data.iter_mut().enumerate() {
            match outliers {
                Outliers::Numbers(factor) if rng.random_bool(0.001) => *x *= factor,
                Outliers::Columns(factor) if tensor < 2 && i % shape.head_dim % 32 == 5 => *x *= factor,
                Outliers::Tokens(factor) if i / shape.head_dim / shape.heads % 32 == 5 => *x *= factor,
                _ => {}
            }
        }
        tensor += 1;
        HostTensor::lay_out(&values, dtype, layout.query(shape))
    })
}

/// How numbers are rounded.
#[derive(Clone, Copy, Debug)]
enum How {
    ToTheNearest,
    /// By a seed and an offset.
    ByChance(u64, u32),
    /// To the nearest, under one descale for all heads.
    PerTensor,
}

/// What is rounded.
#[derive(Clone, Copy, Debug)]
struct Rounded {
    /// Of q, k and v; of packed sequences, but for their rows.
    shapes: [Shape; 3],
    /// How many packed sequences there are, if they are.
    extras: Extras,
    sequences: usize,
    dtype: Dtype,
    layout: Layout,
    rotates: bool,
}

/// The kernels round to the very bits that the host does.
fn rounds_as_the_host_does<T: Format>(device: &Device, of: Rounded, how: How) -> Result<(), Error> {
    let Rounded { mut shapes, extras, sequences, dtype, layout, rotates } = of;
    let packed = [extras.packed_q, extras.packed_kv, extras.packed_kv];
    for (shape, lengths) in zip(&mut shapes, packed) {
        if let Some(lengths) = lengths {
            (shape.batch, shape.seqlen) = (1, Extras::total(lengths, sequences));
        }
    }
    let numbers = extras.numbers(sequences, shapes[0].seqlen, shapes[1].seqlen, 1, 1);
    let tokens: [&[Tokens]; 3] = [&numbers.queries, &numbers.keys, &numbers.keys];
    let mut host = wide(shapes, dtype, layout, Outliers::Numbers(100.0));
    for (tensor, tokens) in zip(&mut host, tokens) {
        // Rows that do not count are no numbers, and make none of others.
        let values = tensor.values();
        let counts =
            |b, s| tokens.iter().any(|of| of.batch == b && (of.start..of.start + of.len).contains(&s));
        let poisoned =
            Values::from_fn(
                values.shape,
                |b, s, h, d| {
                    if counts(b, s) { values.row(b, s, h)[d] } else { f32::NAN }
                },
            );
        *tensor = HostTensor::lay_out(&poisoned, dtype, layout.query(values.shape));
    }
    let [q, k, v] = host.each_ref().map(|tensor| upload(device, tensor));
    let (q, k, v) = (q?, k?, v?);
    let on_device = ExtrasOnDevice::new(device, extras, &numbers, dtype)?;
    let narrow = Fp8Qkv::for_sequences(device, T::KIND, shapes, on_device.sequences().packed()?)?;
    let narrow = if rotates { narrow.rotated() } else { narrow };
    let stream = device.stream()?;
    let narrow = if matches!(how, How::PerTensor) { narrow.per_tensor() } else { narrow };
    let rounding = Fp8Rounding::new().sequences(on_device.sequences());
    let rounding = match how {
        How::ToTheNearest | How::PerTensor => rounding,
        How::ByChance(seed, offset) => rounding.stochastic(seed, offset),
    };
    narrow.round_with(&stream, rounding, &q, &k, &v)?;
    let [mut q, mut k, v] = host.map(|tensor| tensor.values());
    let mut restored = 1.0;
    if rotates {
        (q, k) = (rotated(&q), rotated(&k));
        restored = (1 << shapes[0].head_dim.trailing_zeros()) as f32;
    }
    let round = |values: &Values, tensor| match how {
        How::ToTheNearest => Narrow::<T>::of_sequences(values, tokens[tensor]),
        How::ByChance(seed, offset) => Narrow::by_chance(values, tokens[tensor], tensor, (seed, offset)),
        How::PerTensor => Narrow::per_tensor(values, tokens[tensor]),
    };
    let mut expected = [round(&q, 0), round(&k, 1), round(&v, 2)];
    expected[0].descales.iter_mut().for_each(|descale| *descale *= restored);
    for (of, expected, tokens) in
        [(&narrow.q, &expected[0], &numbers.queries), (&narrow.k, &expected[1], &numbers.keys)]
    {
        assert_eq!(of.descales()?, expected.descales);
        let (bytes, Shape { seqlen, heads, head_dim, .. }) = (of.to_bytes()?, of.shape());
        let strides = of.strides();
        for of in tokens {
            for (s, h) in (of.start..of.start + of.len).flat_map(|s| (0..heads).map(move |h| (s, h))) {
                let at = of.batch * strides.batch + s * strides.seqlen + h * strides.heads;
                let row = (of.batch * seqlen + s) * heads + h;
                let elements: Vec<u8> =
                    expected.elements[row * head_dim..][..head_dim].iter().map(|x| x.code()).collect();
                assert_eq!(bytes[at..][..head_dim], elements, "row {row}");
            }
        }
    }
    let [_, _, v] = expected;
    assert_eq!(narrow.v.descales()?, v.descales);
    let (bytes, Shape { batch, seqlen, heads, head_dim }) = (narrow.v.to_bytes()?, v.values.shape);
    let line = bytes.len() / (batch * heads * head_dim).max(1);
    for (sequence, of) in numbers.keys.iter().enumerate() {
        let first = if numbers.starts_kv.is_some() { (of.start + 15 * sequence) / 16 * 16 } else { 0 };
        for (h, d) in (0..heads).flat_map(|h| (0..head_dim).map(move |d| (h, d))) {
            // What fills the last group is zeros.
            let mut expected = vec![0; of.len.next_multiple_of(16)];
            for key in 0..of.len {
                let row = (of.batch * seqlen + of.start + key) * heads + h;
                expected[value_position(key as u32) as usize] = v.elements[row * head_dim + d].code();
            }
            let at = ((of.batch * heads + h) * head_dim + d) * line + first;
            assert_eq!(bytes[at..][..expected.len()], expected, "sequence {sequence}, head {h}, column {d}");
        }
    }
    Ok(())
}

/// Room serves for one call after the other: of what an earlier one left there, larger numbers or smaller, nothing shows.
fn rooms_serve_again(device: &Device, shapes: [Shape; 3]) -> Result<(), Error> {
    let stream = device.stream()?;
    let room = || Fp8Qkv::new(device, Fp8::E4m3, shapes);
    let used = room()?;
    for (outliers, offset) in [(100.0, None), (1.0, None), (1.0, Some(3)), (1000.0, None), (10.0, Some(4))] {
        let host = wide(shapes, Dtype::Bf16, Layout::Bshd, Outliers::Numbers(outliers));
        let [q, k, v] = host.each_ref().map(|tensor| upload(device, tensor));
        let (q, k, v, fresh) = (q?, k?, v?, room()?);
        let how = offset.map_or(Fp8Rounding::new(), |offset| Fp8Rounding::new().stochastic(1, offset));
        for room in [&used, &fresh] {
            room.round_with(&stream, how, &q, &k, &v)?;
        }
        assert_eq!(bytes(&used)?, bytes(&fresh)?, "outliers of {outliers}");
        let descales = |of: &Fp8Qkv| Ok::<_, Error>([of.q.descales()?, of.k.descales()?, of.v.descales()?]);
        assert_eq!(descales(&used)?, descales(&fresh)?, "outliers of {outliers}");
    }
    Ok(())
}

/// What q, k and v are rounded to.
fn bytes(narrow: &Fp8Qkv) -> Result<[Vec<u8>; 3], Error> {
    Ok([narrow.q.to_bytes()?, narrow.k.to_bytes()?, narrow.v.to_bytes()?])
}

/// What the format holds, infinities and NaN are rounded by chance as they are to the nearest.
fn chance_leaves_exact_numbers<T: Format>(device: &Device, dtype: Dtype) -> Result<(), Error> {
    let shape = Shape::new(1, 256, 2, 64);
    let values = Values::from_fn(shape, |_, s, h, d| match (h, s % 16) {
        (1, 0) => f32::INFINITY,
        (1, 1) => f32::NEG_INFINITY,
        _ => match T::from_code((s + 64 * d) as u8).value() {
            x if x.is_finite() => x,
            _ => f32::NAN,
        },
    });
    let wide = upload(device, &HostTensor::lay_out(&values, dtype, Layout::Bshd.query(shape)))?;
    let (narrow, stream) = (Fp8Qkv::new(device, T::KIND, [shape; 3])?, device.stream()?);
    narrow.round(&stream, &wide, &wide, &wide)?;
    let nearest = bytes(&narrow)?;
    assert_eq!(narrow.q.descales()?[0], 1.0);
    for code in 0..=255 {
        // There is one NaN, which has no sign, and no infinity.
        let kept = nearest.iter().all(|tensor| tensor.contains(&code));
        assert_eq!(kept, code & 0x7F <= T::LARGEST || code == 0x7F, "{code:#x}");
    }
    for offset in 0..4 {
        narrow.round_with(&stream, Fp8Rounding::new().stochastic(5, offset), &wide, &wide, &wide)?;
        assert_eq!(bytes(&narrow)?, nearest, "offset {offset}");
    }
    Ok(())
}

/// The mean of what a number is rounded to by chance is the number: as exactly as so many draws can tell.
fn chance_is_right_on_average<T: Format>(device: &Device) -> Result<(), Error> {
    const CALLS: usize = 4;
    let shape = Shape::new(1, 1024, 1, 64);
    let mut rng = StdRng::seed_from_u64(3);
    let largest = T::from_code(T::LARGEST).value();
    // From the least numbers up to the largest, which is in the first row and makes the descale 1.
    let numbers: Vec<f32> = (0..shape.head_dim)
        .map(|d| {
            let x = largest * rng.random_range(0.5..1.0) * 2f32.powi(-(d as i32 / 2));
            half::bf16::from_f32(if d % 2 == 0 { x } else { -x }).to_f32()
        })
        .collect();
    let values = Values::from_fn(shape, |_, s, _, d| if s == 0 { largest } else { numbers[d] });
    let wide = upload(device, &HostTensor::lay_out(&values, Dtype::Bf16, Layout::Bshd.query(shape)))?;
    let (narrow, stream) = (Fp8Qkv::new(device, T::KIND, [shape; 3])?, device.stream()?);
    let mut sums = vec![[0.0; 3]; shape.head_dim];
    for offset in 0..CALLS {
        let rounding = Fp8Rounding::new().stochastic(11, offset as u32);
        narrow.round_with(&stream, rounding, &wide, &wide, &wide)?;
        for (tensor, bytes) in bytes(&narrow)?.iter().enumerate() {
            for (i, &byte) in bytes.iter().enumerate() {
                // v lies transposed; its first key, as that of q and k, is in the first place.
                let (s, d) = match tensor {
                    2 => (i % shape.seqlen, i / shape.seqlen),
                    _ => (i / shape.head_dim, i % shape.head_dim),
                };
                if s != 0 {
                    sums[d][tensor] += f64::from(T::from_code(byte).value());
                }
            }
        }
    }
    let draws = (CALLS * (shape.seqlen - 1)) as f64;
    for (d, &x) in numbers.iter().enumerate() {
        let [lower, upper] = [0, 0xFFFF].map(|random| f64::from(one_neighbour::<T>(x, random).value().abs()));
        let fraction = if upper == lower { 0.0 } else { (f64::from(x.abs()) - lower) / (upper - lower) };
        let deviation = (fraction * (1.0 - fraction) / draws).sqrt();
        let bound = (upper - lower) * (5.0 * deviation + 1.0 / 65536.0);
        for (tensor, sum) in sums[d].into_iter().enumerate() {
            let error = sum / draws - f64::from(x);
            assert!(error.abs() <= bound, "{x} of tensor {tensor} is off by {error}, not {bound}");
        }
    }
    Ok(())
}

/// The same seed and offset give the same bytes, others others; and numbers of q, k and heads that are the same do not
/// share their chances.
fn chances_are_told_apart(device: &Device) -> Result<(), Error> {
    let shape = Shape::new(2, 48, 2, 64);
    let [one, ..] = wide([Shape::new(1, 48, 1, 64); 3], Dtype::F16, Layout::Bshd, Outliers::Numbers(1.0));
    let one = one.values();
    let values = Values::from_fn(shape, |_, s, _, d| one.row(0, s, 0)[d]);
    let wide = upload(device, &HostTensor::lay_out(&values, Dtype::F16, Layout::Bshd.query(shape)))?;
    let (narrow, stream) = (Fp8Qkv::new(device, Fp8::E4m3, [shape; 3])?, device.stream()?);
    let round = |rounding: Fp8Rounding<'_>| {
        narrow.round_with(&stream, rounding, &wide, &wide, &wide)?;
        bytes(&narrow)
    };
    let by = |seed, offset| Fp8Rounding::new().stochastic(seed, offset);
    let first = round(by(1 << 40, 0))?;
    let others = [by(1 << 40, 1), by(0, 0), by((1 << 40) + 1, 0)];
    // Chances that have nothing to do with each other agree on two of three numbers, as these fractions are equally likely.
    let differ = |a: &[u8], b: &[u8]| {
        let differences = zip(a, b).filter(|(a, b)| a != b).count() as f64 / a.len() as f64;
        assert!((0.28..0.38).contains(&differences), "{differences}");
    };
    for rounding in others {
        for (a, b) in zip(&first, &round(rounding)?) {
            differ(a, b);
        }
    }
    let [q, k, _] = &first;
    differ(q, k);
    let heads: Vec<_> = q.chunks_exact(q.len() / 4).collect();
    for (i, j) in (0..4).flat_map(|i| (0..i).map(move |j| (i, j))) {
        differ(heads[i], heads[j]);
    }
    assert_eq!(round(by(1 << 40, 0))?, first);
    Ok(())
}

/// The rotation keeps products of rows, but for a factor, and spreads what is large.
fn rotation_keeps_products() -> Result<(), String> {
    for head_dim in [8, 72, 96, 128, 256] {
        let shape = Shape::new(1, 20, 1, head_dim);
        let [q, k, _] = wide([shape; 3], Dtype::F16, Layout::Bshd, Outliers::Columns(30.0));
        let (q, k) = (q.values(), k.values());
        let (rotated_q, rotated_k) = (rotated(&q), rotated(&k));
        let block = f64::from(1 << head_dim.trailing_zeros());
        let dot =
            |x: &[f32], y: &[f32]| -> f64 { zip(x, y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum() };
        let length = |x: &[f32]| dot(x, x).sqrt();
        for (i, j) in (0..20).flat_map(|i| (0..20).map(move |j| (i, j))) {
            let (x, y) = (q.row(0, i, 0), k.row(0, j, 0));
            let (want, got) = (dot(x, y), block * dot(rotated_q.row(0, i, 0), rotated_k.row(0, j, 0)));
            if (want - got).abs() > 1e-6 * length(x) * length(y) {
                return Err(format!("head_dim {head_dim}: {got}, should be {want}"));
            }
        }
        let largest = |x: &Values| x.data.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let spread = f64::from(largest(&rotated_q)) * block.sqrt() / f64::from(largest(&q));
        if head_dim >= 96 && spread > 0.75 {
            return Err(format!("head_dim {head_dim}: the largest number is {spread} of what it was"));
        }
    }
    Ok(())
}

/// A descale of each block of 128 tokens, or of each token, leaves the error what it is under one of each head: e4m3 has 2^15
/// between its largest number and its least that is normal, and keeps as many bits of all of them. That is why kernels have
/// neither.
fn finer_descales_gain_nothing() -> Result<(), String> {
    let [q, kv] = [Shape::new(1, 300, 2, 128), Shape::new(1, 600, 1, 128)];
    let inputs = [
        Outliers::Numbers(1.0),
        Outliers::Numbers(10.0),
        Outliers::Numbers(100.0),
        Outliers::Columns(10.0),
        Outliers::Tokens(10.0),
        Outliers::Tokens(100.0),
    ];
    for outliers in inputs {
        let wide = wide([q, kv, kv], Dtype::Bf16, Layout::Bshd, outliers).map(|tensor| tensor.values());
        let attend = |[q, k, v]: &[Values; 3]| attend(&plain(q, k, v, false));
        let exact = attend(&wide);
        let lse: Vec<f32> = exact.lse.iter().map(|&x| x as f32).collect();
        let error = |round: &dyn Fn(&Values) -> Narrow<F8E4M3>| {
            let rounded = attend(&wide.each_ref().map(|values| round(values).values));
            let o: Vec<f32> = rounded.o.iter().map(|&x| x as f32).collect();
            100.0 * exact.errors(&o, &lse).relative
        };
        let in_blocks = |values: &Values, rows: usize| {
            let len = |start| rows.min(values.shape.seqlen - start);
            let starts = (0..values.shape.seqlen).step_by(rows);
            let blocks: Vec<_> = starts.map(|start| Tokens { batch: 0, start, len: len(start) }).collect();
            Narrow::of_sequences(values, &blocks)
        };
        let of_tensor = error(&|values| Narrow::per_tensor(values, &Tokens::dense(values.shape)));
        let of_head = error(&|values| Narrow::new(values));
        let [of_block, of_token] = [128, 1].map(|rows| error(&|values| in_blocks(values, rows)));
        println!(
            "{outliers:?}: {of_tensor:.2} % per tensor, {of_head:.2} per head, {of_block:.2} per block, {of_token:.2} per token"
        );
        if of_block.min(of_token) < 0.95 * of_head {
            return Err(format!("{outliers:?}: {of_block} and {of_token} % beside {of_head}"));
        }
    }
    Ok(())
}

/// What comes of rounding q, k, v and the weights: an error of about 1/20 of what each number is the sum of; of e5m2, which
/// has a bit less, twice that, and more where the largest scores are off by so much that weights are others. What the
/// kernel adds to the error of q, k and v is no more than in [`agrees`].
fn attends_by_way_of_8_bits<T: Format>(
    device: &Device,
    (causal, outliers, rotates, bound): (bool, Outliers, bool, f64),
) -> Result<(), Error> {
    let [q, kv] = [Shape::new(1, 150, 2, 128), Shape::new(1, 300, 1, 128)];
    let host = wide([q, kv, kv], Dtype::Bf16, Layout::Bshd, outliers);
    let [q, k, v] = host.each_ref().map(|tensor| upload(device, tensor));
    let (q, k, v) = (q?, k?, v?);
    let (attention, stream) = (Attention::new().causal(causal), device.stream()?);
    let out = if rotates || T::KIND != Fp8::E4m3 {
        let narrow = Fp8Qkv::new(device, T::KIND, [q.shape(), k.shape(), v.shape()])?;
        let narrow = if rotates { narrow.rotated() } else { narrow };
        narrow.round(&stream, &q, &k, &v)?;
        attention.forward_fp8(&stream, narrow.q.view(), narrow.k.view(), narrow.v.view(), Dtype::Bf16)?
    } else {
        attention_fp8(&attention, &stream, &q, &k, &v)?
    };
    let [q, k, v] = host.map(|tensor| tensor.values());
    let answer = attend(&plain(&q, &k, &v, causal));
    let lse: Vec<f32> = answer.lse.iter().map(|&x| x as f32).collect();
    let errors = answer.errors(&download(&out)?.values().data, &lse);
    println!("{}, causal {causal}, {outliers:?}, rotated {rotates}: {errors:?}", T::KIND.name());
    assert!(errors.of_spread <= bound, "{errors:?}");
    if !rotates {
        let [q, k, v] = [q, k, v].map(|values| Narrow::<T>::new(&values).values);
        let rounded: Vec<f32> = attend(&plain(&q, &k, &v, causal)).o.iter().map(|&x| x as f32).collect();
        let of_inputs = answer.errors(&rounded, &lse).of_spread;
        assert!(errors.of_spread <= of_inputs.hypot(0.04), "{of_inputs} of q, k and v, {errors:?}");
    }
    Ok(())
}

/// Packed heads whose columns, as bytes, are no whole steps of TMA.
fn attends_to_packed_heads_of(device: &Device, head_dim: usize) -> Result<(), Error> {
    let lengths = Lengths::WithZeros { longest: 90 };
    let extras =
        Extras { packed_q: Some(lengths), packed_kv: Some(lengths), right: Some(0), ..Extras::default() };
    let numbers = extras.numbers(5, 0, 0, 2, 1);
    let shape = |heads| Shape::new(1, Extras::total(lengths, 5), heads, head_dim);
    for heads in [(2, 1), (1, 1)] {
        let shapes = [shape(heads.0), shape(heads.1), shape(heads.1)];
        let host = wide(shapes, Dtype::Bf16, Layout::Bshd, Outliers::Numbers(1.0));
        let [q, k, v] = host.each_ref().map(|tensor| upload(device, tensor));
        let extras_there = ExtrasOnDevice::new(device, extras, &numbers, Dtype::Bf16)?;
        let out = attention_fp8(&extras_there.attention(), &device.stream()?, &q?, &k?, &v?)?;
        let [q, k, v] = host.map(|tensor| tensor.values());
        let answer = attend(&extras.judged_by(false, &numbers, plain(&q, &k, &v, false)));
        let lse: Vec<f32> = answer.lse.iter().map(|&x| x as f32).collect();
        let errors = answer.errors(&download(&out)?.values().data, &lse);
        assert!(errors.of_spread <= 0.064, "{errors:?}");
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    let base = Case {
        head_dim: 128,
        causal: false,
        lengths: (200, 333),
        heads: (4, 2),
        fill: Fill::Normal,
        fp8: Fp8::E4m3,
        dtype: Dtype::Bf16,
        extras: Extras::default(),
    };
    let nothing = Extras::default();
    let features = [
        Extras { left: Some(70), right: Some(0), ..nothing },
        Extras { left: Some(3), right: Some(40), top_left: true, ..nothing },
        Extras { chunk: Some(100), right: Some(0), ..nothing },
        Extras { prefix: Some(Prefix::Keys(90)), right: Some(0), ..nothing },
        Extras { sinks: true, ..nothing },
        Extras { softcap: Some(2.0), ..nothing },
        Extras { softcap: Some(20.0), left: Some(130), sinks: true, right: Some(0), ..nothing },
    ];
    let mut cases = Vec::new();
    for (fp8, head_dim) in FORMATS.into_iter().flat_map(|fp8| [64, 128, 256].map(|head_dim| (fp8, head_dim)))
    {
        for causal in [false, true] {
            let base = Case { head_dim, causal, fp8, ..base };
            for lengths in [(1, 1), (1, 239), (239, 1), (65, 127), (128, 217), (193, 300), (200, 161)] {
                cases.push(Case { lengths, heads: (1, 1), ..base });
            }
            for dtype in [Dtype::F16, Dtype::Bf16] {
                cases.push(Case { dtype, ..base });
            }
            for fill in [Fill::Large, Fill::Rising, Fill::Constant] {
                cases.push(Case { fill, heads: (2, 1), ..base });
            }
        }
    }
    for head_dim in [64, 128, 256] {
        for extras in features {
            cases.push(Case { head_dim, heads: (2, 1), extras, ..base });
        }
        for lengths in [(1, 1), (239, 1), (65, 127), (193, 300)] {
            cases.push(Case { head_dim, lengths, heads: (1, 1), extras: features[0], ..base });
        }
    }
    let packed = |lengths| Extras { packed_q: Some(lengths), packed_kv: Some(lengths), ..nothing };
    let sequences = [
        packed(Lengths::Uniform { longest: 300 }),
        Extras { right: Some(0), ..packed(Lengths::WithZeros { longest: 150 }) },
        Extras { used: true, right: Some(0), ..packed(Lengths::WithOnes { longest: 200 }) },
        Extras { used: true, ..nothing },
        Extras { used: true, packed_q: Some(Lengths::Uniform { longest: 9 }), ..nothing },
        Extras { left: Some(60), packed_kv: Some(Lengths::Uniform { longest: 300 }), ..nothing },
        Extras {
            softcap: Some(5.0),
            sinks: true,
            packed_q: Some(Lengths::Uniform { longest: 50 }),
            packed_kv: Some(Lengths::Uniform { longest: 300 }),
            ..nothing
        },
    ];
    for head_dim in [64, 128, 256] {
        for extras in sequences {
            cases.push(Case { head_dim, heads: (2, 1), extras, ..base });
        }
    }
    for head_dim in [8, 16, 40, 72, 104, 136, 192, 248] {
        // Rows on the host have no gaps, and must be of whole steps.
        if head_dim % flashcore::FP8_STEP == 0 {
            cases.push(Case { head_dim, heads: (1, 1), causal: true, ..base });
        }
    }
    for case in cases {
        suite.test(case.name(), move |device| agrees(device, &case));
    }
    for head_dim in [64, 128, 256] {
        suite.test(format!("equal_weights_are_exact_d{head_dim}_e4m3"), move |device| {
            equal_weights_are_exact::<F8E4M3>(device, head_dim)
        });
        suite.test(format!("equal_weights_are_exact_d{head_dim}_e5m2"), move |device| {
            equal_weights_are_exact::<F8E5M2>(device, head_dim)
        });
    }
    let mut elsewhere = Suite::on(other_schedules());
    for head_dim in [64, 128, 256] {
        for causal in [false, true] {
            let case = Case { head_dim, causal, lengths: (193, 300), heads: (2, 1), ..base };
            let extras = if causal { features[0] } else { features[6] };
            let banded = Case { causal: false, extras, ..case };
            elsewhere.test(banded.name(), move |device| agrees(device, &banded));
            elsewhere.test(case.name(), move |device| agrees(device, &case));
        }
    }
    for head_dim in [64, 128] {
        suite.test(format!("sums_do_not_drift_d{head_dim}_e4m3"), move |device| {
            sums_do_not_drift::<F8E4M3>(device, head_dim)
        });
        suite.test(format!("sums_do_not_drift_d{head_dim}_e5m2"), move |device| {
            sums_do_not_drift::<F8E5M2>(device, head_dim)
        });
    }
    let shape = Shape::new;
    let sizes = [
        [shape(2, 150, 3, 64), shape(2, 70, 1, 64), shape(2, 70, 1, 64)],
        [shape(1, 33, 2, 72), shape(1, 300, 2, 72), shape(1, 300, 2, 256)],
        [shape(1, 1, 1, 8), shape(1, 17, 1, 8), shape(1, 17, 1, 8)],
        [shape(1, 20, 4, 128), shape(1, 5000, 1, 128), shape(1, 5000, 1, 128)],
    ];
    let layouts = [Layout::Bshd, Layout::Padded, Layout::Bhsd, Layout::Bshd];
    let dense = zip(sizes, layouts).map(|(shapes, layout)| (shapes, layout, nothing));
    // Longer than they are on average by far, and so than the parts of a head.
    let uneven = Lengths::LogUniform { shortest: 1, longest: 900 };
    let rounded = [
        packed(uneven),
        Extras { used: true, ..packed(Lengths::WithZeros { longest: 70 }) },
        Extras { used: true, packed_q: Some(Lengths::Uniform { longest: 40 }), ..nothing },
    ];
    let three = sizes[0].map(|shape| Shape { batch: 7, ..shape });
    let of_sequences = rounded.map(|extras| (three, Layout::Padded, extras));
    for (i, (shapes, layout, extras)) in dense.chain(of_sequences).enumerate() {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            for rotates in [false, true] {
                let rotated = if rotates { "_rotated" } else { "" };
                for (how, called) in [
                    (How::ToTheNearest, "to_the_nearest"),
                    (How::ByChance(0xFEDC_BA98_7654_3210, 9), "by_chance"),
                    (How::PerTensor, "per_tensor"),
                ] {
                    let name = format!("rounds_{called}_{i}{extras}{rotated}_{}", dtype.name());
                    let sequences = shapes[0].batch;
                    let of = Rounded { shapes, extras, sequences, dtype, layout, rotates };
                    suite.test(format!("{name}_e4m3"), move |device| {
                        rounds_as_the_host_does::<F8E4M3>(device, of, how)
                    });
                    suite.test(format!("{name}_e5m2"), move |device| {
                        rounds_as_the_host_does::<F8E5M2>(device, of, how)
                    });
                }
            }
        }
    }
    // Where rows have no gaps, which nobody writes.
    for (i, shapes) in [sizes[0], sizes[3]].into_iter().enumerate() {
        suite.test(format!("rooms_serve_again_{i}"), move |device| rooms_serve_again(device, shapes));
    }
    // Who takes which part of the work, and when, differs.
    for (i, shapes) in [sizes[0], sizes[3], three].into_iter().enumerate() {
        let extras = if i == 2 { packed(uneven) } else { nothing };
        for (how, called) in [(How::ToTheNearest, "to_the_nearest"), (How::ByChance(1, 2), "by_chance")] {
            for rotates in [false, true] {
                let (sequences, dtype, layout) = (shapes[0].batch, Dtype::Bf16, Layout::Bshd);
                let of = Rounded { shapes, extras, sequences, dtype, layout, rotates };
                elsewhere.test(format!("rounds_{called}_{i}{extras}_{rotates}"), move |device| {
                    rounds_as_the_host_does::<F8E4M3>(device, of, how)
                });
            }
        }
        if i < 2 {
            elsewhere.test(format!("rooms_serve_again_{i}"), move |device| rooms_serve_again(device, shapes));
        }
    }
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let name = format!("chance_leaves_exact_numbers_{}", dtype.name());
        suite
            .test(format!("{name}_e4m3"), move |device| chance_leaves_exact_numbers::<F8E4M3>(device, dtype));
        suite
            .test(format!("{name}_e5m2"), move |device| chance_leaves_exact_numbers::<F8E5M2>(device, dtype));
    }
    suite.test("chance_is_right_on_average_e4m3", chance_is_right_on_average::<F8E4M3>);
    suite.test("chance_is_right_on_average_e5m2", chance_is_right_on_average::<F8E5M2>);
    suite.test("chances_are_told_apart", chances_are_told_apart);
    for head_dim in [8, 72, 104, 248] {
        let name = format!("attends_to_packed_heads_of_{head_dim}");
        suite.test(name, move |device| attends_to_packed_heads_of(device, head_dim));
    }
    let inputs = [
        (Fp8::E4m3, Outliers::Numbers(1.0), "normal", [0.064, 0.064]),
        (Fp8::E4m3, Outliers::Numbers(10.0), "outliers", [0.1, 0.075]),
        (Fp8::E4m3, Outliers::Columns(10.0), "large_columns", [0.25, 0.064]),
        (Fp8::E5m2, Outliers::Numbers(1.0), "normal", [0.12, 0.12]),
        (Fp8::E5m2, Outliers::Numbers(10.0), "outliers", [0.25, 0.14]),
        (Fp8::E5m2, Outliers::Columns(10.0), "large_columns", [0.5, 0.12]),
    ];
    for (fp8, outliers, name, bounds) in inputs {
        for (rotates, bound) in zip([false, true], bounds) {
            for causal in [false, true] {
                let name = format!("attends_by_way_of_8_bits_{name}_{causal}_{rotates}_{}", fp8.name());
                let how = (causal, outliers, rotates, bound);
                suite.test(name, move |device| match fp8 {
                    Fp8::E4m3 => attends_by_way_of_8_bits::<F8E4M3>(device, how),
                    Fp8::E5m2 => attends_by_way_of_8_bits::<F8E5M2>(device, how),
                });
            }
        }
    }
    let mut host = Suite::on(vec![Resource::new("host", Ok(()))]);
    host.test("rotation_keeps_products", |()| rotation_keeps_products());
    host.test("finer_descales_gain_nothing", |()| finer_descales_gain_nothing());
    suite.and(elsewhere).and(host).run()
}
