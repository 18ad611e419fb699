"""Run vLLM's own scheduler tests twice, with its schedulers and with ours, and compare.

    .venv-vllm/bin/python tools/vllm_upstream_tests.py [--version 0.32.0] [--policy vtc]

The tests come from vLLM's source distribution. Its Python files of that version are laid over the
installed build, so that one environment answers for every version that Fairlane supports. A test
that fails with vLLM's classes (it needs a model from the network, or a GPU) is expected to fail
with ours; the exit code is 0 when both sets of results are the same.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOWNLOADS = ROOT / ".venv-vllm" / "sources"
FILES = (
    "core/test_scheduler.py",
    "core/test_async_scheduler.py",
    "core/test_priority_scheduler_random.py",
    "core/test_priority_preemption_bug.py",
    "core/test_deferred_block_free.py",
    "core/test_worker_slot_overflow.py",
    "streaming_input/test_scheduler_streaming.py",
    "kv_connector/unit/test_remote_prefill_lifecycle.py",
    "kv_connector/unit/test_remote_decode_lifecycle.py",
    "kv_connector/unit/test_invalid_blocks_correctness.py",
    "kv_connector/unit/test_kv_load_failure_recovery.py",
    "kv_connector/unit/test_error_propagation.py",
    "kv_connector/unit/test_cache_pollution_prevention.py",
)
# The tests name a model on the hub; they only need its configuration.
MODEL = {
    "architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": 768,
    "num_attention_heads": 12, "num_hidden_layers": 12, "ffn_dim": 3072, "vocab_size": 50272,
    "max_position_embeddings": 2048, "word_embed_proj_dim": 768, "torch_dtype": "float16",
    "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1,
}  # fmt: skip
PLUGIN = '''
"""Puts our schedulers in the place of vLLM's before any test is imported."""
import vllm.v1.core.sched.async_scheduler as async_module
import vllm.v1.core.sched.scheduler as module
from fairlane.engines.vllm.scheduling import FairAsyncScheduler, FairScheduler
module.Scheduler = FairScheduler
async_module.AsyncScheduler = FairAsyncScheduler
'''


def source(version: str) -> Path:
    """The unpacked source distribution of a vLLM version; fetched on first use."""
    folder = DOWNLOADS / f"vllm-{version}"
    if folder.exists():
        return folder
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "vllm"]
    command += ["--no-build-isolation", "-d", str(DOWNLOADS), f"vllm=={version}"]
    settings = {"VLLM_TARGET_DEVICE": "empty", "VLLM_VERSION_OVERRIDE": version}
    subprocess.run(command, check=True, env={**os.environ, **settings})
    with tarfile.open(DOWNLOADS / f"vllm-{version}.tar.gz") as archive:
        archive.extractall(DOWNLOADS, filter="data")
    return folder


def lay_out(work: Path, version: str) -> list[str]:
    """Fill a folder with what the tests need; the test files, relative to it."""
    origin = source(version)
    model = work / "facebook" / "opt-125m"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(MODEL))
    (work / "ours.py").write_text(PLUGIN)
    (work / "tests").symlink_to(origin / "tests")
    import vllm

    installed = Path(vllm.__file__).parent
    if vllm.__version__.split("+")[0] != version:
        overlay(work / "vllm", origin / "vllm", installed)
    names = [f"tests/v1/{name}" for name in FILES]
    return [name for name in names if (work / name).exists()]


def overlay(target: Path, python_files: Path, built: Path) -> None:
    """A package of one version's Python files with another's compiled ones."""
    for folder, _, names in os.walk(python_files):
        here = target / Path(folder).relative_to(python_files)
        here.mkdir(parents=True, exist_ok=True)
        for name in names:
            (here / name).symlink_to(Path(folder) / name)
    for library in built.glob("*.so"):
        (target / library.name).symlink_to(library)
    (target / "_version.py").write_text((built / "_version.py").read_text())


def results(work: Path, files: list[str], ours: bool, policy: str) -> dict[str, str]:
    """Run the tests; outcome by test."""
    report = work / f"report-{ours}.xml"
    config = work / "fairlane.toml"
    config.write_text(f'[scheduler]\nname = "{policy}"\n')
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", f"--junitxml={report}"]
    command += ["-p", "no:cacheprovider", *(["-p", "ours"] if ours else []), *files]
    settings = {
        "PYTHONPATH": os.pathsep.join([str(work), str(ROOT / "src")]),
        "FAIRLANE_CONFIG": str(config),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    with open(work / f"log-{ours}.txt", "w") as log:
        subprocess.run(
            command, cwd=work, env={**os.environ, **settings}, check=False,
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    if not report.exists():
        raise SystemExit(f"pytest wrote no report:\n{(work / f'log-{ours}.txt').read_text()}")
    outcomes = {}
    for case in ET.parse(report).iter("testcase"):
        worst = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcomes[f"{case.get('classname')}::{case.get('name')}"] = (worst or ["passed"])[0]
    return outcomes


def main() -> None:
    """Compare the two sets of results; exit code 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--version", default="0.32.0", help="of vLLM's Python files and tests")
    parser.add_argument("--policy", default="vtc", help="the scheduler to put in")
    parser.add_argument("--keep", help="a folder for the logs, instead of a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(options.keep or temporary)
        files = lay_out(work, options.version)
        stock = results(work, files, False, options.policy)
        ours = results(work, files, True, options.policy)
    differ = [t for t in sorted(stock | ours) if stock.get(t) != ours.get(t)]
    for test in differ:
        print(f"{test}: {stock.get(test)} with vLLM's, {ours.get(test)} with ours")
    counts = Counter(ours.values())
    print(f"vLLM {options.version}, {options.policy}: {len(ours)} tests, {dict(counts)}; "
          f"{len(differ)} differ from vLLM's own results")  # fmt: skip
    raise SystemExit(1 if differ or not counts["passed"] else 0)


if __name__ == "__main__":
    main()
