"""Does peft compute what gsil computes, on an adapter that gsil exported?

    python check_peft.py PATH_TO_GSIL ADAPTER_FOLDER MERGED_FOLDER

Loads the base model that the adapter names with transformers and the adapter with peft, and compares the log-probs of random
token sequences with those of gsil on the merged model. Prints the largest difference; exit code 1 above 1e-4. Needs torch,
transformers and peft.
"""

import json
import os
import sys
import warnings

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from check_export import TOLERANCE, make_rows, score_with_gsil, score_with_transformers


def main():
    gsil, adapter, merged = sys.argv[1:]
    with open(os.path.join(adapter, "adapter_config.json"), encoding="utf-8") as file:
        base = json.load(file)["base_model_name_or_path"]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    rows = make_rows(model.config.vocab_size)
    plain = [score_with_transformers(model, row) for row in rows]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(model, adapter).eval()
    # peft only warns of adapter tensors that it misses or cannot place.
    assert not any("adapter keys" in str(warning.message) for warning in caught), [str(w.message) for w in caught]
    ours = score_with_gsil(gsil, merged, rows)
    theirs = [score_with_transformers(model, row) for row in rows]
    largest = lambda first, second: max(abs(a - b) for x, y in zip(first, second) for a, b in zip(x, y))
    worst, effect = largest(ours, theirs), largest(plain, theirs)
    print(f"{adapter}: largest difference of {sum(map(len, ours))} log-probs: {worst:.2e}; the adapter moves them by up to {effect:.2e}")
    assert effect > 100 * TOLERANCE, "an adapter without effect would prove nothing"
    sys.exit(0 if worst <= TOLERANCE else 1)


main()
