"""GPTQModel: gptq, 4 bits, group 64, symmetric, damping 0.01, no activation order, on the CPU."""

import json
import os
import sys
import time

# its default for two cores does not start
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "GPTQMODEL_CPU_WORKERS": "2"}
import numpy as np
import torch
from gptqmodel import GPTQModel, QuantizeConfig

_, _, folder, data = sys.argv
windows = torch.from_numpy(np.load(f"{data}/calibrate.npy"))
calibration = [
    {"input_ids": window.tolist(), "attention_mask": [1] * len(window)} for window in windows
]
config = QuantizeConfig(
    bits=4, group_size=64, sym=True, desc_act=False, damp_percent=0.01, device="cpu"
)
model = GPTQModel.load(folder, config)
start = time.perf_counter()
model.quantize(calibration, batch_size=4)
print(json.dumps({"quantize": time.perf_counter() - start}))
