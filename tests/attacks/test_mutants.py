"""The suite bites: seven builds that are weakened on purpose each fail it, each by the test that is there for it.

A build is a copy of the source with one place changed; when the place is not there any more, this says so, and wants a new one.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("iov", "transport", "crypto", "servers", "netfs", "trials", "tests", "stubs")


@dataclass(frozen=True)
class Mutant:
    """A weakness: what is replaced by what in a file, and the tests of which at least one fails then."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "the associated data has no block number",
        "crypto/content.py",
        '        numbers = array("Q", range(block, block + count))\n',
        '        numbers = array("Q", [0] * count)\n',
        ("tests/crypto/test_content.py", "tests/crypto/test_vectors.py"),
    ),
    Mutant(
        "tag pages are not verified",
        "crypto/tagtree.py",
        "if len(data) != PAGE_SIZE or sha256(data).digest() != expected:",
        "if len(data) != PAGE_SIZE:",
        ("tests/attacks/test_data.py::test_a04_an_old_block",),
    ),
    Mutant(
        "zeros are a hole",
        "crypto/content.py",
        "            if state == HOLE:\n",
        "            if state == HOLE or not any(area[(done + at) * size : (done + at + 1) * size]):\n",
        ("tests/attacks/test_data.py::test_a06_zeros_are_never_shown_for_data",),
    ),
    Mutant(
        "the server says how large a file is",
        "netfs/fs/sealed_folder.py",
        "        attr.size = record.size\n",
        "        attr.size += 0\n",
        (
            "tests/attacks/test_data.py::test_a08_cut_off",
            "tests/attacks/test_data.py::test_a09_bytes_behind_the_end_are_never_returned",
        ),
    ),
    Mutant(
        "nonces are counted",
        "netfs/fs/sealed_write.py",
        "self._sealed.env.nonces(self.count * NONCE_SIZE)",
        'b"".join((self._sealed.generation << 32 | n).to_bytes(NONCE_SIZE, "big") for n in range(self.count))',
        ("tests/attacks/test_nonces.py",),
    ),
    Mutant(
        "blocks are decrypted in memory the peer can write",
        "transport/rdma/client.py",
        "        if call.mrs:\n            call.open += 1\n",
        "        if call.mrs and not call.mrs:\n            call.open += 1\n",
        ("tests/rdma/test_endpoint.py",),
    ),
    Mutant(
        "a slot is not committed to one secret",
        "crypto/slots.py",
        "if not hmac.compare_digest(commitment, self.commitment):",
        "if not commitment:",
        ("tests/crypto/test_slots.py", "tests/crypto/test_volume.py"),
    ),
)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_weakened_build_fails(mutant: Mutant, tmp_path: Path) -> None:
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
    for name in ("pyproject.toml", "README.md", "docs", "examples"):
        path = ROOT / name
        shutil.copytree(path, tmp_path / name) if path.is_dir() else shutil.copy(path, tmp_path / name)
    place = tmp_path / mutant.file
    source = place.read_text()
    assert source.count(mutant.old) == 1, f"{mutant.file} has changed: where is it now that {mutant.name}?"
    assert failing(tmp_path, mutant) == 0, "the build as it is passes"
    place.write_text(source.replace(mutant.old, mutant.new))
    assert failing(tmp_path, mutant) == 1, f"nothing notices that {mutant.name}"


def failing(folder: Path, mutant: Mutant) -> int:
    """Run the tests of a mutant in a copy of the source. Returns: pytest's exit code."""
    present = [test for test in mutant.tests if (folder / test.partition("::")[0]).exists()]
    assert present, mutant.tests
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not soak", *present]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    where = subprocess.run(
        [sys.executable, "-c", "import crypto; print(crypto.__file__)"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert where.stdout.startswith(str(folder)), "the copy is what is tested"
    return done.returncode
