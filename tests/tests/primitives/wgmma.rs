//! Products of a warpgroup: A from shared memory or registers, B from shared memory.

use flashcore::Dtype;
use flashcore_tests::values::{decode, encode};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::call::{Bytes, Call, Outcome};
use crate::case::{Case, Labelled, difference};
use crate::fragment;
use crate::operand::{Major, Operand};
use crate::pattern::Pattern;

const THREADS: u32 = 128;
const M: u32 = 64;
const K: u32 = 16;
/// What lies between the elements: NaN, so that nobody reads it unseen.
const GAP: u8 = 0xFF;

/// An `mn` x 16 matrix of small integers, so that products are exact in any order of summation.
struct Matrix(Vec<[f32; K as usize]>);

impl Matrix {
    fn random(mn: u32, rng: &mut StdRng) -> Self {
        Matrix((0..mn).map(|_| std::array::from_fn(|_| rng.random_range(-2..=2i8).into())).collect())
    }

    /// Numbers of many sizes, so that sums depend on how they are rounded.
    fn uneven(mn: u32, dtype: Dtype, rng: &mut StdRng) -> Self {
        let mut number = || {
            let number = rng.random_range(-1.0f32..1.0) * 2f32.powi(rng.random_range(-8..=4));
            decode(dtype, encode(dtype, number))
        };
        Matrix((0..mn).map(|_| std::array::from_fn(|_| number())).collect())
    }

    fn is_integral(&self) -> bool {
        self.0.iter().flatten().all(|x| x.fract() == 0.0)
    }

    fn at(&self, mn: u32, k: u32) -> f32 {
        self.0[mn as usize][k as usize]
    }

    /// The matrix that an operand shows in shared memory.
    fn read(memory: &[u8], operand: &Operand, mn: u32, dtype: Dtype) -> Self {
        let element = |mn, k| {
            let at = operand.address(mn, k) as usize;
            decode(dtype, u16::from_le_bytes([memory[at], memory[at + 1]]))
        };
        Matrix((0..mn).map(|mn| std::array::from_fn(|k| element(mn, k as u32))).collect())
    }

    /// Puts the matrix where an operand finds it.
    fn write(&self, memory: &mut Vec<u8>, operand: &Operand, dtype: Dtype) {
        let mn = self.0.len() as u32;
        memory.resize(memory.len().max(operand.extent(mn) as usize), GAP);
        for (mn, k) in (0..mn).flat_map(|mn| (0..K).map(move |k| (mn, k))) {
            let at = operand.address(mn, k) as usize;
            memory[at..at + 2].copy_from_slice(&encode(dtype, self.at(mn, k)).to_le_bytes());
        }
    }

    /// Row `m` of this matrix times row `n` of the other one.
    fn dot(&self, other: &Matrix, m: u32, n: u32) -> f32 {
        (0..K).map(|k| self.at(m, k) * other.at(n, k)).sum()
    }
}

/// The accumulator `c` + A Bᵀ as the micro-kernels write it.
fn accumulator(a: &Matrix, b: &Matrix, c: f32) -> Bytes {
    let registers = b.0.len() as u32 / 2;
    let value = |register, thread| {
        let (m, n) = fragment::accumulator(thread, register);
        (c + a.dot(b, m, n)).to_bits()
    };
    Bytes::from_words((0..registers).flat_map(|r| (0..THREADS).map(move |t| value(r, t))))
}

/// Which symbols there are: the letters stand for the major dimensions of A and B.
const MAJORS: [(&str, Major, Major); 3] =
    [("kk", Major::K, Major::K), ("km", Major::K, Major::Mn), ("mk", Major::Mn, Major::K)];
const WIDTHS: [u32; 5] = [64, 80, 128, 160, 256];
const DTYPES: [Dtype; 2] = [Dtype::F16, Dtype::Bf16];

/// What `call`, of a symbol of this file, must give.
pub(crate) fn predict(call: &Call) -> Outcome {
    let (a, b, c) = operands(call);
    Outcome { output: accumulator(&a, &b, c), memory: None }
}

