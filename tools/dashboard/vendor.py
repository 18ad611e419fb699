"""Check in what the dashboard's page takes from others, at the versions in package-lock.json.

The page draws its charts with uPlot, which needs nothing else. Its files are served as they were
released, byte for byte, beside its licence: nobody who installs Fairlane needs npm, and the page
asks no other host. npm holds what it fetches against the hashes of package-lock.json; vendored.json
keeps which of these the files came from, and what they hash to themselves, so that a test notices
when either has changed without the other.

To move to another version: change it in package.json, then run

    npm install --package-lock-only    # here
    python tools/dashboard/vendor.py   # --check writes nothing and says whether all is as released
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
STATIC = HERE.parents[1] / "src/fairlane/dashboard/static"
RECORD = HERE / "vendored.json"
FILES = {  # in the page's folder: in npm's
    "uPlot.iife.min.js": "uplot/dist/uPlot.iife.min.js",
    "uPlot.min.css": "uplot/dist/uPlot.min.css",
    "uPlot.LICENSE.txt": "uplot/LICENSE",
}


def fetch(into: Path) -> dict[str, bytes]:
    """The contents of FILES, as npm fetched and checked them."""
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(HERE / name, into)
    subprocess.run(["npm", "ci", "--loglevel=error"], cwd=into, check=True)
    return {name: (into / "node_modules" / path).read_bytes() for name, path in FILES.items()}


def record(contents: dict[str, bytes]) -> dict[str, dict[str, str]]:
    """From which locked packages these are, and their hashes (SHA-256, in hexadecimal)."""
    packages = json.loads((HERE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    return {
        "packages": {
            name.removeprefix("node_modules/"): package["integrity"]
            for name, package in packages.items()
            if name
        },
        "files": {name: hashlib.sha256(found).hexdigest() for name, found in contents.items()},
    }


def main() -> None:
    """Write the files and the record of them, or say which are not as released."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true")
    check: bool = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        contents = fetch(Path(folder))
    if check:
        wrong = [name for name in FILES if (STATIC / name).read_bytes() != contents[name]]
        if wrong:
            sys.exit(f"vendor: not as released: {', '.join(wrong)}")
        return
    for name, found in contents.items():
        (STATIC / name).write_bytes(found)
    RECORD.write_text(json.dumps(record(contents), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
