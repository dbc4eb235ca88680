//! The language model: embedding, decoder layers, final norm, head.
//!
//! Hidden states are `[B * T, D]` throughout: one row a token. The final norm and the head are applied only to the rows that
//! somebody reads. Next: [`crate::objective`].

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::attention::{Attention, Context};
use super::cache::{KvCache, LayerCache};
use super::config::ModelConfig;
use super::layers::{Linear, Mlp, RmsNorm};
use super::lora::Lora;
use super::rotary::Rotary;
use super::weights::WeightSource;
use crate::error::Result;
use crate::ops;

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
                num_heads: config.num_attention_heads,
                num_key_value_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
            },
            post_attention_layernorm: RmsNorm::load(source, &name("post_attention_layernorm"), d, eps)?,
            mlp: Mlp {
                gate_proj: Linear::load(source, &name("mlp.gate_proj"), inner, d, config.mlp_bias)?,
                up_proj: Linear::load(source, &name("mlp.up_proj"), inner, d, config.mlp_bias)?,
                down_proj: Linear::load(source, &name("mlp.down_proj"), d, inner, config.mlp_bias)?,
            },
        })
    }

    /// `[B * T, D]` -> `[B * T, D]`.
    pub fn forward(&self, x: Tensor<2>, context: &Context, cache: Option<&mut LayerCache>) -> Tensor<2> {
        let x = x.clone() + self.self_attn.forward(self.input_layernorm.forward(x), context, cache);
        x.clone() + self.mlp.forward(self.post_attention_layernorm.forward(x))
    }

    /// The layer's seven projections with Hugging Face's short names.
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

    /// Token ids `[B * T]` -> embeddings `[B * T, D]`.
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

    /// What all layers need for a forward pass over whole sequences, right-padded to T tokens.
    pub fn context(&self, batch: usize, num_tokens: usize) -> Context {
        let positions: Vec<usize> = (0..num_tokens).collect();
        let device = self.device();
        Context { batch, num_tokens, rotary: Rotary::new(&self.config, &positions, 1, &device), mask: None }
    }

    /// Hidden states after the last layer, before the final norm.
    ///
    /// # Shapes
    /// `ids` is `[B * T]`, row-major; the result is `[B * T, D]`.
    pub fn hidden(&self, ids: Tensor<1, Int>, context: &Context) -> Tensor<2> {
        self.layers.iter().fold(self.embed(ids), |x, layer| layer.forward(x, context, None))
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
    /// `hidden` `[B * T, D]`; `rows` and `targets` `[R]`; result `[R]`.
    pub fn token_log_probs(&self, hidden: Tensor<2>, rows: Tensor<1, Int>, targets: Tensor<1, Int>) -> Tensor<1> {
        ops::selected_log_probs(self.norm.forward(hidden.select(0, rows)), self.head_weight(), targets)
    }

    /// Logits for the token after the last of each row, appending to the cache.
    ///
    /// # Shapes
    /// `ids` is `[B * T]`, left-padded at the first call; the result is `[B, V]`.
    pub fn decode(&self, ids: &[i32], cache: &mut KvCache) -> Tensor<2> {
        let device = self.device();
        let batch = cache.batch();
        let context = cache.context(&self.config, ids.len() / batch, &device);
        let ids = Tensor::from_data(TensorData::new(ids.to_vec(), [ids.len()]), &device);
        let mut x = self.embed(ids);
        for (layer, layer_cache) in self.layers.iter().zip(&mut cache.layers) {
            x = layer.forward(x, &context, Some(layer_cache));
        }
        let last_rows: Vec<i32> = (1..=batch).map(|b| (b * context.num_tokens) as i32 - 1).collect();
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
                    linear.lora = Some(Lora::new(out, r#in, rank, alpha, seed.wrapping_add(count), &device));
                    count += 1;
                }
            }
        }
        model
    }

    /// Adds every adapter into the weight beside it: a plain model that computes the same.
    pub fn merge_adapters(mut self) -> Self {
        for layer in &mut self.layers {
            for (_, linear) in layer.projections_mut() {
                if let Some(lora) = linear.lora.take() {
                    linear.weight = linear.weight.clone().map(|weight| weight + lora.dense_update());
                }
            }
        }
        self
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
