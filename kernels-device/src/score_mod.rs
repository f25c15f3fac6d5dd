//! Scores and masks as functions written in Rust: a [`ScoreMod`] is compiled into a kernel of its own.
//!
//! ```
//! use flashcore_kernels::config::Dtype;
//! use flashcore_kernels::float::{abs, fma};
//! use flashcore_kernels::score_mod::{Key, Numbers, Query, ScoreMod};
//!
//! /// Scores fall with the distance between query and key, at a rate of each head (ALiBi).
//! struct Alibi;
//!
//! #[derive(Clone, Copy)]
//! #[repr(C)]
//! struct Slopes(Numbers<f32>);
//!
//! impl ScoreMod for Alibi {
//!     type Args = Slopes;
//!     type Row = f32;
//!
//!     fn row(slopes: &Slopes, query: &Query) -> f32 {
//!         // SAFETY: who makes `Slopes` vouches for one number for each query head.
//!         unsafe { slopes.0.get(query.head) }
//!     }
//!
//!     fn score(_: &Slopes, slope: f32, key: Key, score: f32) -> f32 {
//!         fma(-slope, abs(key.distance), score)
//!     }
//! }
//!
//! // The same code runs on the CPU.
//! let slopes = [0.5_f32, 0.25];
//! let args = Slopes(Numbers::at(slopes.as_ptr() as u64));
//! let query = Query { batch: 0, head: 1, index: 7, at: 7, queries: 10, keys: 10, dtype: Dtype::F16 };
//! let row = Alibi::row(&args, &query);
//! assert_eq!(Alibi::score(&args, row, Key { index: 3, distance: -4.0 }, 2.5), 2.5 - 0.25 * 4.0);
//! ```

use core::marker::PhantomData;

use crate::config::{Dtype, Score, Variant};

/// Words that a launch passes to a [`ScoreMod`].
pub const ARGS_WORDS: usize = 8;

/// What becomes of a score between Q Kᵀ and the softmax, and which keys a query sees beside what the launch says.
///
/// All functions are inlined into the loop over keys, where each runs for every pair of a query and a key: what does
/// not depend on the key belongs into [`Self::row`], which runs once for a row of a tile of keys. They must be
/// functions of their arguments and of memory that nobody writes meanwhile, and take the same way whatever the numbers
/// are: [`crate::float`] has what `f32` has no operators for.
pub trait ScoreMod {
    /// What a launch passes along: numbers, and addresses of [`Numbers`]. At most [`ARGS_WORDS`] words of 8 bytes.
    type Args: Copy;
    /// What does not depend on the key.
    type Row: Copy;

    /// How kernels of this library do it; leave it as it is.
    #[doc(hidden)]
    const KIND: Score = Score::Custom;
    /// Whether [`Self::sees`] hides anything; without it, it is not asked.
    const MASKS: bool = false;

    /// What does not depend on the key. It is asked for queries that exist, and the last one in place of others.
    fn row(args: &Self::Args, query: &Query) -> Self::Row;

    /// What becomes of a scaled score. Of hidden keys it does not matter.
    #[inline(always)]
    fn score(_args: &Self::Args, _row: Self::Row, _key: Key, score: f32) -> f32 {
        score
    }

    /// Whether the query sees the key. Tiles of keys are visited whether it sees any or not.
    #[inline(always)]
    fn sees(_args: &Self::Args, _row: Self::Row, _key: Key) -> bool {
        true
    }
}

/// Fails the build if a launch cannot pass the arguments.
#[doc(hidden)]
pub const fn assert_args<M: ScoreMod>() {
    assert!(size_of::<M::Args>() <= 8 * ARGS_WORDS, "arguments are at most 8 words of 8 bytes");
    assert!(align_of::<M::Args>() <= 8, "arguments are aligned to 8 bytes at most");
}

/// The kernels that were compiled for a [`ScoreMod`]: [`attention_kernels!`](crate::attention_kernels) says which.
pub trait Kernels: ScoreMod {
    /// What they are.
    const KERNELS: &'static [Variant];
}

/// A query, counted from the start of its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Its sequence.
    pub batch: u32,
    /// Its query head.
    pub head: u32,
    /// Its place.
    pub index: u32,
    /// The key that it stands at: see [`crate::band::Band`].
    pub at: i32,
    /// Queries of the sequence.
    pub queries: u32,
    /// Keys of the sequence.
    pub keys: u32,
    /// Element type of Q, K, V and O.
    pub dtype: Dtype,
}

/// A key, counted from the start of its sequence. It exists: in place of one beyond the last, which is hidden, stands
/// the last one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// Its place.
    pub index: u32,
    /// How far it lies behind the key that the query stands at; negative before that. The exact number up to 2²⁴. Of a
    /// hidden key it may be that of another one.
    pub distance: f32,
}

