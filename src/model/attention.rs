//! Causal self-attention with grouped queries. Who sees whom is the caller's: packed sequences ([`crate::ops::attention`]) or
//! new tokens over a cache ([`super::cache`]).

use burn::module::Module;
use burn::tensor::Tensor;

use super::config::ModelConfig;
use super::layers::{Linear, Norm};
use super::rotary::Rotary;
use super::weights::WeightSource;
use crate::error::Result;

/// Multi-head attention in which groups of H / K query heads share one key and value head.
#[derive(Module, Debug)]
pub struct Attention {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    /// Norms of every head by itself, before it turns (Qwen3, Gemma 3).
    pub q_norm: Option<Norm>,
    pub k_norm: Option<Norm>,
    /// See [`ModelConfig::query_factor`].
    query_factor: f64,
}

impl Attention {
    /// Reads the tensors whose names begin with `name`.
    pub(super) fn load(source: &mut WeightSource<'_>, name: &str, config: &ModelConfig) -> Result<Self> {
        let (d, q, kv) = (config.hidden_size, config.query_size(), config.key_value_size());
        let name = |part: &str| format!("{name}.{part}");
        let head_norm = |source: &mut WeightSource<'_>, part: &str| match config.qk_norm {
            true => Norm::load(source, &name(part), config.head_dim, config).map(Some),
            false => Ok(None),
        };
        Ok(Attention {
            q_proj: Linear::load(source, &name("q_proj"), q, d, config.qkv_bias)?,
            k_proj: Linear::load(source, &name("k_proj"), kv, d, config.qkv_bias)?,
            v_proj: Linear::load(source, &name("v_proj"), kv, d, config.qkv_bias)?,
            o_proj: Linear::load(source, &name("o_proj"), d, q, config.output_bias)?,
            q_norm: head_norm(source, "q_norm")?,
            k_norm: head_norm(source, "k_norm")?,
            query_factor: config.query_factor(),
        })
    }

    /// `[N, D]` -> `[N, D]`. `attend` mixes the values: q `[N, H * d]`, k and v `[N, K * d]` -> `[N, H * d]`.
    pub fn forward(&self, x: Tensor<2>, rotary: Option<&Rotary>, attend: impl FnOnce(Qkv) -> Tensor<2>) -> Tensor<2> {
        let placed = |mut heads: Tensor<2>, norm: &Option<Norm>| {
            if let Some(norm) = norm {
                heads = norm.forward_heads(heads);
            }
            match rotary {
                Some(rotary) => rotary.apply(heads),
                None => heads,
            }
        };
        let q = placed(self.q_proj.forward(x.clone()), &self.q_norm);
        let q = if self.query_factor == 1.0 { q } else { q * self.query_factor };
        let k = placed(self.k_proj.forward(x.clone()), &self.k_norm);
        let v = self.v_proj.forward(x);
        self.o_proj.forward(attend(Qkv { q, k, v }))
    }
}

/// Queries, keys and values of the same rows; q `[N, H * d]`, k and v `[N, K * d]`.
#[derive(Debug)]
pub struct Qkv {
    pub q: Tensor<2>,
    pub k: Tensor<2>,
    pub v: Tensor<2>,
}
