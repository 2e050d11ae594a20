"""A long run of the fuzzer that is led by coverage, from the worked frames; see `fuzz_iwarp.py`."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rdma.test_iwarp_codec import VECTORS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = int(os.environ.get("NETFS_FUZZ_SECONDS", "120"))
KINDS = 8


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python")
def test_fuzzer_finds_nothing(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for index, (made, _) in enumerate(VECTORS.values()):
        for kind in range(KINDS):
            (corpus / f"{index}-{kind}").write_bytes(bytes([kind, 63]) + made)
    command = [sys.executable, "-m", "tests.rdma.fuzz_iwarp", f"-max_total_time={SECONDS}", "-max_len=400", "-timeout=20"]
    done = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/", str(corpus)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "DONE" in done.stderr
