//! What happens to scores between QKᵀ and the softmax.

use core::f32::consts::LOG2_E;

use crate::config::{Dtype, Score, Spec, WARPGROUP_ROWS};
use crate::layout::{SLAB_COLUMNS, SLAB_ROW_BYTES, Swizzle};
use crate::params::FwdParams;
use crate::ptx::math::{abs, add, exp2, fma, max, min, mul, reciprocal, tanh_approx, unpack};
use crate::ptx::smem::SmemAddr;
use crate::ptx::wgmma::Acc;
use crate::ptx::{global, matrix, thread, warp};
use crate::score_mod::{Biases, Key, Query, ScoreMod};

/// Powers of 2 in the denominator of a capped score are no larger: beyond, the fraction is less than f32 shows.
const MOST_LOG2: f32 = 30.0;

/// Where the scores of a thread are: under two queries, and keys of which each query has every fourth pair.
pub struct At {
    /// The queries, or the last one in place of those beyond it.
    pub queries: [Query; 2],
    /// The thread's first key.
    pub first_key: u32,
    /// Whether some key does not exist, or is hidden from some query.
    pub masked: bool,
    /// By how much scores fall from one key to the next, away from the query: [`Score::Alibi`] alone.
    pub slopes: [f32; 2],
}

/// Changes products into scores, but for the factor `scale_log2` of the parameters and a constant, which no weight
/// depends on: `offset_log2`, to the base 2. `at` says where they are, if that matters, `masked` whether some are hidden
/// later, `product_scale` what products are multiplied with before they are capped. [`Score::Alibi`] leaves something to
/// be added to all scores of a row, and returns it, to the base 2.
#[inline(always)]
pub fn apply<S: Spec, const R: usize>(
    params: &FwdParams,
    product_scale: f32,
    s: &mut Acc<R>,
    at: Option<At>,
    masked: bool,
) -> Option<[f32; 2]> {
    match (S::VARIANT.score, at) {
        (Score::Softcap, _) => cap(product_scale, s, masked),
        (Score::SoftcapApprox, _) => cap_approximately(params, s),
        (Score::Alibi, Some(at)) => return Some(fall(params, s, &at)),
        (Score::Biased, Some(at)) => add_biases(params, s, &at),
        (Score::Custom, Some(at)) => modify::<S::Mod, R>(params, s, &at),
        _ => {}
    }
    None
}

/// Adds what [`Score::BiasTiles`] loads: to this warp's 16 rows of a consumer's tile, as `ldmatrix` has them, which is as
/// the fragment does.
///
/// # Safety
/// All lanes of the warp execute it together, and the tile has arrived.
#[inline(always)]
pub unsafe fn add_tile<const R: usize>(params: &FwdParams, dtype: Dtype, s: &mut Acc<R>, tile: SmemAddr) {
    let thread = thread::thread_idx_x_anew();
    // Lane l says where row l % 16 is, of the 8 columns l / 16 of every 16.
    let (row, lane) = (thread / 32 * 16 % WARPGROUP_ROWS + thread % 16, thread % 32);
    let at_row = Swizzle::B128.apply(row * SLAB_ROW_BYTES + lane / 16 * 16);
    let mut i = 0;
    while i < R {
        let column = 2 * i as u32;
        let (slab, within) = (column / SLAB_COLUMNS, column % SLAB_COLUMNS * Dtype::SIZE);
        let at = tile.offset(slab * WARPGROUP_ROWS * SLAB_ROW_BYTES + (at_row ^ within));
        // SAFETY: the caller's.
        let pairs = unsafe { matrix::load_x4(at) };
        let mut pair = 0;
        while pair < 4 {
            let [low, high] = unpack(dtype, pairs[pair]);
            s.0[i] = fma(s.0[i], params.general.product_scale, low);
            s.0[i + 1] = fma(s.0[i + 1], params.general.product_scale, high);
            i += 2;
            pair += 1;
        }
    }
}

/// Slopes of [`Score::Alibi`], relative to the scale, are no larger, so that they stay finite over a tile. Where they
/// are, only the nearest keys have a weight in any case.
const MOST_RELATIVE_SLOPE: f32 = 1e30;

