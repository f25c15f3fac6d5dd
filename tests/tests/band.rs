//! What the launch or the device tells general kernels, against plain definitions: the keys that a query sees, the key
//! tiles that follow from them, and the work tiles of a bundle.

use flashcore_kernels::band::{Band, Lengths, UNLIMITED};
use flashcore_kernels::bundle::{Bundle, Member, Place, Sequence, part_before};
use flashcore_kernels::divisor::Divisor;
use flashcore_kernels::params::{FwdParams, General, Work};
use flashcore_kernels::schedule::{KeyBlocks, Span};
use proptest::prelude::*;

/// The definition, in numbers that do not overflow.
fn sees(band: &Band, lengths: Lengths, query: u32, key: i64) -> bool {
    let diagonal = if band.top_left == 0 { i64::from(lengths.kv) - i64::from(lengths.q) } else { 0 };
    let stands = i64::from(query) + diagonal;
    let within = |distance: i32, keys: i64| distance == UNLIMITED || keys <= i64::from(distance);
    let in_window = within(band.left, stands - key) && within(band.right, key - stands);
    let chunk = i64::from(band.chunk.value);
    let in_chunk = chunk == 0 || key.div_euclid(chunk) == stands.div_euclid(chunk);
    let exists = (0..i64::from(lengths.kv)).contains(&key);
    exists && (in_window && in_chunk || key < i64::from(lengths.prefix))
}

fn distances(limit: i32) -> impl Strategy<Value = i32> {
    prop_oneof![2 => 0..limit, 1 => Just(0), 2 => Just(UNLIMITED), 1 => 0..=UNLIMITED]
}

/// Bands as the host makes them, for sequences of at most `limit`: a prefix goes with neither left nor chunk.
fn bands(limit: i32) -> impl Strategy<Value = (Band, u32)> {
    let chunk = prop_oneof![2 => Just(0u32), 2 => 1..2 * limit as u32, 1 => Just(UNLIMITED as u32)];
    let prefix = prop_oneof![2 => Just(None), 1 => (0..2 * limit as u32).prop_map(Some)];
    (distances(limit), distances(limit), chunk, any::<bool>(), prefix).prop_map(
        |(left, right, chunk, top_left, prefix)| {
            let narrow = Band { left, chunk: Divisor::new(chunk), ..Band::FULL };
            let within = if prefix.is_some() { Band::FULL } else { narrow };
            (Band { right, top_left: top_left.into(), ..within }, prefix.unwrap_or(0))
        },
    )
}

