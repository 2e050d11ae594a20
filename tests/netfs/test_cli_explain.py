"""The explain command: one object for scripts, a table and a picture for people, a line for mistakes."""

import json

import pytest

from netfs.cli.explain import picture, register, size_of
from netfs.cli.main import build, run
from transport.generations import compare

ROWS = ["page_lists", "iterators", "scatterlists", "sges", "map_calls", "messages", "payload_copies", "allocations"]


def netfs(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    app, host = build([])
    register(host)
    code = run(app, host, ["explain", *arguments])
    out, err = capfd.readouterr()
    return code, out, err


def test_json(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = netfs(capfd, "--size", "64KiB", "--device", "swiotlb", "--max-sge", "4", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["input"] == {"size": 65536, "layout": "fragmented", "device": "swiotlb", "max_sge": 4}
    assert [row["name"] for row in found["generations"]] == ["legacy_send", "direct_send", "legacy_mr", "bvec_iova"]
    for row in found["generations"]:
        assert list(row) == ["name", *ROWS]
    legacy, direct = found["generations"][:2]
    assert all(direct[name] <= legacy[name] for name in ROWS)


def test_text(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = netfs(capfd, "--size", "64KiB", "--layout", "contiguous")
    assert code == 0
    for word in ("legacy_send", "bvec_iova", "65536 bytes", "1 fragment;", "████████████████\n"):
        assert word in out


@pytest.mark.parametrize(
    "bad", [("--size", "5x"), ("--size", "0"), ("--size", "300MiB"), ("--max-sge", "1"), ("--layout", "odd"), ("--device", "x")]
)
def test_mistakes_are_one_line(capfd: pytest.CaptureFixture[str], bad: tuple[str, str]) -> None:
    code, out, err = netfs(capfd, *bad)
    assert code == 2
    assert not out
    assert err.startswith("netfs: ") and "Traceback" not in err


def test_sizes() -> None:
    assert [size_of(text) for text in ("1", "4096", "64KiB", "2k", "1 MiB", "1MB")] == [1, 4096, 65536, 2048, 1 << 20, 10**6]
    for text in ("", "x", "-1", "1.5M", "1 QiB"):
        with pytest.raises(ValueError):
            size_of(text)


def test_the_picture_marks_every_page_and_cut() -> None:
    found = compare(4 * 4096, "fragmented", "direct", 16)
    drawn = picture(found)
    assert drawn.count("█") == 4
    memory = next(line for line in drawn.splitlines() if "in memory" in line)
    assert memory.count("├") == 4
    assert next(line for line in drawn.splitlines() if "legacy_mr" in line).count("├") == 1
