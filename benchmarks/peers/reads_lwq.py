"""lwq itself: a folder, packed in memory, in float32 on the CPU."""

import sys

import torch
from compared import compare

import lwq

model, _ = lwq.load(sys.argv[1])
with torch.inference_mode():
    compare(lambda window: model(torch.from_numpy(window)[None]).logits[0].numpy())
