"""One seed, one trace, on each supported Python that is on this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OTHERS = [name for name in ("3.11", "3.12", "3.13", "3.14") if name != f"{sys.version_info[0]}.{sys.version_info[1]}"]
SEED = ["trial", "hash", "--scenario", "mixed", "--transport", "stream", "--encrypt", "yes", "--seed", "17", "--json"]


def output(command: list[str]) -> str | None:
    """Return what a command prints, None when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": "random"})
    return done.stdout if done.returncode == 0 else None


def python_of(version: str) -> str | None:
    """Return a working interpreter of a version."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    for found in (shutil.which(f"python{version}"), *map(str, pyenv)):
        if found is not None and output([found, "-c", "import ensurepip; print(1)"]) is not None:
            return found
    return None


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", OTHERS)
def test_the_trace_is_the_same(version: str, tmp_path: Path) -> None:
    python = python_of(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    bin_folder = tmp_path / "venv" / "bin"
    if output([python, "-m", "venv", str(tmp_path / "venv")]) is None:
        pytest.skip(f"Python {version} makes no environment")
    if output([str(bin_folder / "pip"), "install", "-q", str(ROOT)]) is None:
        pytest.skip(f"what netfs needs cannot be installed for Python {version}")
    here, there = output([sys.executable, "-m", "netfs", *SEED]), output([str(bin_folder / "netfs"), *SEED])
    assert here is not None and there is not None
    assert json.loads(here) == json.loads(there)
