"""Does mlx-lm compute what gsil computes, on a folder that gsil exported for it? Run by hand: CI has no mlx.

    pip install mlx mlx-cpu mlx-lm        (on Linux; on a Mac without mlx-cpu)
    gsil export RUN --format mlx --dtype f32 --output FOLDER
    python check_mlx.py PATH_TO_GSIL FOLDER

Compares the log-probs of random token sequences. Prints the largest difference; exit code 1 above 1e-3.
"""

import json
import os
import random
import subprocess
import sys
import tempfile

import mlx.core as mx
from mlx_lm.utils import load_model
from pathlib import Path

TOLERANCE = 1e-3


def main():
    gsil, folder = sys.argv[1:]
    model, config = load_model(Path(folder))
    random.seed(0)
    rows = [[random.randrange(config["vocab_size"]) for _ in range(random.randrange(9, 40))] for _ in range(8)]
    with tempfile.TemporaryDirectory() as scratch:
        data = os.path.join(scratch, "rows.jsonl")
        with open(data, "w") as file:
            file.writelines(json.dumps({"prompt_ids": row[:1], "response_ids": row[1:]}) + "\n" for row in rows)
        command = [gsil, "score", "--model", folder, "--data", data, "--device", "flex"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    worst = 0.0
    for row, line in zip(rows, lines):
        logits = model(mx.array([row]))[0].astype(mx.float32)
        log_probs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        ours = json.loads(line)["token_log_probs"]
        worst = max(worst, max(abs(log_probs[i, row[i + 1]].item() - ours[i]) for i in range(len(ours))))
    print(f"{folder}: mlx-lm, largest difference of {sum(map(len, rows)) - len(rows)} log-probs: {worst:.2e}")
    sys.exit(0 if worst <= TOLERANCE else 1)


main()
