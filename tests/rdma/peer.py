"""Run rdma-core's own Python tests, as Debian ships them, against the façade: `python -m tests.rdma.peer [folder]`.

The test files come from Debian's package python3-pyverbs (its compiled modules are not used), from a folder given, from an
installed copy, or by `apt-get download`. They are unpacked into a scratch folder and loaded by name. Exit code 0 when enough pass
and none fails; 77 when the files cannot be had here.
"""

import gzip
import os
import random
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from transport.rdma.pyverbs import install

INSTALLED: Final = Path("/usr/share/doc/rdma-core/tests")
PACKAGE: Final = "python3-pyverbs"
ENOUGH: Final = 90
UNAVAILABLE: Final = 77
PATIENCE_S: Final = 60
SKIPPED: Final = {("CMTestCase", "test_rdmacm_async_udp_traffic"): "identifiers of datagrams"}
"""Tests whose processes cannot say themselves why they are not for this device."""
VENDORS: Final = ("mlx5", "efa", "cuda")


def find_files(given: Path | None, scratch: Path) -> Path | None:
    """Return a folder with the test files, or None."""
    for folder in (given, INSTALLED):
        if folder is not None and (folder / "test_pd.py").exists():
            return folder
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return None
    try:
        got = apt("download", "-q", PACKAGE, folder=scratch)
        if not got and os.geteuid() == 0:
            apt("update", "-qq", folder=scratch)
            got = apt("download", "-q", PACKAGE, folder=scratch)
    except subprocess.TimeoutExpired:
        return None
    packages = sorted(scratch.glob(f"{PACKAGE}_*.deb"))
    if not got or not packages:
        return None
    subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(scratch / "package")], check=True)
    return scratch / "package" / INSTALLED.relative_to("/")


def apt(*words: str, folder: Path) -> bool:
    """Run apt-get in a folder and return whether it succeeded; a network that never answers ends it too."""
    command = ["apt-get", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=PATIENCE_S).returncode == 0


def unpack(source: Path, target: Path) -> list[str]:
    """Put the files under `target`/tests and return the names of the modules that concern no vendor."""
    folder = target / "tests"
    folder.mkdir()
    for path in sorted(source.iterdir()):
        if path.suffix == ".gz":
            (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        elif path.suffix == ".py":
            shutil.copy(path, folder / path.name)
    (folder / "__init__.py").write_text("")
    names = sorted(path.stem for path in folder.glob("test_*.py"))
    return [name for name in names if not any(vendor in name for vendor in VENDORS)]


def load(target: Path, names: list[str]) -> unittest.TestSuite:
    """Import the test modules in place of our own package `tests`."""
    for name in [name for name in sys.modules if name == "tests" or name.startswith("tests.")]:
        del sys.modules[name]
    sys.path[:0] = [str(target), str(target / "tests")]
    sys.argv = ["run_tests.py", "--dev", "emu0", "--port", "1", "--gid", "0"]
    import_module("args_parser").parser.parse_args()
    loader = unittest.TestLoader()
    modules = [import_module(f"tests.{name}") for name in names]
    for module in modules:
        for (title, name), reason in SKIPPED.items():
            if case := getattr(module, title, None):
                setattr(case, name, unittest.skip(reason)(getattr(case, name)))
    give_addresses()
    return unittest.TestSuite(map(loader.loadTestsFromModule, modules))


def give_addresses() -> None:
    """Have the tests find an address of the device, which Linux would look up: one of loopback, for this run alone."""
    number = os.getpid()
    address = f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255 or 1}"

    def get_ip_mac(self: Any, dev: str, port: int, idx: int) -> None:
        self.args.append([dev, port, idx, address, None])

    import_module("tests.base").RDMATestCase._get_ip_mac = get_ip_mac


def take_whole_floats() -> None:
    """Let `random.randrange` take 4.0 for 4, as it did before Python 3.12: rdma-core's tests halve their limits with `/`."""
    exact = random.randrange

    def randrange(*args: float) -> int:
        assert all(arg == int(arg) for arg in args)
        return exact(*map(int, args))

    random.randrange = randrange  # type: ignore[assignment]


def main() -> int:
    """Run and report."""
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        source = find_files(given, scratch)
        if source is None:
            sys.stderr.write(f"the test files of {PACKAGE} cannot be had here: no apt-get, no network, or no such package\n")
            return UNAVAILABLE
        install(os.environ.get("NETFS_RDMA_PROFILE", "connectx"))
        take_whole_floats()
        suite = load(scratch, unpack(source, scratch))
        total = suite.countTestCases()  # `testsRun` has the skipped ones in it, or not, by version of Python
        result = unittest.TextTestRunner(verbosity=1, stream=sys.stdout).run(suite)
    failed, errors = len(result.failures), len(result.errors)
    passed = total - len(result.skipped) - failed - errors
    sys.stdout.write(f"\n{passed} passed, {len(result.skipped)} skipped, {failed} failed, {errors} errors\n")
    for reason, count in sorted(Counter(reason for _, reason in result.skipped).items()):
        sys.stdout.write(f"  {count:3} skipped: {reason}\n")
    return 0 if result.wasSuccessful() and passed >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
