"""The wheel holds the six packages, typed, and nothing else; installed away from the source they import from there."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("iov", "transport", "crypto", "servers", "netfs", "trials")


def run(*argv: str, cwd: Path, **environ: str) -> str:
    done = subprocess.run([sys.executable, *argv], cwd=cwd, env=os.environ | environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    run("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist"), cwd=ROOT)
    (built,) = (tmp_path / "dist").glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
        sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")}
        assert sources <= set(names)


@pytest.mark.slow
def test_installed_packages_import_away_from_the_source(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel), cwd=tmp_path)
    program = f"import {', '.join(PACKAGES)}; print(*[p.__file__ for p in ({', '.join(PACKAGES)},)], sep='\\n')"
    found = run("-c", program, cwd=tmp_path, PYTHONPATH=str(site)).split()
    assert found == [str(site / package / "__init__.py") for package in PACKAGES]


def interpreter(version: str) -> str | None:
    """Return a Python of a version that can make environments: this one, one in the PATH, or one that pyenv keeps."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for found in (sys.executable, shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))):
        if found is not None:
            look = "import sys, ensurepip; print('.'.join(map(str, sys.version_info[:2])))"
            done = subprocess.run([found, "-c", look], capture_output=True, text=True, check=False)
            if done.stdout.strip() == version:
                return str(found)
    return None


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_a_fresh_environment_runs_what_was_installed(version: str, wheel: Path, tmp_path: Path) -> None:
    """As a user has it: an environment of its own, the wheel and its dependencies from the index, every command there."""
    found = interpreter(version)
    if found is None:
        pytest.skip(f"no Python {version} here that can make environments")
    made = subprocess.run([found, "-m", "venv", tmp_path / "venv"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    python = tmp_path / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NETFS_", "PYTHON", "XDG_"))}
    done = subprocess.run([*pip, wheel], env=kept, capture_output=True, text=True, check=False)
    if done.returncode and "Could not find a version" in done.stderr:
        pytest.skip("no package index to install the dependencies from")
    assert done.returncode == 0, done.stderr
    netfs = tmp_path / "venv" / "bin" / "netfs"
    hints_without_extras(python, netfs, tmp_path, kept)
    done = subprocess.run([*pip, f"{wheel}[fsspec,trace,crc]"], env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for arguments in (["--help"], ["--version"], ["doctor"], ["cp", "--help"], ["trace", "wireshark", "--folder", "plugins"]):
        told = subprocess.run([netfs, *arguments], env=kept, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert told.returncode == 0 and not told.stderr, (arguments, told)
    program = (
        "import fsspec, importlib.metadata as m\n"
        f"owned = {{file.parts[0] for file in m.files('netfs')}}\nassert {set(PACKAGES)!r} <= owned, owned\n"
        "for name in {'iov', 'transport', 'crypto', 'servers', 'netfs', 'trials'}:\n"
        "    assert m.packages_distributions()[name] == ['netfs'], name\n"
        "assert fsspec.get_filesystem_class('netfs').__module__.startswith('netfs.')\n"
        "from netfs.tracing.perfetto import PerfettoTrace\n"
        "import crc32c\n"
    )
    subprocess.run([python, "-c", program], env=kept, cwd=tmp_path, check=True)


def hints_without_extras(python: Path, netfs: Path, folder: Path, environ: dict[str, str]) -> None:
    """What needs an extra that is not there says which, in one line."""
    nobody = "netfs+tcp://127.0.0.1:1/x"
    (folder / "mnt").mkdir()
    cases: list[tuple[list[str | Path], str]] = [
        ([netfs, "cat", "--trace", "x.pftrace", nobody], "trace"),
        ([netfs, "mount", nobody, "mnt"], "fuse"),
        ([netfs, "serve", "--memory", "--listen", "127.0.0.1:0", "--rdma", "127.0.0.1:0", "--rdma-crc"], "crc"),
        ([netfs, "trial", "campaign", "--seeds", "0:1", "--out", "c.jsonl", "--on", "dask://127.0.0.1:1"], "dask"),
        ([python, "-c", "import netfs.fsspec"], "fsspec"),
    ]
    for command, extra in cases:
        told = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
        last = told.stderr.splitlines()[-1]
        assert told.returncode != 0 and f"pip install 'netfs[{extra}]'" in last, (command, told)
        assert command[0] == python or len(told.stderr.splitlines()) == 1, told


@pytest.mark.slow
def test_the_source_archive_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    run("-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path / "sdist"), cwd=ROOT)
    (archive,) = (tmp_path / "sdist").glob("*.tar.gz")
    with tarfile.open(archive) as source:
        names = source.getnames()
        if hasattr(tarfile, "data_filter"):  # not in the first releases of Python 3.11
            source.extraction_filter = tarfile.data_filter
        source.extractall(tmp_path)
    top = names[0].split("/")[0]
    assert {f"{top}/{name}" for name in ("README.md", "LICENSE", "pyproject.toml", "docs/index.md", "tests/test_tidy.py")} <= set(
        names
    )
    run("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again"), cwd=tmp_path / top)
    (again,) = (tmp_path / "again").glob("*.whl")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


def test_every_extra_is_one_that_doctor_knows() -> None:
    from netfs.cli.doctor import EXTRAS

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras)
    for extra, requirements in extras.items():
        assert all("@" not in each for each in requirements), extra


def test_every_listed_package_is_typed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert tuple(listed) == PACKAGES
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)
