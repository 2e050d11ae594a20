"""The trace in the documentation is the one a run makes."""

from pathlib import Path

from tests.sim.excerpt import excerpt

PAGE = Path(__file__).parents[2] / "docs" / "netfs-library.md"


def test_the_page_shows_what_happens() -> None:
    shown = PAGE.read_text("utf-8").partition("```text\n")[2].partition("```")[0]
    assert shown == excerpt(), "python -m tests.sim.excerpt prints what the page is to show"
