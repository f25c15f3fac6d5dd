//! Where bytes lie: swizzles, slabs, fragments and shared memory, against their definitions.

use std::collections::HashSet;

use flashcore_kernels::config::{
    Dtype, Mask, REGISTER_FILE, SMEM_LIMIT, Score, Tile, Variant, WARPGROUP_THREADS,
};
use flashcore_kernels::entry::FWD;
use flashcore_kernels::layout::{
    Barrier, SLAB_COLUMNS, SLAB_ROW_BYTES, SWIZZLE_ATOM_BYTES, Swizzle, a_element, accumulator_element,
    slab_offset,
};

const SWIZZLES: [(Swizzle, u32); 4] =
    [(Swizzle::None, 16), (Swizzle::B32, 32), (Swizzle::B64, 64), (Swizzle::B128, 128)];

#[test]
fn swizzles_are_involutions_that_keep_chunks_and_rows() {
    for (swizzle, width) in SWIZZLES {
        for address in 0..4096 {
            let swizzled = swizzle.apply(address);
            assert_eq!(swizzle.apply(swizzled), address, "{swizzle:?} twice at {address}");
            assert_eq!(swizzled % 16, address % 16, "{swizzle:?} moves whole 16-byte chunks");
            assert_eq!(swizzled / width, address / width, "{swizzle:?} stays in its row of {width} bytes");
        }
    }
}

/// The point of a swizzle: eight rows of one 16-byte column hit as many different bank groups as the row allows.
#[test]
fn a_column_of_chunks_is_spread_over_the_banks() {
    for (swizzle, width) in SWIZZLES {
        for column in (0..width).step_by(16) {
            let banks: HashSet<u32> = (0..8).map(|row| swizzle.apply(row * width + column) % 128).collect();
            assert_eq!(banks.len(), 8, "{swizzle:?}, column {column}");
        }
    }
}

/// CUTLASS writes the same patterns as `Swizzle<B, 4, 3>`.
#[test]
fn swizzles_are_those_of_cutlass() {
    for (bits, swizzle) in [(0, Swizzle::None), (1, Swizzle::B32), (2, Swizzle::B64), (3, Swizzle::B128)] {
        for address in 0..4096u32 {
            let from = ((1u32 << bits) - 1) << (4 + 3);
            assert_eq!(swizzle.apply(address), address ^ (address & from) >> 3, "{swizzle:?} at {address}");
        }
    }
}

#[test]
fn slabs_hold_every_element_once() {
    for variant in FWD {
        let Tile { block_m, block_n, .. } = variant.tile;
        let (slabs, slabs_v) = (variant.q_tile().slabs, variant.v_tile().slabs);
        for (rows, slabs) in [(block_m, slabs), (block_n, slabs), (block_m, slabs_v), (block_n, slabs_v)] {
            let columns = slabs * SLAB_COLUMNS;
            let mut seen = vec![false; (rows * columns) as usize];
            for row in 0..rows {
                for column in 0..columns {
                    let offset = slab_offset(rows, row, column);
                    assert_eq!(offset % 2, 0);
                    let place = &mut seen[offset as usize / 2];
                    assert!(
                        !std::mem::replace(place, true),
                        "{}: ({row}, {column}) on another",
                        variant.symbol
                    );
                }
            }
        }
    }
}

/// A TMA box of 64 columns lands as one slab, swizzled by its address: our offsets must say the same.
#[test]
fn slabs_are_what_tma_writes() {
    let rows = 80;
    for slab in 0..2 {
        for row in 0..rows {
            for column in 0..64 {
                let linear = slab * rows * 128 + row * 128 + column * 2;
                let chunk = (linear / 16 % 8) ^ (linear / 128 % 8);
                let expected = linear / 128 * 128 + chunk * 16 + linear % 16;
                assert_eq!(slab_offset(rows, row, slab * 64 + column), expected);
            }
        }
    }
}

#[test]
fn accumulator_fragments_cover_the_tile_once() {
    for n in (8..=256).step_by(8) {
        let elements: HashSet<(u32, u32)> = (0..WARPGROUP_THREADS)
            .flat_map(|thread| (0..n / 2).map(move |register| accumulator_element(thread, register)))
            .collect();
        assert_eq!(elements.len() as u32, 64 * n);
        assert!(elements.iter().all(|&(row, column)| row < 64 && column < n));
    }
}

