//! The small parts of which a decoder layer is made. Weights have Hugging Face's names and layouts.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation};

use super::config::{Activation, ModelConfig, NormKind};
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

/// One of the normalisations of [`NormKind`], over the last dimension.
#[derive(Module, Debug)]
pub struct Norm {
    pub weight: Param<Tensor<1>>,       // [D]
    pub bias: Option<Param<Tensor<1>>>, // [D], of LayerNorm
    #[module(skip)]
    pub(super) kind: NormKind,
    pub(super) eps: f64,
}

impl Norm {
    /// Reads `{name}.weight` and, for LayerNorm, `{name}.bias`.
    pub(super) fn load(source: &mut WeightSource<'_>, name: &str, size: usize, config: &ModelConfig) -> Result<Self> {
        Ok(Norm {
            weight: source.vector(&format!("{name}.weight"), size)?,
            bias: match config.norm {
                NormKind::Layer => Some(source.vector(&format!("{name}.bias"), size)?),
                NormKind::Rms | NormKind::RmsOnePlus => None,
            },
            kind: config.norm,
            eps: config.rms_norm_eps,
        })
    }

    /// What the normalised numbers are multiplied by, `[D]`.
    pub(super) fn factors(&self) -> Tensor<1> {
        match self.kind {
            NormKind::RmsOnePlus => self.weight.val() + 1.0,
            NormKind::Rms | NormKind::Layer => self.weight.val(),
        }
    }

    /// `[N, D]` -> `[N, D]`. LayerNorm is RMSNorm of what lies around the mean, plus the bias.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            None => ops::rms_norm(x, self.factors(), self.eps),
            Some(bias) => {
                let centred = x.clone() - x.mean_dim(1);
                ops::rms_norm(centred, self.factors(), self.eps) + bias.val().unsqueeze()
            }
        }
    }

    /// Every head by itself: `[N, heads * D]` -> `[N, heads * D]`.
    pub fn forward_heads(&self, x: Tensor<2>) -> Tensor<2> {
        let ([num_rows, size], [head_dim]) = (x.dims(), self.weight.val().dims());
        self.forward(x.reshape([num_rows * size / head_dim, head_dim])).reshape([num_rows, size])
    }
}

/// The feed-forward block: `down(act(gate(x)) * up(x))`, without a gate `down(act(up(x)))` (GPT-2).
#[derive(Module, Debug)]
pub struct Mlp {
    pub gate_proj: Option<Linear>,
    pub up_proj: Linear,
    pub down_proj: Linear,
    #[module(skip)]
    pub(super) activation: Activation,
}

impl Mlp {
    /// `[N, D]` -> `[N, D]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let inner = match (&self.gate_proj, self.activation) {
            (Some(gate), Activation::Silu) => ops::swiglu(gate.forward(x.clone()), self.up_proj.forward(x)),
            (Some(gate), Activation::GeluTanh) => gelu_tanh(gate.forward(x.clone())) * self.up_proj.forward(x),
            (None, Activation::Silu) => activation::silu(self.up_proj.forward(x)),
            (None, Activation::GeluTanh) => gelu_tanh(self.up_proj.forward(x)),
        };
        self.down_proj.forward(inner)
    }
}

/// GELU's approximation by tanh, `x/2 (1 + tanh u)` with `u = sqrt(2/pi) (x + 0.044715 x³)`, written as `x sigmoid(2u)`:
/// the same function without a difference of nearly equal numbers. transformers calls it `gelu_new`, `gelu_pytorch_tanh`.
/// Source: Hendrycks and Gimpel, arXiv 1606.08415.
fn gelu_tanh(x: Tensor<2>) -> Tensor<2> {
    let u = (x.clone() * x.clone() * GELU_CUBIC + 1.0) * x.clone() * GELU_SLOPE;
    x * activation::sigmoid(u)
}

/// `2 sqrt(2/pi)`.
const GELU_SLOPE: f32 = 1.595_769;
const GELU_CUBIC: f32 = 0.044_715;

/// [`gelu_tanh`] of one number.
#[cfg(feature = "flex")]
pub(super) fn gelu_tanh_of(x: f32) -> f32 {
    x / (1.0 + (-(x * x * GELU_CUBIC + 1.0) * x * GELU_SLOPE).exp())
}
