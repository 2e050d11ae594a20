"""Packages whose re-exports are made on demand: the names are all there, and a package alone loads none of them."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

PACKAGES = ["netfs", "servers", "trials"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_the_one_the_type_checker_sees(package: str) -> None:
    module = import_module(package)
    assert module.__file__ is not None
    seen = {
        alias.name: node.module
        for node in ast.walk(ast.parse(Path(module.__file__).read_text()))
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith(f"{package}.")
        for alias in node.names
    }
    assert sorted(seen) == sorted(module.__all__)
    for name, home in seen.items():
        assert getattr(module, name) is getattr(import_module(home), name)
        assert vars(module)[name] is getattr(module, name)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_that_is_not_there(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'missing'"):
        _ = import_module(package).missing


def test_packages_alone_load_little() -> None:
    check = "import sys, netfs, servers, trials; print([n for n in ('trio', 'msgpack', 'cryptography') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
