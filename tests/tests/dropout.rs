//! Which weights dropout leaves out: those that the library promises, in every kernel, and as many as were asked for.

use std::process::ExitCode;

use flashcore::{Device, Dtype, dropout_mask};
use flashcore_tests::cases::{Case, KERNEL_HEAD_DIMS};
use flashcore_tests::device::{OnDevice, Outputs};
use flashcore_tests::extras::{Dropout, Extras};
use flashcore_tests::inputs::Fill;
use flashcore_tests::oracle;
use flashcore_tests::suite::{Suite, backends};
use flashcore_tests::values::Values;

const SEED: u64 = 0xFEDC_BA98_7654_3210;
const DROPOUT: Dropout = Dropout { threshold: 192, seed: SEED, offset: 5 };

fn mask(gpu: &Device, dropout: Dropout, sizes: [usize; 4]) -> flashcore::Result<Vec<u8>> {
    dropout_mask(&gpu.stream()?, dropout.asked(), sizes)?.to_vec()
}

/// A small case, which takes a few tiles of queries and keys.
fn case(head_dim: usize, dropout: Option<Dropout>) -> Case {
    let extras = Extras { dropout, ..Extras::default() };
    Case { seqlen_q: 150, seqlen_kv: 270, heads_q: 2, heads_kv: 1, head_dim, extras, ..Case::default() }
}

fn masks_are_those_promised(gpu: &Device) -> flashcore::Result<()> {
    let sizes = [3, 2, 37, 101];
    for (threshold, seed, offset) in [(1, 0, 0), (128, SEED, 1), (230, 7, u32::MAX), (255, u64::MAX, 0)] {
        let promised = oracle::Dropout::promised(threshold, seed, offset, sizes[1]);
        let mask = mask(gpu, Dropout { threshold, seed, offset }, sizes)?;
        for (place, &kept) in mask.iter().enumerate() {
            let rows = place / sizes[3];
            let at =
                [rows / sizes[2] / sizes[1], rows / sizes[2] % sizes[1], rows % sizes[2], place % sizes[3]];
            assert_eq!(kept, u8::from(promised.keeps(at)), "{at:?} of {threshold}, {seed}, {offset}");
        }
    }
    Ok(())
}

/// Where all scores are equal, and the keys `from..` have unit vectors as values, the output shows which of their
/// weights are kept.
fn kernels_leave_out_what_the_mask_says(
    gpu: &Device,
    (head_dim, dtype): (usize, Dtype),
) -> flashcore::Result<()> {
    let case = case(head_dim, Some(DROPOUT));
    let sizes = [case.batch, case.heads_q, case.seqlen_q, case.seqlen_kv];
    let mask = mask(gpu, DROPOUT, sizes)?;
    for from in [0, case.seqlen_kv - head_dim] {
        let unit = |_, key: usize, _, column: usize| if key == from + column { 1.0 } else { 0.0 };
        let [q, k] = [case.shape_q(), case.shape_kv()].map(Values::zeros);
        let inputs = case.inputs_of([q, k, Values::from_fn(case.shape_v(), unit)], dtype);
        let tensors = OnDevice::new(gpu, &case, &inputs)?;
        tensors.run(&gpu.stream()?)?;
        let out = tensors.outputs()?.out.values();
        for b in 0..case.batch {
            for h in 0..case.heads_q {
                for s in 0..case.seqlen_q {
                    let row = ((b * case.heads_q + h) * case.seqlen_q + s) * case.seqlen_kv + from;
                    for (column, &weight) in out.row(b, s, h).iter().enumerate() {
                        let at = format!("{b}, {h}, {s}, {}", from + column);
                        assert_eq!(u8::from(weight != 0.0), mask[row + column], "{at}: a weight of {weight}");
                    }
                }
            }
        }
    }
    Ok(())
}

