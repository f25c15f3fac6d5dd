//! Where the work of each team of CTAs begins and ends, as a warp finds it on the device.

use std::process::ExitCode;

use flashcore::driver::Launch;
use flashcore::{Array, Device};
use flashcore_kernels::band::Band;
use flashcore_kernels::bundle::{Place, Sequence, part_before};
use flashcore_kernels::divisor::Divisor;
use flashcore_kernels::params::{FwdParams, General, Sequences, Work};
use flashcore_kernels::probe::{PROBE_SMEM, SEARCH, SEARCH_BLOCK_M};
use flashcore_kernels::schedule::Span;
use flashcore_tests::probes;
use flashcore_tests::side_inputs::{Lengths, cu_seqlens};
use flashcore_tests::suite::{Suite, backends};

/// Sequences, and how their work is shared out.
#[derive(Clone, Copy, Debug)]
struct Search {
    count: usize,
    lengths: Lengths,
    heads: u32,
    pack: u32,
    band: Band,
    teams: u32,
    team: u32,
}

const WINDOW: Band = Band { left: 100, right: 0, ..Band::FULL };
const CAUSAL: Band = Band { right: 0, ..Band::FULL };

/// The first place of the team of each CTA, and how many tiles it has, on the device.
fn places(gpu: &Device, params: &FwdParams, ctas: u32) -> flashcore::Result<Vec<(Place, u32)>> {
    let output = Array::from_slice(gpu, &vec![u32::MAX; 4 * ctas as usize])?;
    // SAFETY: `repr(C)` without padding, as the sizes say that are asserted where it is declared.
    let bytes =
        unsafe { std::slice::from_raw_parts((&raw const *params).cast::<u8>(), size_of::<FwdParams>()) };
    let launch = Launch {
        kernel: probes::image(SEARCH.symbol).expect("every micro-kernel is embedded"),
        grid: [ctas, 1, 1],
        block: SEARCH.threads,
        cluster: SEARCH.cluster,
        smem_bytes: PROBE_SMEM,
        overlaps_previous: false,
        params: &[bytes, &output.view().ptr().to_le_bytes()],
    };
    let stream = gpu.stream()?;
    // SAFETY: the parameters are those of the kernel, the output has four words for each CTA, and the arrays are the
    // caller's, who still has them when this has waited.
    unsafe { stream.launch(&launch)? };
    stream.synchronize()?;
    let bundle = |words: &[u32]| (Place { head: words[0], tile: words[1] }, words[2]);
    Ok(output.to_vec()?.chunks(4).map(bundle).collect())
}

