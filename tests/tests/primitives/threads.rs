//! Threads among themselves: mbarriers, shuffles, election, named barriers, register reallocation.

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::call::{Bytes, Call, Outcome};
use crate::case::{Case, difference};

/// Threads of two warpgroups.
const THREADS: u32 = 256;
/// Threads of three, which start with 168 registers each: two can grow only by what the first gives.
const REGISTER_THREADS: u32 = 384;
const LANES: u32 = 32;
/// Words that a thread of `probe_warp` writes, and which of them says whether it is elected.
const WORDS: usize = 8;
const ELECTED: usize = 6;

/// What `call`, of a symbol of this file, must give. Which lane is elected is the hardware's choice; here it is the
/// first.
pub(crate) fn predict(call: &Call) -> Outcome {
    let output = match call.symbol.as_str() {
        "probe_mbarrier" => Bytes::from_words(mbarrier(2, 5)),
        "probe_warp" => Bytes::from_words((0..THREADS).flat_map(warp)),
        "probe_registers" => {
            // Those that grow add one more.
            let sum = |(thread, word): (usize, u32)| word.wrapping_add(1 + u32::from(thread >= 128));
            Bytes::from_words(call.input.words().into_iter().enumerate().map(sum))
        }
        symbol => panic!("what is {symbol}?"),
    };
    Outcome { output, memory: None }
}

/// Whether parities 0 and 1 count as completed, before each of `states` arrivals at a barrier that expects `expected`.
fn mbarrier(expected: u32, states: u32) -> impl Iterator<Item = u32> {
    let (mut phase, mut pending) = (0, expected);
    (0..states).flat_map(move |_| {
        let completed = [0, 1].map(|parity| u32::from(phase & 1 != parity));
        pending -= 1;
        if pending == 0 {
            (phase, pending) = (phase + 1, expected);
        }
        completed
    })
}

fn warp(thread: u32) -> [u32; WORDS] {
    let lane = thread % LANES;
    let shuffled = |mask| lane ^ mask;
    let elected = u32::from(lane == 0);
    let other = 1000 + (thread + THREADS / 2) % THREADS;
    [shuffled(1), shuffled(2), shuffled(4), shuffled(8), shuffled(16), thread - lane, elected, other]
}

/// As the model, but any one lane of each warp may be the elected one.
pub(crate) fn judge_warp(call: &Call, seen: &Outcome) -> Result<(), String> {
    let expected = predict(call);
    let (mut canonical, mut words) = (seen.clone(), seen.output.words());
    for warp in words.chunks_mut(WORDS * LANES as usize) {
        let mut election: Vec<u32> = warp.iter().skip(ELECTED).step_by(WORDS).copied().collect();
        election.sort_unstable_by(|a, b| b.cmp(a));
        for (lane, vote) in election.into_iter().enumerate() {
            warp[WORDS * lane + ELECTED] = vote;
        }
    }
    canonical.output = Bytes::from_words(words);
    if canonical == expected { Ok(()) } else { Err(difference(&expected, &canonical)) }
}

fn call(symbol: &str, output_words: usize) -> Call {
    Call { symbol: symbol.into(), output_bytes: 4 * output_words, ..Call::default() }
}

fn registers() -> Call {
    let mut rng = StdRng::seed_from_u64(2);
    let input = Bytes::from_words((0..REGISTER_THREADS).map(|_| rng.random()));
    Call { input, ..call("probe_registers", REGISTER_THREADS as usize) }
}

/// The cases of this file.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::single("mbarrier", || call("probe_mbarrier", 10)),
        Case::single("warp", || call("probe_warp", WORDS * THREADS as usize)),
        Case::single("registers", registers),
    ]
}

/// The table of the PTX ISA's rule "the phase of that parity has completed", written out.
pub(crate) fn phases_alternate() -> Result<(), String> {
    let table: Vec<u32> = mbarrier(2, 5).collect();
    let expected = [0, 1, 0, 1, 1, 0, 1, 0, 0, 1];
    if table == expected { Ok(()) } else { Err(format!("{table:?}")) }
}

/// Another elected lane is as good, two or none are not.
pub(crate) fn one_lane_is_elected() -> Result<(), String> {
    let call = call("probe_warp", WORDS * THREADS as usize);
    let with = |votes: &[(usize, u32)]| {
        let mut words = predict(&call).output.words();
        for &(lane, vote) in votes {
            words[WORDS * lane + ELECTED] = vote;
        }
        judge_warp(&call, &Outcome { output: Bytes::from_words(words), memory: None }).is_ok()
    };
    match [with(&[(0, 0), (7, 1)]), with(&[(7, 1)]), with(&[(0, 0)]), with(&[(0, 2)])] {
        [true, false, false, false] => Ok(()),
        other => Err(format!("{other:?}")),
    }
}
