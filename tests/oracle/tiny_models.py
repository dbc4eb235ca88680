"""Makes tests/fixtures/tiny_models: tiny random models, one per architecture, with the logits of transformers.

Run by hand, from the root of the repository, when a case is added; the tests only read what it wrote:
    pip install torch transformers        (made with torch 2.15.0, transformers 5.23.0, float32 on a CPU)
    python tests/oracle/tiny_models.py

Each folder holds config.json, model.safetensors and expected.safetensors: `input_ids` [2, 24] and `logits` [2, 24, 64].
Weights are far larger than a real model's, so that scores are of order one and a wrong angle or head is seen at once.
"""

import json
import shutil
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


def randomize(model: torch.nn.Module) -> None:
    """Matrices of standard deviation 0.25, norms around 1, biases around 0: no parameter is without effect."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            if parameter.dim() == 1 and "norm" in name:
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.25 * noise)


def make(name: str, settings: dict) -> None:
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(COMMON | settings, indent=2) + "\n")
    torch.manual_seed(sum(map(ord, name)))
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    randomize(model)
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    input_ids = torch.randint(3, COMMON["vocab_size"], (2, 24))
    with torch.no_grad():
        logits = loaded(input_ids=input_ids, use_cache=False).logits
        assert torch.equal(logits, model(input_ids=input_ids, use_cache=False).logits)
    expected = {"input_ids": input_ids.to(torch.float32), "logits": logits.contiguous()}
    save_file(expected, folder / "expected.safetensors")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: logits of size {logits.abs().mean():.2f}, {size / 1000:.0f} kB")


if __name__ == "__main__":
    for name, settings in CASES.items():
        make(name, settings)
