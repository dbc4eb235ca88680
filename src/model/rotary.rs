//! Rotary position embedding, as Hugging Face's `rotate_half`: dimension i turns together with i + rotary_dim / 2.

use burn::tensor::{Device, Tensor, TensorData};

use super::config::{LayerType, ModelConfig, RopeScaling};
use crate::ops;

/// Cosines and sines of every angle that one forward pass needs.
#[derive(Debug, Clone)]
pub struct Rotary {
    cos: Tensor<2>, // [N, rotary_dim / 2]
    sin: Tensor<2>,
    head_dim: usize,
}

impl Rotary {
    /// Tables for the position of each of N rows, in layers of this type.
    pub fn new(config: &ModelConfig, layer_type: LayerType, positions: &[usize], device: &Device) -> Self {
        let Angles { cos, sin } = Angles::new(config, layer_type, positions);
        let shape = [positions.len(), config.rotary_dim / 2];
        let table =
            |values: Vec<f32>| Tensor::from_data(TensorData::new(values, shape), &device.clone().without_autodiff());
        Rotary { cos: table(cos), sin: table(sin), head_dim: config.head_dim }
    }

    /// Turns queries or keys, `[N, heads * head_dim]`: the first `rotary_dim` dimensions of each head.
    pub fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        let ([n, size], [_, half], d) = (x.dims(), self.cos.dims(), self.head_dim);
        let turn = |x: Tensor<2>| ops::rotary(x, self.cos.clone(), self.sin.clone());
        if 2 * half == d {
            return turn(x);
        }
        let (heads, rotary_dim) = (size / d, 2 * half);
        let x = x.reshape([n, heads, d]);
        let turned = turn(x.clone().narrow(2, 0, rotary_dim).reshape([n, heads * rotary_dim]));
        let rest = x.narrow(2, rotary_dim, d - rotary_dim);
        Tensor::cat(vec![turned.reshape([n, heads, rotary_dim]), rest], 2).reshape([n, size])
    }
}

/// The same tables on the host, `[N, rotary_dim / 2]`.
#[derive(Debug, Default)]
pub(super) struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    pub(super) fn new(config: &ModelConfig, layer_type: LayerType, positions: &[usize]) -> Self {
        let frequencies = inverse_frequencies(config, layer_type);
        let angles = || positions.iter().flat_map(|p| frequencies.iter().map(move |f| *p as f32 * f));
        Angles { cos: angles().map(f32::cos).collect(), sin: angles().map(f32::sin).collect() }
    }

    /// Turns the heads of one row, `[heads * head_dim]`, in place.
    #[cfg(feature = "flex")]
    pub(super) fn turn(&self, row: usize, x: &mut [f32], config: &ModelConfig) {
        let half = config.rotary_dim / 2;
        let (cos, sin) = (&self.cos[row * half..][..half], &self.sin[row * half..][..half]);
        for head in x.chunks_exact_mut(config.head_dim) {
            let (first, second) = head[..2 * half].split_at_mut(half);
            for (((first, second), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*first, *second) = (*first * cos - *second * sin, *second * cos + *first * sin);
            }
        }
    }
}

/// What each plain frequency is divided by, where it is not the same for all: the form in which GGUF files have it.
pub fn rotary_factors(config: &ModelConfig) -> Option<Vec<f32>> {
    match &config.rope_scaling {
        RopeScaling::None | RopeScaling::Linear { .. } => None,
        RopeScaling::Factors(factors) => Some(factors.iter().map(|factor| *factor as f32).collect()),
        RopeScaling::Llama3 { .. } => {
            let of = |config: &ModelConfig| inverse_frequencies(config, LayerType::Full);
            let plain = of(&ModelConfig { rope_scaling: RopeScaling::None, ..config.clone() });
            Some(plain.iter().zip(of(config)).map(|(plain, scaled)| plain / scaled).collect())
        }
    }
}

/// One angular frequency (radians per token) for each pair of dimensions, in f32 as transformers computes them. Sliding
/// layers may have a base of their own, which is not stretched.
fn inverse_frequencies(config: &ModelConfig, layer_type: LayerType) -> Vec<f32> {
    let (theta, scaling) = match (layer_type, config.rope_local_base_freq) {
        (LayerType::Sliding, Some(local)) => (local, &RopeScaling::None),
        _ => (config.rope_theta, &config.rope_scaling),
    };
    let half = config.rotary_dim / 2;
    let plain = (0..half).map(|i| (theta as f32).powf(-((2 * i) as f32) / config.rotary_dim as f32));
    match scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|f| f / *factor as f32).collect(),
        RopeScaling::Factors(factors) => plain.zip(factors).map(|(f, factor)| f / *factor as f32).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let stretch = |frequency: f32| {
                let wavelength = 2.0 * std::f64::consts::PI / f64::from(frequency);
                let turns = original_max_position_embeddings / wavelength; // within the original context
                let smooth = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                (f64::from(frequency) * ((1.0 - smooth) / factor + smooth)) as f32
            };
            plain.map(stretch).collect()
        }
    }
}
