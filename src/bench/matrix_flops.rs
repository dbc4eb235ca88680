//! How many floating-point operations of matrix products a workload needs: what a share of the matrix peak is taken of.
//!
//! A product `[N, K] x [K, M]` counts `2 N K M`. Counted are the rows that are really computed (so a prompt that two
//! responses share counts once) and what the mathematics needs: forward, the gradient of the inputs, and the gradient of
//! weights that are trained. What is computed a second time to save memory (checkpointed layers, logits in the backward
//! pass) counts once: such a step has a smaller share. Norms, softmax and the optimizer are no matrix products.

use crate::config::LoraConfig;
use crate::data::batch::Batch;
use crate::model::ModelConfig;
use crate::ops::{AttentionPlan, Span};
use crate::train::estimate::sizes::Sizes;

/// Multiplications for one token in all layers' projections.
fn projection_weights(config: &ModelConfig) -> f64 {
    let (d, q, kv) = (config.hidden_size, config.query_size(), config.key_value_size());
    (config.num_hidden_layers * (2 * d * q + 2 * d * kv + num_of_mlp(config) * d * config.intermediate_size)) as f64
}

/// Projections of the feed-forward block.
fn num_of_mlp(config: &ModelConfig) -> usize {
    if config.gated_mlp { 3 } else { 2 }
}

fn head_weights(config: &ModelConfig) -> f64 {
    (config.vocab_size * config.hidden_size) as f64
}

/// For one query-key pair in all layers: the score and the weighted value.
fn attention_weights(config: &ModelConfig) -> f64 {
    (config.num_hidden_layers * 2 * config.query_size()) as f64
}

/// One training step on this batch; `lora` if only adapters are trained.
pub fn of_step(config: &ModelConfig, batch: &Batch, lora: Option<&LoraConfig>) -> f64 {
    let rows = batch.input_ids.len() as f64;
    let head_rows = batch.num_response_tokens() as f64;
    // Forward once, input gradients once, weight gradients once more where weights are trained.
    let passes = if lora.is_some() { 2.0 } else { 3.0 };
    let frozen_or_trained = passes * (rows * projection_weights(config) + head_rows * head_weights(config));
    let adapters = 3.0 * rows * lora.map_or(0.0, |_| Sizes { model: config, lora }.trained_numbers() as f64);
    let attention = 3.0 * keys_seen(&batch.plan) * attention_weights(config);
    2.0 * (frozen_or_trained + adapters + attention)
}

/// Generation of `num_new` tokens after `prompt_len`, for each `(prompt_len, num_new)`: every token but the last goes through
/// the layers, every new one comes out of the head.
pub fn of_generation(config: &ModelConfig, lengths: &[(usize, usize)]) -> f64 {
    let of_one = |(prompt_len, num_new): &(usize, usize)| {
        let rows = prompt_len + num_new - 1;
        let attention = keys_seen(&AttentionPlan::separate(&[rows])) * attention_weights(config);
        2.0 * (rows as f64 * projection_weights(config) + *num_new as f64 * head_weights(config) + attention)
    };
    lengths.iter().map(of_one).sum()
}

/// Keys that all rows see together: each row those of its prefix, those before it in its span, and itself.
pub(super) fn keys_seen(plan: &AttentionPlan) -> f64 {
    let of_span = |span: &Span| {
        let (queries, prefix) = (span.num_queries(), span.prefix.len());
        (queries * prefix + queries * (queries + 1) / 2) as f64
    };
    plan.spans().iter().map(of_span).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::model::{NUM_LAYERS, Source};
    use crate::data::batch::Sequence;

    fn config() -> ModelConfig {
        Source::Random { num_layers: NUM_LAYERS }.config().unwrap()
    }

    #[test]
    fn a_token_costs_two_operations_a_weight_forward_and_six_in_a_step() {
        // 106,168,320 weights in SmolLM2-135M's projections: 30 (2 576 576 + 2 576 192 + 3 576 1536).
        let config = config();
        let batch = Batch::new(&[Sequence { prompt_ids: &[1; 3], response_ids: &[2; 2] }], 1);
        let projections = 4.0 * 106_168_320.0; // 4 rows: the last token is no input
        let head = 2.0 * 49_152.0 * 576.0;
        let attention = 30.0 * 10.0 * 2.0 * 576.0; // 1 + 2 + 3 + 4 keys
        assert_eq!(of_step(&config, &batch, None), 6.0 * (projections + head + attention));
        assert_eq!(of_generation(&config, &[(3, 2)]), 2.0 * (projections + head + attention));
        // Rank 8: 8 (in + out) weights for each of the seven projections of a layer.
        let adapters = 4.0 * 30.0 * 8.0 * (2.0 * (576.0 + 576.0) + 2.0 * (576.0 + 192.0) + 3.0 * (576.0 + 1536.0));
        let lora = 4.0 * (projections + head) + 6.0 * (adapters + attention);
        let all = LoraConfig { rank: 8, ..LoraConfig::default() };
        assert_eq!(of_step(&config, &batch, Some(&all)), lora);
        let queries = 4.0 * 30.0 * 8.0 * (576.0 + 576.0);
        let only_queries = LoraConfig { target_modules: vec!["q_proj".to_owned()], ..all };
        let lora = 4.0 * (projections + head) + 6.0 * (queries + attention);
        assert_eq!(of_step(&config, &batch, Some(&only_queries)), lora);
    }

    #[test]
    fn a_shared_prompt_counts_once() {
        let sequence = |response_ids| Sequence { prompt_ids: &[1; 3], response_ids };
        let batch = Batch::new(&[sequence(&[2, 3]), sequence(&[4, 5])], 1);
        // Prompt 1 + 2 + 3 keys; each response's one input row sees the prompt and itself.
        assert_eq!((batch.input_ids.len(), keys_seen(&batch.plan)), (5, 14.0));
    }
}
