"""auto-round: 4 bits, group 64, symmetric, without tuning (iters=0: round to nearest)."""

import json
import sys
import time

import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer

_, _, folder, _ = sys.argv
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
rounding = AutoRound(
    model,
    tokenizer,
    bits=4,
    group_size=64,
    sym=True,
    iters=0,
    device_map="cpu",
    disable_opt_rtn=True,
)
start = time.perf_counter()
rounding.quantize()
print(json.dumps({"quantize and pack": time.perf_counter() - start}))
