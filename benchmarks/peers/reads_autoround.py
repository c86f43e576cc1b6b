"""auto-round through transformers: a folder, on the CPU, in float16, which is all that it has."""

import sys

import auto_round  # noqa: F401 (its formats are known to transformers once it is imported)
import torch
from compared import compare
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float16, device_map="cpu")
with torch.inference_mode():
    compare(lambda window: model(torch.from_numpy(window)[None]).logits[0].float().numpy())
