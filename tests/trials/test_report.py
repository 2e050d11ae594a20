"""Reports: the timeline holds what the trace does, the page is one small file that fetches nothing, packets are of the run."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.rdma.captured import read_packets
from trials.case import Case, Outcome, run_case
from trials.faults.plan import Fault, Plan, Trigger
from trials.history import Failure
from trials.report.nearest import nearest_passing
from trials.report.packets import capture_case
from trials.report.page import MOST_BYTES, page
from trials.report.scale import Scale
from trials.report.spans import timeline_of
from trials.report.story import story
from trials.report.timeline import Span, read_line, timeline

RESET = Fault("T14", Trigger("nth", 9, "send"), "client1", (("side", "during"),))
CRASH = Fault("S9", Trigger("nth", 2, "commit"))
CASE = Case("own-files", 5, operations=6, plan=Plan((RESET,)), schedule=())


@pytest.fixture(scope="module")
def failed() -> Outcome:
    """A trial with a reset, said to have failed by its third and seventh operations."""
    outcome = run_case(CASE, keep_trace=True)
    outcome.failure = Failure("U1 <made> up", "cell 0x30: read #7 found what write #3 had overwritten</script>")
    return outcome


def test_lines_are_taken_apart() -> None:
    event = read_line("0.000382000 3:serve_connection server call_received (1, 'MOUNT', 0)")
    assert (event.time_s, event.node, event.what, event.fields) == (0.000382, "server", "call_received", (1, "MOUNT", 0))
    wire = read_line("0.000376000 7:run_sender wire client0>server 25 dc9035bef1cba34b")
    assert (wire.node, wire.what, wire.fields[:2]) == ("", "wire", ("client0>server", "25"))
    assert read_line("0.5 1:whole heal").what == "heal"
    assert read_line("what?").what == "other"


LINES = [
    "0.001 1:a client0 call_sent (7, 'WRITE', 20, 4096)",
    "0.002 2:b server call_received (7, 'WRITE', 4096)",
    "0.002 2:b fault S9 nth(commit, 2): power lost",
    "0.003 2:b server reply_sent (7, 'WRITE', 5, 0)",
    "0.004 1:a client0 reply_received (7, 'WRITE', 5, 0)",
    "0.005 1:a client0 call_sent (8, 'COMMIT', 20, 0)",
    "0.030 1:a heal",
]


def test_a_timeline_joins_what_was_sent_with_what_came() -> None:
    spans = [Span("client0", "write #1", 0.001, 0.004, 1), Span("client0", "fsync #2", 0.0035, None, 2)]
    found = timeline(LINES, spans, [("crash", "server", 0.006), ("restart", "server", 0.02)], "fsync #2 lied, not #1234")
    assert found.nodes == ["client0", "server"]
    assert [(m.near, m.far, m.sent_s, m.arrived_s) for m in found.messages] == [
        ("client0", "server", 0.001, 0.002),
        ("server", "client0", 0.003, 0.004),
        ("client0", "server", 0.005, None),
    ]
    mine = [span for span in found.spans if span.number]
    assert [(span.number, span.guilty, span.row) for span in mine] == [(1, False, 0), (2, True, 1)]
    (served,) = [span for span in found.spans if not span.number]
    assert (served.node, served.start_s, served.end_s, served.failed) == ("server", 0.002, 0.003, True)
    assert [(flag.id, flag.time_s) for flag in found.flags] == [("S9", 0.002)]
    assert [(band.node, band.start_s, band.end_s) for band in found.bands] == [("server", 0.006, 0.02)]
    assert found.healed_s == 0.03
    assert found.levels[0].points == [(0.001, 1), (0.004, 0), (0.005, 1)]


def test_long_gaps_are_cut_and_order_is_kept() -> None:
    moments = [0.0, *(n / 1000 for n in range(1, 40)), 100.0, 100.001]
    scale = Scale(moments, 1000)
    places = [scale(moment) for moment in moments]
    assert places == sorted(places) and places[-1] <= 1100
    assert len(scale.cuts) == 1 and round(scale.cuts[0][1]) == 100
    assert scale(50.0) == pytest.approx((scale(0.039) + scale(100.0)) / 2, abs=1)


class Tags(HTMLParser):
    """Collects what a page could fetch, and whether what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fetches: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetches += [f"{tag} {name}" for name, _ in attrs if name in {"src", "href", "srcset", "data", "action"}]
        if tag in {"svg", "g", "div", "table", "script", "style", "path", "rect", "text", "circle", "title"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag


def test_the_page_is_one_small_file_that_fetches_nothing(failed: Outcome) -> None:
    text = page(failed, nearest_passing(failed))
    assert len(text.encode()) <= MOST_BYTES
    tags = Tags()
    tags.feed(text)
    assert tags.fetches == [] and tags.open == []
    assert not re.search(r"https?:|@import|url\(", text)
    assert "U1 &lt;made&gt; up" in text and text.count("</script>") == 1
    assert text.count('class="span guilty"') == 2
    assert 'class="flag"' in text and "T14" in text
    assert "Nearest passing run: without the fault T14 nth(send, 9) @client1 side=during" in text
    assert re.search(r"the same for \d+ lines of the trace", text)
    assert 'class="diverged"' in text


@pytest.mark.slow
def test_a_long_trial_still_fits() -> None:
    outcome = run_case(Case("own-files", 5, "rdma-stream", True, 3, 60, plan=Plan((RESET,))), keep_trace=True)
    assert outcome.lines is not None and len(outcome.lines) > 5000
    outcome.failure = Failure("U1", "read #100 is wrong")
    assert len(page(outcome, None).encode()) <= MOST_BYTES


def test_the_story_names_the_guilty(failed: Outcome) -> None:
    told = story(failed)
    assert sum("▶" in line for line in told) == 2
    assert any("⚑" in line and "T14" in line for line in told)
    times = [float(line.split()[0]) for line in told]
    assert times == sorted(times)


def test_a_crash_is_a_band() -> None:
    found = timeline_of(run_case(replace(CASE, plan=Plan((CRASH,)), operations=20), keep_trace=True))
    assert [band.node for band in found.bands] == ["server"]
    assert found.bands[0].end_s > found.bands[0].start_s


def test_packets_are_of_the_same_run(tmp_path: Path, failed: Outcome) -> None:
    path = tmp_path / "run.pcapng"
    assert capture_case(CASE, path).trace == failed.trace
    packets = read_packets(path.read_bytes())
    assert len(packets) > 50