/// Corners of the figure in the PTX ISA ("wgmma .m64nNk16 D fragment").
#[test]
fn accumulator_fragments_are_those_of_the_isa() {
    let figure = [
        ((0, 0), (0, 0)),
        ((0, 1), (0, 1)),
        ((0, 2), (8, 0)),
        ((0, 3), (8, 1)),
        ((0, 4), (0, 8)),
        ((1, 0), (0, 2)),
        ((3, 1), (0, 7)),
        ((4, 0), (1, 0)),
        ((31, 3), (15, 7)),
        ((32, 0), (16, 0)),
        ((127, 7), (63, 15)),
    ];
    for ((thread, register), element) in figure {
        assert_eq!(accumulator_element(thread, register), element, "thread {thread}, register {register}");
    }
}

#[test]
fn a_fragments_cover_the_tile_once() {
    let elements: HashSet<(u32, u32)> = (0..WARPGROUP_THREADS)
        .flat_map(|thread| (0..8).map(move |element| a_element(thread, element)))
        .collect();
    assert_eq!(elements.len(), 64 * 16);
    assert!(elements.iter().all(|&(row, k)| row < 64 && k < 16));
}

/// What lets P go from the accumulator of QKᵀ into the A operand of PV without a shuffle.
#[test]
fn a_thread_owns_the_same_elements_of_s_and_of_p() {
    for thread in 0..WARPGROUP_THREADS {
        for step in 0..256 / 16 {
            for element in 0..8 {
                let (row, k) = a_element(thread, element);
                assert_eq!(accumulator_element(thread, 8 * step + element), (row, 16 * step + k));
            }
        }
    }
}

/// (name, first byte, bytes) of everything in a CTA's shared memory.
fn regions(variant: &Variant) -> Vec<(&'static str, u32, u32)> {
    let (smem, stages) = (variant.smem(), variant.tile.stages);
    let mut regions = vec![
        ("Q", smem.q, smem.q_stages * smem.q_bytes),
        ("K", smem.k, stages * smem.k_bytes),
        ("V", smem.v, stages * smem.v_bytes),
        ("biases", smem.bias, smem.bias_stages * smem.bias_bytes),
    ];
    if smem.o_over_v {
        regions.push(("the gate of O", smem.barrier(Barrier::ORead, 0), 8));
    } else {
        regions.push(("O", smem.o, smem.o_bytes));
    }
    for barrier in [Barrier::QFull, Barrier::QEmpty] {
        for stage in 0..smem.q_stages {
            regions.push(("barrier of Q", smem.barrier(barrier, stage), 8));
        }
    }
    for barrier in [Barrier::BiasFull, Barrier::BiasEmpty] {
        for stage in 0..smem.bias_stages {
            regions.push(("barrier of biases", smem.barrier(barrier, stage), 8));
        }
    }
    for barrier in [Barrier::KFull, Barrier::KEmpty, Barrier::VFull, Barrier::VEmpty] {
        for stage in 0..stages {
            regions.push(("barrier of a ring", smem.barrier(barrier, stage), 8));
        }
    }
    regions
}

#[test]
fn shared_memory_regions_do_not_overlap() {
    for variant in FWD {
        let mut regions = regions(variant);
        regions.sort_by_key(|&(_, start, _)| start);
        for pair in regions.windows(2) {
            assert!(
                pair[0].1 + pair[0].2 <= pair[1].1,
                "{}: {:?} reaches into {:?}",
                variant.symbol,
                pair[0],
                pair[1]
            );
        }
        let &(_, start, bytes) = regions.last().unwrap();
        assert_eq!(
            start + bytes,
            variant.smem().bytes,
            "{}: what is asked for is what is used",
            variant.symbol
        );
    }
}

#[test]
fn tiles_start_on_swizzle_atoms() {
    for variant in FWD {
        let smem = variant.smem();
        for stage in 0..variant.tile.stages {
            for start in [smem.q, smem.o, smem.k + stage * smem.k_bytes, smem.v + stage * smem.v_bytes] {
                assert_eq!(start % SWIZZLE_ATOM_BYTES, 0, "{}", variant.symbol);
            }
        }
        for slab_rows in [variant.tile.block_m, variant.tile.block_n] {
            assert_eq!(slab_rows * 128 % SWIZZLE_ATOM_BYTES, 0, "{}: slabs too", variant.symbol);
        }
        for barrier in [Barrier::QFull, Barrier::KFull, Barrier::VEmpty] {
            assert_eq!(smem.barrier(barrier, 0) % 8, 0, "{}", variant.symbol);
        }
    }
}

