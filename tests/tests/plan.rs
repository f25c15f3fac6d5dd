//! Plans against their rules, worked out again here; and that no kernel goes untested or untimed.

use flashcore::driver::Properties;
use flashcore::{Dtype, Plan, Pointers, Problem, TensorLayout};
use flashcore_kernels::config::Variant;
use flashcore_kernels::entry::FWD;
use flashcore_kernels::layout::Swizzle;
use flashcore_tests::cases::{Case, HEAD_DIMS, KERNEL_HEAD_DIMS, Layout, OTHER_KERNEL_HEAD_DIMS, forward};
use flashcore_tests::grid;

fn problem(case: &Case, dtype: Dtype) -> Problem {
    case.problem(dtype).expect("a legal problem")
}

fn plan(case: &Case, dtype: Dtype) -> Plan {
    Plan::new(&problem(case, dtype), &Properties::h200()).expect("a plan")
}

fn plans(case: &Case, dtype: Dtype) -> Vec<Plan> {
    Plan::all(&problem(case, dtype), &Properties::h200()).expect("plans")
}

/// The kernel that must compute these head dims: the one of the fewest columns.
fn kernel_head_dims(head_dims: (usize, usize)) -> (u32, u32) {
    match head_dims {
        (129..=192, 0..=128) => (192, 128),
        (0..=64, 129..=256) => (64, 256),
        (head_dim, head_dim_v) => match head_dim.max(head_dim_v) {
            0..=64 => (64, 64),
            65..=96 => (96, 96),
            97..=128 => (128, 128),
            129..=192 => (192, 192),
            193..=256 => (256, 256),
            _ => (512, 512),
        },
    }
}

#[test]
fn every_case_of_the_table_has_a_plan_by_the_rules() {
    for case in forward() {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let all = plans(&case, dtype);
            assert!(all.contains(&plan(&case, dtype)), "{case}: the preferred plan is a possible one");
            for plan in all {
                check_plan(&case, dtype, &plan);
            }
        }
    }
}

fn check_plan(case: &Case, dtype: Dtype, plan: &Plan) {
    let (variant, params) = (plan.variant, plan.params);
    let head_dims = kernel_head_dims((case.head_dim, case.head_dim_v()));
    let expected = (head_dims, dtype, case.causal && !variant.is_general());
    let found = ((variant.head_dim, variant.head_dim_v), variant.dtype, variant.is_causal());
    assert_eq!(found, expected, "{case}");
    let (block_m, cluster) = (variant.tile.block_m as usize, variant.tile.cluster as usize);
    let (units, rows) = (params.work.head_units.value as usize, cluster * block_m);
    // General kernels may pack query heads: a query then has several rows, and there are fewer heads.
    let packed_heads = params.general.packed_heads as usize;
    assert!(variant.is_general() || (packed_heads, params.general.pack) == (1, 0), "{case}");
    let seqlen_rows = case.seqlen_q << params.general.pack;
    assert!(units * rows >= seqlen_rows && (units - 1) * rows < seqlen_rows, "{case}");
    assert_eq!(plan.work_tiles, params.work.units() * variant.tile.cluster, "{case}");
    let grid = if variant.splits_keys() {
        plan.work_tiles * variant.split_ctas()
    } else {
        plan.work_tiles.min(132) // 132 SMs are whole clusters
    };
    assert_eq!(plan.grid, grid, "{case}");
    let (heads_q, gqa_ratio) = (params.heads_q.value, params.gqa_ratio.value);
    let given = [params.seqlen_q, params.seqlen_kv, heads_q, gqa_ratio, params.work.heads];
    let heads = [case.heads_q, case.heads_q / case.heads_kv, case.batch * case.heads_q];
    let [heads, ratio, all_heads] = heads.map(|heads| heads / packed_heads);
    assert_eq!(given.map(|x| x as usize), [case.seqlen_q, case.seqlen_kv, heads, ratio, all_heads], "{case}");
    let scale = case.scale.map_or(1.0 / (case.head_dim as f64).sqrt(), f64::from);
    let scale_log2 = scale * std::f64::consts::LOG2_E;
    assert!((f64::from(params.scale_log2) / scale_log2 - 1.0).abs() < 3e-7, "{case}");
    assert_eq!(params.lse, 0, "filled in at launch");
}

#[test]
fn the_heads_of_a_section_fit_into_l2() {
    const LIMIT: usize = 32 << 20;
    for case in [forward(), grid::full(&[false, true])].concat() {
        let params = plan(&case, Dtype::F16).params;
        let (section, packed) = (params.work.section.value as usize, params.general.packed_heads as usize);
        let (ratio, heads) = (case.heads_q / case.heads_kv / packed, case.batch * case.heads_q / packed);
        let kv_bytes = 2 * case.seqlen_kv * (case.head_dim + case.head_dim_v());
        assert!((1..=heads).contains(&section), "{case}: {section}");
        assert!(
            section == heads || section.is_multiple_of(ratio),
            "{case}: heads that share K and V stay together"
        );
        assert!(
            section <= ratio || section / ratio * kv_bytes <= LIMIT,
            "{case}: {section} heads are too many"
        );
        assert!(
            section == heads || (section / ratio + 1) * kv_bytes > LIMIT,
            "{case}: {section} heads are too few"
        );
    }
}

