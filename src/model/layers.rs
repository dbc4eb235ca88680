//! The three small parts of which a decoder layer is made. Weights have Hugging Face's names and layouts.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::lora::Lora;
use super::weights::WeightSource;
use crate::error::Result;
use crate::ops;

/// `y = x weightᵀ + bias`, plus the low-rank update of an adapter where there is one.
#[derive(Module, Debug)]
pub struct Linear {
    pub weight: Param<Tensor<2>>, // [out, in]
    pub bias: Option<Param<Tensor<1>>>,
    pub lora: Option<Lora>,
}

impl Linear {
    /// Reads `{name}.weight` and, if `bias`, `{name}.bias`.
    pub(super) fn load(source: &mut WeightSource<'_>, name: &str, out: usize, r#in: usize, bias: bool) -> Result<Self> {
        Ok(Linear {
            weight: source.matrix(&format!("{name}.weight"), [out, r#in])?,
            bias: if bias { Some(source.vector(&format!("{name}.bias"), out)?) } else { None },
            lora: None,
        })
    }

    /// The weight with its adapter's update added, `[out, in]`, outside any graph.
    #[cfg(feature = "flex")]
    pub(super) fn merged_weight(&self) -> Tensor<2> {
        let weight = self.weight.val().inner();
        match &self.lora {
            Some(lora) => weight + lora.valid().dense_update(),
            None => weight,
        }
    }

    /// `[N, in]` -> `[N, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = match &self.lora {
            None => ops::linear(x, self.weight.val()),
            Some(lora) => lora.forward(x, self.weight.val()),
        };
        match &self.bias {
            None => y,
            Some(bias) => y + bias.val().unsqueeze(),
        }
    }
}

/// `y = x / sqrt(mean(x²) + eps) * weight`, over the last dimension.
#[derive(Module, Debug)]
pub struct RmsNorm {
    pub weight: Param<Tensor<1>>, // [D]
    eps: f64,
}

impl RmsNorm {
    pub(super) fn load(source: &mut WeightSource<'_>, name: &str, size: usize, eps: f64) -> Result<Self> {
        Ok(RmsNorm { weight: source.vector(&format!("{name}.weight"), size)?, eps })
    }

    /// `[N, D]` -> `[N, D]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::rms_norm(x, self.weight.val(), self.eps)
    }
}

/// The gated feed-forward block: `down(silu(gate(x)) * up(x))`.
#[derive(Module, Debug)]
pub struct Mlp {
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
}

impl Mlp {
    /// `[N, D]` -> `[N, D]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.down_proj.forward(ops::swiglu(self.gate_proj.forward(x.clone()), self.up_proj.forward(x)))
    }
}
