"""Is a GGUF file that gsil wrote what other programs expect?

    python check_gguf.py PATH_TO_GSIL HF_FOLDER GGUF_FOLDER

HF_FOLDER is the same model, exported as float32. With the `gguf` package (llama.cpp's own reader and quantisation): every
tensor has llama.cpp's name, row order and type, and the very bytes that the package makes of the float32 values; the metadata
says what config.json says; tokens and merges are those of tokenizer.json. Needs numpy, safetensors and gguf.

Where `llama_cpp` is there too, llama.cpp itself loads the file: its token ids of awkward strings are those of the tokenizers
library (if that is there), its log-probs of random sequences are gsil's, and it answers a prompt greedily as gsil does.
"""

import json
import math
import os
import random
import subprocess
import sys
import tempfile

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file

ARCHITECTURES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "MistralForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
}
# Mean difference of log-probs in nats, by `general.file_type` (F32, F16, Q8_0, BF16): llama.cpp rounds activations to the type
# of the weights. On random tokens, where a real model's activations are extreme, single ones differ by far more.
LOG_PROB_TOLERANCE = {0: 1e-4, 1: 2e-2, 7: 3e-1, 32: 1e-1}
AWKWARD = ["Hello, world!", "  two  spaces ", "tabs\tand\nnew\r\nlines", "naïve café 🙂", "1234567890", "<|im_start|>user\nhi<|im_end|>", "don't  'quote'"]
PROMPT = "Write two sentences about the sea."


def read_json(*parts):
    with open(os.path.join(*parts), encoding="utf-8") as file:
        return json.load(file)