/// As the model; where sums are inexact, within what cutting each term to 25 bits, and the sum to 24, may change.
pub(crate) fn judge(call: &Call, seen: &Outcome) -> Result<(), String> {
    let (expected, (a, b, c)) = (predict(call), operands(call));
    if a.is_integral() && b.is_integral() || seen.output.0.len() != expected.output.0.len() {
        return Err(difference(&expected, seen));
    }
    for (i, word) in seen.output.words().into_iter().enumerate() {
        let (m, n) = fragment::accumulator(i as u32 % THREADS, i as u32 / THREADS);
        let terms = (0..K).map(|k| f64::from(a.at(m, k)) * f64::from(b.at(n, k))).chain([f64::from(c)]);
        let (sum, largest) = terms.fold((0.0, 0f64), |(sum, largest), x| (sum + x, largest.max(x.abs())));
        let bound = f64::from(K + 1) * 2f64.powi(-24) * largest + 2f64.powi(-23) * sum.abs();
        let value = f64::from(f32::from_bits(word));
        if value.is_nan() || (value - sum).abs() > bound {
            return Err(format!("({m}, {n}) is {value}, not {sum} within {bound:e}"));
        }
    }
    Ok(())
}

/// A, B and what the accumulator starts with.
fn operands(call: &Call) -> (Matrix, Matrix, f32) {
    let parts: Vec<&str> = call.symbol.split('_').collect();
    let &["probe", "wgmma", operands, shape, dtype] = &parts[..] else { panic!("what is {}?", call.symbol) };
    let dtype = DTYPES.into_iter().find(|d| d.name() == dtype).expect("a known element type");
    if operands == "ss" {
        let &(_, a, b) = MAJORS.iter().find(|(name, ..)| *name == shape).expect("known major dimensions");
        let a = Operand::decode(call.desc_a, call.words[0].cast_unsigned(), a);
        let b = Operand::decode(call.desc_b, call.words[1].cast_unsigned(), b);
        let read = |operand| Matrix::read(&call.input.0, operand, M, dtype);
        (read(&a), read(&b), 0.0)
    } else {
        let width = WIDTHS.into_iter().find(|n| format!("n{n}") == shape).expect("a known width");
        let b = Operand::decode(call.desc_b, 0, Major::K);
        let b = Matrix::read(&call.input.0, &b, width, dtype);
        let a = from_registers(&call.input.words()[call.words[0] as usize..], dtype);
        (a, b, 1.0)
    }
}

/// A, from register r of thread t at word `128 * r + t`.
fn from_registers(words: &[u32], dtype: Dtype) -> Matrix {
    let mut a = Matrix(vec![[0.0; K as usize]; M as usize]);
    for (thread, element) in (0..THREADS).flat_map(|t| (0..8).map(move |e| (t, e))) {
        let word = words[(THREADS * (element / 2) + thread) as usize];
        let (m, k) = fragment::a(thread, element);
        a.0[m as usize][k as usize] = decode(dtype, (word >> (16 * (element % 2))) as u16);
    }
    a
}

/// The reverse of [`from_registers`].
fn to_registers(a: &Matrix, dtype: Dtype) -> Bytes {
    let half = |thread, element| {
        let (m, k) = fragment::a(thread, element);
        u32::from(encode(dtype, a.at(m, k)))
    };
    let register = |r: u32, t| half(t, 2 * r) | half(t, 2 * r + 1) << 16;
    Bytes::from_words((0..4).flat_map(|r| (0..THREADS).map(move |t| register(r, t))))
}

/// Every layout of an operand of `mn` rows that is tried, by name.
fn layouts(major: Major, mn: u32) -> Vec<(String, Operand)> {
    let mut layouts = Vec::new();
    for pattern in Pattern::ALL {
        let tight = Operand::tight(major, pattern);
        let name = format!("{major:?}-{pattern:?}").to_lowercase();
        layouts.push((format!("{name}-spread"), Operand::spread(major, pattern, mn)));
        // The next 16 k lie 32 bytes further on in the same rows.
        let steps = if major == Major::K { pattern.width().div_ceil(32) } else { 1 };
        layouts.extend((0..steps).map(|step| (format!("{name}-step{step}"), tight.advanced(32 * step))));
    }
    layouts
}

/// One product, with the matrices that go in.
struct Product {
    symbol: String,
    dtype: Dtype,
    a: Matrix,
    b: Matrix,
    /// Where A lies; in registers, if nowhere.
    a_operand: Option<Operand>,
    b_operand: Operand,
}

impl Product {
    fn new(symbol: String, dtype: Dtype, n: u32, a_operand: Option<Operand>, b_operand: Operand) -> Self {
        let mut rng = StdRng::seed_from_u64(n.into());
        let (a, b) = (Matrix::random(M, &mut rng), Matrix::random(n, &mut rng));
        Product { symbol, dtype, a, b, a_operand, b_operand }
    }

