"""optimum-quanto: quantize the whole model once; and the loop that quantizes and evaluates each
plan of a sweep.
"""

import copy
import json
import sys
import time

import numpy as np
import torch
from optimum.quanto import freeze, qint4, qint8, quantize
from transformers import AutoModelForCausalLM

what, folder, data = sys.argv[1:4]
windows = torch.from_numpy(np.load(f"{data}/judge.npy"))
model = (
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
)
blocks = len(model.model.layers)


def losses(model, reference):
    """Mean NLL, KL and top-1 agreement, as a reader would write them."""
    log_q = torch.log_softmax(model(windows, use_cache=False).logits[:, :-1].float(), -1)
    nll = -log_q.gather(-1, windows[:, 1:, None]).mean()
    if reference is None:
        return log_q
    kl = (reference.exp() * (reference - log_q)).sum(-1).mean()
    return float(nll), float(kl), float((log_q.argmax(-1) == reference.argmax(-1)).float().mean())


def quantized(low):
    """A copy with the blocks of `low` at 4 bits and the others at 8."""
    other = copy.deepcopy(model)
    inside = [f"model.layers.{i}.*" for i in low]
    if inside:
        quantize(other, weights=qint4, include=inside)
    if len(low) < blocks:
        quantize(
            other,
            weights=qint8,
            include=[f"model.layers.{i}.*" for i in range(blocks) if i not in low],
        )
    freeze(other)
    return other


with torch.no_grad():
    if what == "quantize":
        other = copy.deepcopy(model)
        start = time.perf_counter()
        quantize(other, weights=qint4, exclude="lm_head")
        freeze(other)
        print(json.dumps({"quantize and pack": time.perf_counter() - start}))
    else:
        reference = losses(model, None)
        order = torch.randperm(blocks, generator=torch.Generator().manual_seed(0)).tolist()
        start, plans = time.perf_counter(), range(0, blocks + 1, blocks // 5)
        for moved in plans:
            losses(quantized(set(order[:moved])), reference)
        print(json.dumps({"a plan": (time.perf_counter() - start) / len(plans)}))
