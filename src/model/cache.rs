//! Keys and values of tokens already read, so that decoding reads each token once.
//!
//! All sequences of a batch share one write position. Prompts of different lengths are padded on the left, and a mask keeps
//! every token from looking at padding. Memory is reserved once, for prompt and response together.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData, activation};

use super::attention::Qkv;
use super::config::ModelConfig;
use super::decoder_layer::ByLayerType;
use super::rotary::Rotary;
use crate::ops::Heads;

/// Attention reads the cache up to a multiple of this many tokens: few shapes, little waste.
pub(crate) const SPAN_TOKENS: usize = 32;

/// A score that softmax turns into exactly 0 in f32; finite, so that a fully masked row stays finite too.
const MASKED: f32 = -1e9;

/// The cache of a whole model for one batch.
#[derive(Debug)]
pub struct KvCache {
    pub(super) layers: Vec<LayerCache>,
    /// Left padding of each sequence, in tokens.
    padding: Vec<usize>,
    len: usize,
    capacity: usize,
}

impl KvCache {
    /// Room for `capacity` tokens of each sequence. `prompt_lens` are the true lengths, in tokens, of prompts that will be
    /// given padded on the left to the longest of them.
    pub fn new(config: &ModelConfig, prompt_lens: &[usize], capacity: usize, device: &Device) -> Self {
        let longest = prompt_lens.iter().copied().max().unwrap_or(0);
        let capacity = capacity.next_multiple_of(SPAN_TOKENS);
        let shape = [prompt_lens.len(), config.num_key_value_heads, capacity, config.head_dim];
        let zeros = || Tensor::zeros(shape, &device.clone().without_autodiff());
        KvCache {
            layers: (0..config.num_hidden_layers)
                .map(|_| LayerCache { keys: Some(zeros()), values: Some(zeros()), len: 0 })
                .collect(),
            padding: prompt_lens.iter().map(|len| longest - len).collect(),
            len: 0,
            capacity,
        }
    }

    /// B, sequences.
    pub fn batch(&self) -> usize {
        self.padding.len()
    }

    /// What a forward pass over the next `num_tokens` tokens of every sequence needs.
    ///
    /// # Panics
    /// If the cache is full.
    pub(super) fn advance(&mut self, config: &ModelConfig, num_tokens: usize, device: &Device) -> Advance {
        let (start, end) = (self.len, self.len + num_tokens);
        assert!(end <= self.capacity, "cache of {} tokens cannot take {end}", self.capacity);
        let positions: Vec<usize> = self
            .padding
            .iter()
            .flat_map(|padding| (start..end).map(move |here| here.saturating_sub(*padding)))
            .collect();
        let of_layers = |layer_type| NewTokens {
            heads: config.heads(),
            rotary: (!config.learned_positions).then(|| Rotary::new(config, layer_type, &positions, device)),
            mask: self.mask(start..end, config.window(layer_type), device),
        };
        let layers = ByLayerType::new(config, of_layers);
        self.len = end;
        Advance { positions, layers }
    }

    /// Added to the scores of tokens with these places in the cache: 0 where a token may look, else [`MASKED`],
    /// `[B, 1, T, S]`.
    fn mask(&self, places: Range<usize>, window: Option<usize>, device: &Device) -> Tensor<4> {
        let (num_tokens, span) = (places.len(), places.end.next_multiple_of(SPAN_TOKENS));
        let mut mask = vec![MASKED; self.padding.len() * num_tokens * span];
        let rows = self.padding.iter().flat_map(|padding| places.clone().map(move |here| (*padding, here)));
        for ((padding, here), row) in rows.zip(mask.chunks_exact_mut(span)) {
            // A padding token looks at itself, so that its row has a finite softmax.
            let first = padding.min(here).max(window.map_or(0, |window| (here + 1).saturating_sub(window)));
            row[first..=here].fill(0.0);
        }
        let shape = [self.padding.len(), 1, num_tokens, span];
        Tensor::from_data(TensorData::new(mask, shape), &device.clone().without_autodiff())
    }
}

/// What one pass over new tokens needs.
pub(super) struct Advance {
    /// `[B * T]`.
    pub(super) positions: Vec<usize>,
    pub(super) layers: ByLayerType<NewTokens>,
}

/// What the layers of a type share in one pass over new tokens. B sequences, T new tokens of each, S tokens to look at.
pub(super) struct NewTokens {
    heads: Heads,
    /// None where positions are learned.
    pub(super) rotary: Option<Rotary>,
    mask: Tensor<4>, // [B, 1, T, S]
}

/// Keys and values of one layer, `[B, K, capacity, head_dim]`.
#[derive(Debug)]
pub struct LayerCache {
    keys: Option<Tensor<4>>, // None only while being written: a sole owner lets the device write in place
    values: Option<Tensor<4>>,
    len: usize,
}

impl LayerCache {
    /// Appends the keys and values of new tokens and attends to all of them. Rows are `[B * T]`, sequence by sequence.
    ///
    /// The query heads of a group are stacked as rows, so that keys and values are used as they are instead of being
    /// repeated.
    pub(super) fn attend(&mut self, Qkv { q, k, v }: Qkv, new: &NewTokens) -> Tensor<2> {
        let Heads { num_heads, num_key_value_heads, head_dim } = new.heads;
        let [b, _, t, s] = new.mask.dims();
        let split = |x: Tensor<2>, heads| x.reshape([b, t, heads, head_dim]).swap_dims(1, 2);
        let (k, v) = self.append(split(k, num_key_value_heads), split(v, num_key_value_heads), s);
        let stacked = [b, num_key_value_heads, new.heads.group_size() * t];
        let grouped = |x: Tensor<4>, size| x.reshape([stacked[0], stacked[1], stacked[2], size]);
        let scores = grouped(split(q, num_heads), head_dim).matmul(k.swap_dims(2, 3)); // [B, K, H/K * T, S]
        let scores = scores.reshape([b, num_heads, t, s]) * new.heads.scale() + new.mask.clone();
        let mixed = grouped(activation::softmax(scores, 3), s).matmul(v); // [B, K, H/K * T, d]
        mixed.reshape([b, num_heads, t, head_dim]).swap_dims(1, 2).reshape([b * t, num_heads * head_dim])
    }

    /// Writes new keys and values (`[B, K, T, d]`) and returns the first `span` tokens of all of them.
    fn append(&mut self, keys: Tensor<4>, values: Tensor<4>, span: usize) -> (Tensor<4>, Tensor<4>) {
        let [b, heads, t, d] = keys.dims();
        let (start, end) = (self.len, self.len + t);
        self.len = end;
        let write = |slot: &mut Option<Tensor<4>>, new: Tensor<4>| {
            let all = slot.take().expect("a layer's cache is given back after each write");
            let all = all.slice_assign([0..b, 0..heads, start..end, 0..d], new);
            *slot = Some(all.clone());
            all.narrow(2, 0, span)
        };
        (write(&mut self.keys, keys), write(&mut self.values, values))
    }
}
