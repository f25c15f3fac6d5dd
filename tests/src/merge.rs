//! Merging attention states: what the right answer is, cases, and one case run on one device.

use bytemuck::cast_slice;
use flashcore::kernels::MERGE;
use flashcore::{Device, Dtype, Lse, LseView, Shape, Stream, Tensor, merge_attention_states_into};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rand_distr::StandardNormal;
use rayon::prelude::*;

use crate::cases::Layout;
use crate::device::{Outputs, upload};
use crate::inputs::normal;
use crate::oracle::{Expected, Position, Row};
use crate::values::{HostTensor, Values, round};

/// What log-sum-exps are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sums {
    /// Of states that both count.
    #[default]
    Near,
    /// Of states of which one counts thousands of times more, or so much that the other is lost.
    Far,
    /// Near, but many are -inf: of one state, of the other, or of both. The outputs of such states are NaN.
    Empty,
}

impl Sums {
    /// Every kind.
    pub const ALL: [Sums; 3] = [Sums::Near, Sums::Far, Sums::Empty];

    fn pair(self, rng: &mut StdRng) -> [f32; 2] {
        let mut normal = |deviation: f32| deviation * rng.sample::<f32, _>(StandardNormal);
        match self {
            Sums::Near => [normal(3.0), normal(3.0)],
            Sums::Far => {
                let middle = normal(1e4);
                [middle, middle + normal(60.0)]
            }
            Sums::Empty => {
                let pair = [normal(3.0), normal(3.0)];
                let empty: [bool; 2] = rng.random();
                std::array::from_fn(|i| if empty[i] { f32::NEG_INFINITY } else { pair[i] })
            }
        }
    }
}

/// Which memory gets the outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Memory of its own.
    #[default]
    Apart,
    /// That of the first state.
    First,
    /// That of the second state.
    Second,
}

impl Place {
    /// Every place.
    pub const ALL: [Place; 3] = [Place::Apart, Place::First, Place::Second];
}

/// One merge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Merge {
    /// Of all outputs.
    pub shape: Shape,
    /// How the outputs of the two states lie in memory, and the merged one if it has memory of its own.
    pub layouts: [Layout; 3],
    /// Element type.
    pub dtype: Dtype,
    /// The log-sum-exps.
    pub sums: Sums,
    /// Where the result goes.
    pub place: Place,
}

/// Two states.
#[derive(Clone, Debug)]
pub struct States {
    /// Their outputs.
    pub o: [HostTensor; 2],
    /// Their log-sum-exps, (batch, heads, seqlen).
    pub lse: [Vec<f32>; 2],
}

impl Merge {
    /// Random states.
    pub fn states(&self, seed: u64) -> States {
        let mut rng = StdRng::seed_from_u64(seed);
        let Shape { batch, seqlen, heads, .. } = self.shape;
        let pairs: Vec<_> = (0..batch * heads * seqlen).map(|_| self.sums.pair(&mut rng)).collect();
        let lse = [0, 1].map(|i| pairs.iter().map(|pair| pair[i]).collect::<Vec<f32>>());
        let o = [0, 1].map(|i| {
            let mut values = normal(self.shape, 1.0, &mut rng);
            for (row, _) in lse[i].iter().enumerate().filter(|(_, lse)| **lse == f32::NEG_INFINITY) {
                let (b, h, s) = (row / (heads * seqlen), row / seqlen % heads, row % seqlen);
                values.row_mut(b, s, h).fill(f32::NAN);
            }
            HostTensor::lay_out(&values, self.dtype, self.layouts[i].key(self.shape))
        });
        States { o, lse }
    }
}

impl States {
    /// The right answer for every row, and the best one in the element type.
    pub fn answers(&self) -> Vec<Expected> {
        let dtype = self.o[0].dtype;
        let values = [self.o[0].values(), self.o[1].values()];
        let Shape { batch, seqlen, heads, .. } = self.o[0].shape;
        let positions = (0..batch)
            .flat_map(|b| (0..seqlen).flat_map(move |s| (0..heads).map(move |h| Position { b, s, h })));
        positions
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|at| {
                let exact = self.merged(&values, at);
                let ideal = Row { o: exact.o.iter().map(|&o| round(dtype, o)).collect(), ..exact };
                Expected { at, stored: at, exact, ideal, score_error: 0.0, tolerated: 0.0, allowance: 2.0 }
            })
            .collect()
    }

    /// The formula, in f64.
    fn merged(&self, values: &[Values; 2], Position { b, s, h }: Position) -> Row {
        let Shape { seqlen, heads, head_dim, .. } = values[0].shape;
        let lse = [0, 1].map(|i| f64::from(self.lse[i][(b * heads + h) * seqlen + s]));
        let max = lse[0].max(lse[1]);
        let (mut o, mut sum) = (vec![0.0; head_dim], 0.0);
        for (values, lse) in values.iter().zip(lse).filter(|(_, lse)| *lse != f64::NEG_INFINITY) {
            let weight = (lse - max).exp();
            sum += weight;
            for (o, &x) in o.iter_mut().zip(values.row(b, s, h)) {
                *o += weight * f64::from(x);
            }
        }
        if sum == 0.0 {
            return Row { o, lse: f64::NEG_INFINITY };
        }
        o.iter_mut().for_each(|o| *o /= sum);
        Row { o, lse: max + sum.ln() }
    }
}

/// A merge on a device, outputs poisoned if they have memory of their own.
#[derive(Debug)]
pub struct OnDevice {
    /// Outputs of the states, and where the merged one goes if it has memory of its own.
    pub o: [Tensor; 3],
    /// The same of the log-sum-exps.
    pub lse: [Lse; 3],
    place: Place,
}

