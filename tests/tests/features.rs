//! What goes beyond plain attention agrees with the oracle: sequences of different lengths, windows, chunks, prefixes,
//! capped scores, slopes, biases, sinks, dropout.

use std::process::ExitCode;

use flashcore::{Dtype, Slopes};
use flashcore_tests::cases::{Case, KERNEL_HEAD_DIMS, Layout, OTHER_KERNEL_HEAD_DIMS};
use flashcore_tests::device;
use flashcore_tests::extras::{Bias, Blocks, Dropout, Extras, PerHead, Prefix, RangeKind, Ranges};
use flashcore_tests::side_inputs::Lengths;
use flashcore_tests::suite::{Resource, Suite, few_sms};

/// Times that `device::check` runs a case on each kernel, and one more for the public call.
const RUNS: usize = 2;

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let none = Extras::default();
    for head_dim in KERNEL_HEAD_DIMS {
        // Two tiles of queries and some of keys; fewer where they are short, and the emulator takes long for each.
        let (seqlen_q, seqlen_kv) = if head_dim > 192 { (140, 210) } else { (300, 400) };
        let base = Case { seqlen_q, seqlen_kv, heads_q: 2, heads_kv: 1, head_dim, ..Case::default() };
        let mut add = |case: Case, extras: Extras| cases.push(Case { extras, ..case });
        for (left, right) in [
            (None, Some(0)),
            (Some(100), Some(0)),
            (Some(17), Some(60)),
            (Some(0), Some(0)),
            (Some(250), None),
        ] {
            for top_left in [false, true] {
                add(base, Extras { left, right, top_left, ..none });
            }
        }
        // More queries than keys, so that some stand before the first key.
        add(
            Case { seqlen_q: 500, seqlen_kv: 130, ..base },
            Extras { left: Some(40), right: Some(3), ..none },
        );
        for chunk in [1, 100, 128, 1000] {
            add(base, Extras { chunk: Some(chunk), ..none });
            add(Case { causal: true, ..base }, Extras { chunk: Some(chunk), ..none });
        }
        add(Case { causal: true, ..base }, Extras { prefix: Some(Prefix::Drawn), ..none });
        for softcap in [5.0, 30.0] {
            add(base, Extras { softcap: Some(softcap), ..none });
            add(Case { causal: true, ..base }, Extras { softcap: Some(softcap), ..none });
            add(base, Extras { softcap: Some(softcap), approximate_tanh: true, ..none });
        }
        add(base, Extras { sinks: true, ..none });
        add(Case { seqlen_q: 300, seqlen_kv: 100, causal: true, ..base }, Extras { sinks: true, ..none });
        add(Case { seqlen_kv: 0, ..base }, Extras { sinks: true, ..none });
        add(base, Extras { used: true, ..none });
        let slopes = [Slopes::PerHead, Slopes::PerSequenceAndHead].map(Some);
        for alibi in slopes {
            for case in [base, Case { causal: true, ..base }, Case { seqlen_q: 420, seqlen_kv: 130, ..base }]
            {
                add(Case { batch: 2, ..case }, Extras { alibi, ..none });
            }
            let lengths = Some(Lengths::WithZeros { longest: 200 });
            let (packed_q, packed_kv) = (lengths, lengths);
            add(Case { batch: 5, causal: true, ..base }, Extras { alibi, packed_q, packed_kv, ..none });
        }
        let biases = [
            Bias::FULL,
            Bias { batch: false, ..Bias::FULL },
            Bias { batch: false, heads: false, ..Bias::FULL },
            Bias { queries: false, ..Bias::FULL },
            Bias { hides: true, ..Bias::FULL },
        ];
        for (i, bias) in biases.map(Some).into_iter().enumerate() {
            for causal in [false, true] {
                // Odd numbers of keys, too.
                let case = Case { batch: 2, seqlen_kv: seqlen_kv - 20 + i, causal, ..base };
                add(case, Extras { bias, ..none });
                let softcap = Some(20.0);
                add(case, Extras { bias, softcap, alibi: slopes[i % 2], left: Some(150), ..none });
            }
        }
        // Biases that TMA can reach come in tiles.
        for (i, bias) in biases.map(Some).into_iter().enumerate() {
            let (seqlen_q, seqlen_kv) = (seqlen_q.min(150), if head_dim > 192 { 151 } else { 205 });
            let case = Case { batch: 2, seqlen_q, seqlen_kv, ..base };
            let bias = bias.map(|bias| Bias { padded: true, ..bias });
            add(case, Extras { bias, used: i % 2 == 0, ..none });
            let (left, right, sinks) = (Some(70), Some(5 * i), i % 2 == 1);
            add(case, Extras { bias, left, right, sinks, top_left: i == 1, ..none });
        }
        for (dv, causal) in [(8, false), (128, true), (192, false), (256, true)] {
            let head_dim_v = Some(dv).filter(|&dv| dv != head_dim);
            for softcap in [None, Some(20.0)] {
                add(Case { causal, ..base }, Extras { head_dim_v, softcap, ..none });
            }
        }
        let any_of = [PerHead::ONE, PerHead::EACH, PerHead { heads: false, ..PerHead::EACH }];
        for of in any_of {
            let case = Case { batch: 2, ..base };
            let (ranges, documents) = (Some(Ranges::drawn(of)), Some(Ranges::documents(of)));
            let blocks = Some(Blocks::drawn(of));
            add(case, Extras { ranges, ..none });
            add(case, Extras { ranges: documents, left: Some(90), sinks: true, ..none });
            add(Case { causal: true, ..case }, Extras { ranges: documents, used: true, ..none });
            add(case, Extras { blocks, ..none });
            add(Case { causal: true, ..case }, Extras { blocks, ranges, sinks: true, ..none });
            let lengths = Some(Lengths::WithZeros { longest: 200 });
            let packed = Extras { packed_q: lengths, packed_kv: lengths, ..none };
            let case = Case { batch: 5, causal: true, ..base };
            add(case, Extras { ranges, ..packed });
            add(case, Extras { blocks, ..packed });
        }
        // Many heads on one, and nothing seen.
        let of = PerHead { batch: false, heads: true };
        let many = Case { seqlen_q: 5, heads_q: 6, heads_kv: 2, ..base };
        let (ranges, blocks) = (Some(Ranges::drawn(of)), Some(Blocks::drawn(of)));
        add(many, Extras { ranges, blocks, ..none });
        add(Case { seqlen_kv: 0, ..base }, Extras { blocks, sinks: true, ..none });
        let both = Extras { bias: biases.first().copied(), alibi: slopes[0], ..none };
        add(Case { batch: 3, ..base }, Extras { used: true, ..both });
        add(Case { seqlen_kv: 0, ..base }, Extras { sinks: true, ..both });
        add(Case { seqlen_q: 5, heads_q: 6, heads_kv: 2, ..base }, Extras { sinks: true, ..both });
        let dropout = Some(Dropout { threshold: 230, seed: 0x0123_4567_89AB_CDEF, offset: 3 });
        let small = Case { batch: 2, seqlen_q: 140, seqlen_kv: 250, ..base };
        for causal in [false, true] {
            add(Case { causal, ..small }, Extras { dropout, ..none });
        }
        // Tiles of an odd number of groups of 16 keys; few weights are kept; several heads of few queries.
        let most = Some(Dropout { threshold: 40, seed: 1, offset: u32::MAX });
        let few = Case { seqlen_q: 5, seqlen_kv: 333, heads_q: 6, heads_kv: 2, ..base };
        add(Case { causal: true, ..few }, Extras { dropout: most, sinks: true, left: Some(200), ..none });
        add(small, Extras { dropout, softcap: Some(20.0), ..both });
        let lengths = Some(Lengths::WithZeros { longest: 200 });
        let (packed_q, packed_kv) = (lengths, lengths);
        add(Case { batch: 5, causal: true, ..base }, Extras { dropout, packed_q, packed_kv, ..none });
        add(Case { seqlen_kv: 0, ..base }, Extras { dropout, sinks: true, ..none });
        let packed = |lengths| Extras { packed_q: Some(lengths), packed_kv: Some(lengths), ..none };
        let mixes = [
            Lengths::Equal(128),
            Lengths::Uniform { longest: 300 },
            Lengths::WithZeros { longest: 200 },
            Lengths::WithOnes { longest: 260 },
        ];
        for lengths in mixes {
            for causal in [false, true] {
                let case = Case { batch: 7, causal, ..base };
                add(case, packed(lengths));
                add(Case { heads_q: 8, ..case }, Extras { used: true, ..packed(lengths) });
            }
        }
        // Queries and keys of different lengths, packed or not.
        let (q, kv) = (Lengths::WithZeros { longest: 90 }, Lengths::WithZeros { longest: 333 });
        for (packed_q, packed_kv) in [(Some(q), Some(kv)), (Some(q), None), (None, Some(kv))] {
            let case = Case { batch: 5, seqlen_q: 130, seqlen_kv: 200, causal: true, ..base };
            add(case, Extras { packed_q, packed_kv, ..none });
            add(
                case,
                Extras { packed_q, packed_kv, sinks: true, left: Some(50), softcap: Some(20.0), ..none },
            );
        }
        // Query heads that share tiles: as many as a power of 2, and fewer.
        for (heads_q, heads_kv) in [(8, 1), (6, 2), (12, 4), (16, 1), (64, 1)] {
            let case = Case { batch: 2, seqlen_q: 5, seqlen_kv: 300, heads_q, heads_kv, ..base };
            for layout in [Layout::Bshd, Layout::Bhsd, Layout::Padded] {
                add(Case { layout, causal: true, ..case }, Extras { sinks: true, ..none });
            }
            add(Case { seqlen_q: 33, causal: true, ..case }, Extras { left: Some(70), ..none });
        }
    }
    for head_dims in OTHER_KERNEL_HEAD_DIMS {
        let base = Case { seqlen_q: 120, seqlen_kv: 180, heads_q: 2, heads_kv: 1, ..Case::default() };
        let mut add =
            |case: Case, extras: Extras| cases.push(Case { extras, ..case }.of_head_dims(head_dims));
        let causal = Case { causal: true, ..base };
        add(base, Extras { left: Some(100), right: Some(0), ..none });
        add(base, Extras { left: Some(17), right: Some(60), top_left: true, ..none });
        add(Case { seqlen_q: 250, seqlen_kv: 70, ..base }, Extras { left: Some(40), right: Some(3), ..none });
        add(causal, Extras { chunk: Some(100), ..none });
        add(causal, Extras { prefix: Some(Prefix::Drawn), ..none });
        add(Case { seqlen_q: 200, seqlen_kv: 60, ..causal }, Extras { sinks: true, ..none });
        add(Case { seqlen_kv: 0, ..base }, Extras { sinks: true, ..none });
        let lengths = Some(Lengths::WithZeros { longest: 200 });
        let packed = Extras { packed_q: lengths, packed_kv: lengths, ..none };
        for extras in [packed, Extras { used: true, sinks: true, left: Some(50), ..packed }] {
            add(Case { batch: 5, ..causal }, extras);
        }
        add(Case { batch: 3, ..base }, Extras { used: true, ..none });
        for (heads_q, heads_kv) in [(8, 1), (6, 2), (64, 1)] {
            let case = Case { batch: 2, seqlen_q: 5, seqlen_kv: 300, heads_q, heads_kv, ..causal };
            add(Case { layout: Layout::Padded, ..case }, Extras { sinks: true, ..none });
            add(Case { seqlen_q: 33, ..case }, Extras { left: Some(70), ..none });
        }
        let (head_dim, head_dim_v) = head_dims;
        let narrower = base.of_head_dims((head_dim - 40, head_dim_v - 40));
        cases.push(Case { extras: Extras { left: Some(30), ..narrower.extras }, ..narrower });
    }
    // Prefixes, documents and blocks that are given.
    let base =
        Case { seqlen_q: 300, seqlen_kv: 300, heads_q: 2, heads_kv: 1, causal: true, ..Case::default() };
    let ranges = Some(Ranges { of: PerHead::ONE, kind: RangeKind::Given(&[140, 1, 159]) });
    let blocks = Some(Blocks { of: PerHead::ONE, checkerboard: true });
    for extras in [
        Extras { prefix: Some(Prefix::Keys(170)), ..none },
        Extras { ranges, ..none },
        Extras { blocks, ..none },
    ] {
        cases.push(Case { extras, ..base });
    }
    // Heads of which only those of V, or of Q and K, are wide.
    for head_dims in [(8, 512), (512, 8), (320, 264)] {
        cases.push(
            Case { seqlen_q: 70, seqlen_kv: 100, causal: true, ..Case::default() }.of_head_dims(head_dims),
        );
    }
    cases
}

fn main() -> ExitCode {
    let (mut cuda, mut emulated) = (Suite::on(vec![Resource::cuda()]), Suite::on(vec![few_sms()]));
    for (i, case) in cases().into_iter().enumerate() {
        let dtypes = [Dtype::F16, Dtype::Bf16];
        for dtype in dtypes {
            cuda.case("", &[case], dtype, RUNS, move |gpu, case| device::check(gpu, case, dtype, 11));
        }
        // Slow: one type each.
        let dtype = dtypes[i % 2];
        emulated
            .case("", &case.and_thinner(), dtype, RUNS, move |gpu, case| device::check(gpu, case, dtype, 11));
    }
    cuda.and(emulated).run()
}
