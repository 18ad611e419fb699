"""Make .venv-ray: Ray Serve on top of .venv-vllm, in which the tests of Ray run.

    python -m tools.ray_env             make both, or leave them alone where they are complete
    python -m tools.ray_env --lock      make it anew with today's versions and note them

It takes half a minute and 500 MB beside .venv-vllm, whose packages it sees and does not copy. Ray
Serve LLM needs no more than what is listed here: `ray[llm]` would bring another vLLM, for GPUs.
"""

import subprocess
import sys

from tools.environments import NOT_AVAILABLE, ROOT, Environment, NotAvailable, parse_options
from tools.vllm_env import VLLM_ENVIRONMENT

RAY = "2.60.0"
NEEDED = ("fsspec", "hf_transfer", "jsonref", "pandas", "pyarrow", "smart_open")  # by Serve LLM
TEST_TOOLS = ("hypothesis",)
RAY_ENVIRONMENT = Environment(
    ".venv-ray",
    "ray-constraints.txt",
    "python -m tools.ray_env",
    (RAY, *NEEDED, *TEST_TOOLS, VLLM_ENVIRONMENT.recipe()),
)


def create(index: str | None) -> None:
    """Make the environment from nothing. Raises NotAvailable."""
    named = ["--torch-index", index] if index else []
    made = subprocess.run(
        [sys.executable, "-m", "tools.vllm_env", *named],
        cwd=ROOT, check=False, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if made.returncode == NOT_AVAILABLE:
        raise NotAvailable(made.stderr)
    made.check_returncode()
    RAY_ENVIRONMENT.start_anew()
    seen = f"import site; site.addsitedir({str(VLLM_ENVIRONMENT.packages)!r})\n"
    (RAY_ENVIRONMENT.packages / "vllm.pth").write_text(seen)
    RAY_ENVIRONMENT.pip("install", f"ray[serve]=={RAY}", *NEEDED, *TEST_TOOLS)


def main() -> None:
    """Make the environment unless it is complete; one process at a time."""
    options = parse_options(__doc__ or "")
    own = ("ray==", "pip==", "setuptools==")
    RAY_ENVIRONMENT.make(lambda: create(options.torch_index), lock=options.lock, own=own)


if __name__ == "__main__":
    main()
