"""Is an adapter that gsil exported, added to its base model, the model that gsil merged?

    python check_safetensors.py BASE_FOLDER ADAPTER_FOLDER MERGED_FOLDER

Reads all three with the safetensors package: every tensor of the merged model is the base's, plus `lora_alpha / r` times
`B A` where the adapter has one. Prints the largest difference; exit code 1 above 1e-6. Needs numpy and safetensors.
"""

import json
import os
import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

TOLERANCE = 1e-6


def main():
    base, adapter, merged = sys.argv[1:]
    with open(os.path.join(adapter, "adapter_config.json"), encoding="utf-8") as file:
        config = json.load(file)
    path = os.path.join(adapter, "adapter_model.safetensors")
    with safe_open(path, "numpy") as file:
        assert file.metadata()["format"] == "pt"
    factors = load_file(path)
    weights, results = (load_file(os.path.join(folder, "model.safetensors")) for folder in (base, merged))
    assert weights.keys() == results.keys()
    worst, num_adapted = 0.0, 0
    for name, values in weights.items():
        module = "base_model.model." + name.removesuffix(".weight")
        if module + ".lora_A.weight" in factors:
            a, b = factors.pop(module + ".lora_A.weight"), factors.pop(module + ".lora_B.weight")
            assert a.shape == (config["r"], values.shape[1]) and b.shape == (values.shape[0], config["r"])
            assert name.split(".")[-2] in config["target_modules"]
            values = values + config["lora_alpha"] / config["r"] * b @ a
            num_adapted += 1
        worst = max(worst, float(np.abs(values - results[name]).max()))
    assert not factors and num_adapted > 0, (list(factors), num_adapted)
    print(f"{num_adapted} adapted matrices merged by hand: largest difference {worst:.1e}")
    sys.exit(0 if worst <= TOLERANCE else 1)


main()
