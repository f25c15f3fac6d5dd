//! Whatever a caller asks for: a plan that can be computed, or an error. Never a panic, and no device needed.

use flashcore::driver::Properties;
use flashcore::{Attention, Device, Dtype, Error, LseView, Plan, Pointers, Shape, Strides, TensorView};
use proptest::prelude::*;

/// Sizes that make sense, that do not, and that overflow when multiplied.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..5usize,
        4 => prop::sample::select(vec![8usize, 64, 72, 128, 192, 256, 512, 1000, 1024]),
        1 => prop::sample::select(vec![257usize, 520, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 40, usize::MAX / 2, usize::MAX]),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    (size(), size(), size(), size()).prop_map(|(b, s, h, d)| Shape::new(b, s, h, d))
}

/// A tensor whose memory nobody will touch.
fn tensor(shapes: impl Strategy<Value = Shape>) -> impl Strategy<Value = TensorView<'static>> {
    let place = prop::sample::select(vec![0u64, 8, 4096, 1 << 30, 2 << 30, 3 << 30, 1 << 45, u64::MAX - 15]);
    let bytes = prop::sample::select(vec![0usize, 64, 1 << 20, 1 << 40, usize::MAX]);
    (shapes, (size(), size(), size()), any::<bool>(), any::<bool>(), place, bytes).prop_map(
        |(shape, (batch, seqlen, heads), packed, bf16, ptr, bytes)| {
            let strides =
                if packed { flashcore::Order::Bshd.strides(shape) } else { Strides { batch, seqlen, heads } };
            let dtype = if bf16 { Dtype::Bf16 } else { Dtype::F16 };
            // SAFETY: problems and plans never touch the memory.
            unsafe { TensorView::from_raw_parts(ptr, bytes, dtype, shape, strides) }
        },
    )
}

/// Four tensors that mostly agree, so that more than the first check is reached.
fn tensors() -> impl Strategy<Value = [TensorView<'static>; 4]> {
    (shape(), shape()).prop_flat_map(|(q, kv)| {
        let kv = Shape {
            batch: q.batch,
            head_dim: q.head_dim,
            heads: if kv.heads > 8 { kv.heads } else { q.heads },
            ..kv
        };
        let near = |shape: Shape| prop_oneof![9 => Just(shape), 1 => self::shape()];
        [tensor(near(q)).boxed(), tensor(near(kv)).boxed(), tensor(near(kv)).boxed(), tensor(near(q)).boxed()]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_call_gives_a_legal_plan_or_an_error(
        [q, k, v, out] in tensors(),
        causal: bool,
        scale in prop::option::of(prop::num::f32::ANY),
        lse in prop::option::of((prop::sample::select(vec![0u64, 2, 1 << 46]), prop::sample::select(vec![0usize, 4, 1 << 40]))),
    ) {
        let attention = scale.into_iter().fold(Attention::new().causal(causal), Attention::scale);
        // SAFETY: problems and plans never touch the memory.
        let lse = lse.map(|(ptr, bytes)| unsafe { LseView::from_raw_parts(ptr, bytes) });
        let plan = attention
            .problem(&q, &k, &v, &out, lse.as_ref())
            .and_then(|problem| Plan::new(&problem, &Properties::h200()));
        match plan {
            Err(error) => prop_assert!(!error.to_string().is_empty()),
            Ok(plan) => {
                prop_assert_eq!(plan.grid == 0, q.shape().is_empty());
                prop_assert!(plan.grid <= 132);
                if plan.grid > 0 {
                    let pointers = Pointers { q: q.ptr(), k: k.ptr(), v: v.ptr(), out: out.ptr(), lse: 0, ..Pointers::default() };
                    for map in plan.tensor_maps(&pointers).expect("maps of an accepted problem") {
                        prop_assert_eq!(map.check(), Ok(()), "{}", plan);
                    }
                }
            }
        }
    }
}

#[test]
fn a_missing_device_is_an_error() {
    assert!(matches!(
        Device::cuda(usize::MAX),
        Err(Error::NoDriver { .. }
            | Error::NoDevice { .. }
            | Error::DriverTooOld { .. }
            | Error::Driver { .. })
    ));
}
