//! The language model: embedding, decoder layers, final norm, head.
//!
//! Hidden states are `[N, D]` throughout: one row a token. The final norm and the head are applied only to the rows that
//! somebody reads. Next: [`crate::objective`].

use std::sync::Arc;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::attention::{Attention, Qkv};
use super::cache::KvCache;
use super::config::ModelConfig;
use super::layers::{Linear, Mlp, RmsNorm};
use super::lora::Lora;
use super::rotary::Rotary;
use super::weights::WeightSource;
use crate::error::Result;
use crate::ops::{self, AttentionLayout, AttentionPlan};

/// A decoder-only language model. Parameter paths are Hugging Face's names without the leading `model.`.
#[derive(Module, Debug)]
pub struct CausalLm {
    pub embed_tokens: Embedding,
    pub layers: Vec<DecoderLayer>,
    pub norm: RmsNorm,
    /// None if the head is the embedding.
    pub lm_head: Option<Linear>,
    #[module(skip)]
    config: ModelConfig,
}

/// What all layers of one forward pass over packed sequences share.
#[derive(Debug, Clone)]
pub struct Context {
    rotary: Rotary,
    layout: AttentionLayout,
}

/// One vector per token of the vocabulary.
#[derive(Module, Debug)]
pub struct Embedding {
    pub weight: Param<Tensor<2>>, // [V, D]
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    pub input_layernorm: RmsNorm,
    pub self_attn: Attention,
    pub post_attention_layernorm: RmsNorm,
    pub mlp: Mlp,
}

impl DecoderLayer {
    fn load(source: &mut WeightSource<'_>, config: &ModelConfig, index: usize) -> Result<Self> {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let (d, inner, eps) = (config.hidden_size, config.intermediate_size, config.rms_norm_eps);
        let (q, kv) = (config.query_size(), config.key_value_size());
        Ok(DecoderLayer {
            input_layernorm: RmsNorm::load(source, &name("input_layernorm"), d, eps)?,
            self_attn: Attention {
                q_proj: Linear::load(source, &name("self_attn.q_proj"), q, d, config.qkv_bias)?,
                k_proj: Linear::load(source, &name("self_attn.k_proj"), kv, d, config.qkv_bias)?,
                v_proj: Linear::load(source, &name("self_attn.v_proj"), kv, d, config.qkv_bias)?,
                o_proj: Linear::load(source, &name("self_attn.o_proj"), d, q, config.output_bias)?,
            },
            post_attention_layernorm: RmsNorm::load(source, &name("post_attention_layernorm"), d, eps)?,
            mlp: Mlp {
                gate_proj: Linear::load(source, &name("mlp.gate_proj"), inner, d, config.mlp_bias)?,
                up_proj: Linear::load(source, &name("mlp.up_proj"), inner, d, config.mlp_bias)?,
                down_proj: Linear::load(source, &name("mlp.down_proj"), d, inner, config.mlp_bias)?,
            },
        })
    }

    /// `[N, D]` -> `[N, D]`, for packed sequences.
    pub fn forward(&self, x: Tensor<2>, context: &Context) -> Tensor<2> {
        self.forward_with(x, &context.rotary, |Qkv { q, k, v }| ops::attention(q, k, v, context.layout.clone()))
    }

    fn forward_with(&self, x: Tensor<2>, rotary: &Rotary, attend: impl FnOnce(Qkv) -> Tensor<2>) -> Tensor<2> {
        let x = x.clone() + self.self_attn.forward(self.input_layernorm.forward(x), rotary, attend);
        x.clone() + self.mlp.forward(self.post_attention_layernorm.forward(x))
    }

