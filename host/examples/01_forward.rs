//! The smallest call: waves as q, k and v, and what comes out.

use flashcore::{Attention, Device, Order, Shape, Tensor};
use half::f16;

fn main() -> flashcore::Result<()> {
    let device = Device::cuda_or_emulated()?;
    let stream = device.stream()?;
    let shape = Shape { batch: 1, seqlen: 256, heads: 4, head_dim: 128 };
    let [q, k, v] = [0.3, 0.5, 0.7].map(|frequency| {
        let wave: Vec<f16> =
            (0..256 * 4 * 128).map(|i| f16::from_f32((i as f32 * frequency).sin())).collect();
        Tensor::from_slice(&device, &wave, shape, Order::Bshd)
    });
    let out = Attention::new().forward(&stream, &q?, &k?, &v?)?;
    let values = out.to_vec::<f16>()?;
    println!("out {} starts with {:?}", out.shape(), &values[..4]);
    Ok(())
}
