"""hqq: the matrices of all blocks at 4 bits, group 64."""

import json
import sys
import time

import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from transformers import AutoModelForCausalLM

_, _, folder, _ = sys.argv
model = (
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
)
layers = [
    module
    for block in model.model.layers
    for module in block.modules()
    if isinstance(module, torch.nn.Linear)
]
config = BaseQuantizeConfig(nbits=4, group_size=64)
start = time.perf_counter()
for layer in layers:
    HQQLinear(layer, config, compute_dtype=torch.float32, device="cpu", del_orig=False)
print(json.dumps({"quantize and pack": time.perf_counter() - start}))
