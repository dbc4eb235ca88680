"""Does TensorBoard read what gsil wrote?

    python check_tensorboard.py RUN_FOLDER

Reads `tb/` with TensorBoard's own reader, record by record with their CRCs, and compares every scalar of every update with
`metrics.jsonl`, and every evaluation with `evaluations.jsonl`. Exit code 1 where they differ or a step comes twice.
Needs tensorboard.
"""

import json
import os
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

NAMES = [
    "loss",
    "demonstration_log_prob_per_token",
    "log_ratio_demonstration",
    "log_ratio_self_generated",
    "log_ratio_margin",
    "implicit_reward_accuracy",
    "grad_norm",
    "lr",
    "num_clamped",
    "tokens_per_s",
]


def read_lines(folder, name):
    with open(os.path.join(folder, name)) as file:
        return [json.loads(line) for line in file]


def differ(written, expected):
    """By more than a 32-bit float's last bit, which is what an event holds: means of floats often lie half-way between two."""
    return abs(written - expected) > 2**-23 * abs(expected)


def main():
    run = sys.argv[1]
    folder = os.path.join(run, "tb")
    [file] = os.listdir(folder)
    num_events = sum(1 for _ in EventFileLoader(os.path.join(folder, file)).Load())

    accumulator = EventAccumulator(folder, size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    scalars = {tag: {e.step: e.value for e in accumulator.Scalars(tag)} for tag in tags["scalars"]}
    num_values = sum(len(accumulator.Scalars(tag)) for tag in tags["scalars"])
    if num_values != sum(len(steps) for steps in scalars.values()):
        sys.exit("a step comes twice")

    num_compared = 0
    for row in read_lines(run, "metrics.jsonl"):
        stage = row["stage"]
        prefix = "gsil" if stage.startswith("iteration ") else stage.replace(" ", "_")
        for name in NAMES:
            if row.get(name) is not None:
                written, expected = scalars[f"{prefix}/{name}"][row["total_step"]], row[name]
                if differ(written, expected):
                    sys.exit(f"{prefix}/{name} at {row['total_step']}: {written}, expected {expected}")
                num_compared += 1
    for row in read_lines(run, "evaluations.jsonl"):
        prefix = "evaluation_continued_sft" if row["stage"] == "continued sft" else "evaluation"
        name = "demonstration_log_prob_per_token"
        written, expected = scalars[f"{prefix}/{name}"][row["total_steps"]], row["evaluation"][name]
        if differ(written, expected):
            sys.exit(f"{prefix}/{name} at {row['total_steps']}: {written}, expected {expected}")
        num_compared += 1
    print(f"{num_events} events, {len(scalars)} tags, {num_values} scalars; {num_compared} compared: equal to a float's last bit")


main()