#[test]
fn o_is_staged_over_v_only_for_want_of_room() {
    for variant in FWD {
        let smem = variant.smem();
        let tile = |rows, columns: u32| rows * columns.div_ceil(SLAB_COLUMNS) * SLAB_ROW_BYTES;
        let Variant { head_dim, head_dim_v, tile: Tile { block_m, block_n, .. }, .. } = *variant;
        let expected =
            [(block_m, head_dim), (block_n, head_dim), (block_n, head_dim_v), (block_m, head_dim_v)];
        let found = [smem.q_bytes, smem.k_bytes, smem.v_bytes, smem.o_bytes];
        assert_eq!(found, expected.map(|(rows, columns)| tile(rows, columns)), "{}", variant.symbol);
        if smem.o_over_v {
            assert_eq!(smem.o, smem.v);
            assert!(smem.o_bytes <= smem.kv_stages * smem.v_bytes, "{}: O fits over V", variant.symbol);
            assert!(smem.bytes + smem.o_bytes > SMEM_LIMIT, "{} has room for O", variant.symbol);
        }
        assert!(smem.bytes <= SMEM_LIMIT, "{}", variant.symbol);
    }
}

#[test]
fn registers_fit_before_and_after_they_are_shared_out() {
    for variant in FWD {
        let (producer, consumer) = variant.role_registers();
        assert!(variant.threads() * variant.launch_registers() <= REGISTER_FILE, "{}", variant.symbol);
        assert!(
            WARPGROUP_THREADS * (producer + variant.consumers() * consumer)
                <= variant.threads() * variant.launch_registers(),
            "{}: setmaxnreg.inc would wait forever",
            variant.symbol
        );
        for registers in [producer, consumer] {
            assert!(
                registers % 8 == 0 && (24..=256).contains(&registers),
                "{}: setmaxnreg's rule",
                variant.symbol
            );
        }
    }
}

#[test]
fn variants_differ_and_are_named_by_how() {
    let different: HashSet<_> =
        FWD.iter().map(|v| (v.head_dim, v.head_dim_v, v.tile, v.dtype, v.mask, v.score)).collect();
    assert_eq!(different.len(), FWD.len());
    for Variant { symbol, head_dim, head_dim_v, tile, dtype, mask, score, .. } in FWD {
        let mask = if *mask == Mask::Full { String::new() } else { format!("_{}", mask.name()) };
        let score = match score {
            Score::Plain => "",
            Score::Softcap => "_softcap",
            Score::SoftcapApprox => "_softcap_approx",
            Score::Alibi => "_alibi",
            Score::BiasTiles => "_bias_tiles",
            Score::Biased => "_biased",
            Score::Custom => panic!("{symbol} is a user's"),
        };
        let cluster = match (tile.cluster, tile.splits) {
            (1, 1) => String::new(),
            (1, splits) => format!("s{splits}"),
            (cluster, _) => format!("x{cluster}"),
        };
        let (m, n, dtype) = (tile.block_m, tile.block_n, dtype.name());
        let columns =
            if head_dim_v == head_dim { format!("{head_dim}") } else { format!("{head_dim}v{head_dim_v}") };
        let name = format!("fwd_hd{columns}_m{m}n{n}{cluster}_{dtype}{mask}{score}");
        assert_eq!(*symbol, name);
    }
}

#[test]
fn every_head_dim_dtype_and_mask_has_a_kernel() {
    let exists = |[head_dim, head_dim_v]: [u32; 2], dtype, mask, score| {
        let wanted = (head_dim, head_dim_v, dtype, mask, score);
        FWD.iter().any(|v| (v.head_dim, v.head_dim_v, v.dtype, v.mask, v.score) == wanted)
    };
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let kinds = [
            (Mask::Full, Score::Plain),
            (Mask::Causal, Score::Plain),
            (Mask::Band, Score::Plain),
            (Mask::Band, Score::Softcap),
            (Mask::Band, Score::Alibi),
            (Mask::Band, Score::BiasTiles),
            (Mask::Band, Score::Biased),
            (Mask::Sparse, Score::Plain),
        ];
        for (mask, score) in kinds {
            for head_dim in [64, 96, 128, 192, 256] {
                assert!(exists([head_dim; 2], dtype, mask, score), "{head_dim} {dtype:?} {mask:?} {score:?}");
            }
        }
        for mask in [Mask::Full, Mask::Causal, Mask::Band] {
            for head_dims in [[192, 128], [64, 256]] {
                assert!(exists(head_dims, dtype, mask, Score::Plain), "{head_dims:?} {dtype:?} {mask:?}");
            }
        }
        for head_dim in [64, 128, 256] {
            assert!(exists([head_dim; 2], dtype, Mask::Band, Score::SoftcapApprox), "{head_dim} {dtype:?}");
        }
        assert!(exists([512; 2], dtype, Mask::Band, Score::Plain), "{dtype:?}");
    }
}
