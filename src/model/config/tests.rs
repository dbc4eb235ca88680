use super::*;
use serde_json::json;

fn smallest() -> Value {
    json!({"architectures": ["LlamaForCausalLM"], "vocab_size": 32, "hidden_size": 8, "intermediate_size": 16,
           "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64})
}

fn with(changes: Value) -> Result<ModelConfig> {
    let mut config = smallest();
    for (key, value) in changes.as_object().expect("an object") {
        config[key] = value.clone();
    }
    ModelConfig::from_json(&config, None, Path::new("m"))
}

#[test]
fn old_and_new_spelling_of_the_rotary_base_mean_the_same() {
    let old = with(json!({"rope_theta": 100000.0})).unwrap();
    let new = with(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}})).unwrap();
    assert_eq!(old, new);
    assert_eq!(old.rope_theta, 100_000.0);
}

#[test]
fn qwen2_has_a_bias_on_query_key_and_value_only() {
    let config = with(json!({"architectures": ["Qwen2ForCausalLM"]})).unwrap();
    assert!(config.qkv_bias && !config.output_bias);
    // 32*8*2 embeddings, 4*8*8 attention + 24 bias, 3*8*16 feed-forward, 3 norms of 8
    assert_eq!(config.num_parameters(), 512 + 256 + 24 + 384 + 24);
}

#[test]
fn norms_add_what_transformers_adds_where_the_file_does_not_say() {
    let eps = |name: &str| with(json!({"architectures": [name]})).unwrap().rms_norm_eps;
    assert_eq!((eps("LlamaForCausalLM"), eps("Phi3ForCausalLM")), (1e-6, 1e-5));
}

#[test]
fn what_the_decoder_cannot_do_is_refused_by_name() {
    for (changes, word) in [
        (json!({"architectures": ["BloomForCausalLM"]}), "BloomForCausalLM"),
        (json!({"hidden_act": "gelu"}), "gelu"),
        (json!({"sliding_window": 16}), "sliding_window"),
        (json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}), "yarn"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        (json!({"hidden_size": -8}), "hidden_size"),
        (json!({"vocab_size": null}), "vocab_size"),
        (json!({"head_dim": 5}), "head_dim"),
        (json!({"num_attention_heads": 16, "num_key_value_heads": 1}), "head_dim"), // 8 / 16 is 0
        (json!({"head_dim": 16_777_216}), "num_attention_heads"),
        (json!({"num_hidden_layers": 4097}), "from 1 to 4096, got 4097"),
        (json!({"eos_token_id": 4_294_967_298_u64}), "eos_token_id"), // 2 in 32 bits
        (json!({"eos_token_id": ["</s>"]}), "eos_token_id"),
        (json!({"rope_scaling": {"rope_type": "factors", "factors": [1.0, 0.0]}}), "rope_scaling.factors"),
    ] {
        let error = with(changes).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn end_tokens_come_from_both_files_once() {
    let config = json!({"model_type": "llama", "eos_token_id": 2});
    let generation_config = json!({"eos_token_id": [7, 2]});
    let fields = Fields::new(&config, Path::new("model")).unwrap();
    assert_eq!(end_tokens(&fields, Some(&generation_config)).unwrap(), [2, 7]);
}

#[test]
fn layers_slide_where_transformers_lets_them() {
    let types = |config: &ModelConfig| config.layer_types.iter().map(|t| *t == LayerType::Sliding).collect::<Vec<_>>();
    let layers = json!({"num_hidden_layers": 4, "sliding_window": 16, "use_sliding_window": true});
    let of = |name: &str, more: Value| {
        let mut changes = layers.clone();
        changes["architectures"] = json!([name]);
        more.as_object().unwrap().iter().for_each(|(key, value)| changes[key] = value.clone());
        with(changes).unwrap()
    };
    assert_eq!(types(&of("MistralForCausalLM", json!({}))), [true; 4]);
    assert_eq!(types(&of("Qwen3ForCausalLM", json!({"max_window_layers": 3}))), [false, false, false, true]);
    assert_eq!(types(&of("Qwen3ForCausalLM", json!({"use_sliding_window": false}))), [false; 4]);
    assert_eq!(types(&of("Gemma3ForCausalLM", json!({"sliding_window_pattern": 2}))), [true, false, true, false]);
    let listed = json!(["full_attention", "sliding_attention", "full_attention", "full_attention"]);
    assert_eq!(types(&of("Gemma3ForCausalLM", json!({"layer_types": listed}))), [false, true, false, false]);
    let absent = with(json!({"architectures": ["MistralForCausalLM"]})).unwrap();
    assert_eq!((absent.sliding_window, absent.has_narrow_window()), (Some(4096), false)); // transformers' default
    let none = with(json!({"architectures": ["MistralForCausalLM"], "sliding_window": null})).unwrap();
    assert_eq!((none.sliding_window, types(&none)), (None, vec![false]));
}

#[test]
fn gemmas_rotary_bases_are_read_in_both_spellings() {
    let old = json!({"architectures": ["Gemma3ForCausalLM"], "rope_theta": 5e5, "rope_local_base_freq": 2e4,
                     "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    let new = json!({"architectures": ["Gemma3ForCausalLM"], "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4}}});
    let (old, new) = (with(old).unwrap(), with(new).unwrap());
    assert_eq!(old, new);
    assert_eq!((old.rope_theta, old.rope_local_base_freq), (5e5, Some(2e4)));
    assert_eq!((old.head_dim, old.tie_word_embeddings), (256, true)); // defaults that files leave out
}