impl OnDevice {
    /// Copies `states` to `device` and makes room for the result.
    pub fn new(device: &Device, merge: &Merge, states: &States) -> flashcore::Result<Self> {
        let Merge { shape, layouts, dtype, place, .. } = *merge;
        let Shape { batch, seqlen, heads, .. } = shape;
        let out = HostTensor::poisoned(dtype, shape, layouts[2].output(shape));
        let lse = || Lse::new(device, batch, heads, seqlen);
        let tensors = OnDevice {
            o: [upload(device, &states.o[0])?, upload(device, &states.o[1])?, upload(device, &out)?],
            lse: [lse()?, lse()?, lse()?],
            place,
        };
        tensors.lse[2].fill_bytes(0xFF)?;
        tensors.refill(states)?;
        Ok(tensors)
    }

    /// Copies other states, of the same merge, to the device.
    pub fn refill(&self, states: &States) -> flashcore::Result<()> {
        let backend = self.o[0].device().backend();
        for i in [0, 1] {
            let bytes: [(u64, &[u8]); 2] = [
                (self.o[i].ptr(), cast_slice(&states.o[i].bits)),
                (self.lse[i].view().ptr(), cast_slice(&states.lse[i])),
            ];
            for (to, from) in bytes.into_iter().filter(|(_, from)| !from.is_empty()) {
                // SAFETY: the memory is live and as long as the states, and nothing is running on it.
                unsafe { backend.upload(to, from)? };
            }
        }
        Ok(())
    }

    fn at(&self) -> usize {
        match self.place {
            Place::Apart => 2,
            Place::First => 0,
            Place::Second => 1,
        }
    }

    /// Where the merged log-sum-exp goes.
    pub fn lse_out(&self) -> LseView<'_> {
        self.lse[self.at()].view()
    }

    /// Submits the merge.
    pub fn run(&self, stream: &Stream) -> flashcore::Result<()> {
        self.run_with(stream, Some(self.lse_out()))
    }

    /// The same, with this log-sum-exp.
    pub fn run_with(&self, stream: &Stream, lse: Option<LseView<'_>>) -> flashcore::Result<()> {
        let ([o1, o2, _], [lse1, lse2, _]) = (&self.o, self.lse.each_ref().map(Lse::view));
        merge_attention_states_into(stream, o1, lse1, o2, lse2, &self.o[self.at()], lse)
    }

    /// The outputs. Waits for all work of the device.
    pub fn outputs(&self) -> flashcore::Result<Outputs> {
        let out = crate::device::download(&self.o[self.at()])?;
        Ok(Outputs { out, lse: self.lse[self.at()].to_vec()? })
    }
}

/// Runs a merge on fresh states and compares every row.
///
/// # Errors
/// The first element that is wrong, or what flashcore refuses.
pub fn check(
    device: &Device,
    merge: &Merge,
    seed: u64,
) -> Result<crate::compare::Verdict, crate::device::Failure> {
    let states = merge.states(seed);
    let tensors = OnDevice::new(device, merge, &states)?;
    tensors.run(&device.stream()?)?;
    tensors.outputs()?.judge_by(&states.answers())
}

/// A merge as tests are named.
pub fn name(merge: &Merge) -> String {
    let Merge { shape, layouts: [one, other, out], dtype, sums, place } = merge;
    let Shape { batch, seqlen, heads, head_dim } = shape;
    let dtype = dtype.name();
    format!("b{batch}_s{seqlen}_h{heads}_d{head_dim}_{one:?}_{other:?}_{out:?}_{sums:?}_{place:?}_{dtype}")
}

/// The kernel that merges states of this element type.
///
/// # Panics
/// If there is none.
pub fn kernel(dtype: Dtype) -> &'static str {
    MERGE.iter().find(|variant| variant.dtype == dtype).expect("a kernel for every type").symbol
}

/// The cases of the tables: every width of a row's share of a warp, layouts, kinds of sums and places.
pub fn cases() -> Vec<Merge> {
    let base = Merge {
        shape: Shape::new(2, 37, 3, 64),
        layouts: [Layout::Bshd; 3],
        dtype: Dtype::F16,
        sums: Sums::Near,
        place: Place::Apart,
    };
    let mut cases = Vec::new();
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let base = Merge { dtype, ..base };
        for head_dim in [8, 16, 40, 64, 72, 80, 96, 128, 136, 160, 192, 248, 256, 264, 384, 504, 512] {
            for place in Place::ALL {
                let shape = Shape { head_dim, ..base.shape };
                cases.push(Merge { shape, place, sums: Sums::Empty, ..base });
            }
        }
        for layout in Layout::ALL {
            cases.push(Merge { layouts: [layout, Layout::Bhsd, Layout::Padded], ..base });
            cases.push(Merge { layouts: [Layout::Padded, layout, Layout::Bhsd], ..base });
            let in_place = Merge { layouts: [layout; 3], place: Place::First, ..base };
            if layout != Layout::Broadcast {
                cases.push(in_place);
            }
        }
        for sums in Sums::ALL {
            cases.push(Merge { shape: Shape::new(3, 1, 40, 128), sums, ..base });
            cases.push(Merge { shape: Shape::new(1, 300, 1, 128), sums, ..base });
        }
        // One row, and none.
        cases.push(Merge { shape: Shape::new(1, 1, 1, 8), ..base });
        cases.push(Merge { shape: Shape::new(2, 0, 3, 64), ..base });
    }
    cases
}

/// A few small ones of each element type: for race and memory checkers.
pub fn small() -> Vec<Merge> {
    let widths = |merge: &Merge| matches!(merge.shape.head_dim, 8 | 72 | 512);
    cases().into_iter().filter(widths).collect()
}