fn params(heads: u32, ratio: u32, pack: u32, band: Band) -> FwdParams {
    FwdParams {
        lse: 0,
        seqlen_q: 0,
        seqlen_kv: 0,
        heads_q: Divisor::new(heads),
        gqa_ratio: Divisor::new(ratio),
        work: Work::new(0, 0, 0, 1),
        scale_log2: 1.0,
        general: General { band, pack, packed_heads: 1 << pack, ..General::NONE },
        descales: flashcore_kernels::fp8::Descales::NONE,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_query_sees_what_the_definition_says(q in 1..90u32, kv in 0..90u32, (band, prefix) in bands(90)) {
        let lengths = Lengths { q, kv, prefix };
        for query in 0..q {
            let [first, end] = band.keys(query, lengths).map(i64::from);
            for key in -2..i64::from(kv) + 2 {
                prop_assert_eq!((first..end).contains(&key), sees(&band, lengths, query, key), "query {}, key {}", query, key);
            }
        }
    }

    /// The same around the ends of the range, where lengths, distances and prefixes are as large as they get.
    #[test]
    fn nothing_overflows(
        [q, kv] in [0..=UNLIMITED as u32, 0..=UNLIMITED as u32], short in 1..4u32, which in 0..6u32,
        query: u32, (band, prefix) in bands(UNLIMITED), any_prefix: u32,
    ) {
        let (q, kv) = match which {
            0 => (UNLIMITED as u32, UNLIMITED as u32),
            1 => (short, UNLIMITED as u32),
            2 => (UNLIMITED as u32, short),
            _ => (q.max(1), kv),
        };
        // What is on the device may be anything; as i32 it may be negative.
        let prefix = if prefix == 0 { 0 } else { any_prefix };
        let lengths = Lengths { q, kv, prefix: if (prefix as i32) < 0 { 0 } else { prefix } };
        for query in [0, q - 1, query % q] {
            let [first, end] = band.keys(query, Lengths { prefix, ..lengths });
            prop_assert!((0..=kv as i32).contains(&first) && (0..=kv as i32).contains(&end), "{first}..{end}");
            for key in [first - 1, first, end - 1, end, (first + end) / 2].map(i64::from) {
                let inside = (i64::from(first)..i64::from(end)).contains(&key);
                prop_assert_eq!(inside, sees(&band, lengths, query, key), "query {}, key {}", query, key);
            }
            let visible = band.visible(query, lengths);
            prop_assert!(visible.is_finite(), "{visible}");
        }
    }

    #[test]
    fn ranges_rise_with_the_query(q in 2..400u32, kv in 0..400u32, (band, prefix) in bands(400)) {
        let lengths = Lengths { q, kv, prefix };
        for query in 1..q {
            let (before, here) = (band.keys(query - 1, lengths), band.keys(query, lengths));
            prop_assert!(before[0] <= here[0] && before[1] <= here[1], "{before:?}, then {here:?} at {query}");
        }
    }

    #[test]
    fn key_blocks_are_those_that_rows_see(
        q in 1..300u32, kv in 0..400u32, (band, prefix) in bands(300), first_row in 0..1400u32, pack in 0..5u32,
        rows in prop::sample::select(vec![1u32, 16, 64, 128, 192]),
        block_n in prop::sample::select(vec![16u32, 80, 128]),
    ) {
        let lengths = Lengths { q, kv, prefix };
        let first_row = first_row % ((q << pack) + 2 * rows);
        let blocks = KeyBlocks::of_band(&band, first_row, rows, block_n, lengths, pack);
        let queries: Vec<u32> = (first_row..first_row + rows).map(|row| row >> pack).filter(|&query| query < q).collect();
        for block in 0..kv.div_ceil(block_n) + 2 {
            let keys = || (block * block_n..(block + 1) * block_n).map(i64::from);
            let any = queries.iter().any(|&query| keys().any(|key| sees(&band, lengths, query, key)));
            let all = queries.iter().all(|&query| keys().all(|key| sees(&band, lengths, query, key)));
            prop_assert_eq!((blocks.first..blocks.end).contains(&block), any, "key block {}: {:?}", block, blocks);
            if any {
                prop_assert_eq!((blocks.clear..blocks.full).contains(&block), all, "key block {}: {:?}", block, blocks);
            }
        }
    }

    /// Exact but for rounding under windows; under chunks and prefixes work is only estimated.
    #[test]
    fn visible_keys_are_counted(q in 1..3000u32, kv in 0..3000u32, (band, prefix) in bands(3000), from: u32) {
        let lengths = Lengths { q, kv, prefix };
        let from = from % (q + 1);
        let visible = f64::from(band.visible(from, lengths));
        // Of two sums as large as this, each rounded.
        let rounding = 1e-6 * f64::from(q) * f64::from(kv);
        if band.chunk.value == 0 && prefix == 0 {
            let exact: i64 = (from..q).map(|query| band.keys(query, lengths)).map(|[first, end]| i64::from((end - first).max(0))).sum();
            prop_assert!((visible - exact as f64).abs() <= rounding, "{visible} instead of {exact}");
        } else {
            let all = f64::from(q - from) * f64::from(kv);
            prop_assert!((-rounding..=all + rounding).contains(&visible), "{visible} of {all}");
        }
    }

    /// Pieces of the order of work tiles, wherever it is cut, have every tile once and in order.
    #[test]
    fn bundles_have_every_tile_once(
        lens in prop::collection::vec(prop_oneof![3 => 0..700u32, 1 => Just(0u32), 1 => Just(1u32)], 0..12),
        heads in 1..5u32, ratio in 1..4u32, pack in 0..4u32, cuts in prop::collection::vec(any::<(u32, u32)>(), 0..9),
        block_m in prop::sample::select(vec![64u32, 128, 192]), team in 1..6u32,
    ) {
        let mut params = params(heads * ratio, ratio, pack, Band::FULL);
        params.general.sequences.count = lens.len() as u32;
        let kv = Span { start: 7, len: 5 };
        let sequence = |batch: u32| {
            let start = lens[..batch as usize].iter().sum();
            Sequence { q: Span { start, len: lens[batch as usize] }, kv, prefix: 0 }
        };
        let end = Place { head: lens.len() as u32 * heads * ratio, tile: 0 };
        // Places as the search gives them: of a tile, or behind the last one of a head.
        let mut places: Vec<Place> = cuts
            .into_iter()
            .filter(|_| end.head > 0)
            .map(|(head, tile)| {
                let head = head % end.head;
                Place { head, tile: tile % (sequence(head / (heads * ratio)).tiles(&params, block_m) + 1) }
            })
            .chain([Place::START, end])
            .collect();
        places.sort_unstable();
        let expected: Vec<_> = (0..lens.len() as u32)
            .flat_map(|batch| (0..heads * ratio).map(move |head| (batch, head)))
            .flat_map(|(batch, head)| {
                let tiles = (lens[batch as usize] << pack).div_ceil(block_m);
                (0..tiles).rev().map(move |tile| (batch, head, tile))
            })
            .collect();
        let number = |place: Place| {
            let before = |&&(batch, head, _): &&(u32, u32, u32)| batch * heads * ratio + head < place.head;
            expected.iter().filter(before).count() as u32 + place.tile
        };
        for pair in places.windows(2) {
            let [from, to] = [pair[0], pair[1]].map(number);
            let all = &expected[from as usize..to as usize];
            // In each round but the first every member has one of the next tiles.
            let mut rounds: Vec<Vec<_>> = all.rchunks(team as usize).rev().map(<[_]>::to_vec).collect();
            for number in 0..team {
                let member = Member { team, number };
                let mut bundle = Bundle::new(pair[0], to - from, (to - from).div_ceil(team), member);
                let mut found = Vec::new();
                while let Some(tile) = bundle.next(&params, block_m, member, sequence) {
                    let lengths = (sequence(tile.batch).q, kv, tile.head / ratio);
                    prop_assert_eq!((tile.q, tile.kv, tile.head_kv), lengths);
                    found.push((tile.batch, tile.head, tile.m_block));
                }
                let first = rounds.len() - found.len();
                prop_assert!(first <= 1);
                for (round, tile) in rounds[first..].iter_mut().zip(found) {
                    let at = round.iter().position(|&left| left == tile);
                    prop_assert!(at.is_some(), "{:?} is not among {:?}", tile, round);
                    round.remove(at.expect("it is there"));
                }
            }
            prop_assert!(rounds.iter().all(Vec::is_empty), "{:?} are left", rounds);
        }
    }

    /// Where tiles were miscounted, nobody is asked for a sequence that there is none of.
    #[test]
    fn bundles_end_with_the_last_sequence(
        lens in prop::collection::vec(0..700u32, 0..6), heads in 1..5u32, head in 0..40u32, tile in 0..9u32,
        tiles in 0..1_000_000u32, team in 1..6u32,
    ) {
        let mut params = params(heads, 1, 0, Band::FULL);
        params.general.sequences.count = lens.len() as u32;
        let sequence = |batch: u32| {
            let span = Span { start: 0, len: lens[batch as usize] };
            Sequence { q: span, kv: span, prefix: 0 }
        };
        let all: u32 = lens.iter().map(|len| len.div_ceil(128) * heads).sum();
        for number in 0..team {
            let member = Member { team, number };
            let mut bundle = Bundle::new(Place { head, tile }, tiles, tiles.div_ceil(team), member);
            let mut found = 0;
            while bundle.next(&params, 128, member, sequence).is_some() {
                found += 1;
            }
            prop_assert!(found <= all, "{found} tiles of {all}");
        }
    }

    /// What a head's last tiles cost rises by what each of them does, up to all that the head costs.
    #[test]
    fn costs_rise_tile_by_tile(
        q in 1..5000u32, kv in 0..5000u32, (band, prefix) in bands(5000), pack in 0..4u32,
        block_m in prop::sample::select(vec![64u32, 128, 192]),
    ) {
        let params = params(3, 1, pack, band);
        let span = |len| Span { start: 0, len };
        let sequence = Sequence { q: span(q), kv: span(kv), prefix };
        let tiles = sequence.tiles(&params, block_m);
        prop_assert_eq!(tiles, (q << pack).div_ceil(block_m));
        let costs: Vec<f32> = (0..=tiles).map(|tiles| sequence.cost_of_last(&params, block_m, tiles)).collect();
        prop_assert_eq!((costs[0], costs[tiles as usize]), (0.0, sequence.cost_of_head(&params, block_m)));
        for pair in costs.windows(2) {
            // Each costs something, and no more than all keys, and the cost of a tile itself.
            let cost = pair[1] - pair[0];
            prop_assert!(cost > 0.0 && cost <= 1.001 * (kv as f32 + 256.0), "{cost} of {kv} keys");
        }
    }
}

/// For more teams than are planned for: from nothing to everything, without a step back.
#[test]
fn parts_rise_from_nothing_to_everything() {
    for (teams, falling) in (1..=200u32).flat_map(|teams| [(teams, false), (teams, true)]) {
        let part = 1.0 / teams as f32;
        let parts: Vec<f32> = (0..=teams).map(|team| part_before(team, part, falling)).collect();
        assert_eq!(parts[0], 0.0);
        assert!((parts[teams as usize] - 1.0).abs() < 1e-6, "{teams}: {}", parts[teams as usize]);
        for pair in parts.windows(2) {
            assert!(pair[0] <= pair[1], "{teams} teams: {} after {}", pair[1], pair[0]);
        }
        let [first, last] = [parts[1], parts[teams as usize] - parts[teams as usize - 1]];
        assert!(!falling || first >= last, "{teams} teams: from {first} to {last}");
    }
}