    fn call(&self) -> Call {
        let mut input = Vec::new();
        let mut call = Call {
            symbol: self.symbol.clone(),
            desc_b: self.b_operand.descriptor(),
            output_bytes: (M * self.b.0.len() as u32 * 4) as usize,
            ..Call::default()
        };
        if let Some(a) = self.a_operand {
            self.a.write(&mut input, &a, self.dtype);
            let b = self.b_operand.advanced(input.len() as u32);
            self.b.write(&mut input, &b, self.dtype);
            call.desc_a = a.descriptor();
            call.words = [a.start.cast_signed(), b.start.cast_signed(), 0, 0, 0];
            call.bytes = input.len() as u32;
        } else {
            self.b.write(&mut input, &self.b_operand, self.dtype);
            call.bytes = input.len() as u32;
            call.words[0] = (input.len() / 4) as i32;
            input.extend(to_registers(&self.a, self.dtype).0);
        }
        call.input = Bytes(input);
        call
    }
}

fn ss_products(majors: &str, a: Major, b: Major, dtype: Dtype) -> Vec<(Labelled, Product)> {
    let mut products = Vec::new();
    for (a_name, a) in layouts(a, M) {
        for (b_name, b) in layouts(b, M) {
            let symbol = format!("probe_wgmma_ss_{majors}_{}", dtype.name());
            // Each layout once; of A only what its MN-major descriptor adds.
            let recorded = match majors {
                "kk" => a_name == b_name && !["step1", "step2"].iter().any(|step| a_name.ends_with(step)),
                "km" => a_name == "k-b128-step0",
                _ => a_name.ends_with("spread") && b_name == "k-b128-step0",
            };
            let record = recorded && dtype == Dtype::F16;
            let product = Product::new(symbol, dtype, M, Some(a), b);
            products.push((Labelled { label: format!("{a_name}_{b_name}"), record }, product));
        }
    }
    products
}

fn rs_products(width: u32, dtype: Dtype) -> Vec<(Labelled, Product)> {
    let product = |(label, b): (String, Operand)| {
        let symbol = format!("probe_wgmma_rs_n{width}_{}", dtype.name());
        let record =
            label == "k-b128-step0" && [(64, Dtype::F16), (80, Dtype::Bf16)].contains(&(width, dtype));
        (Labelled { label, record }, Product::new(symbol, dtype, width, None, b))
    };
    // The micro-kernel takes B from the start of shared memory.
    let layouts = layouts(Major::K, width).into_iter().filter(|(_, b)| b.start == 0);
    let mut products: Vec<_> = layouts.map(product).collect();
    let (_, mut uneven) = product(("k-b128-step0".into(), Operand::tight(Major::K, Pattern::B128)));
    let mut rng = StdRng::seed_from_u64(width.into());
    (uneven.a, uneven.b) = (Matrix::uneven(M, dtype, &mut rng), Matrix::uneven(width, dtype, &mut rng));
    products.push((Labelled { label: "uneven".into(), record: width <= 80 }, uneven));
    products
}

type Products = Box<dyn Fn() -> Vec<(Labelled, Product)> + Send + Sync>;

/// Every product that is tried, by symbol.
fn products() -> Vec<(String, Products)> {
    let mut products: Vec<(String, Products)> = Vec::new();
    for dtype in DTYPES {
        for (majors, a, b) in MAJORS {
            let name = format!("wgmma_ss_{majors}_{}", dtype.name());
            products.push((name, Box::new(move || ss_products(majors, a, b, dtype))));
        }
        for width in WIDTHS {
            let name = format!("wgmma_rs_n{width}_{}", dtype.name());
            products.push((name, Box::new(move || rs_products(width, dtype))));
        }
    }
    products
}

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    let calls = |products: &Products| {
        products().into_iter().map(|(labelled, product)| (labelled, product.call())).collect()
    };
    products().into_iter().map(|(name, products)| Case::new(name, move || calls(&products))).collect()
}

/// The model, which knows only descriptors and bytes, against the matrices that the bytes were made of.
pub(crate) fn model_multiplies() -> Result<(), String> {
    for (name, products) in products() {
        for (Labelled { label, .. }, product) in products() {
            let c = if product.a_operand.is_some() { 0.0 } else { 1.0 };
            let output = predict(&product.call()).output.words();
            for (i, word) in output.into_iter().enumerate() {
                let (m, n) = fragment::accumulator(i as u32 % THREADS, i as u32 / THREADS);
                let (seen, exact) = (f32::from_bits(word), c + product.a.dot(&product.b, m, n));
                if seen != exact {
                    return Err(format!("{name}, {label}: ({m}, {n}) is {seen}, not {exact}"));
                }
            }
        }
    }
    Ok(())
}
