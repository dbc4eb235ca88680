//! The language model: embedding, decoder layers, final norm, head.
//!
//! Hidden states are `[N, D]` throughout: one row a token. The final norm and the head are applied only to the rows that
//! somebody reads. Next: [`crate::objective`].

use std::sync::Arc;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::cache::KvCache;
use super::config::ModelConfig;
use super::decoder_layer::position_ids;
pub use super::decoder_layer::{Context, DecoderLayer};
use super::layers::{Linear, Norm};
use super::lora::Lora;
use super::weights::WeightSource;
use crate::error::Result;
use crate::ops::{self, AttentionPlan};

/// A decoder-only language model. Parameter paths are Hugging Face's names without the leading `model.`.
#[derive(Module, Debug)]
pub struct CausalLm {
    pub embed_tokens: Embedding,
    /// One vector for each position, where positions are learned (GPT-2).
    pub embed_positions: Option<Embedding>,
    pub layers: Vec<DecoderLayer>,
    pub norm: Norm,
    /// None if the head is the embedding.
    pub lm_head: Option<Linear>,
    #[module(skip)]
    config: ModelConfig,
}

/// One vector per token of the vocabulary, or per position.
#[derive(Module, Debug)]
pub struct Embedding {
    pub weight: Param<Tensor<2>>, // [V, D]
}