    /// The layer's seven projections with their paths inside it.
    fn projections(&self) -> [(&'static str, &Linear); 7] {
        let (attention, mlp) = (&self.self_attn, &self.mlp);
        [
            ("self_attn.q_proj", &attention.q_proj),
            ("self_attn.k_proj", &attention.k_proj),
            ("self_attn.v_proj", &attention.v_proj),
            ("self_attn.o_proj", &attention.o_proj),
            ("mlp.gate_proj", &mlp.gate_proj),
            ("mlp.up_proj", &mlp.up_proj),
            ("mlp.down_proj", &mlp.down_proj),
        ]
    }

    /// The same, to put adapters in, with Hugging Face's short names.
    fn projections_mut(&mut self) -> [(&'static str, &mut Linear); 7] {
        let (attention, mlp) = (&mut self.self_attn, &mut self.mlp);
        [
            ("q_proj", &mut attention.q_proj),
            ("k_proj", &mut attention.k_proj),
            ("v_proj", &mut attention.v_proj),
            ("o_proj", &mut attention.o_proj),
            ("gate_proj", &mut mlp.gate_proj),
            ("up_proj", &mut mlp.up_proj),
            ("down_proj", &mut mlp.down_proj),
        ]
    }
}

impl CausalLm {
    pub(super) fn build(config: &ModelConfig, source: &mut WeightSource<'_>) -> Result<Self> {
        let (v, d) = (config.vocab_size, config.hidden_size);
        let embed_tokens = Embedding { weight: source.matrix("model.embed_tokens.weight", [v, d])? };
        let layers =
            (0..config.num_hidden_layers).map(|i| DecoderLayer::load(source, config, i)).collect::<Result<_>>()?;
        let norm = RmsNorm::load(source, "model.norm", d, config.rms_norm_eps)?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(Linear::load(source, "lm_head", v, d, false)?),
        };
        Ok(CausalLm { embed_tokens, layers, norm, lm_head, config: config.clone() })
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.embed_tokens.weight.val().device()
    }

    /// Token ids `[N]` -> embeddings `[N, D]`.
    ///
    /// With adapters, no parameter below the first adapter is trained; the result still requires a gradient, because some
    /// graphics backends gave NaN for graphs that start at frozen values (Burn issue 5162).
    pub fn embed(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        let x = self.embed_tokens.weight.val().select(0, ids);
        match x.is_autodiff() && !x.is_tracked() {
            true => x.require_grad(),
            false => x,
        }
    }

    /// What all layers need for a forward pass over packed sequences; `positions` has one entry a row.
    pub fn context(&self, positions: &[usize], plan: Arc<AttentionPlan>) -> Context {
        assert_eq!(positions.len(), plan.num_rows(), "one position a row");
        let rotary = Rotary::new(&self.config, positions, &self.device());
        Context { rotary, layout: AttentionLayout { plan, heads: self.config.heads() } }
    }

    /// Hidden states after the last layer, before the final norm: `[N, D]` from the embeddings `[N, D]`.
    pub fn hidden(&self, embedded: Tensor<2>, context: &Context) -> Tensor<2> {
        self.layers.iter().fold(embedded, |x, layer| layer.forward(x, context))
    }

    /// Final norm and head: `[N, D]` -> logits `[N, V]`.
    pub fn head(&self, hidden: Tensor<2>) -> Tensor<2> {
        ops::linear(self.norm.forward(hidden), self.head_weight())
    }

    fn head_weight(&self) -> Tensor<2> {
        self.lm_head.as_ref().map_or_else(|| self.embed_tokens.weight.val(), |head| head.weight.val())
    }

    /// Log-probs (nats) that the model gives to `targets` at the given rows of its hidden states.
    ///
    /// # Shapes
    /// `hidden` `[N, D]`; `rows` and `targets` `[R]`; result `[R]`. For `keep_logits` see [`ops::selected_log_probs`].
    pub fn token_log_probs(
        &self,
        hidden: Tensor<2>,
        rows: Tensor<1, Int>,
        targets: Tensor<1, Int>,
        keep_logits: bool,
    ) -> Tensor<1> {
        let hidden = self.norm.forward(hidden.select(0, rows));
        ops::selected_log_probs(hidden, self.head_weight(), targets, keep_logits)
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
        let mut x = self.embed(ids);
        for (layer, layer_cache) in self.layers.iter().zip(&mut cache.layers) {
            x = layer.forward_with(x, &new.rotary, |qkv| layer_cache.attend(qkv, &new));
        }
        let last_rows: Vec<i32> = (1..=batch).map(|b| (b * num_tokens) as i32 - 1).collect();
        self.head(x.select(0, Tensor::from_data(TensorData::new(last_rows, [batch]), &device)))
    }

    /// Freezes every weight and puts a fresh adapter beside each projection named in `target_modules`
    /// (`q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`).
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
            let projections = layer.projections().into_iter();
            let adapted = projections.filter_map(move |(name, linear)| {
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