/// `s - slope / scale * |distance|`, of which one multiplication and addition for each score is done here: distances
/// rise in equal steps, and what is the same for all keys of a row is returned, times the scale and to the base 2.
#[inline(always)]
fn fall<const R: usize>(params: &FwdParams, s: &mut Acc<R>, at: &At) -> [f32; 2] {
    let falls = at.slopes.map(|slope| {
        let fall = mul(slope, -params.general.product_scale);
        max(min(fall, MOST_RELATIVE_SLOPE), -MOST_RELATIVE_SLOPE)
    });
    let distances =
        at.queries.map(|query| (at.first_key + query.queries) as i32 - (query.index + query.keys) as i32);
    let crosses = distances.map(|distance| distance < 0 && distance + column(R) as i32 > 0);
    // SAFETY: the warp is together.
    if unsafe { warp::ballot(crosses[0] | crosses[1]) } != 0 {
        let mut i = 0;
        while i < R {
            let apart = abs(add(distances[row(i)] as f32, column(i) as f32));
            s.0[i] = fma(falls[row(i)], apart, s.0[i]);
            i += 1;
        }
        return at.slopes.map(|slope| mul(slope, 0.0)); // NaN stays NaN
    }
    // All keys lie on one side of the query.
    let mut added = [0.0; 2];
    let mut steps = [0.0; 2];
    let mut r = 0;
    while r < 2 {
        let sign = if distances[r] < 0 { -1.0 } else { 1.0 };
        steps[r] = mul(sign, falls[r]);
        added[r] = mul(mul(mul(sign, at.slopes[r]), distances[r] as f32), -LOG2_E);
        r += 1;
    }
    let mut i = 0;
    while i < R {
        if column(i) > 0 {
            s.0[i] = fma(steps[row(i)], column(i) as f32, s.0[i]);
        }
        i += 1;
    }
    added
}

/// Capped: `cap * tanh(x / cap)` is `cap - 2 cap / (e^(2 x / cap) + 1)`, which loses nothing that a score could show,
/// and of which only the fraction depends on x. `tanh.approx` is quicker, one special function instead of two, but off
/// by 2^-11.
///
/// Special functions are what these kernels wait for. So four scores of a row share one reciprocal, that of the product
/// of their denominators: it is less than 2^124, and where a score is beyond it has long come to its bound. NaN in one is
/// NaN in four, as it would be in the end: but not where a mask hides some of them.
#[inline(always)]
fn cap<const R: usize>(product_scale: f32, s: &mut Acc<R>, masked: bool) {
    let mut i = 0;
    while i < R {
        let power = exp2(min(mul(s.0[i], product_scale), MOST_LOG2));
        s.0[i] = fma(power, -1.0, -1.0);
        i += 1;
    }
    let mut i = 0;
    while i < R {
        // Two neighbours, and the two of the next eight columns.
        let [a, b, c, d] = [s.0[i], s.0[i + 1], s.0[i + 4], s.0[i + 5]];
        if masked {
            [s.0[i], s.0[i + 1]] = [reciprocal(a), reciprocal(b)];
            [s.0[i + 4], s.0[i + 5]] = [reciprocal(c), reciprocal(d)];
        } else {
            let (ab, cd) = (mul(a, b), mul(c, d));
            let inverse = reciprocal(mul(ab, cd));
            let (of_ab, of_cd) = (mul(inverse, cd), mul(inverse, ab));
            [s.0[i], s.0[i + 1]] = [mul(of_ab, b), mul(of_ab, a)];
            [s.0[i + 4], s.0[i + 5]] = [mul(of_cd, d), mul(of_cd, c)];
        }
        i += if i % 8 == 0 { 2 } else { 6 };
    }
}

/// Capped, but for the factor, by `tanh.approx`: two instructions instead of six or seven, but off by 2^-11.
#[inline(always)]
fn cap_approximately<const R: usize>(params: &FwdParams, s: &mut Acc<R>) {
    let mut i = 0;
    while i < R {
        s.0[i] = tanh_approx(mul(s.0[i], params.general.product_scale));
        i += 1;
    }
}

/// The column of register `i` of a fragment, counted from the thread's first.
#[inline(always)]
const fn column(i: usize) -> u32 {
    8 * (i as u32 >> 2) + (i as u32 & 1)
}

/// The row of register `i`, of the thread's two.
#[inline(always)]
const fn row(i: usize) -> usize {
    i >> 1 & 1
}

impl At {
    /// The key of register `i`.
    #[inline(always)]
    fn key(&self, i: usize) -> u32 {
        let key = self.first_key + column(i);
        let last = self.queries[0].keys - 1;
        if self.masked && key > last { last } else { key }
    }
}

/// How far the thread's first key lies behind key `at`.
#[inline(always)]
fn distance(first_key: u32, at: i32) -> f32 {
    (first_key as i32 - at) as f32
}

