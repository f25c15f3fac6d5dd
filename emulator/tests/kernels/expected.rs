//! What the correct kernels must compute, from what their arguments held before.

use half::f16;

/// Outputs from inputs.
pub(crate) type Expected = fn(&[Vec<u8>]) -> Vec<Vec<u8>>;

/// What the kernel of this name computes.
pub(crate) fn of(name: &str) -> Option<Expected> {
    Some(match name {
        "tma_ring"
        | "store_writer_fence"
        | "store_reader_fence"
        | "store_double_buffer"
        | "cluster_signal"
        | "bulk_copy"
        | "racecheck_1d_bulk"
        | "racecheck_1d_tensor"
        | "shared_flag"
        | "test_wait"
        | "alternate_consumers"
        | "dsmem_bulk" => copy,
        "cluster_exchange" => |inputs| vec![[&inputs[0][256..], &inputs[0][..256]].concat()],
        "multicast" => |inputs| vec![inputs[0].repeat(2)],
        "ping_pong" => ping_pong,
        "warp_exchange" => |inputs| sums_of(&inputs[0], 32),
        "arrive_state" => |inputs| sums_of(&inputs[0], 64),
        "divergent_votes" => divergent_votes,
        "divergent_loop" => |_| vec![bytes((0..64u32).map(|t| triangle(t & 7) + triangle(t & 7 ^ 1)))],
        "last_block" => |inputs| {
            let parts: Vec<u32> = words(&inputs[0]).chunks(64).map(|part| part.iter().sum()).collect();
            vec![bytes(parts.iter().copied()), bytes([4]), bytes([parts.iter().sum()])]
        },
        "fenced_counter" => |_| vec![bytes(0..192), bytes([3]), bytes((0..64).map(|t| 3 * t + 192))],
        "spin_lock" => |_| vec![bytes([0]), bytes([42])],
        "lane_lock" => |_| vec![bytes([0]), bytes([6])],
        "message" => |inputs| vec![inputs[0].clone(), bytes([1]), inputs[0].clone()],
        "lane_poll" => |_| vec![bytes([1234])],
        "registers" => |_| vec![bytes((0..384).map(|t| if t < 128 { t } else { t + 1000 }))],
        "bulk_reduce" => |inputs| {
            let values = words(&inputs[0]);
            vec![bytes((0..32).map(|lane| values.iter().skip(lane).step_by(32).sum()))]
        },
        "barrier_reuse" => |_| vec![bytes((0..64).map(|t| t + 77))],
        "lanes_end_late" | "lanes_end_early" => |_| vec![bytes((0..16).map(|lane| lane ^ 1))],
        "warps_end_early" => |_| vec![bytes((0..64).map(|thread| thread ^ 32))],
        "half_warp" => |_| vec![bytes((0..48).rev())],
        "cas_negative" => |_| vec![bytes([7, u32::MAX])],
        "transpose" => |inputs| {
            let at = |row: usize, column: usize| &inputs[0][16 * row + 2 * column..][..2];
            vec![(0..64).flat_map(|i| at(i % 8, i / 8)).copied().collect()]
        },
        "arrive_drop" => |_| vec![bytes([16 * (1 + 2 + 3)])],
        "wgmma_ss_pipeline" => |inputs| {
            let (a, b) = (halves(&inputs[0]), halves(&inputs[1]));
            vec![b.chunks(8 * 32).flat_map(|b| floats(&product(&a, b, 32))).collect()]
        },
        "wgmma_rs_pipeline" => |inputs| vec![floats(&product(&halves(&inputs[0]), &halves(&inputs[1]), 64))],
        "wgmma_fp8" => |inputs| vec![floats(&product(&eighths(&inputs[0]), &eighths(&inputs[1]), 32))],
        "wgmma_epilogue" => |inputs| {
            let d = product(&halves(&inputs[0]), &halves(&inputs[1]), 16);
            vec![d.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()]
        },
        _ => return None,
    })
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))).collect()
}

fn bytes(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn halves(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|half| f16::from_le_bytes([half[0], half[1]]).to_f32()).collect()
}

/// FP8 with 4 exponent bits; normal numbers and zero only.
fn eighths(bytes: &[u8]) -> Vec<f32> {
    let value = |byte: u8| {
        let magnitude = (1.0 + f32::from(byte & 7) / 8.0) * 2f32.powi(i32::from(byte >> 3 & 15) - 7);
        if byte & 0x7F == 0 { 0.0 } else { magnitude.copysign(if byte >= 0x80 { -1.0 } else { 1.0 }) }
    };
    bytes.iter().map(|&byte| value(byte)).collect()
}

/// The inputs are so small that every sum is exact.
fn product(a: &[f32], b: &[f32], k: usize) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| std::iter::zip(a, b).map(|(a, b)| a * b).sum();
    a.chunks(k).flat_map(|a| b.chunks(k).map(move |b| dot(a, b))).collect()
}

fn copy(inputs: &[Vec<u8>]) -> Vec<Vec<u8>> {
    vec![inputs[0].clone()]
}

/// Everybody gets the sum of their group.
fn sums_of(input: &[u8], group: usize) -> Vec<Vec<u8>> {
    let values = words(input);
    vec![bytes(values.chunks(group).flat_map(|values| vec![values.iter().sum(); group]))]
}

fn triangle(n: u32) -> u32 {
    n * (n + 1) / 2
}

fn ping_pong(_: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (mut buffer, mut sums) = ([0u32; 32], [0u32; 64]);
    for turn in 0..8 {
        let own = &mut sums[32 * (turn % 2)..][..32];
        if turn >= 2 {
            own.iter_mut().enumerate().for_each(|(lane, sum)| *sum += buffer[(lane + 1) % 32]);
        }
        let first = 32 * (turn as u32 % 2);
        buffer = std::array::from_fn(|lane| own[lane] + first + lane as u32);
    }
    vec![bytes(sums)]
}

fn divergent_votes(inputs: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let values = words(&inputs[0]);
    let big =
        |parity: usize| values.iter().skip(parity).step_by(2).filter(|&&value| value >= 500).count() as u32;
    let total = 16 * (big(0) + values[0]) + 16 * (16 - big(1) + values[31]);
    vec![bytes([total; 32])]
}
