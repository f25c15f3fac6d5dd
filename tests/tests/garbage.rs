//! Lengths on the device that make no sense: nothing outside of the tensors is touched.

use std::process::ExitCode;

use flashcore::driver::Code;
use flashcore::{Array, Attention, Device, Dtype, Error, Lse, Order, Sequences, Shape, Tensor, TensorView};
use flashcore_tests::suite::{Suite, backends};

/// Rows of each tensor, and of what lies before and after it.
const ROWS: usize = 200;
const HEADS: usize = 2;
const HEAD_DIM: usize = 64;
/// Bytes of the rows of a tensor.
const BYTES: usize = ROWS * HEADS * HEAD_DIM * 2;

/// The numbers of a call: starts of three packed sequences, and how many rows of each count.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    starts_q: [i32; 4],
    starts_kv: [i32; 4],
    used: Option<[i32; 3]>,
    prefix: Option<[i32; 3]>,
}

const GOOD: [i32; 4] = [0, 70, 130, ROWS as i32];

/// Three times as much memory as a tensor, of which the middle is one.
fn middle(whole: &Tensor) -> TensorView<'_> {
    let shape = Shape::new(1, ROWS, HEADS, HEAD_DIM);
    // SAFETY: the bytes are within `whole`, which lives as long as the view.
    unsafe {
        let ptr = whole.ptr() + BYTES as u64;
        TensorView::from_raw_parts(ptr, BYTES, Dtype::F16, shape, Order::Bshd.strides(shape))
    }
}

fn check(gpu: &Device, numbers: Numbers) -> flashcore::Result<()> {
    let Numbers { starts_q, starts_kv, used, prefix } = numbers;
    let shape = Shape::new(1, 3 * ROWS, HEADS, HEAD_DIM);
    // Around K and V there is NaN, which would reach the output; around the output there are ones, which must stay.
    let filled = |inside: f32, outside: f32| {
        let at = |i: usize| if (BYTES / 2..BYTES).contains(&i) { inside } else { outside };
        let values: Vec<_> = (0..3 * BYTES / 2).map(|i| half::f16::from_f32(at(i))).collect();
        Tensor::from_slice(gpu, &values, shape, Order::Bshd)
    };
    let [q, k, v] = [(); 3].map(|()| filled(0.5, f32::NAN));
    let (q, k, v, out) = (q?, k?, v?, filled(0.25, 1.0)?);
    let lse = Lse::new(gpu, 1, HEADS, ROWS)?;
    lse.fill_bytes(0)?;
    let ints = |numbers: &[i32]| Array::from_slice(gpu, numbers);
    let (starts_q, starts_kv) = (ints(&starts_q)?, ints(&starts_kv)?);
    let used = used.map(|used| ints(&used)).transpose()?;
    let prefix = prefix.map(|prefix| ints(&prefix)).transpose()?;
    let mut sequences = Sequences::new().starts_q(starts_q.view()).starts_kv(starts_kv.view());
    if let Some(used) = &used {
        sequences = sequences.used_q(used.view()).used_kv(used.view());
    }
    let mut attention = Attention::new().causal(true).sequences(sequences);
    if let Some(prefix) = &prefix {
        attention = attention.prefix(prefix.view());
    }
    let stream = gpu.stream()?;
    let result = attention
        .forward_into(&stream, &middle(&q), &middle(&k), &middle(&v), &middle(&out), Some(lse.view()))
        .and_then(|()| stream.synchronize());
    match result {
        // Sequences of queries that overlap write the same rows, which the emulator reports; but nothing beyond them.
        Err(Error::Hazards { report, .. }) => {
            assert!(report.completed && !report.has(Code::E31), "{numbers:?}: {report}");
        }
        result => result?,
    }
    for (i, value) in out.to_vec::<half::f16>()?.into_iter().enumerate() {
        if (BYTES / 2..BYTES).contains(&i) {
            assert!(
                [0.0, 0.25, 0.5].contains(&value.to_f32()),
                "{numbers:?}: {value} of rows that do not exist"
            );
        } else {
            assert_eq!(value.to_f32(), 1.0, "{numbers:?}: written at {i}, beyond the output");
        }
    }
    assert!(lse.to_vec()?.iter().all(|lse| !lse.is_nan()), "{numbers:?}");
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    let good = Numbers { starts_q: GOOD, starts_kv: GOOD, used: None, prefix: None };
    let cases = [
        ("good", good),
        ("starts_fall", Numbers { starts_q: [150, 90, 40, 0], starts_kv: [200, 100, 50, 10], ..good }),
        ("starts_overlap", Numbers { starts_q: [0, 120, 60, 180], starts_kv: [0, 200, 0, 200], ..good }),
        (
            "starts_are_negative",
            Numbers { starts_q: [-5, 60, -1, i32::MIN], starts_kv: [i32::MIN, -7, 90, -1], ..good },
        ),
        (
            "starts_lead_out",
            Numbers { starts_q: [100, 201, 1 << 20, i32::MAX], starts_kv: [0, 500, 100, i32::MAX], ..good },
        ),
        ("used_is_negative", Numbers { used: Some([-1, i32::MIN, -200]), ..good }),
        ("used_is_too_large", Numbers { used: Some([71, 1 << 30, i32::MAX]), ..good }),
        ("prefix_is_too_large", Numbers { prefix: Some([i32::MAX, 1 << 30, 201]), ..good }),
        ("prefix_is_negative", Numbers { prefix: Some([-1, i32::MIN, -200]), ..good }),
    ];
    for (name, numbers) in cases {
        suite.test(name, move |gpu| check(gpu, numbers));
    }
    suite.run()
}
