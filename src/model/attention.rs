//! Causal self-attention with grouped queries, over a whole sequence or over a cache.

use burn::module::Module;
use burn::tensor::{Tensor, activation};

use super::cache::LayerCache;
use super::layers::Linear;
use super::rotary::Rotary;
use crate::ops;

/// What all layers of one forward pass share.
#[derive(Debug, Clone)]
pub struct Context {
    /// B, sequences.
    pub batch: usize,
    /// T, new tokens of each sequence.
    pub num_tokens: usize,
    pub rotary: Rotary,
    /// Added to attention scores: 0 where a token may look, -1e9 where not, `[B, 1, T, S]` with S keys. None: every token
    /// looks at itself and those before it.
    pub mask: Option<Tensor<4>>,
}

/// A score that softmax turns into exactly 0 in f32; finite, so that a fully masked row stays finite too.
pub(super) const MASKED: f32 = -1e9;

/// Multi-head attention in which groups of H / K query heads share one key and value head.
#[derive(Module, Debug)]
pub struct Attention {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    pub(super) num_heads: usize,
    pub(super) num_key_value_heads: usize,
    pub(super) head_dim: usize,
}

impl Attention {
    /// `[B * T, D]` -> `[B * T, D]`. With a cache, the new keys and values are appended and all of it is attended to.
    pub fn forward(&self, x: Tensor<2>, context: &Context, cache: Option<&mut LayerCache>) -> Tensor<2> {
        let q = self.split_heads(self.q_proj.forward(x.clone()), self.num_heads, context);
        let k = self.split_heads(self.k_proj.forward(x.clone()), self.num_key_value_heads, context);
        let v = self.split_heads(self.v_proj.forward(x), self.num_key_value_heads, context);
        let q = context.rotary.apply(q); // [B, H, T, d]
        let k = context.rotary.apply(k); // [B, K, T, d]
        let (k, v) = match cache {
            Some(cache) => {
                let span = context.mask.as_ref().map_or(context.num_tokens, |mask| mask.dims()[3]);
                cache.append(k, v, span) // [B, K, S, d]
            }
            None => (k, v),
        };
        self.o_proj.forward(self.attend(q, k, v, context))
    }

    /// `[B * T, heads * d]` -> `[B, heads, T, d]`.
    fn split_heads(&self, x: Tensor<2>, heads: usize, context: &Context) -> Tensor<4> {
        x.reshape([context.batch, context.num_tokens, heads, self.head_dim]).swap_dims(1, 2)
    }

    /// `softmax(q kᵀ / sqrt(d) + mask) v`. The query heads of a group are stacked as rows, so that keys and values are
    /// used as they are instead of being repeated.
    fn attend(&self, q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, context: &Context) -> Tensor<2> {
        let (b, t, s) = (context.batch, context.num_tokens, k.dims()[2]);
        let (h, kv, d) = (self.num_heads, self.num_key_value_heads, self.head_dim);
        let scale = (d as f64).sqrt().recip();
        let scores = q.reshape([b, kv, h / kv * t, d]).matmul(k.swap_dims(2, 3)); // [B, K, H/K * T, S]
        let weights = match &context.mask {
            None => ops::causal_softmax(scores.reshape([b * h, t, s]), scale).reshape([b, h, t, s]),
            Some(mask) => activation::softmax(scores.reshape([b, h, t, s]) * scale + mask.clone(), 3),
        };
        let mixed = weights.reshape([b, kv, h / kv * t, s]).matmul(v); // [B, K, H/K * T, d]
        mixed.reshape([b, h, t, d]).swap_dims(1, 2).reshape([b * t, h * d])
    }
}
