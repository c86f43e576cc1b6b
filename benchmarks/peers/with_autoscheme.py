"""auto-round's AutoScheme: which layer gets 2, 4 or 8 bits, for an average; groups of 64.

with_autoscheme.py AVERAGES FOLDER TEXTS: averages with commas, as auto-round counts them; TEXTS is
a JSON file of documents to calibrate on. Prints average -> layer -> bits, and the seconds of
each, with the rounding that follows.
"""

import json
import sys
import time

import torch
from auto_round import AutoRound, AutoScheme
from auto_round.schemes import QuantizationScheme
from transformers import AutoModelForCausalLM, AutoTokenizer

_, averages, folder, texts = sys.argv
bits, seconds = {}, {}
for average in map(float, averages.split(",")):
    scheme = AutoScheme(
        avg_bits=average,
        options=[QuantizationScheme(bits=width, group_size=64, sym=True) for width in (2, 4, 8)],
        nsamples=16,
        seqlen=256,
        dataset=texts,
        low_gpu_mem_usage=False,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rounding = AutoRound(
        model,
        AutoTokenizer.from_pretrained(folder),
        scheme=scheme,
        dataset=texts,
        iters=0,
        device_map="cpu",
        disable_opt_rtn=True,
    )
    start = time.perf_counter()
    rounding.quantize()
    seconds[average] = time.perf_counter() - start
    bits[average] = {name: one["bits"] for name, one in rounding.layer_config.items()}
print(json.dumps({"bits": bits, "seconds": seconds}))
