"""transformers with compressed-tensors: a folder, in float32 on the CPU."""

import sys

import torch
from compared import compare
from transformers import AutoModelForCausalLM

model, loading = AutoModelForCausalLM.from_pretrained(
    sys.argv[1], dtype=torch.float32, output_loading_info=True
)
assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
with torch.inference_mode():
    compare(lambda window: model(torch.from_numpy(window)[None]).logits[0].numpy())