/// Scores of a function of the user's.
#[inline(always)]
fn modify<M: ScoreMod, const R: usize>(params: &FwdParams, s: &mut Acc<R>, at: &At) {
    // SAFETY: the launch has passed arguments of this kernel's type; they fit, and words are as aligned as any.
    let args = unsafe { &*params.general.score_args.as_ptr().cast::<M::Args>() };
    let [a, b] = [&at.queries[0], &at.queries[1]];
    let rows = [M::row(args, a), M::row(args, b)];
    let distances = [distance(at.first_key, a.at), distance(at.first_key, b.at)];
    let mut i = 0;
    while i < R {
        let key = Key { index: at.key(i), distance: add(distances[row(i)], column(i) as f32) };
        s.0[i] = M::score(args, rows[row(i)], key, mul(s.0[i], params.general.product_scale));
        if M::MASKS && !M::sees(args, rows[row(i)], key) {
            s.0[i] = f32::NEG_INFINITY;
        }
        i += 1;
    }
}

/// Scaled or capped, then with what falls with the distance, then with the bias: each if the launch says so.
#[inline(always)]
fn add_biases<const R: usize>(params: &FwdParams, s: &mut Acc<R>, at: &At) {
    let general = &params.general;
    // SAFETY: the launch has passed arguments of this kernel's type.
    let biases = unsafe { &*general.score_args.as_ptr().cast::<Biases>() };
    let mut scale = general.product_scale;
    if general.softcap != 0.0 {
        cap(general.product_scale, s, at.masked);
        scale = general.fraction_scale;
    }
    if biases.slopes == 0 {
        let mut i = 0;
        while i < R {
            s.0[i] = fma(s.0[i], scale, general.softcap);
            i += 1;
        }
    } else {
        add_slopes(params, s, at, biases, scale);
    }
    if biases.bias != 0 {
        add_bias(s, at, biases);
    }
}

/// `scale * s + softcap - slope * |distance|`
#[inline(always)]
fn add_slopes<const R: usize>(params: &FwdParams, s: &mut Acc<R>, at: &At, biases: &Biases, scale: f32) {
    let softcap = params.general.softcap;
    let mut slopes = [0.0; 2];
    let mut distances = [0; 2];
    let mut crosses = false;
    let mut r = 0;
    while r < 2 {
        let query = &at.queries[r];
        let slope = u64::from(query.batch) * biases.slopes_batch + u64::from(query.head);
        // SAFETY: the host vouches for a slope of each head.
        slopes[r] = f32::from_bits(unsafe { global::load_public(biases.slopes + 4 * slope) });
        distances[r] = (at.first_key + query.queries) as i32 - (query.index + query.keys) as i32;
        crosses |= distances[r] < 0 && distances[r] + column(R) as i32 > 0;
        r += 1;
    }
    // SAFETY: the warp is together.
    if unsafe { warp::ballot(crosses) } != 0 {
        let mut i = 0;
        while i < R {
            let apart = abs(add(distances[row(i)] as f32, column(i) as f32));
            s.0[i] = fma(s.0[i], scale, fma(-slopes[row(i)], apart, softcap));
            i += 1;
        }
        return;
    }
    // All keys lie on one side of the query, and what is added falls, or rises, in equal steps.
    let mut first = [0.0; 2];
    let mut r = 0;
    while r < 2 {
        slopes[r] = if distances[r] < 0 { slopes[r] } else { -slopes[r] };
        first[r] = fma(slopes[r], distances[r] as f32, softcap);
        r += 1;
    }
    let mut i = 0;
    while i < R {
        s.0[i] = fma(s.0[i], scale, fma(slopes[row(i)], column(i) as f32, first[row(i)]));
        i += 1;
    }
}

/// Adds the bias, two neighbouring keys at a time.
#[inline(always)]
fn add_bias<const R: usize>(s: &mut Acc<R>, at: &At, biases: &Biases) {
    let mut first = [0; 2];
    let mut r = 0;
    while r < 2 {
        let Query { batch, head, index, .. } = at.queries[r];
        first[r] = biases.bias
            + u64::from(batch) * biases.bias_batch
            + u64::from(head) * biases.bias_head
            + u64::from(index) * biases.bias_query
            + 2 * u64::from(at.first_key);
        r += 1;
    }
    let (dtype, end) = (at.queries[0].dtype, at.queries[0].keys);
    let mut i = 0;
    while i < R {
        let (pair, key) = (first[row(i)] + 2 * u64::from(column(i)), at.first_key + column(i));
        // SAFETY: the host vouches for a number for each query and key, and that pairs are aligned and whole.
        let pair =
            unsafe { if at.masked { global::load_below(pair, key, end) } else { global::load_public(pair) } };
        let [low, high] = unpack(dtype, pair);
        s.0[i] = add(s.0[i], low);
        s.0[i + 1] = add(s.0[i + 1], high);
        i += 2;
    }
}
