//! Runs each function once, and on a GPU measures how long it takes beside plain attention.

use anyhow::Result;
use comfy_table::Table;
use flashcore::driver::{Event, Graph};
use flashcore::{Array, Attention, Device, Order, Shape, Stream, Tensor};
use flashcore_example_score_mod::{ALIBI, DOCUMENTS, TANH_SOFTCAP};
use flashcore_example_score_mod_kernels::{Cap, Ids, Slopes};
use half::f16;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;

/// Calls that are timed together, and how often.
const CALLS: u32 = 10;
const ROUNDS: u32 = 10;

fn main() -> Result<()> {
    let device = Device::cuda_or_emulated()?;
    let timed = device.emulator().is_none();
    // The emulator is for small problems.
    let (batch, seqlen, heads) = if timed { (4, 4096, 16) } else { (1, 256, 2) };
    let shape = Shape { batch, seqlen, heads, head_dim: 128 };
    let mut rng = StdRng::seed_from_u64(0);
    let mut random = || {
        let numbers = (0..shape.batch * shape.seqlen * shape.heads * shape.head_dim)
            .map(|_| f16::from_f32(rng.sample(StandardNormal)));
        Tensor::from_slice(&device, &numbers.collect::<Vec<_>>(), shape, Order::Bshd)
    };
    let inputs = [random()?, random()?, random()?];

    let slopes: Vec<f32> = (1..=heads).map(|head| (-8.0 * head as f32 / heads as f32).exp2()).collect();
    let slopes = Array::from_slice(&device, &slopes)?;
    // Eight documents in each sequence.
    let ids: Vec<i32> = (0..batch * seqlen).map(|token| (token % seqlen * 8 / seqlen) as i32).collect();
    let ids = Array::from_slice(&device, &ids)?;
    let causal = Attention::new().causal(true);
    // SAFETY: there is a slope for each head and a number for each token, and both live on to the end.
    let calls = unsafe {
        [
            ("plain", causal),
            ("ALiBi", causal.score_mod(&ALIBI, Slopes(slopes.view().numbers()))),
            ("tanh softcap", causal.score_mod(&TANH_SOFTCAP, Cap::new(30.0))),
            ("documents", causal.score_mod(&DOCUMENTS, Ids(ids.view().numbers()))),
        ]
    };
    println!("{}, {shape}, causal, f16", device.properties().name);
    let mut table = Table::new();
    table.set_header(["", "first numbers of the last row", "µs", "TFLOPS (of plain causal attention)"]);
    let stream = device.stream()?;
    for (name, attention) in calls {
        let [q, k, v] = &inputs;
        let out = attention.forward(&stream, q, k, v)?.to_vec::<f16>()?;
        let row = &out[out.len() - shape.head_dim..];
        let (time, rate) = if timed {
            let us = microseconds(&stream, &attention, &inputs)?;
            let flops = 2.0 * (batch * heads * seqlen * seqlen * shape.head_dim) as f64;
            (format!("{us:.1}"), format!("{:.0}", flops / us / 1e6))
        } else {
            ("no clock".to_owned(), String::new())
        };
        table.add_row([name, &format!("{:?}", &row[..3]), &time, &rate]);
    }
    println!("{table}");
    Ok(())
}

/// Time of a call: the shortest mean of several rounds.
fn microseconds(stream: &Stream, attention: &Attention, [q, k, v]: &[Tensor; 3]) -> Result<f64> {
    let out = Tensor::zeros(stream.device(), q.dtype(), q.shape(), Order::Bshd)?;
    let graph = Graph::capture(stream, |stream| {
        (0..CALLS).try_for_each(|_| attention.forward_into(stream, q, k, v, &out, None))
    })?;
    let [start, end] = [Event::new(stream.device())?, Event::new(stream.device())?];
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        start.record(stream)?;
        // SAFETY: the tensors live on, and what the functions read, too: the caller waits for the end.
        unsafe { graph.launch(stream)? };
        end.record(stream)?;
        stream.synchronize()?;
        best = best.min(f64::from(start.elapsed_ms(&end)?) * 1e3 / f64::from(CALLS));
    }
    Ok(best)
}