/// As many are kept as were asked for, and neighbours are no more alike than others: within 5 standard deviations.
fn shares_are_those_asked_for(gpu: &Device) -> flashcore::Result<()> {
    let sizes = [2, 4, 128, 256];
    let count = sizes.iter().product::<usize>() as f64;
    for threshold in [26, 128, 230] {
        let mask = mask(gpu, Dropout { threshold, ..DROPOUT }, sizes)?;
        let keep = f64::from(threshold) / 256.0;
        let within = |share: f64, expected: f64| {
            let deviation = (expected * (1.0 - expected) / count).sqrt();
            assert!((share - expected).abs() < 5.0 * deviation, "{share} instead of {expected}");
        };
        within(mask.iter().map(|&kept| f64::from(kept)).sum::<f64>() / count, keep);
        // Pairs of the same byte's neighbours, words and calls, in both directions.
        for distance in [1, 2, 8, 16, 32, 256, 8 * 256, 16 * 256, 128 * 256] {
            let both = (0..mask.len()).filter(|&i| mask[i] & mask[(i + distance) % mask.len()] == 1).count();
            within(both as f64 / count, keep * keep);
        }
    }
    Ok(())
}

fn run(gpu: &Device, case: &Case, fill: Fill) -> flashcore::Result<Outputs> {
    let case = Case { fill, ..*case };
    let tensors = OnDevice::new(gpu, &case, &case.inputs(Dtype::F16, 3))?;
    tensors.run(&gpu.stream()?)?;
    tensors.outputs()
}

/// Of values that are all 1, the output is 1 on average.
fn expectations_are_kept(gpu: &Device) -> flashcore::Result<()> {
    let mut all = Vec::new();
    for seed in 0..4 {
        let case = case(64, Some(Dropout { threshold: 26, seed, offset: 0 }));
        let [q, k, _] = case.fill.values(case.shape_q(), case.shape_kv(), 1);
        let ones = Values::from_fn(case.shape_v(), |_, _, _, _| 1.0);
        let tensors = OnDevice::new(gpu, &case, &case.inputs_of([q, k, ones], Dtype::F16))?;
        tensors.run(&gpu.stream()?)?;
        let out = tensors.outputs()?.out.values();
        all.extend(out.data.chunks(case.head_dim).map(|row| f64::from(row[0])));
    }
    let count = all.len() as f64;
    let mean = all.iter().sum::<f64>() / count;
    let deviation = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>().sqrt() / count;
    assert!(deviation > 1e-3 && (mean - 1.0).abs() < 5.0 * deviation, "{mean} ± {deviation}");
    Ok(())
}

fn seeds_and_offsets_tell_masks_apart(gpu: &Device) -> flashcore::Result<()> {
    let out = |dropout| run(gpu, &case(64, Some(dropout)), Fill::Normal).map(|outputs| outputs.out.bits);
    let first = out(DROPOUT)?;
    assert_eq!(first, out(DROPOUT)?);
    for other in [
        Dropout { offset: 6, ..DROPOUT },
        Dropout { seed: SEED + 1, ..DROPOUT },
        Dropout { seed: SEED ^ 1 << 63, ..DROPOUT },
    ] {
        assert_ne!(first, out(other)?, "{other:?}");
    }
    Ok(())
}

/// A probability of 0 leaves nothing out, and none moves the log-sum-exp. Heads have keys of their own: others would
/// share tiles where nothing is left out, and sum in another order. Slopes under a softcap have no kernel that does not
/// know dropout, too.
fn log_sum_exps_are_those_of_all(gpu: &Device) -> flashcore::Result<()> {
    let mut case = Case { heads_kv: 2, ..case(128, None) };
    case.extras.alibi = Some(flashcore::Slopes::PerHead);
    case.extras.softcap = Some(30.0);
    let plain = run(gpu, &case, Fill::Normal)?;
    for threshold in [256, 100] {
        case.extras.dropout = Some(Dropout { threshold, ..DROPOUT });
        let dropped = run(gpu, &case, Fill::Normal)?;
        assert!(plain.bits().1 == dropped.bits().1, "{threshold} of 256");
        assert_eq!(plain.out.bits == dropped.out.bits, threshold == 256);
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    suite.test("masks_are_those_promised", masks_are_those_promised);
    suite.test("shares_are_those_asked_for", shares_are_those_asked_for);
    suite.test("expectations_are_kept", expectations_are_kept);
    suite.test("seeds_and_offsets_tell_masks_apart", seeds_and_offsets_tell_masks_apart);
    suite.test("log_sum_exps_are_those_of_all", log_sum_exps_are_those_of_all);
    for head_dim in KERNEL_HEAD_DIMS {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let name = format!("kernels_leave_out_what_the_mask_says_hd{head_dim}_{}", dtype.name());
            suite.test(name, move |gpu| kernels_leave_out_what_the_mask_says(gpu, (head_dim, dtype)));
        }
    }
    suite.run()
}
