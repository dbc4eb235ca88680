"""How the cost of a training step grows with tokens, pairs and layers: one Markdown table for each.

    python benches/linear_cost.py
    python benches/linear_cost.py --grow tokens --overrides train.activation_checkpointing=true

The last column is the time for one operation of a matrix product, against the smallest size: not above 1 is linear growth
or better, a rise is a knee. Matrix operations themselves grow in a straight line with pairs and layers, and with tokens but
for attention, whose scores grow with their square.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

GSIL = Path(__file__).parent.parent / "target/release/gsil"
# What grows: the sizes (pairs, tokens, layers).
SIZES = {
    "tokens": [(1, tokens, 30) for tokens in (64, 128, 256, 512, 1024)],
    "pairs": [(pairs, 256, 30) for pairs in (1, 2, 4, 8, 16)],
    "layers": [(1, 256, layers) for layers in (4, 8, 15, 30)],
    # Memory grows with every token of a micro-batch: this one needs checkpointing on most machines.
    "both": [(1, 256, 30), (4, 512, 30), (16, 1024, 30)],
}


def measure(size, args):
    pairs, tokens, layers = map(str, size)
    command = [args.gsil, "bench", "--workload", args.workload, "--device", args.device, "--steps", str(args.steps)]
    command += ["--pairs", pairs, "--tokens", tokens, "--layers", layers, *args.overrides]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        print(f"{' '.join(command)} failed:\n{done.stderr}", file=sys.stderr)
        return None
    return json.loads(done.stdout)


def print_table(what, args):
    print(f"\n| {what}: pairs x tokens, layers | seconds a step | CPU seconds | tokens/s | peak MiB | time an operation |")
    print("|---|---|---|---|---|---|", flush=True)
    first = None
    for size in SIZES[what]:
        result = measure(size, args)
        if result is None:
            print(f"| {size[0]} x {size[1]}, {size[2]} | failed | | | | |", flush=True)
            continue
        unit = result["seconds_per_step"] / result["matrix_flops_per_step"]
        first = first or unit
        cpu, memory = result["cpu_seconds_per_step"], result["peak_memory_bytes"]
        print(
            f"| {size[0]} x {size[1]}, {size[2]} | {result['seconds_per_step']:.2f} | {'-' if cpu is None else f'{cpu:.2f}'} "
            f"| {result['tokens_per_s']:.0f} | {'-' if memory is None else f'{memory / 2**20:.0f}'} | {unit / first:.2f} |",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grow", nargs="+", choices=list(SIZES), default=["tokens", "pairs", "layers"])
    parser.add_argument("--workload", choices=["train", "lora"], default="train")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="flex")
    parser.add_argument("--gsil", default=str(GSIL))
    parser.add_argument("--overrides", nargs="*", default=[], metavar="KEY=VALUE", help="as `gsil bench` takes them")
    args = parser.parse_args()
    for what in args.grow:
        print_table(what, args)


if __name__ == "__main__":
    main()