def interleaved(values, num_heads):
    """The row order of `llama` files, as llama.cpp's convert_hf_to_gguf.py makes it."""
    return values.reshape(num_heads, 2, values.shape[0] // num_heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def check_tensors(reader, config, weights, file_type):
    architecture = ARCHITECTURES[config["architectures"][0]]
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    wanted = {0: "F32", 1: "F16", 7: "Q8_0", 32: "BF16"}[file_type]
    found = {tensor.name: tensor for tensor in reader.tensors}
    found.pop("rope_freqs.weight", None)
    worst = 0.0
    for name, values in weights.items():
        tensor = found.pop(names.get_name(name, try_suffixes=(".weight", ".bias")))
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(name.split(".")[-2])
        if heads and architecture == gguf.MODEL_ARCH.LLAMA:
            values = interleaved(values, heads)
        assert tuple(reversed(tensor.shape.tolist())) == values.shape, (name, tensor.shape, values.shape)
        kind = "F32" if values.ndim == 1 else "F16" if wanted == "Q8_0" and values.shape[-1] % 32 else wanted
        assert tensor.tensor_type.name == kind, (name, tensor.tensor_type, kind)
        expected = quantize(values, tensor.tensor_type)
        assert tensor.data.tobytes() == expected.tobytes(), f"{name}: bytes differ from the gguf package's"
        worst = max(worst, float(np.abs(dequantize(tensor.data, tensor.tensor_type).reshape(values.shape) - values).max()))
    assert not found, f"tensors too many: {list(found)}"
    print(f"{len(weights)} tensors, {wanted}: the bytes of the gguf package; rounding at most {worst:.1e}")


def check_metadata(reader, config):
    architecture = reader.get_field("general.architecture").contents()
    keys = {
        "vocab_size": "vocab_size",
        "context_length": "max_position_embeddings",
        "embedding_length": "hidden_size",
        "block_count": "num_hidden_layers",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    }
    for key, name in keys.items():
        value = reader.get_field(f"{architecture}.{key}").contents()
        assert math.isclose(value, config[name], rel_tol=1e-6), (key, value, config[name])
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    assert math.isclose(reader.get_field(f"{architecture}.rope.freq_base").contents(), theta, rel_tol=1e-6)
    assert reader.alignment == 32


def check_tokenizer(reader, folder, config):
    field = lambda key: reader.get_field(f"tokenizer.{key}").contents()
    if not os.path.exists(os.path.join(folder, "tokenizer.json")):
        assert field("ggml.model") == "no_vocab"
        return
    tokenizer = read_json(folder, "tokenizer.json")
    tokens, types = field("ggml.tokens"), field("ggml.token_type")
    assert len(tokens) == len(types) == config["vocab_size"]
    for token, id in tokenizer["model"]["vocab"].items():
        assert tokens[id] == token, (id, tokens[id], token)
    for token in tokenizer["added_tokens"]:
        expected = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        assert (tokens[token["id"]], types[token["id"]]) == (token["content"], expected), token
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    assert field("ggml.merges") == merges
    end = read_json(folder, "generation_config.json")["eos_token_id"]
    assert field("ggml.eos_token_id") in (end if isinstance(end, list) else [end])
    template = os.path.join(folder, "chat_template.jinja")
    if os.path.exists(template):
        with open(template, encoding="utf-8", newline="") as file:
            assert field("chat_template") == file.read()
    print(f"tokenizer: {len(tokens)} tokens, {len(merges)} merges, split as {field('ggml.pre')!r}")


def run(gsil, *arguments):
    return subprocess.run([gsil, *arguments], check=True, capture_output=True, text=True).stdout


def log_probs_of_gsil(gsil, model, rows):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", delete=False) as data:
        data.writelines(json.dumps({"prompt_ids": row[:1], "response_ids": row[1:]}) + "\n" for row in rows)
    lines = run(gsil, "score", "--model", model, "--data", data.name, "--device", "flex").splitlines()
    os.remove(data.name)
    return [json.loads(line)["token_log_probs"] for line in lines]


def check_in_llama_cpp(gsil, folder, model, file_type, vocab_size):
    import llama_cpp

    options = {"n_ctx": 256, "n_threads": 2, "verbose": False}
    options |= {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    llama = llama_cpp.Llama(model, logits_all=True, **options)
    random.seed(0)
    rows = [[random.randrange(vocab_size) for _ in range(random.randrange(9, 40))] for _ in range(4)]
    differences = []
    for row, ours in zip(rows, log_probs_of_gsil(gsil, model, rows)):
        llama.reset()
        llama.eval(row)
        logits = np.array(llama.scores[: len(row)], dtype=np.float64)
        log_probs = logits - logits.max(-1, keepdims=True)
        log_probs -= np.log(np.exp(log_probs).sum(-1, keepdims=True))
        differences += [abs(log_probs[i, row[i + 1]] - ours[i]) for i in range(len(ours))]
    mean, worst = np.mean(differences), max(differences)
    print(f"llama.cpp: {len(differences)} log-probs differ by {mean:.1e} nats on average, {worst:.1e} at most")
    assert mean <= LOG_PROB_TOLERANCE[file_type], mean
    if os.path.exists(os.path.join(folder, "tokenizer.json")):
        del llama  # its cache is not clean
        check_text_in_llama_cpp(gsil, folder, model, llama_cpp.Llama(model, **options), file_type)


def check_text_in_llama_cpp(gsil, folder, model, llama, file_type):
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    try:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        for text in AWKWARD:
            ids = llama.tokenize(text.encode(), add_bos=False, special=True)
            assert ids == tokenizer.encode(text, add_special_tokens=False).ids, (text, ids)
        print(f"llama.cpp: the token ids of {len(AWKWARD)} awkward strings are those of the tokenizers library")
    except ImportError:
        print("SKIPPED: no tokenizers library to compare token ids with")
    ours = greedy_ids_of_gsil(gsil, model)
    template = Jinja2ChatFormatter(llama.metadata["tokenizer.chat_template"], eos_token="", bos_token="")
    prompt = template(messages=[{"role": "user", "content": PROMPT}]).prompt
    theirs = []
    for token in llama.generate(llama.tokenize(prompt.encode(), add_bos=False, special=True), temp=0.0, repeat_penalty=1.0):
        theirs.append(token)
        if len(theirs) == len(ours):
            break
    text = llama.detokenize(theirs).decode(errors="replace")
    print(f"llama.cpp: greedy answer of {len(ours)} tokens {'equal' if ours == theirs else f'DIFFERENT, gsil {ours}, llama.cpp {theirs}'}: {text!r}")
    assert ours == theirs or file_type == 7, "only Q8_0, where llama.cpp rounds activations to 8 bits, may differ"


def greedy_ids_of_gsil(gsil, model):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", delete=False) as data:
        data.write(json.dumps({"prompt": PROMPT}) + "\n")
    options = ["--temperature", "0", "--max-new-tokens", "24", "--device", "flex"]
    ids = json.loads(run(gsil, "generate", "--model", model, "--data", data.name, *options))["token_ids"]
    os.remove(data.name)
    return ids


def main():
    gsil, folder, gguf_folder = sys.argv[1:]
    model = os.path.join(gguf_folder, "model.gguf")
    config = read_json(folder, "config.json")
    reader = gguf.GGUFReader(model)
    file_type = reader.get_field("general.file_type").contents()
    check_tensors(reader, config, load_file(os.path.join(folder, "model.safetensors")), file_type)
    check_metadata(reader, config)
    check_tokenizer(reader, folder, config)
    try:
        import llama_cpp  # noqa: F401
    except ImportError:
        print("SKIPPED: llama.cpp itself, for want of llama-cpp-python")
        return
    check_in_llama_cpp(gsil, folder, model, file_type, config["vocab_size"])


main()
