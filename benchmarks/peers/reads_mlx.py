"""mlx-lm: a folder, in float32 on the CPU."""

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from compared import compare
from mlx_lm.utils import load_model

model, _ = load_model(Path(sys.argv[1]))
model.set_dtype(mx.float32)
compare(lambda window: np.array(model(mx.array(window[None].astype(np.int32))))[0])
