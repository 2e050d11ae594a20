"""docs/rdma.md is true: its Python runs, its state table is the table of the code."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from transport.rdma.enums import AttrMask, QPState, QPType
from transport.rdma.qp_table import TABLE

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "rdma.md"
BEGIN, END = "<!-- state table -->\n", "<!-- end of state table -->"


def names(mask: int) -> str:
    return ", ".join(bit.name or "" for bit in AttrMask if int(mask) & bit)


def drawn() -> str:
    """Return the picture and the table, in Markdown."""
    rows = {
        pair: row
        for pair, row in TABLE[QPType.RC].items()
        if pair[1] not in (QPState.RESET, QPState.ERR) and QPState.SQE not in pair
    }
    arrows = "\n".join(f"    {old.name} --> {new.name}" for old, new in rows)
    table = "\n".join(
        f"| {old.name} → {new.name} | {names(required)} | {names(optional)} |"
        for (old, new), (required, optional) in rows.items()
    )
    picture = f"```mermaid\nstateDiagram-v2\n    [*] --> RESET\n{arrows}\n```\n"
    return f"{picture}\n| transition | required | [optional] |\n|---|---|---|\n{table}\n"


def test_state_table_is_the_code() -> None:
    text = PAGE.read_text()
    shown = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert shown == drawn(), f"put this between the marks:\n{drawn()}"


@pytest.mark.parametrize("number", [0, 1])
def test_python_of_the_page_passes(number: int, tmp_path: Path) -> None:
    block = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[number]
    for test in re.findall(r"^def test_.*?(?=^\S|\Z)", block, re.DOTALL | re.MULTILINE):
        assert len(test.strip().splitlines()) < 10
    (tmp_path / "test_page.py").write_text(block)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
