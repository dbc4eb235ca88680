"""The work of `gsil bench` as the published trainer does it, with PyTorch and transformers.

One training step: demonstrations and self-generated responses concatenated into one right-padded batch (prompts are not
shared), logits over the whole vocabulary, log_softmax and gather, a forward pass of the reference inside the step (a second
copy of the model; with LoRA the model with its adapter switched off), the bernoulli loss with scale 0.1, gradients clipped
at norm 1, RMSprop, float32. Generation: `transformers.generate`, greedy, with its key-value cache, in batches.

The model has SmolLM2-135M's shape and random weights; token ids are random: neither changes the speed.
Prints one JSON object with the keys of `gsil bench --workload`. Example:

    python benches/peer.py --workload train --threads 2
"""

import argparse
import json
import platform
import statistics
import time

import torch
import torch.nn.functional as F
import transformers
from transformers import LlamaConfig, LlamaForCausalLM


def smollm2_135m(layers, dtype):
    """A model with random weights in SmolLM2-135M's shape."""
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64, max_position_embeddings=8192, tie_word_embeddings=True, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0}, bos_token_id=None, eos_token_id=None,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(dtype)


class LoraLinear(torch.nn.Module):
    """A frozen linear layer with a low-rank update: y = W x + (alpha / rank) B A x."""

    enabled = True  # one switch for all: off, the model is its own reference

    def __init__(self, base, rank, alpha):
        super().__init__()
        self.base, self.scaling = base, alpha / rank
        self.a = torch.nn.Linear(base.in_features, rank, bias=False)
        self.b = torch.nn.Linear(rank, base.out_features, bias=False)
        torch.nn.init.zeros_(self.b.weight)

    def forward(self, x):
        y = self.base(x)
        return y + self.scaling * self.b(self.a(x)) if LoraLinear.enabled else y


def with_adapters(model, rank=8, alpha=16):
    model.requires_grad_(False)
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, linear in list(block.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    setattr(block, name, LoraLinear(linear, rank, alpha))
    return model


def response_log_probs(model, ids, is_response):
    """[B, T] token ids -> [B]: the summed log-probs of each row's response tokens, as TRL-style trainers compute them."""
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    log_probs = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
    return (log_probs * is_response[:, 1:]).sum(1)


def train(args):
    """A step of training, and the tokens that it is credited with."""
    model = smollm2_135m(args.layers, torch.float32)
    reference = None
    if args.workload == "lora":
        model = with_adapters(model)
    else:
        reference = smollm2_135m(args.layers, torch.float32).requires_grad_(False)
        reference.load_state_dict(model.state_dict())
    if args.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()  # transformers checkpoints in training mode only; there is no dropout
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.RMSprop(parameters, lr=1e-5)
    prompt = args.tokens // 4
    one_side = lambda prompts: torch.cat([prompts, torch.randint(0, 49152, (args.pairs, args.tokens - prompt))], 1)
    prompts = torch.randint(0, 49152, (args.pairs, prompt))
    ids = torch.cat([one_side(prompts), one_side(prompts)])  # demonstrations, then self-generated responses
    is_response = torch.zeros_like(ids)
    is_response[:, prompt:] = 1

    def reference_log_probs():
        with torch.no_grad():
            if reference is not None:
                return response_log_probs(reference, ids, is_response)
            LoraLinear.enabled = False
            log_probs = response_log_probs(model, ids, is_response)
            LoraLinear.enabled = True
            return log_probs

    def step():
        policy_log_probs = response_log_probs(model, ids, is_response)
        reward = 0.1 * (policy_log_probs - reference_log_probs())
        demonstration, self_generated = reward.chunk(2)
        loss = (F.softplus(-demonstration) + F.softplus(self_generated)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step, 2 * args.pairs * args.tokens


def mixed_lengths(count):
    """Prompt lengths (16 to 128) and new tokens (8 to 128) of each request: those of `gsil bench --requests`."""
    state = 2024

    def within(low, high):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return low + (state >> 33) % (high - low + 1)

    return [(within(16, 128), within(8, 128)) for _ in range(count)]


def generate(args):
    """Answers all requests once, and the new tokens that were asked for."""
    model = smollm2_135m(args.layers, torch.bfloat16 if args.dtype == "bf16" else torch.float32).eval()
    requests = mixed_lengths(args.requests) if args.requests else [(32, 64)] * args.batch
    requests = sorted(requests, key=lambda request: request[0])  # the length of a response is not known beforehand

    def step():
        for start in range(0, len(requests), args.batch):
            batch = requests[start : start + args.batch]
            longest, new = max(r[0] for r in batch), max(r[1] for r in batch)
            ids = torch.randint(0, 49152, (len(batch), longest))
            mask = torch.tensor([[0] * (longest - r[0]) + [1] * r[0] for r in batch])  # padded on the left
            with torch.inference_mode():
                out = model.generate(
                    input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=False, use_cache=True, pad_token_id=0
                )
            assert out.shape[1] == longest + new

    return step, sum(r[1] for r in requests)


def peak_memory_bytes():
    """None where the system does not tell as Linux does."""
    try:
        with open("/proc/self/status") as status:
            return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    except FileNotFoundError:
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=["train", "lora", "generate"], required=True)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=256, help="of each sequence; a quarter of them is prompt")
    parser.add_argument("--steps", type=int, default=3, help="timed, after one that is not")
    parser.add_argument("--requests", type=int, help="generate: so many prompts of mixed lengths")
    parser.add_argument("--batch", type=int, default=8, help="generate: prompts that are answered side by side")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="generate: the number format of the weights")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    step, tokens_per_step = (generate if args.workload == "generate" else train)(args)
    step()
    seconds, cpu_before = [], time.process_time()
    for _ in range(args.steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    cpu_seconds = time.process_time() - cpu_before
    median = statistics.median_high(seconds)
    print(json.dumps({
        "workload": args.workload, "device": "torch cpu", "model": f"random weights, {args.layers} layers",
        "threads": args.threads, "steps": args.steps, "tokens_per_step": tokens_per_step,
        "tokens_per_s": tokens_per_step / median, "seconds_per_step": median, "scoring_seconds": None,
        "cpu_seconds_per_step": cpu_seconds / args.steps, "peak_memory_bytes": peak_memory_bytes(),
        "version": f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}",
    }))


if __name__ == "__main__":
    main()