/// Numbers in memory: on the device, or wherever the function runs.
#[repr(transparent)]
pub struct Numbers<T> {
    address: u64,
    numbers: PhantomData<*const T>,
}

impl<T> Clone for Numbers<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Numbers<T> {}

/// A number that [`Numbers`] can be of.
pub trait Number: Copy {
    /// The number at an address.
    ///
    /// # Safety
    /// It is there, aligned, and nobody writes it meanwhile.
    unsafe fn load(address: u64) -> Self;
}

impl<T: Number> Numbers<T> {
    /// The numbers at this address.
    pub const fn at(address: u64) -> Self {
        Numbers { address, numbers: PhantomData }
    }

    /// Where they are.
    pub const fn address(self) -> u64 {
        self.address
    }

    /// Those from number `count` on.
    #[inline(always)]
    pub const fn skip(self, count: u32) -> Self {
        Numbers::at(self.address + count as u64 * size_of::<T>() as u64)
    }

    /// Number `index`.
    ///
    /// # Safety
    /// It is there, and nobody writes it while the kernel runs.
    #[inline(always)]
    pub unsafe fn get(self, index: u32) -> T {
        // SAFETY: the caller's.
        unsafe { T::load(self.address + u64::from(index) * size_of::<T>() as u64) }
    }
}

macro_rules! number {
    ($($type:ty: $load:ident, $from:expr;)*) => {
        $(impl Number for $type {
            #[cfg(target_arch = "nvptx64")]
            #[inline(always)]
            unsafe fn load(address: u64) -> Self {
                // SAFETY: the caller's.
                $from(unsafe { crate::ptx::global::$load(address) })
            }

            #[cfg(not(target_arch = "nvptx64"))]
            unsafe fn load(address: u64) -> Self {
                // SAFETY: the caller's.
                unsafe { *(address as *const $type) }
            }
        })*
    };
}

number! {
    u16: load_public_half, |bits| bits;
    u32: load_public, |bits| bits;
    i32: load_public, |bits: u32| bits.cast_signed();
    f32: load_public, f32::from_bits;
}

/// Scores stay as they are.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

/// Scores are capped: see [`Score::Softcap`].
#[derive(Clone, Copy, Debug)]
pub struct Softcap;

/// Scores are capped: see [`Score::SoftcapApprox`].
#[derive(Clone, Copy, Debug)]
pub struct SoftcapApprox;

/// Scores fall with the distance: see [`Score::Alibi`].
#[derive(Clone, Copy, Debug)]
pub struct Alibi;

/// A number is added to each: see [`Score::BiasTiles`].
#[derive(Clone, Copy, Debug)]
pub struct BiasTiles;

/// Scores are capped, fall with the distance (ALiBi), and have a bias added, in this order: each if the launch says so.
#[derive(Clone, Copy, Debug)]
pub struct Biased;

macro_rules! built_in {
    ($($type:ident: $args:ty;)*) => {
        $(impl ScoreMod for $type {
            type Args = $args;
            type Row = ();
            const KIND: Score = Score::$type;

            fn row(_args: &Self::Args, _query: &Query) {}
        })*
    };
}

built_in! {
    Plain: ();
    Softcap: ();
    SoftcapApprox: ();
    Alibi: Biases;
    BiasTiles: ();
    Biased: Biases;
}

/// What is added to scores.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    /// Device address of the slope of each query head: `-slope * |i + seqlen_kv - seqlen_q - j|` is added; f32. 0:
    /// none.
    pub slopes: u64,
    /// Slopes from one sequence to the next.
    pub slopes_batch: u64,
    /// Device address of a number for each score, in the element type of Q, those of neighbouring keys side by side;
    /// every second one is aligned to 4 bytes, and has a neighbour. 0: none.
    pub bias: u64,
    /// Bytes from one sequence to the next.
    pub bias_batch: u64,
    /// Bytes from one query head to the next.
    pub bias_head: u64,
    /// Bytes from one query to the next.
    pub bias_query: u64,
}

const _: () = assert!(size_of::<Biases>() <= 8 * ARGS_WORDS);

impl Biases {
    /// Nothing is added.
    pub const NONE: Biases =
        Biases { slopes: 0, slopes_batch: 0, bias: 0, bias_batch: 0, bias_head: 0, bias_query: 0 };

    /// The same as words.
    pub const fn words(self) -> [u64; ARGS_WORDS] {
        let Biases { slopes, slopes_batch, bias, bias_batch, bias_head, bias_query } = self;
        [slopes, slopes_batch, bias, bias_batch, bias_head, bias_query, 0, 0]
    }
}
