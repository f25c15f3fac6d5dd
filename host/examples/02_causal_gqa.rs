//! A causal mask, 8 query heads that share 2 K/V heads, the log-sum-exp, and the plan behind the call.

use flashcore::{Attention, Device, Dtype, Order, Plan, Shape, Tensor};

fn main() -> flashcore::Result<()> {
    let device = Device::cuda_or_emulated()?;
    let stream = device.stream()?;
    // The last 100 of 512 positions are new: aligned bottom-right, each sees all that came before it.
    let new = Shape { batch: 1, seqlen: 100, heads: 8, head_dim: 128 };
    let cached = Shape { seqlen: 512, heads: 2, ..new };
    let q = Tensor::zeros(&device, Dtype::Bf16, new, Order::Bhsd)?;
    let k = Tensor::zeros(&device, Dtype::Bf16, cached, Order::Bhsd)?;
    let v = Tensor::zeros(&device, Dtype::Bf16, cached, Order::Bhsd)?;

    let attention = Attention::new().causal(true).scale(0.1);
    let (out, lse) = attention.forward_with_lse(&stream, &q, &k, &v)?;
    // All scores are 0, so that the log-sum-exp of a row is the logarithm of the keys it sees.
    println!("the first query sees {:.0} keys", lse.to_vec()?[0].exp());

    let problem = attention.problem(&q.view(), &k.view(), &v.view(), &out.view(), Some(&lse.view()))?;
    println!("{}", Plan::new(&problem, device.properties())?);
    Ok(())
}
