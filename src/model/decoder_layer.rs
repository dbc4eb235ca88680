//! A layer of the decoder, and what all layers of one forward pass share.
//!
//! Llama's layer has two norms, one before each block. Gemma 3's has four: the output of each block is normalised, too,
//! before it is added. Hugging Face calls the second norm of either `post_attention_layernorm`.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::attention::{Attention, Qkv};
use super::config::{LayerType, ModelConfig};
use super::layers::{Linear, Mlp, Norm};
use super::rotary::Rotary;
use super::weights::WeightSource;
use crate::error::Result;
use crate::ops::{self, AttentionLayout, AttentionPlan};

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`; with four norms `x + norm(attention(norm(x)))` and so on.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    pub input_layernorm: Norm,
    pub self_attn: Attention,
    /// Of what goes into the feed-forward block; of the attention's output where there are four norms.
    pub post_attention_layernorm: Norm,
    pub mlp: Mlp,
    pub pre_feedforward_layernorm: Option<Norm>,
    pub post_feedforward_layernorm: Option<Norm>,
    #[module(skip)]
    pub(super) layer_type: LayerType,
}

impl DecoderLayer {
    pub(super) fn load(source: &mut WeightSource<'_>, config: &ModelConfig, index: usize) -> Result<Self> {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let (d, inner) = (config.hidden_size, config.intermediate_size);
        let norm = |source: &mut WeightSource<'_>, part: &str| Norm::load(source, &name(part), d, config);
        let fourth = |source: &mut WeightSource<'_>, part: &str| match config.output_norms {
            true => norm(source, part).map(Some),
            false => Ok(None),
        };
        Ok(DecoderLayer {
            input_layernorm: norm(source, "input_layernorm")?,
            self_attn: Attention::load(source, &name("self_attn"), config)?,
            post_attention_layernorm: norm(source, "post_attention_layernorm")?,
            mlp: Mlp {
                gate_proj: match config.gated_mlp {
                    true => Some(Linear::load(source, &name("mlp.gate_proj"), inner, d, config.mlp_bias)?),
                    false => None,
                },
                up_proj: Linear::load(source, &name("mlp.up_proj"), inner, d, config.mlp_bias)?,
                down_proj: Linear::load(source, &name("mlp.down_proj"), d, inner, config.mlp_bias)?,
                activation: config.activation,
            },
            pre_feedforward_layernorm: fourth(source, "pre_feedforward_layernorm")?,
            post_feedforward_layernorm: fourth(source, "post_feedforward_layernorm")?,
            layer_type: config.layer_types[index],
        })
    }

    /// `[N, D]` -> `[N, D]`, for packed sequences.
    pub fn forward(&self, x: Tensor<2>, context: &Context) -> Tensor<2> {
        let LayerContext { rotary, layout } = context.layers.of(self.layer_type);
        self.forward_with(x, rotary.as_ref(), |Qkv { q, k, v }| ops::attention(q, k, v, layout.clone()))
    }

    pub(super) fn forward_with(
        &self,
        x: Tensor<2>,
        rotary: Option<&Rotary>,
        attend: impl FnOnce(Qkv) -> Tensor<2>,
    ) -> Tensor<2> {
        let attended = self.self_attn.forward(self.input_layernorm.forward(x.clone()), rotary, attend);
        let x = x + normalized(self.attention_output_norm(), attended);
        let fed = self.mlp.forward(self.feed_forward_norm().forward(x.clone()));
        x + normalized(self.post_feedforward_layernorm.as_ref(), fed)
    }

    /// The norm of what goes into the feed-forward block.
    pub(super) fn feed_forward_norm(&self) -> &Norm {
        self.pre_feedforward_layernorm.as_ref().unwrap_or(&self.post_attention_layernorm)
    }

    /// The norm of the attention's output, where there are four.
    pub(super) fn attention_output_norm(&self) -> Option<&Norm> {
        self.pre_feedforward_layernorm.as_ref().map(|_| &self.post_attention_layernorm)
    }

    /// The layer's projections with their paths inside it.
    pub(super) fn projections(&self) -> impl Iterator<Item = (&'static str, &Linear)> {
        let (attention, mlp) = (&self.self_attn, &self.mlp);
        let all = [
            ("self_attn.q_proj", Some(&attention.q_proj)),
            ("self_attn.k_proj", Some(&attention.k_proj)),
            ("self_attn.v_proj", Some(&attention.v_proj)),
            ("self_attn.o_proj", Some(&attention.o_proj)),
            ("mlp.gate_proj", mlp.gate_proj.as_ref()),
            ("mlp.up_proj", Some(&mlp.up_proj)),
            ("mlp.down_proj", Some(&mlp.down_proj)),
        ];
        all.into_iter().filter_map(|(name, linear)| Some((name, linear?)))
    }

    /// The same, to put adapters in, with Hugging Face's short names.
    pub(super) fn projections_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Linear)> {
        let (attention, mlp) = (&mut self.self_attn, &mut self.mlp);
        let all = [
            ("q_proj", Some(&mut attention.q_proj)),
            ("k_proj", Some(&mut attention.k_proj)),
            ("v_proj", Some(&mut attention.v_proj)),
            ("o_proj", Some(&mut attention.o_proj)),
            ("gate_proj", mlp.gate_proj.as_mut()),
            ("up_proj", Some(&mut mlp.up_proj)),
            ("down_proj", Some(&mut mlp.down_proj)),
        ];
        all.into_iter().filter_map(|(name, linear)| Some((name, linear?)))
    }
}

fn normalized(norm: Option<&Norm>, x: Tensor<2>) -> Tensor<2> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}

/// What the layers of each type share.
#[derive(Debug, Clone)]
pub(super) struct ByLayerType<T> {
    full: T,
    /// None where the model has no such layer.
    sliding: Option<T>,
}

impl<T> ByLayerType<T> {
    pub(super) fn new(config: &ModelConfig, of_layers: impl Fn(LayerType) -> T) -> Self {
        let has_sliding = config.layer_types.contains(&LayerType::Sliding);
        ByLayerType { full: of_layers(LayerType::Full), sliding: has_sliding.then(|| of_layers(LayerType::Sliding)) }
    }

    pub(super) fn of(&self, layer_type: LayerType) -> &T {
        match (layer_type, &self.sliding) {
            (LayerType::Sliding, Some(sliding)) => sliding,
            _ => &self.full,
        }
    }
}

/// What all layers of one forward pass over packed sequences share.
#[derive(Debug, Clone)]
pub struct Context {
    /// `[N]`, where positions are learned.
    pub(super) positions: Option<Tensor<1, Int>>,
    layers: ByLayerType<LayerContext>,
}

/// What the layers of a type share in it.
#[derive(Debug, Clone)]
struct LayerContext {
    /// None where positions are learned.
    rotary: Option<Rotary>,
    layout: AttentionLayout,
}

impl Context {
    pub(super) fn new(config: &ModelConfig, positions: &[usize], plan: Arc<AttentionPlan>, device: &Device) -> Self {
        assert_eq!(positions.len(), plan.num_rows(), "one position a row");
        let of_layers = |layer_type| LayerContext {
            rotary: (!config.learned_positions).then(|| Rotary::new(config, layer_type, positions, device)),
            layout: AttentionLayout::new(plan.clone(), config.heads(), config.window(layer_type)),
        };
        Context {
            positions: config.learned_positions.then(|| position_ids(positions, config, device)),
            layers: ByLayerType::new(config, of_layers),
        }
    }
}

/// What fills a batch up, and is never read, may stand beyond the last position that has a vector.
pub(super) fn position_ids(positions: &[usize], config: &ModelConfig, device: &Device) -> Tensor<1, Int> {
    let last = config.max_position_embeddings - 1;
    let ids: Vec<i32> = positions.iter().map(|position| *position.min(&last) as i32).collect();
    Tensor::from_data(TensorData::new(ids, [positions.len()]), device)
}
