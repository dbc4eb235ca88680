//! Causal self-attention with grouped queries. Who sees whom is the caller's: packed sequences ([`crate::ops::attention`]) or
//! new tokens over a cache ([`super::cache`]).

use burn::module::Module;
use burn::tensor::Tensor;

use super::layers::Linear;
use super::rotary::Rotary;

/// Multi-head attention in which groups of H / K query heads share one key and value head.
#[derive(Module, Debug)]
pub struct Attention {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
}

impl Attention {
    /// `[N, D]` -> `[N, D]`. `attend` mixes the values: q `[N, H * d]`, k and v `[N, K * d]` -> `[N, H * d]`.
    pub fn forward(&self, x: Tensor<2>, rotary: &Rotary, attend: impl FnOnce(Qkv) -> Tensor<2>) -> Tensor<2> {
        let q = rotary.apply(self.q_proj.forward(x.clone()));
        let k = rotary.apply(self.k_proj.forward(x.clone()));
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