#[test]
fn tensor_maps_say_where_the_tensors_lie() {
    for layout in Layout::ALL {
        let case = Case {
            batch: 3,
            seqlen_q: 70,
            seqlen_kv: 90,
            heads_q: 6,
            heads_kv: 2,
            head_dim: 80,
            layout,
            ..Case::default()
        };
        let plan = plan(&case, Dtype::Bf16);
        let pointers =
            Pointers { q: 0x1000, k: 0x2000, v: 0x3000, out: 0x4000, lse: 0, ..Pointers::default() };
        let maps = plan.tensor_maps(&pointers).expect("legal maps");
        let (q, kv) = (case.shape_q(), case.shape_kv());
        let tile = plan.variant.tile;
        let expected = [
            (0x1000, q, layout.query(q), tile.block_m),
            (0x2000, kv, layout.key(kv), tile.block_n),
            (0x3000, kv, layout.key(kv), tile.block_n),
            (0x4000, q, layout.output(q), 16),
        ];
        for (map, (ptr, shape, strides, rows)) in maps.iter().zip(expected) {
            assert_eq!(map.ptr(), ptr);
            assert_eq!(
                map.dims(),
                [shape.head_dim, shape.seqlen, shape.heads, shape.batch].map(|n| n as u64)
            );
            assert_eq!(
                map.strides_bytes(),
                [strides.seqlen, strides.heads, strides.batch].map(|n| 2 * n as u64)
            );
            assert_eq!(map.box_dims(), [64, rows, 1, 1]);
            assert_eq!(map.swizzle_mode(), Swizzle::B128);
        }
    }
}

#[test]
fn a_stride_that_nobody_steps_by_may_be_anything() {
    let strides = |batch, seqlen, heads| flashcore::Strides { batch, seqlen, heads };
    let case = Case { batch: 1, seqlen_q: 40, seqlen_kv: 40, heads_q: 1, heads_kv: 1, ..Case::default() };
    let layout = |strides| TensorLayout { dtype: Dtype::F16, shape: case.shape_q(), strides };
    let usual = layout(strides(40 * 128, 128, 128));
    let expected = Problem::new(usual, usual, usual, usual, false, None).expect("the usual strides");
    for odd in [strides(0, 128, 0), strides(1, 128, 3), strides(usize::MAX, 128, 7)] {
        assert_eq!(
            Problem::new(layout(odd), usual, usual, layout(odd), false, None),
            Ok(expected),
            "{odd:?}"
        );
    }
}

#[test]
fn every_kernel_is_tested_and_timed() {
    let runs = |cases: &[Case], plans: &dyn Fn(&Case, Dtype) -> Vec<Plan>, variant: &Variant| {
        cases.iter().flat_map(|case| plans(case, variant.dtype)).any(|plan| plan.variant == *variant)
    };
    let preferred = |case: &Case, dtype| vec![plan(case, dtype)];
    let shape = |(batch, heads, seqlen_q, seqlen_kv, head_dim, causal)| Case {
        batch,
        heads_q: heads,
        heads_kv: heads,
        seqlen_q,
        seqlen_kv,
        head_dim,
        causal,
        ..Case::default()
    };
    // Beyond the grid: few tiles of many keys, and a little more than few.
    let others = [false, true].map(|causal| {
        [64, 128].map(|head_dim| {
            [(3, 8, 512, 512), (1, 8, 128, 4096)].map(|(b, h, q, kv)| shape((b, h, q, kv, head_dim, causal)))
        })
    });
    let (tested, timed) = (forward(), [grid::full(&[false, true]), others.concat().concat()].concat());
    let narrower = |case: &&Case| {
        let head_dims = (case.head_dim, case.head_dim_v());
        kernel_head_dims(head_dims) != (head_dims.0 as u32, head_dims.1 as u32)
    };
    let padded: Vec<Case> = tested.iter().filter(narrower).copied().collect();
    for variant in FWD {
        if variant.is_general() {
            // Cases of them, one for each of these widths, type and kind of scores, are those of `features.rs`.
            let head_dims = (variant.head_dim as usize, variant.head_dim_v as usize);
            let usual = head_dims.0 == head_dims.1 && KERNEL_HEAD_DIMS.contains(&head_dims.0);
            assert!(usual || OTHER_KERNEL_HEAD_DIMS.contains(&head_dims), "{}", variant.symbol);
            continue;
        }
        assert!(runs(&tested, &plans, variant), "no case of `cases::forward` runs {}", variant.symbol);
        assert!(runs(&padded, &plans, variant), "no case pads head_dim for {}", variant.symbol);
        let same = variant.head_dim == variant.head_dim_v;
        if same && grid::HEAD_DIMS.contains(&(variant.head_dim as usize)) {
            assert!(
                runs(&timed, &preferred, variant),
                "no cell of `grid::full`, or of the others, prefers {}",
                variant.symbol
            );
        }
    }
}

#[test]
fn every_head_dim_of_the_table_is_legal() {
    for head_dim in HEAD_DIMS {
        let variant = plan(&Case { head_dim, ..Case::default() }, Dtype::F16).variant;
        assert_eq!((variant.head_dim, variant.head_dim_v), kernel_head_dims((head_dim, head_dim)));
    }
}
