"""The explain command: one object for scripts, a table and a picture for people, a line for mistakes."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from netfs.cli.explain import register, size_of
from netfs.cli.explain_text import picture
from netfs.cli.main import build, run
from transport.generations import DEVICES, LAYOUTS, compare

SVG = "{http://www.w3.org/2000/svg}"
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


def test_the_svg_has_the_fragments_and_what_was_posted(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    drawn = tmp_path / "explain.svg"
    code, out, _ = netfs(capfd, "--size", "12KiB", "--device", "direct", "--svg", str(drawn))
    assert code == 0 and f"The picture is in {drawn}." in " ".join(out.split("\n")) and "█" not in out
    top = ET.parse(drawn).getroot()
    assert top.tag == SVG + "svg"
    found = compare(12 * 1024, "fragmented", "direct", 16)
    assert pieces(top, "in-memory") == [(vec.paddr, vec.length) for vec in found.fragments]
    assert len(top.findall(f".//{SVG}rect[@class='page']")) == 3
    for generation in found.generations:
        if generation.costs.sges > 1:
            assert pieces(top, generation.costs.name) == [(vec.addr, vec.length) for vec in generation.sges]
        else:
            assert pieces(top, generation.costs.name) == [(generation.sges[0].addr, 12 * 1024)]
        assert any(text.startswith(f"{generation.costs.sges:,} SGE") for text in said(top, generation.costs.name))


@pytest.mark.parametrize("size", ["1", "9MiB"])
def test_the_svg_keeps_to_its_edges(capfd: pytest.CaptureFixture[str], tmp_path: Path, size: str) -> None:
    drawn = tmp_path / "explain.svg"
    code, out, _ = netfs(capfd, "--size", size, "--svg", str(drawn), "--json")
    assert code == 0 and json.loads(out)["generations"]
    top = ET.parse(drawn).getroot()
    width, height = float(top.attrib["width"]), float(top.attrib["height"])
    for box in top.iter(SVG + "rect"):
        x, y = float(box.get("x", 0)), float(box.get("y", 0))
        assert x + float(box.attrib["width"]) <= width and y + float(box.attrib["height"]) <= height
    assert len(list(top.iter())) < 5000
    assert any("and so on" in text for text in top.itertext()) == (size == "9MiB")


def test_a_picture_that_cannot_be_written_is_one_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = netfs(capfd, "--size", "4096", "--svg", str(tmp_path / "none" / "f.svg"))
    assert code == 4 and err.startswith("netfs: ") and err.count("\n") == 1 and "f.svg" in err


def pieces(top: ET.Element, row: str) -> list[tuple[int, int]]:
    found = top.findall(f".//{SVG}g[@id='{row}']/{SVG}g")
    return [(int(piece.attrib["data-address"], 16), int(piece.attrib["data-length"])) for piece in found]


def said(top: ET.Element, row: str) -> list[str]:
    return [text.text or "" for text in top.findall(f".//{SVG}g[@id='{row}']/{SVG}text")]
