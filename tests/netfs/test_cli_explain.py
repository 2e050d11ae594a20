"""The explain command: one object for scripts, a table and a picture for people, a line for mistakes."""

import json

import pytest

from netfs.cli.explain import picture, register, size_of
from netfs.cli.main import build, run
from transport.generations import DEVICES, LAYOUTS, compare

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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("arguments", [(), ("--size", "1"), ("--size", "9MiB"), ("--size", "5000", "--max-sge", "1")])
def test_nothing_is_cut_off_or_wrapped_on_80_columns(
    capfd: pytest.CaptureFixture[str], device: str, layout: str, arguments: tuple[str, ...]
) -> None:
    code, out, _ = netfs(capfd, "--device", device, "--layout", layout, *arguments)
    assert code == 0
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80
    for row in ROWS:
        assert any(line.startswith(f"│ {row.replace('_', ' ')} ") for line in out.splitlines())
    if arguments:
        assert ("and so on" in out) == ("9MiB" in arguments)
    rulers = [line for line in out.splitlines() if line.startswith(("  legacy_", "  direct_", "  bvec_"))][:4]
    assert all("├" in line for line in rulers)


def test_a_device_of_one_entry_a_message_copies(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = netfs(capfd, "--size", "8KiB", "--device", "direct", "--max-sge", "1", "--json")
    assert code == 0
    legacy, direct, *registered = json.loads(out)["generations"]
    assert (legacy["payload_copies"], direct["payload_copies"]) == (1, 1)
    assert legacy["sges"] == legacy["messages"] and direct["sges"] == direct["messages"] == 7
    assert all(row["payload_copies"] == 0 for row in registered)


@pytest.mark.parametrize(
    "bad", [("--size", "5x"), ("--size", "0"), ("--size", "300MiB"), ("--max-sge", "0"), ("--layout", "odd"), ("--device", "x")]
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