#[test]
fn options_of_single_architectures_are_refused_by_name() {
    for (changes, word) in [
        (json!({"architectures": ["Gemma3ForCausalLM"], "final_logit_softcapping": 30.0}), "final_logit_softcapping"),
        (json!({"architectures": ["Gemma3ForCausalLM"], "layer_types": ["sliding_attention", "x"]}), "layer_types"),
        (json!({"architectures": ["Gemma3ForCausalLM"], "hidden_activation": "silu"}), "hidden_activation"),
        (json!({"architectures": ["Gemma3ForConditionalGeneration"]}), "Gemma3ForConditionalGeneration"),
        (json!({"architectures": ["Phi3ForCausalLM"], "rope_scaling": {"type": "longrope"}}), "longrope"),
        (json!({"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.1}), "partial_rotary_factor"),
        (json!({"architectures": ["GPT2LMHeadModel"]}), "n_embd"),
    ] {
        let error = with(changes).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains(word), "{error}");
    }
}

/// The published `config.json` of each; counts by transformers 5.24.0 (`sum(p.numel() for p in model.parameters())`).
#[test]
fn published_models_have_the_parameters_that_transformers_counts() {
    let shape = |vocab: u64, hidden: u64, inner: u64, layers: u64, heads: u64, kv: u64, context: u64| {
        json!({"vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
               "num_attention_heads": heads, "num_key_value_heads": kv, "max_position_embeddings": context})
    };
    let gemma = json!({"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "head_dim": 256,
                       "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256, "sliding_window": 512,
                       "attn_logit_softcapping": null, "final_logit_softcapping": null, "rope_scaling": null});
    let qwen3 = json!({"architectures": ["Qwen3ForCausalLM"], "head_dim": 128, "tie_word_embeddings": true,
                       "use_sliding_window": false, "sliding_window": null, "max_window_layers": 28});
    let phi3 = json!({"architectures": ["Phi3ForCausalLM"], "sliding_window": 2047, "rope_scaling": null,
                      "original_max_position_embeddings": 4096});
    let gpt2 = json!({"architectures": ["GPT2LMHeadModel"], "n_embd": 768, "n_head": 12, "n_layer": 12,
                      "n_positions": 1024, "vocab_size": 50257, "activation_function": "gelu_new"});
    for (name, own, shape, expected) in [
        ("Qwen3-0.6B", &qwen3, shape(151_936, 1024, 3072, 28, 16, 8, 40_960), 596_049_920),
        ("Phi-3-mini-4k", &phi3, shape(32_064, 3072, 8192, 32, 32, 32, 4096), 3_821_079_552),
        ("gemma-3-270m", &gemma, shape(262_144, 640, 2048, 18, 4, 1, 32_768), 268_098_176),
        ("gemma-3-1b-it", &gemma, shape(262_144, 1152, 6912, 26, 4, 1, 32_768), 999_885_952),
        ("gpt2", &gpt2, json!({}), 124_439_808_usize),
    ] {
        let mut config = own.clone();
        shape.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
        let config = ModelConfig::from_json(&config, None, Path::new(name)).unwrap();
        assert_eq!(config.num_parameters(), expected, "{name}");
    }
}
