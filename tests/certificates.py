"""Certificates that tests make for themselves."""

import subprocess
from pathlib import Path


def self_signed(folder: Path, holder: str) -> tuple[Path, Path]:
    """A certificate of `holder` ("IP:127.0.0.1", "DNS:example.org") and its key; needs openssl."""
    certificate, key = folder / "fullchain.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key,
         "-out", certificate, "-subj", f"/CN={holder.partition(':')[2]}",
         "-addext", f"subjectAltName={holder}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key
