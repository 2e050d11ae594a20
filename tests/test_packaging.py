"""The wheel holds the six packages, typed, and nothing else; installed away from the source they import from there."""

import os
import subprocess
import sys
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


def test_every_listed_package_is_typed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert tuple(listed) == PACKAGES
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)