fn check(gpu: &Device, search: &Search) -> flashcore::Result<()> {
    let Search { count, lengths, heads, pack, band, teams, team } = *search;
    let (q, kv) = (lengths.draw(count, 1), lengths.draw(count, 2));
    let [total_q, total_kv] = [&q, &kv].map(|lengths| lengths.iter().sum::<usize>() as u32);
    let [start_q, start_kv] = [&q, &kv].map(|lengths| Array::from_slice(gpu, &cu_seqlens(lengths)));
    let (start_q, start_kv) = (start_q?, start_kv?);
    let sequences = Sequences {
        start_q: start_q.view().ptr(),
        start_kv: start_kv.view().ptr(),
        count: count as u32,
        teams,
        team: Divisor::new(team),
        uneven: u32::from(team != 1),
        ..General::NONE.sequences
    };
    let params = FwdParams {
        lse: 0,
        seqlen_q: total_q,
        seqlen_kv: total_kv,
        heads_q: Divisor::new(heads),
        gqa_ratio: Divisor::new(1),
        work: Work::new(0, 0, 0, 1),
        scale_log2: 1.0,
        general: General { sequences, band, pack, packed_heads: 1 << pack, ..General::NONE },
        descales: flashcore_kernels::fp8::Descales::NONE,
    };
    let found = places(gpu, &params, teams * team)?;
    let found: Vec<(Place, u32)> = found
        .chunks(team as usize)
        .map(|members| {
            assert!(members.iter().all(|bundle| *bundle == members[0]), "{search:?}: a team has one bundle");
            members[0]
        })
        .collect();

    let end = Place { head: count as u32 * heads, tile: 0 };
    let span = |len: usize| Span { start: 0, len: len as u32 };
    let sequence = |batch: usize| Sequence { q: span(q[batch]), kv: span(kv[batch]), prefix: 0 };
    // What comes before a place, as it is counted there, in f64.
    let costs: Vec<f64> =
        (0..count).map(|batch| f64::from(sequence(batch).cost_of_head(&params, SEARCH_BLOCK_M))).collect();
    let before = |place: Place| {
        let (batch, head) = ((place.head / heads) as usize, place.head % heads);
        let earlier: f64 = costs[..batch].iter().sum::<f64>() * f64::from(heads);
        let of_last = || f64::from(sequence(batch).cost_of_last(&params, SEARCH_BLOCK_M, place.tile));
        earlier + if batch == count { 0.0 } else { f64::from(head) * costs[batch] + of_last() }
    };
    let whole = before(end);
    let tiles = |batch: usize| sequence(batch).tiles(&params, SEARCH_BLOCK_M);
    let passed = |place: Place| {
        let (batch, head) = ((place.head / heads) as usize, place.head % heads);
        let within = if batch == count { 0 } else { head * tiles(batch) + place.tile };
        (0..batch).map(|batch| heads * tiles(batch)).sum::<u32>() + within
    };
    let mut last = 0;
    for (number, &(from, tiles_of_team)) in found.iter().enumerate() {
        // No tile is lost between teams; what comes before the first one costs nothing.
        if number == 0 {
            assert_eq!(before(from), 0.0, "{search:?}: begins at {from:?}");
        }
        assert_eq!(passed(from), last, "{search:?}: team {number} begins where the one before ends");
        if from != end {
            let tiles = tiles((from.head / heads) as usize);
            assert!(from.tile <= tiles, "{search:?}: team {number} begins at {from:?} of {tiles} tiles");
        }
        last += tiles_of_team;
        // Each place is within half of the tile that it is at, or behind it; and what was rounded.
        let share = f64::from(part_before(number as u32, 1.0 / teams as f32, team != 1)) * whole;
        let tile = f64::from(*kv.iter().max().unwrap_or(&0) as u32) + 256.0;
        let off = (before(from) - share).abs();
        assert!(
            off <= tile / 2.0 + 2e-5 * whole,
            "{search:?}: team {number} begins {off} off {share} of {whole}"
        );
    }
    assert_eq!(last, passed(end), "{search:?}: the last team ends at the end");
    Ok(())
}

fn main() -> ExitCode {
    let mut suite = Suite::on(backends());
    let mixes = [
        ("equal", Lengths::Equal(300)),
        ("none", Lengths::Equal(0)),
        ("one", Lengths::Equal(1)),
        ("served", Lengths::SERVED),
        ("with_zeros", Lengths::WithZeros { longest: 900 }),
        ("with_ones", Lengths::WithOnes { longest: 2000 }),
    ];
    for (mix, lengths) in mixes {
        for count in [0, 1, 5, 31, 32, 33, 64, 65, 97, 300] {
            suite.test(format!("{mix}_{count}"), move |gpu| {
                [
                    (1, 0, Band::FULL, 4, 1),
                    (5, 0, CAUSAL, 7, 3),
                    (2, 3, CAUSAL, 24, 2),
                    (3, 2, WINDOW, 13, 5),
                    (1, 0, WINDOW, 1, 3),
                ]
                .into_iter()
                .try_for_each(|(heads, pack, band, teams, team)| {
                    check(gpu, &Search { count, lengths, heads, pack, band, teams, team })
                })
            });
        }
    }
    suite.run()
}
