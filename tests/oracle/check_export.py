"""Does transformers compute what gsil computes, on a model folder that gsil wrote?

    python check_export.py PATH_TO_GSIL MODEL_FOLDER

Compares, in float32 on the CPU, the log-probs of random token sequences, and the log-probs of many single next tokens after
one prompt: what logits are once their common constant is gone. Prints the largest difference; exit code 1 above 1e-4.
The end tokens that transformers would stop at, and the type that it would load, are the folder's. Needs torch and
transformers.
"""

import json
import os
import random
import subprocess
import sys
import tempfile

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-4
NUM_SEQUENCES = 8
NUM_NEXT_TOKENS = 64


def make_rows(vocab_size):
    random.seed(0)
    token_ids = lambda count: [random.randrange(vocab_size) for _ in range(count)]
    sequences = [{"prompt_ids": token_ids(1), "response_ids": token_ids(random.randrange(8, 48))} for _ in range(NUM_SEQUENCES)]
    prompt = token_ids(9)
    next_tokens = [{"prompt_ids": prompt, "response_ids": [id]} for id in random.sample(range(vocab_size), NUM_NEXT_TOKENS)]
    return sequences + next_tokens


def score_with_gsil(gsil, folder, rows):
    with tempfile.TemporaryDirectory() as scratch:
        data = os.path.join(scratch, "rows.jsonl")
        with open(data, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        command = [gsil, "score", "--model", folder, "--data", data, "--device", "flex"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [json.loads(line)["token_log_probs"] for line in lines]


def score_with_transformers(model, row):
    ids = torch.tensor([row["prompt_ids"] + row["response_ids"]])
    with torch.no_grad():
        log_probs = model(ids).logits[0].float().log_softmax(-1)
    start = len(row["prompt_ids"])
    return [log_probs[i - 1, ids[0, i]].item() for i in range(start, ids.shape[1])]


def check_settings(folder):
    """What a plain `from_pretrained` and `generate` take from the folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    with safe_open(os.path.join(folder, "model.safetensors"), "pt") as file:
        stored = {file.get_tensor(name).dtype for name in file.keys()}
    assert stored == {model.dtype}, (stored, model.dtype)
    settings = os.path.join(folder, "generation_config.json")
    if not os.path.exists(settings):
        return
    with open(settings, encoding="utf-8") as file:
        end = json.load(file)["eos_token_id"]
    assert model.generation_config.eos_token_id == end, (model.generation_config.eos_token_id, end)


def main():
    gsil, folder = sys.argv[1:]
    check_settings(folder)
    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not loading[problem], (problem, loading[problem])
    model.eval()
    rows = make_rows(model.config.vocab_size)
    ours = score_with_gsil(gsil, folder, rows)
    assert len(ours) == len(rows)
    worst = 0.0
    for row, values in zip(rows, ours):
        theirs = score_with_transformers(model, row)
        assert len(values) == len(theirs)
        worst = max(worst, max(abs(a - b) for a, b in zip(values, theirs)))
    print(f"{folder}: largest difference of {sum(map(len, ours))} log-probs: {worst:.2e}")

    if os.path.exists(os.path.join(folder, "tokenizer.json")):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        chat = tokenizer.apply_chat_template([{"role": "user", "content": "What is 2 + 2?"}], add_generation_prompt=True, tokenize=False)
        print(f"chat template: {chat!r}")
    sys.exit(0 if worst <= TOLERANCE else 1)


if __name__ == "__main__":
    main()