impl CausalLm {
    pub(super) fn build(config: &ModelConfig, source: &mut WeightSource<'_>) -> Result<Self> {
        let (v, d) = (config.vocab_size, config.hidden_size);
        let embed_tokens = Embedding { weight: source.matrix("model.embed_tokens.weight", [v, d])? };
        let embed_positions = match config.learned_positions {
            true => {
                let shape = [config.max_position_embeddings, d];
                Some(Embedding { weight: source.matrix("model.embed_positions.weight", shape)? })
            }
            false => None,
        };
        let layers =
            (0..config.num_hidden_layers).map(|i| DecoderLayer::load(source, config, i)).collect::<Result<_>>()?;
        let norm = Norm::load(source, "model.norm", d, config)?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(Linear::load(source, "lm_head", v, d, false)?),
        };
        Ok(CausalLm { embed_tokens, embed_positions, layers, norm, lm_head, config: config.clone() })
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.embed_tokens.weight.val().device()
    }

    /// Token ids `[N]` -> embeddings `[N, D]`, multiplied by [`ModelConfig::embedding_factor`].
    pub fn embed(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        let x = self.embed_tokens.weight.val().select(0, ids);
        match self.config.embedding_factor() {
            1.0 => x,
            factor => x * factor,
        }
    }

    /// Adds the learned vector of each row's position, where positions are learned. `[N, D]` -> `[N, D]`.
    pub fn add_positions(&self, embedded: Tensor<2>, context: &Context) -> Tensor<2> {
        self.add_position_vectors(embedded, context.positions.clone())
    }

    fn add_position_vectors(&self, embedded: Tensor<2>, positions: Option<Tensor<1, Int>>) -> Tensor<2> {
        match (&self.embed_positions, positions) {
            (Some(vectors), Some(positions)) => embedded + vectors.weight.val().select(0, positions),
            _ => embedded,
        }
    }

    /// What all layers need for a forward pass over packed sequences; `positions` has one entry a row.
    pub fn context(&self, positions: &[usize], plan: Arc<AttentionPlan>) -> Context {
        Context::new(&self.config, positions, plan, &self.device())
    }

    /// Hidden states after the last layer, before the final norm: `[N, D]` from the embeddings `[N, D]`.
    pub fn hidden(&self, embedded: Tensor<2>, context: &Context) -> Tensor<2> {
        self.layers.iter().fold(self.add_positions(embedded, context), |x, layer| layer.forward(x, context))
    }

    /// Final norm and head: `[N, D]` -> logits `[N, V]`.
    pub fn head(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.logits(self.norm.forward(hidden))
    }

    /// The head alone: `[R, D]` after the final norm -> logits `[R, V]`.
    pub fn logits(&self, normed: Tensor<2>) -> Tensor<2> {
        ops::linear(normed, self.head_weight())
    }

    fn head_weight(&self) -> Tensor<2> {
        self.lm_head.as_ref().map_or_else(|| self.embed_tokens.weight.val(), |head| head.weight.val())
    }

    /// The given rows of the hidden states after the final norm: `[N, D]` and `[R]` -> `[R, D]`.
    pub fn normed(&self, hidden: Tensor<2>, rows: Tensor<1, Int>) -> Tensor<2> {
        self.norm.forward(hidden.select(0, rows))
    }

    /// Log-probs (nats) that the model gives to `targets` at rows that [`Self::normed`] gave.
    ///
    /// # Shapes
    /// `normed` `[R, D]`; `targets` and the result `[R]`. For `keep_logits` see [`ops::selected_log_probs`].
    pub fn target_log_probs(&self, normed: Tensor<2>, targets: Tensor<1, Int>, keep_logits: bool) -> Tensor<1> {
        ops::selected_log_probs(normed, self.head_weight(), targets, keep_logits)
    }

    /// Log-probs (nats) of K tokens at each row, from the log-prob of the row's target: `log p(c) = log p(target) + h (w_c -
    /// w_target)`. The sum over the vocabulary is that of the target, so one row of the head is read for each token, and
    /// nothing grows with the vocabulary.
    ///
    /// # Shapes
    /// `normed` `[R, D]`; `targets` and `target_log_probs` `[R]`; `token_ids` `[R, K]`; result `[R, K]`.
    pub fn candidate_log_probs(
        &self,
        normed: Tensor<2>,
        targets: Tensor<1, Int>,
        target_log_probs: Tensor<1>,
        token_ids: Tensor<2, Int>,
    ) -> Tensor<2> {
        let [num_rows, num_candidates] = token_ids.dims();
        let size = normed.dims()[1];
        let head = self.head_weight();
        let logits = |ids: Tensor<1, Int>, count: usize| {
            let w = head.clone().select(0, ids).reshape([num_rows, count, size]);
            (w * normed.clone().unsqueeze_dim::<3>(1)).sum_dim(2).reshape([num_rows, count])
        };
        let candidates = logits(token_ids.reshape([num_rows * num_candidates]), num_candidates);
        candidates - logits(targets, 1) + target_log_probs.reshape([num_rows, 1])
    }

    /// Logits for the token after the last of each row, appending to the cache.
    ///
    /// # Shapes
    /// `ids` is `[B * T]`, left-padded at the first call; the result is `[B, V]`.
    pub fn decode(&self, ids: &[i32], cache: &mut KvCache) -> Tensor<2> {
        let device = self.device();
        let batch = cache.batch();
        let num_tokens = ids.len() / batch;
        let new = cache.advance(&self.config, num_tokens, &device);
        let ids = Tensor::from_data(TensorData::new(ids.to_vec(), [ids.len()]), &device);
        let positions = self.embed_positions.as_ref().map(|_| position_ids(&new.positions, &self.config, &device));
        let mut x = self.add_position_vectors(self.embed(ids), positions);
        for (layer, layer_cache) in self.layers.iter().zip(&mut cache.layers) {
            let new = new.layers.of(layer.layer_type);
            x = layer.forward_with(x, new.rotary.as_ref(), |qkv| layer_cache.attend(qkv, new));
        }
        let last_rows: Vec<i32> = (1..=batch).map(|b| (b * num_tokens) as i32 - 1).collect();
        self.head(x.select(0, Tensor::from_data(TensorData::new(last_rows, [batch]), &device)))
    }

    /// Freezes every weight and puts a fresh adapter beside each projection named in `target_modules`
    /// (`q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`) that the model has: GPT-2 has no
    /// `gate_proj`.
    pub fn with_adapters(self, rank: usize, alpha: f64, target_modules: &[String], seed: u64) -> Self {
        let device = self.device();
        let mut model = self.no_grad();
        let mut count = 0;
        for layer in &mut model.layers {
            for (name, linear) in layer.projections_mut() {
                if target_modules.iter().any(|target| target == name) {
                    let [out, r#in] = linear.weight.val().dims();
                    let mut random = ChaCha8Rng::seed_from_u64(seed);
                    random.set_stream(count); // another stream for each adapter: runs of neighbouring seeds share none
                    linear.lora = Some(Lora::new(out, r#in, rank, alpha, &mut random, &device));
                    count += 1;
                }
            }
        }
        model
    }

    /// Every adapter with the path of the weight beside it and that weight.
    pub(super) fn adapters(&self) -> Vec<(String, Tensor<2>, Lora)> {
        let of_layer = |(i, layer): (usize, &DecoderLayer)| {
            let adapted = layer.projections().filter_map(move |(name, linear)| {
                let path = format!("layers.{i}.{name}.weight");
                Some((path, linear.weight.val(), linear.lora.clone()?))
            });
            adapted.collect::<Vec<_>>()
        };
        self.layers.iter().enumerate().flat_map(of_layer).collect()
    }

    /// Replaces parameters by path (`layers.0.self_attn.q_proj.weight`, no `model.`): what a checkpoint restores. `find`
    /// is given path and shape. Returns how many were replaced.
    pub fn with_parameters(self, find: &mut dyn FnMut(&str, &[usize]) -> Option<TensorData>) -> (Self, usize) {
        struct Replace<'a> {
            path: super::weights::Path,
            find: &'a mut dyn FnMut(&str, &[usize]) -> Option<TensorData>,
            count: usize,
        }
        impl ModuleMapper for Replace<'_> {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.path.enter(name);
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.path.exit();
            }
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let Some(data) = (self.find)(&self.path.name(), &param.val().dims()) else { return param };
                self.count += 1;
                param.map(|old| {
                    let required = old.is_require_grad();
                    Tensor::from_data(data, &old.device()).set_require_grad(required)
                })
            }
        }
        let mut replace = Replace { path: super::weights::Path::default(), find, count: 0 };
        let model = self.map(&mut replace);
        (model, replace.count)
    }
}
