"""Runs `gsil bench` and its PyTorch peer in turn and prints one Markdown table of medians and ratios.

    cargo build --release
    python benches/compare.py                                  # every row, three runs each: over an hour on two cores
    python benches/compare.py --rows train,generate --threads 1 --runs 1

Nothing else should run meanwhile: a busy machine slows one side more than the other, now this, now that. Runs alternate
(peer, peer with a tuned allocator, gsil, then again), each in a process of its own. PyTorch is run with glibc's default
allocator settings and with ones that keep freed memory; the faster of the two is the peer. gsil is run as it comes.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# Without these glibc gives large blocks back to the system after every operation and takes them again, page by page.
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
TRAIN, LORA, GENERATE = ["--workload", "train"], ["--workload", "lora"], ["--workload", "generate"]
MIXED = ["--requests", "64"]
# name: (what it is, arguments of peer.py, arguments of `gsil bench`)
ROWS = {
    "train": ("full fine-tuning step", TRAIN, TRAIN),
    "train-checkpointing": (
        "full fine-tuning step, both with checkpointing",
        [*TRAIN, "--checkpointing"],
        [*TRAIN, "train.activation_checkpointing=true"],
    ),
    "train-memory": (
        "full fine-tuning step, only gsil with checkpointing",
        TRAIN,
        [*TRAIN, "train.activation_checkpointing=true"],
    ),
    "lora": ("LoRA r = 8 step", LORA, LORA),
    "lora-checkpointing": (
        "LoRA step, both with checkpointing",
        [*LORA, "--checkpointing"],
        [*LORA, "train.activation_checkpointing=true"],
    ),
    "lora-memory": (
        "LoRA step, only gsil with checkpointing",
        LORA,
        [*LORA, "train.activation_checkpointing=true"],
    ),
    "generate": ("generation 8 x (32 + 64)", GENERATE, GENERATE),
    "generate-bf16": ("generation 8 x (32 + 64), gsil with bf16 weights", GENERATE, [*GENERATE, "generation.weights=bf16"]),
    "generate-bf16-both": (
        "generation 8 x (32 + 64), both with bf16 weights",
        [*GENERATE, "--dtype", "bf16"],
        [*GENERATE, "generation.weights=bf16"],
    ),
    "generate-mixed": ("64 prompts of mixed lengths, 8 side by side", [*GENERATE, *MIXED], [*GENERATE, *MIXED]),
    "generate-mixed-32": (
        "64 prompts of mixed lengths, 32 side by side",
        [*GENERATE, *MIXED, "--batch", "32"],
        [*GENERATE, *MIXED, "generation.batch_size=32"],
    ),
    "generate-mixed-gsil-32": (
        "64 prompts of mixed lengths, 8 against 32 side by side",
        [*GENERATE, *MIXED],
        [*GENERATE, *MIXED, "generation.batch_size=32"],
    ),
    "generate-mixed-gsil-32-bf16": (
        "the same, gsil with bf16 weights",
        [*GENERATE, *MIXED],
        [*GENERATE, *MIXED, "generation.batch_size=32", "generation.weights=bf16"],
    ),
}


def run(command, threads, environment):
    """One process; its JSON object."""
    count = str(threads)
    environment = {**os.environ, "RAYON_NUM_THREADS": count, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, **environment}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"  {result['tokens_per_s']:8.1f} tokens/s  {' '.join(command[1:])}", file=sys.stderr)
    return result


def median(results, key):
    """Over the runs; None where a side cannot tell."""
    values = [result[key] for result in results]
    return None if None in values else statistics.median(values)


def measure(names, threads, args):
    """The results of rows that have the same peer: the peer with both allocator settings, and gsil for each row."""
    peer_arguments = ROWS[names[0]][1]
    print(f"{', '.join(names)}, {threads} threads", file=sys.stderr)
    size = ["--steps", str(args.steps), "--layers", str(args.layers)]
    peer = [args.python, str(HERE / "peer.py"), *peer_arguments, *size, "--threads", str(threads)]
    of_peer, of_gsil = {"default": [], "tuned": []}, {name: [] for name in names}
    for _ in range(args.runs):
        of_peer["default"].append(run(peer, threads, {}))
        of_peer["tuned"].append(run(peer, threads, TUNED))
        for name in names:
            gsil = [args.gsil, "bench", "--device", args.device, *size, *ROWS[name][2]]
            of_gsil[name].append(run(gsil, threads, {}))
    return [{"row": name, "title": ROWS[name][0], "threads": threads, **of_peer, "gsil": of_gsil[name]} for name in names]


def table_line(row):
    """Medians and ratios of one row. The peer is the allocator setting with more tokens a second."""
    peer_name = max(["default", "tuned"], key=lambda name: median(row[name], "tokens_per_s"))
    peer, gsil = row[peer_name], row["gsil"]
    speed = [median(row[name], "tokens_per_s") for name in ("default", "tuned", "gsil")]
    seconds = [median(side, "seconds_per_step") for side in (peer, gsil)]
    memory = [median(side, "peak_memory_bytes") for side in (peer, gsil)]
    # CPU time has a peer of its own: the allocator setting that took less of it.
    cpu = [min(median(row[name], "cpu_seconds_per_step") for name in ("default", "tuned")), median(gsil, "cpu_seconds_per_step")]

    def both(values, scale, digits):
        return "-" if None in values else " / ".join(f"{value * scale:.{digits}f}" for value in values)

    def ratio(values, digits=2):
        return "-" if None in values else f"{values[0] / values[1]:.{digits}f}"

    cells = [
        row["title"], row["threads"], both(speed[:2], 1, 0), f"{speed[2]:.0f}", both(seconds, 1, 2),
        f"**{ratio(seconds)}**", both(cpu, 1, 2), ratio(cpu), both(memory, 2**-20, 0), ratio(memory[::-1]),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def print_table(rows, load):
    peer, gsil = rows[0]["default"][0], rows[0]["gsil"][0]
    runs = len(rows[0]["gsil"])
    print(
        f"Measured on {datetime.date.today()}: {gsil['cpu'] or platform.processor()}, {os.cpu_count()} threads, "
        f"{gsil['system']}; gsil {gsil['gsil_version']} on {gsil['device']}; {peer['version']}. Medians of {runs} runs. "
        f"Load average before the first: {load:.1f}.\n"
    )
    print("| work | threads | PyTorch tokens/s, default / tuned allocator | gsil tokens/s | seconds, peer / gsil | times as fast "
          "| CPU seconds, peer / gsil | times less | peak MiB, peer / gsil | share of memory |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(table_line(row), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS), help=f"some of: {', '.join(ROWS)}")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each run, after one that is not")
    parser.add_argument("--threads", default=f"{os.cpu_count()},1", help="numbers of threads, with commas")
    parser.add_argument("--layers", type=int, default=30, help="a smaller model, to try the script out")
    parser.add_argument("--device", default="flex", help="of gsil")
    parser.add_argument("--gsil", default=str(HERE.parent / "target/release/gsil"), help="the program")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch and transformers")
    parser.add_argument("--json", type=Path, help="write every run's figures to this file")
    args = parser.parse_args()
    unknown = set(args.rows.split(",")) - set(ROWS)
    if unknown:
        parser.error(f"unknown rows: {', '.join(sorted(unknown))}")
    load = os.getloadavg()[0]
    if load > 0.3:
        print(f"warning: the load average is {load:.1f}; figures of a busy machine do not count", file=sys.stderr)
    threads = dict.fromkeys(int(number) for number in args.threads.split(","))
    names = args.rows.split(",")
    groups = {}  # rows that have the same peer are measured beside one measurement of it
    for name in names:
        groups.setdefault(tuple(ROWS[name][1]), []).append(name)
    rows = []
    for group, count in [(group, count) for group in groups.values() for count in threads]:
        rows += measure(group, count, args)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1))
    rows.sort(key=lambda row: names.index(row["row"]))
    print_table(rows, load)


if __name__ == "__main__":
    main()
