"""Greedy generation of `gsil bench --workload generate` by llama.cpp: 8 prompts of 32 random tokens, 64 new tokens each, side by
side, prefill included, no end token. The weights are those of a GGUF file, in the file's number format:

    gsil export SmolLM2-135M-Instruct.Q4_1.gguf --format gguf --dtype f32 --output smollm2-f32
    python benches/llama_cpp_peer.py smollm2-f32/model.gguf --threads 2
    gsil bench --workload generate --model smollm2-f32/model.gguf --device flex

Needs `llama-cpp-python` and numpy. Prints one JSON object with some of the keys of `gsil bench --workload`.
"""

import argparse
import ctypes
import json
import statistics
import time

import llama_cpp
import numpy as np

NUM_PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 8, 32, 64


def decode(context, rows):
    """One pass over rows of (token, position, sequence, wants logits); the numbers of those that want logits."""
    batch = llama_cpp.llama_batch_init(len(rows), 0, 1)
    batch.n_tokens = len(rows)
    for i, (token, position, sequence, wants_logits) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, wants_logits
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
    assert llama_cpp.llama_decode(context, batch) == 0, "llama_decode failed"
    llama_cpp.llama_batch_free(batch)
    return [i for i, row in enumerate(rows) if row[3]]


def generate(context, vocab_size, prompts):
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    last = PROMPT_TOKENS - 1
    rows = [(id, t, s, t == last) for s, prompt in enumerate(prompts) for t, id in enumerate(prompt)]
    for position in range(PROMPT_TOKENS, PROMPT_TOKENS + NEW_TOKENS):
        wanted = decode(context, rows)
        logits = [llama_cpp.llama_get_logits_ith(context, i) for i in wanted]
        tokens = [int(np.ctypeslib.as_array(row, shape=(vocab_size,)).argmax()) for row in logits]
        rows = [(token, position, sequence, True) for sequence, token in enumerate(tokens)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="timed, after one that is not")
    args = parser.parse_args()
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(args.model.encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = NUM_PROMPTS * (PROMPT_TOKENS + NEW_TOKENS)
    params.n_batch = params.n_ubatch = NUM_PROMPTS * PROMPT_TOKENS
    params.n_seq_max = NUM_PROMPTS
    params.n_threads = params.n_threads_batch = args.threads
    context = llama_cpp.llama_init_from_model(model, params)
    vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    random = np.random.default_rng(0)
    prompts = random.integers(0, vocab_size, (NUM_PROMPTS, PROMPT_TOKENS)).tolist()
    generate(context, vocab_size, prompts)
    seconds = []
    for _ in range(args.steps):
        started = time.perf_counter()
        generate(context, vocab_size, prompts)
        seconds.append(time.perf_counter() - started)
    median, tokens = statistics.median_high(seconds), NUM_PROMPTS * NEW_TOKENS
    print(json.dumps({
        "workload": "generate", "model": args.model, "threads": args.threads, "tokens_per_step": tokens,
        "tokens_per_s": tokens / median, "seconds_per_step": median, "version": f"llama-cpp-python {llama_cpp.__version__}",
    }))


if __name__ == "__main__":
    main()
