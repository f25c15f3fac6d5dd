//! A decoder-only transformer, its attention by flashcore and by candle, and how much the two differ.
//!
//! RMSNorm, rotary embedding, grouped-query attention, SwiGLU; weights are random, but go through a safetensors file as
//! those of a real model do. Both paths compute in f16 or bf16; the same model in f32 says how far each is from right.

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::{
    Embedding, Linear, Module, RmsNorm, VarBuilder, embedding, linear_no_bias, ops, rms_norm, rotary_emb,
};
use clap::{Parser, ValueEnum};
use flashcore_candle::flash_attn;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Run a decoder-only transformer with flashcore's attention and with candle's, and compare the logits
///
/// On the CPU, flashcore's kernels run on its emulator, which takes small sizes only.
#[derive(Clone, Debug, Parser)]
#[command(after_help = "Examples:\n  cargo run --release --example decoder\n  \
    cargo run --release --features cuda --example decoder -- --device cuda --dtype bf16 --tokens 8192")]
struct Arguments {
    /// Where to compute
    #[arg(long, value_enum, default_value = "cpu")]
    device: Place,
    /// Element type of weights and activations; candle multiplies no bf16 matrices on the CPU
    #[arg(long, value_enum, default_value = "f16")]
    dtype: Precision,
    /// Tokens of a sequence [default: 96 on the CPU, 4096 on a GPU]
    #[arg(long)]
    tokens: Option<usize>,
    /// Seed of weights and tokens
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Place {
    Cpu,
    Cuda,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Precision {
    F16,
    Bf16,
}

/// Sizes of a model.
#[derive(Clone, Copy, Debug)]
struct Config {
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    intermediate: usize,
    vocabulary: usize,
}

impl Config {
    const SMALL: Config =
        Config { layers: 2, heads: 4, kv_heads: 2, head_dim: 64, intermediate: 512, vocabulary: 500 };
    const LARGE: Config =
        Config { layers: 4, heads: 16, kv_heads: 4, head_dim: 128, intermediate: 5632, vocabulary: 32_000 };

    fn hidden(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Every weight of the model: name and shape, (out, in) if it is a matrix.
    fn weights(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, queries) = (self.hidden(), self.heads * self.head_dim);
        let keys = self.kv_heads * self.head_dim;
        let mut weights = vec![
            ("embedding.weight".to_owned(), vec![self.vocabulary, hidden]),
            ("norm.weight".to_owned(), vec![hidden]),
            ("head.weight".to_owned(), vec![self.vocabulary, hidden]),
        ];
        for layer in 0..self.layers {
            let of_layer = [
                ("attention_norm", vec![hidden]),
                ("q", vec![queries, hidden]),
                ("k", vec![keys, hidden]),
                ("v", vec![keys, hidden]),
                ("out", vec![hidden, queries]),
                ("mlp_norm", vec![hidden]),
                ("gate", vec![self.intermediate, hidden]),
                ("up", vec![self.intermediate, hidden]),
                ("down", vec![hidden, self.intermediate]),
            ];
            weights.extend(of_layer.map(|(name, shape)| (format!("layer{layer}.{name}.weight"), shape)));
        }
        weights
    }
}

/// Writes random weights: ones with noise for norms, else uniform numbers of variance 1 / inputs.
fn write_weights(config: &Config, dtype: DType, seed: u64, file: &Path) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut tensors = HashMap::new();
    for (name, shape) in config.weights() {
        let inputs = shape.get(1);
        let reach = inputs.map_or(0.1, |&inputs| (3.0 / inputs as f32).sqrt());
        let center = if inputs.is_none() { 1.0 } else { 0.0 };
        let data: Vec<f32> =
            (0..shape.iter().product()).map(|_| center + random.random_range(-reach..reach)).collect();
        tensors.insert(name, Tensor::from_vec(data, shape, &Device::Cpu)?.to_dtype(dtype)?);
    }
    Ok(candle_core::safetensors::save(&tensors, file)?)
}

/// Who computes attention: q is (batch, tokens, heads, head_dim), k and v have fewer heads.
type AttentionFn = fn(&Tensor, &Tensor, &Tensor) -> candle_core::Result<Tensor>;

fn scale(q: &Tensor) -> candle_core::Result<f32> {
    Ok(1.0 / (q.dim(D::Minus1)? as f32).sqrt())
}

/// flashcore, in one kernel.
fn flash(q: &Tensor, k: &Tensor, v: &Tensor) -> candle_core::Result<Tensor> {
    flash_attn(q, k, v, scale(q)?, true, false)
}

/// candle, operation by operation, the softmax in f32.
fn unfused(q: &Tensor, k: &Tensor, v: &Tensor) -> candle_core::Result<Tensor> {
    let (batch, tokens, heads, head_dim) = q.dims4()?;
    let kv_heads = k.dim(2)?;
    // (batch, heads, tokens, head_dim), each key/value head repeated for the query heads that share it.
    let repeated = |x: &Tensor| {
        let x = x.transpose(1, 2)?.unsqueeze(2)?;
        let x = x.broadcast_as((batch, kv_heads, heads / kv_heads, tokens, head_dim))?;
        x.reshape((batch, heads, tokens, head_dim))
    };
    let scores = q.transpose(1, 2)?.contiguous()?.matmul(&repeated(k)?.t()?)?;
    let scores = (scores.to_dtype(DType::F32)? * f64::from(scale(q)?))?;
    let index = Tensor::arange(0, tokens as u32, q.device())?;
    let hidden = index.unsqueeze(0)?.broadcast_gt(&index.unsqueeze(1)?)?.broadcast_as(scores.shape())?;
    let nothing = Tensor::new(f32::NEG_INFINITY, q.device())?.broadcast_as(scores.shape())?;
    let weights = ops::softmax_last_dim(&hidden.where_cond(&nothing, &scores)?)?.to_dtype(q.dtype())?;
    weights.matmul(&repeated(v)?)?.transpose(1, 2)?.contiguous()
}

struct Layer {
    attention_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    mlp_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Layer {
    fn new(config: &Config, weights: VarBuilder) -> candle_core::Result<Self> {
        let (hidden, keys) = (config.hidden(), config.kv_heads * config.head_dim);
        let linear = |from, to, name| linear_no_bias(from, to, weights.pp(name));
        Ok(Layer {
            attention_norm: rms_norm(hidden, EPSILON, weights.pp("attention_norm"))?,
            q: linear(hidden, hidden, "q")?,
            k: linear(hidden, keys, "k")?,
            v: linear(hidden, keys, "v")?,
            out: linear(hidden, hidden, "out")?,
            mlp_norm: rms_norm(hidden, EPSILON, weights.pp("mlp_norm"))?,
            gate: linear(hidden, config.intermediate, "gate")?,
            up: linear(hidden, config.intermediate, "up")?,
            down: linear(config.intermediate, hidden, "down")?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        [cos, sin]: &[Tensor; 2],
        head_dim: usize,
        attention: AttentionFn,
    ) -> candle_core::Result<Tensor> {
        let (batch, tokens, hidden) = x.dims3()?;
        let y = self.attention_norm.forward(x)?;
        let heads = |projected: Tensor| projected.reshape((batch, tokens, (), head_dim));
        let rotated = |x: Tensor| rotary_emb::rope_thd(&x, cos, sin);
        let (q, k, v) =
            (heads(self.q.forward(&y)?)?, heads(self.k.forward(&y)?)?, heads(self.v.forward(&y)?)?);
        let attended = attention(&rotated(q)?, &rotated(k)?, &v)?;
        let x = (x + self.out.forward(&attended.reshape((batch, tokens, hidden))?)?)?;
        let y = self.mlp_norm.forward(&x)?;
        let gated = (self.gate.forward(&y)?.silu()? * self.up.forward(&y)?)?;
        x + self.down.forward(&gated)?
    }
}

const EPSILON: f64 = 1e-5;
const ROPE_BASE: f32 = 10_000.0;

struct Decoder {
    config: Config,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
    /// Cosine and sine of each position's angles: (tokens, head_dim / 2).
    rotations: [Tensor; 2],
}

impl Decoder {
    fn new(config: Config, tokens: usize, weights: &VarBuilder) -> Result<Self> {
        let (hidden, vocabulary) = (config.hidden(), config.vocabulary);
        let layer = |i| Layer::new(&config, weights.pp(format!("layer{i}")));
        let frequencies: Vec<f32> = (0..config.head_dim)
            .step_by(2)
            .map(|i| ROPE_BASE.powf(-(i as f32) / config.head_dim as f32))
            .collect();
        let positions = Tensor::arange(0, tokens as u32, weights.device())?.to_dtype(DType::F32)?;
        let frequencies = Tensor::new(frequencies, weights.device())?.unsqueeze(0)?;
        let angles = positions.unsqueeze(1)?.broadcast_mul(&frequencies)?;
        Ok(Decoder {
            config,
            embedding: embedding(vocabulary, hidden, weights.pp("embedding"))?,
            layers: (0..config.layers).map(layer).collect::<candle_core::Result<_>>()?,
            norm: rms_norm(hidden, EPSILON, weights.pp("norm"))?,
            head: linear_no_bias(hidden, vocabulary, weights.pp("head"))?,
            rotations: [angles.cos()?.to_dtype(weights.dtype())?, angles.sin()?.to_dtype(weights.dtype())?],
        })
    }

    /// The logits in f32, (batch, tokens, vocabulary), for (batch, tokens) numbers of tokens.
    fn forward(&self, tokens: &Tensor, attention: AttentionFn) -> candle_core::Result<Tensor> {
        let x = self.embedding.forward(tokens)?;
        let x = self
            .layers
            .iter()
            .try_fold(x, |x, layer| layer.forward(&x, &self.rotations, self.config.head_dim, attention))?;
        self.head.forward(&self.norm.forward(&x)?)?.to_dtype(DType::F32)
    }
}

/// Runs `forward` once to warm up, then again; the result, and how long the second run took.
fn timed(device: &Device, forward: impl Fn() -> candle_core::Result<Tensor>) -> Result<(Tensor, Duration)> {
    forward()?;
    device.synchronize()?;
    let start = Instant::now();
    let result = forward()?;
    device.synchronize()?;
    Ok((result, start.elapsed()))
}

fn largest_difference(a: &Tensor, b: &Tensor) -> Result<f32> {
    Ok((a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar()?)
}

/// What became of a comparison. Pairs are of the attention in question, and of candle's.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Largest error of a logit.
    errors: [f32; 2],
    /// Tokens whose most likely successor is the one of the model in f32.
    agreeing: [usize; 2],
    /// Of one forward pass.
    times: [Duration; 2],
    /// Largest difference of the two.
    difference: f32,
    tokens: usize,
}

impl Outcome {
    /// Whether flashcore is as good as candle, but for what rounding may do: an error of at most twice candle's, and
    /// another most likely successor where two are almost equally likely, which is rare.
    fn is_right(&self) -> bool {
        let [error, candle_error] = self.errors;
        let [agreeing, candle_agreeing] = self.agreeing;
        error <= 2.0 * candle_error && agreeing + self.tokens / 20 >= candle_agreeing
    }
}

/// The model with `attention`, and with candle's.
fn compare(arguments: &Arguments, attention: AttentionFn) -> Result<Outcome> {
    let (device, config, default) = match arguments.device {
        Place::Cpu => (Device::Cpu, Config::SMALL, 96),
        Place::Cuda => (Device::new_cuda(0)?, Config::LARGE, 4096),
    };
    let length = arguments.tokens.unwrap_or(default);
    ensure!(length > 0, "a sequence has at least one token");
    let dtype = match arguments.dtype {
        Precision::F16 => DType::F16,
        Precision::Bf16 => DType::BF16,
    };
    println!("{config:?}, {length} tokens, {}, on {:?}", dtype.as_str(), device.location());

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("decoder.safetensors");
    write_weights(&config, dtype, arguments.seed, &file)?;
    let model = |dtype| {
        let weights = VarBuilder::from_buffered_safetensors(std::fs::read(&file)?, dtype, &device)?;
        Decoder::new(config, length, &weights)
    };

    let mut random = StdRng::seed_from_u64(arguments.seed);
    let tokens: Vec<u32> = (0..length).map(|_| random.random_range(0..config.vocabulary as u32)).collect();
    let tokens = Tensor::new(tokens, &device)?.unsqueeze(0)?;

    let right = model(DType::F32)?.forward(&tokens, unfused)?;
    let decoder = model(dtype)?;
    let (by_flashcore, flash_time) = timed(&device, || decoder.forward(&tokens, attention))?;
    let (by_candle, candle_time) = timed(&device, || decoder.forward(&tokens, unfused))?;
    let agreeing = |logits: &Tensor| {
        let same = logits.argmax(D::Minus1)?.eq(&right.argmax(D::Minus1)?)?;
        same.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()
    };
    Ok(Outcome {
        errors: [largest_difference(&by_flashcore, &right)?, largest_difference(&by_candle, &right)?],
        agreeing: [agreeing(&by_flashcore)? as usize, agreeing(&by_candle)? as usize],
        times: [flash_time, candle_time],
        difference: largest_difference(&by_flashcore, &by_candle)?,
        tokens: length,
    })
}

fn main() -> Result<ExitCode> {
    let outcome = compare(&Arguments::parse(), flash)?;
    let Outcome { errors, agreeing, times, difference, tokens } = outcome;
    for (i, name) in ["flashcore", "candle"].into_iter().enumerate() {
        let (error, agreeing, ms) = (errors[i], agreeing[i], times[i].as_secs_f64() * 1e3);
        println!(
            "{name:<9}  {ms:.1} ms, largest error of a logit {error:.1e}, {agreeing} of {tokens} successors as in f32"
        );
    }
    println!("largest difference of the two {difference:.1e}");
    if outcome.is_right() {
        println!("right");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("WRONG: flashcore's error may be twice candle's, and 5 % fewer successors may be as in f32");
        Ok(ExitCode::FAILURE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(attention: AttentionFn) -> Outcome {
        compare(&Arguments::parse_from(["decoder", "--tokens", "70"]), attention).unwrap()
    }

    #[test]
    fn both_paths_agree() {
        let outcome = outcome(flash);
        assert!(outcome.is_right(), "{outcome:?}");
    }

    #[test]
    fn a_wrong_attention_is_noticed() {
        let without_mask: AttentionFn = |q, k, v| flash_attn(q, k, v, scale(q)?, false, false);
        let other_scale: AttentionFn = |q, k, v| flash_attn(q, k, v, 1.1 * scale(q)?, true, false);
        for wrong in [without_mask, other_scale] {
            let outcome = outcome(wrong);
            assert!(!outcome.is_right(), "{outcome:?}");
        }
    }
}
