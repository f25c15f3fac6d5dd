//! Ten calls recorded in one CUDA graph, and how long each takes.

use flashcore::driver::{Event, Graph};
use flashcore::{Attention, Device, Dtype, Order, Shape, Tensor};

const CALLS: u32 = 10;

fn main() -> flashcore::Result<()> {
    let device = match Device::cuda(0) {
        Ok(device) => device,
        Err(error) => {
            println!("This example needs an H100 or H200: {error}");
            return Ok(());
        }
    };
    let stream = device.stream()?;
    let shape = Shape { batch: 4, seqlen: 4096, heads: 16, head_dim: 128 };
    let zeros = || Tensor::zeros(&device, Dtype::F16, shape, Order::Bshd);
    let (q, k, v, out) = (zeros()?, zeros()?, zeros()?, zeros()?);

    let attention = Attention::new();
    let graph = Graph::capture(&stream, |stream| {
        (0..CALLS).try_for_each(|_| attention.forward_into(stream, &q, &k, &v, &out, None))
    })?;
    let (start, end) = (Event::new(&device)?, Event::new(&device)?);
    for _ in 0..3 {
        start.record(&stream)?;
        // SAFETY: the tensors live until the end of `main`, and `elapsed_ms` waits for the work.
        unsafe { graph.launch(&stream)? };
        end.record(&stream)?;
        println!("{:.1} us a call", start.elapsed_ms(&end)? * 1000.0 / CALLS as f32);
    }
    Ok(())
}
