"""docs/threat-model.md names a test for every attack, and every test of an attack stands there."""

import ast
import re
from pathlib import Path

from trials.faults.tamper import load_attacks

ROOT = Path(__file__).parents[2]
EVERY = {*(f"A{n:02}" for n in range(1, 49)), "A23b"}


def rows() -> dict[str, list[str]]:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    found = re.findall(r"^\| (A\d\d[a-z]?) \|[^|]*\|[^|]*\| (.*) \|$", text, re.MULTILINE)
    assert len(dict(found)) == len(found), "an attack has one row"
    return {name: re.findall(r"`([^`]+)`", tests) for name, tests in found}


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_attack_has_a_row_and_a_test() -> None:
    table = rows()
    assert table.keys() == EVERY
    for name, tests in table.items():
        assert tests, name
        for test in tests:
            path, _, function = test.partition("::")
            assert (ROOT / path).is_file(), test
            assert not function or function in functions(ROOT / path), test
            assert function or name == "A43", "the one that is measured by hand"


def test_every_test_of_an_attack_is_in_its_row() -> None:
    table = rows()
    for path in sorted((ROOT / "tests" / "attacks").glob("test_*.py")):
        for function in functions(path):
            numbered = re.match(r"test_(a\d\d)(b?)_", function)
            if numbered is not None:
                name = numbered[1].upper() + numbered[2]
                assert f"{path.relative_to(ROOT)}::{function}" in table.get(name, []), function


def test_what_the_server_can_be_told_to_do_is_in_the_table() -> None:
    assert load_attacks().keys() <= EVERY
    for name, attack in load_attacks().items():
        assert attack.TEXT
        assert name == attack.ID
