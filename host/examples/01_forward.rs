//! The smallest call: waves as q, k and v, and what comes out.

use flashcore::{Attention, Device, Order, Shape, Tensor};
use half::f16;

fn main() -> flashcore::Result<()> {
    let device = match Device::cuda(0) {
        Ok(device) => device,
        Err(error) => {
            println!("This example needs an H100 or H200: {error}");
            return Ok(());
        }
    };
    let stream = device.stream()?;
    let shape = Shape { batch: 2, seqlen: 1024, heads: 8, head_dim: 128 };
    let [q, k, v] = [0.3, 0.5, 0.7].map(|frequency| {
        let wave: Vec<f16> =
            (0..2 * 1024 * 8 * 128).map(|i| f16::from_f32((i as f32 * frequency).sin())).collect();
        Tensor::from_slice(&device, &wave, shape, Order::Bshd)
    });
    let out = Attention::new().forward(&stream, &q?, &k?, &v?)?;
    let values = out.to_vec::<f16>()?;
    println!("out {} starts with {:?}", out.shape(), &values[..4]);
    Ok(())
}
