//! What a model, and a row of a batch, take in bytes: from the architecture alone. An architecture with other layers changes
//! this file and nothing else of the estimate.

use crate::config::{LoraConfig, WeightFormat};
use crate::model::ModelConfig;
use crate::model::config::LayerType;

/// Everything is f32, but for copies of the weights for decoding.
pub(super) const NUMBER: u64 = 4;

/// A model as it is trained: all of it, or adapters.
#[derive(Debug, Clone, Copy)]
pub struct Sizes<'a> {
    pub model: &'a ModelConfig,
    pub lora: Option<&'a LoraConfig>,
}

impl Sizes<'_> {
    /// The weights as they are trained, adapters included.
    pub fn weights(&self) -> u64 {
        let adapters = if self.lora.is_some() { self.trained_numbers() } else { 0 };
        NUMBER * (self.model.num_parameters() as u64 + adapters)
    }

    /// Numbers that training changes.
    pub fn trained_numbers(&self) -> u64 {
        let Some(lora) = self.lora else { return self.model.num_parameters() as u64 };
        let of_layer =
            self.projections().into_iter().filter(|(name, ..)| lora.target_modules.iter().any(|t| t == name));
        let numbers: usize = of_layer.map(|(_, inputs, outputs)| lora.rank * (inputs + outputs)).sum();
        (self.model.num_hidden_layers * numbers) as u64
    }

    /// A gradient for every trained number.
    pub fn gradients(&self) -> u64 {
        NUMBER * self.trained_numbers()
    }

    /// The embedding, `[V, D]`; the head is as large. Nothing else of a small model comes near.
    pub fn embedding(&self) -> u64 {
        NUMBER * (self.model.vocab_size * self.model.hidden_size) as u64
    }

    /// The head's gradient, the first one of a backward pass: none if it is frozen.
    pub fn head_gradient(&self) -> u64 {
        if self.lora.is_some() { 0 } else { self.embedding() }
    }

    /// The largest weight, which is copied to the host when the model is written or hashed.
    pub fn largest_weight(&self) -> u64 {
        self.embedding().max(NUMBER * self.largest_projection())
    }

    /// Numbers of the largest matrix of a layer.
    fn largest_projection(&self) -> u64 {
        let sizes = self.projections().into_iter().map(|(_, inputs, outputs)| (inputs * outputs) as u64);
        sizes.max().unwrap_or(0)
    }

    /// Name, inputs and outputs of the projections of a layer.
    fn projections(&self) -> Vec<(&'static str, usize, usize)> {
        let ModelConfig { hidden_size: d, intermediate_size: inner, .. } = *self.model;
        let (q, kv) = (self.model.query_size(), self.model.key_value_size());
        [
            ("q_proj", d, q),
            ("k_proj", d, kv),
            ("v_proj", d, kv),
            ("o_proj", q, d),
            ("gate_proj", d, inner),
            ("up_proj", d, inner),
            ("down_proj", inner, d),
        ]
        .into_iter()
        .filter(|(name, ..)| self.model.gated_mlp || *name != "gate_proj")
        .collect()
    }

    /// What the graph of one layer keeps of one row (`ops::autodiff`): the input of each norm, of each projection whose
    /// weight or adapter is trained, queries, keys, values and result of attention with a number for each head, and gate
    /// and up.
    pub fn kept_of_layer(&self) -> u64 {
        let ModelConfig { hidden_size: d, intermediate_size: inner, num_attention_heads: heads, .. } = *self.model;
        let (q, kv) = (self.model.query_size(), self.model.key_value_size());
        let is_trained = |names: &[&str]| {
            self.lora.is_none_or(|lora| lora.target_modules.iter().any(|target| names.contains(&target.as_str())))
        };
        let if_trained = |names: &[&str], size: usize| if is_trained(names) { size } else { 0 };
        let norms = if self.model.output_norms { 4 * d } else { 2 * d };
        let norms = if self.model.qk_norm { norms + q + kv } else { norms };
        let attention = if_trained(&["q_proj", "k_proj", "v_proj"], d) + 2 * q + 2 * kv + heads;
        let feed_forward = if_trained(&["gate_proj", "up_proj"], d) + 2 * inner + if_trained(&["down_proj"], inner);
        NUMBER * (norms + attention + feed_forward) as u64
    }

    /// What comes and goes in the backward pass of one layer, of one row: gradients of gate, up and their product beside
    /// those of the layer's output and input; or, in attention, parts for each query head before they are joined.
    pub fn passing_backward(&self) -> u64 {
        let ModelConfig { hidden_size: d, intermediate_size: inner, .. } = *self.model;
        let (q, kv) = (self.model.query_size(), self.model.key_value_size());
        NUMBER * (2 * d + (3 * inner).max(5 * q + 2 * kv)) as u64
    }

    /// The same in a forward pass without a graph: gate, up and their product beside the layer's input and its norm.
    pub fn passing_forward(&self) -> u64 {
        let ModelConfig { hidden_size: d, intermediate_size: inner, .. } = *self.model;
        let (q, kv) = (self.model.query_size(), self.model.key_value_size());
        NUMBER * (2 * d + (3 * inner).max(3 * q + 2 * kv)) as u64
    }

    /// The same in attention over a cache (`model::cache`), of one new token of one sequence and one token that it looks at:
    /// its scores in every query head, as softmax gets them and as it gives them, and a mask for each type of layer. Of a
    /// whole pass these are `[B, H, T, S]` twice and `[B, 1, T, S]`.
    pub fn passing_scores(&self) -> u64 {
        let ModelConfig { num_attention_heads: heads, layer_types, .. } = self.model;
        let num_masks = if layer_types.contains(&LayerType::Sliding) { 2 } else { 1 };
        NUMBER * (2 * heads + num_masks) as u64
    }

    /// One row of hidden states.
    pub fn hidden(&self) -> u64 {
        NUMBER * self.model.hidden_size as u64
    }

    /// Weights packed for decoding on the CPU (`model::decoder`): the layers' projections and the head, which is packed
    /// even where it is the embedding.
    pub fn packed(&self, format: WeightFormat) -> u64 {
        let of_layer: usize = self.projections().iter().map(|(_, inputs, outputs)| inputs * outputs).sum();
        let numbers = self.model.num_hidden_layers * of_layer + self.model.vocab_size * self.model.hidden_size;
        match format {
            WeightFormat::F32 => NUMBER * numbers as u64,
            WeightFormat::Bf16 => NUMBER / 2 * numbers as u64,
        }
    }

    /// What comes and goes while weights are packed: a matrix on the host, with an adapter its merged form and the update
    /// beside it; the head last.
    pub fn passing_packing(&self) -> u64 {
        let copies = if self.lora.is_some() { 4 } else { 1 };
        self.embedding().max(NUMBER * copies * self.largest_projection())
    }

    /// Keys and values of one token in every layer, heads padded to `multiple` numbers.
    pub fn cached_token(&self, multiple: usize) -> u64 {
        let heads = self.model.num_key_value_heads * self.model.head_dim.next_multiple_of(multiple);
        NUMBER * (2 * self.model.num_hidden_layers * heads) as u64
    }
}
