"""GPTQModel: a folder, its weights unpacked by GPTQModel's own code, in float32 on the CPU."""

import os
import sys

# its default for two cores does not start; its kernels are made for 16 bits
os.environ |= {
    "CUDA_VISIBLE_DEVICES": "",
    "GPTQMODEL_CPU_WORKERS": "2",
    "TORCHDYNAMO_DISABLE": "1",
}
import torch
from compared import compare
from gptqmodel import BACKEND, GPTQModel

model = GPTQModel.load(
    sys.argv[1], device="cpu", dtype=torch.float16, backend=BACKEND.TORCH
).model.float()
for name, module in list(model.named_modules()):
    if hasattr(module, "dequantize_weight"):
        module.scales.data = module.scales.data.float()
        weight = module.dequantize_weight().float().T.contiguous()  # (in, out) -> (out, in)
        plain = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=module.bias is not None)
        plain.weight.data = weight
        if module.bias is not None:
            plain.bias.data = module.bias.data.float()
        model.set_submodule(name, plain)
with torch.inference_mode():
    compare(lambda window: model(torch.from_numpy(window)[None]).logits[0].numpy())
