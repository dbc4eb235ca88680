"""Makes tests/fixtures/tiny_models: tiny random models, one per architecture, with the logits of transformers.

Run by hand, from the root of the repository, when a case is added; the tests only read what it wrote:
    pip install torch transformers        (made with torch 2.15.0, transformers 5.23.0, float32 on a CPU)
    python tests/oracle/tiny_models.py CASE ..      (those with gradients: transformers 5.24.0)

Each folder holds config.json, model.safetensors and expected.safetensors: `input_ids` [2, 24] and `logits` [2, 24, 64];
in the newer cases also `grad.NAME`, the gradients of the mean log-prob of tokens 1 to 23, by name in the file.
Weights are far larger than a real model's, so that scores are of order one and a wrong angle or head is seen at once.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

FOLDER = Path(__file__).parent.parent / "fixtures" / "tiny_models"

COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "float32",
}

# Old and new spellings of the rotary settings are both in use: two cases have each.
CASES = {
    # With head_dim 8 and base 10000 the four wavelengths are 6, 63, 628 and 6283 tokens: in an original context of 128
    # tokens the first is kept, the second interpolated, the others stretched.
    "llama3": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
        "tie_word_embeddings": False,
    },
    # Bias on every projection; rotary scaling in its oldest spelling.
    "llama_linear": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "linear", "factor": 4.0},
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": False,
    },
    # Heads wider than hidden_size / num_attention_heads.
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "head_dim": 16,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
}


# Newer cases: all with gradients. Where there is a window, the 24 tokens are longer than it.
GRADIENTS = {
    # Bias on q, k and v; the head is the embedding.
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "sliding_window": 16,
    },
    # Norms of the heads; heads wider than hidden_size / num_attention_heads; no bias.
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "head_dim": 16,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 2,
        "attention_bias": False,
    },
    "mistral_window": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 7,
        "tie_word_embeddings": False,
    },
    # Fused projections; three quarters of each head turn.
    "phi3": {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "partial_rotary_factor": 0.75,
        "sliding_window": 9,
        "original_max_position_embeddings": 256,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    },
    # Two local layers, one global one with a stretched base; scores not scaled by the head's size.
    "gemma3": {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "num_hidden_layers": 3,
        "head_dim": 10,
        "intermediate_size": 32,
        "query_pre_attn_scalar": 9,
        "sliding_window": 6,
        "sliding_window_pattern": 3,
        "hidden_activation": "gelu_pytorch_tanh",
        "pad_token_id": 0,
    },
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": 64,
        "n_embd": 32,
        "n_head": 4,
        "n_layer": 2,
        "n_inner": 48,
        "n_positions": 64,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float32",
    },
}


def randomize(model: torch.nn.Module) -> None:
    """Matrices of standard deviation 0.25, norms around 1, biases around 0: no parameter is without effect."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            is_norm = "norm" in name or ".ln_" in name
            if parameter.dim() == 1 and is_norm and not name.endswith("bias"):
                parameter.copy_(0.2 * noise if "Gemma" in type(model).__name__ else 1 + 0.2 * noise)
            else:
                parameter.copy_(0.25 * noise)


def gradients(model: torch.nn.Module, input_ids: torch.Tensor) -> dict:
    """Of the mean log-prob that tokens 0 to 22 give to tokens 1 to 23: few tensors, one of each kind."""
    log_probs = model(input_ids=input_ids, use_cache=False).logits[:, :-1].log_softmax(-1)
    log_probs.gather(-1, input_ids[:, 1:, None]).mean().backward()
    kinds = ["embed_tokens", "wte", "wpe", "0.self_attn.q_proj", "0.self_attn.k_proj", "0.self_attn.qkv_proj", "0.attn.c_attn"]
    kinds += ["norm.", "ln_", "1.mlp.down_proj", "0.mlp.c_proj", "0.mlp.gate_proj", "0.mlp.gate_up_proj"]
    found = {name: p.grad for name, p in model.named_parameters() if any(kind in name for kind in kinds)}
    return {f"grad.{name}": gradient.contiguous() for name, gradient in found.items()}


def make(name: str, settings: dict, with_gradients: bool) -> None:
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings if name == "gpt2" else COMMON | settings, indent=2) + "\n")
    torch.manual_seed(sum(map(ord, name)))
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    randomize(model)
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    if getattr(config, "tie_word_embeddings", True):
        del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    input_ids = torch.randint(3, COMMON["vocab_size"], (2, 24))
    with torch.no_grad():
        logits = loaded(input_ids=input_ids, use_cache=False).logits
        assert torch.equal(logits, model(input_ids=input_ids, use_cache=False).logits)
    expected = {"input_ids": input_ids.to(torch.float32), "logits": logits.contiguous()}
    if with_gradients:
        expected |= gradients(loaded, input_ids)
    save_file(expected, folder / "expected.safetensors")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: logits of size {logits.abs().mean():.2f}, {size / 1000:.0f} kB")


if __name__ == "__main__":
    for name in sys.argv[1:] or [*CASES, *GRADIENTS]:
        make(name, (CASES | GRADIENTS)[name], name in GRADIENTS)
