"""Trio shell. The page of a failed trial: one HTML file that fetches nothing, at most a megabyte, with the timeline as SVG.

On top what failed and how to see it again; the timeline, and dimmed beneath it the nearest run that passes, on the same scale,
with a line where the two part; a click shows the lines of the trace around what was clicked. Owns no memory.
"""

import json
from html import escape
from typing import Final

from trials.case import Outcome
from trials.faults.catalogue import ROWS
from trials.report.nearest import Neighbour
from trials.report.picture import draw
from trials.report.scale import Scale
from trials.report.spans import timeline_of
from trials.report.timeline import Timeline
from trials.token import encode

__all__ = ["MOST_BYTES", "page"]

MOST_BYTES: Final = 1_000_000
WIDTH: Final = 1100.0
PER_MOMENT: Final = 4.0

STYLE: Final = """
body{font:13px/1.45 system-ui,sans-serif;margin:20px 24px;color:#222;background:#fff}
h1{font-size:19px;margin:0 0 2px}h2{font-size:14px;margin:20px 0 4px}
.verdict{background:#fdecea;border-left:4px solid #c62828;padding:7px 12px;margin:8px 0;white-space:pre-wrap}
.passed .verdict,.verdict.passed{background:#e8f5e9;border-color:#2e7d32}
code,pre{font:12px/1.4 ui-monospace,monospace}pre{background:#f6f6f6;padding:8px;overflow:auto;max-height:230px;margin:6px 0}
table{border-collapse:collapse}td,th{padding:2px 12px 2px 0;text-align:left;vertical-align:top}th{color:#777;font-weight:500}
.run{display:flex;overflow-x:auto;border:1px solid #ddd;border-radius:4px}.dim{opacity:.5}.dim:hover{opacity:1}
svg text{font:10px system-ui,sans-serif;fill:#222;pointer-events:none}svg.names{position:sticky;left:0;background:#fff;flex:none;
border-right:1px solid #ddd;z-index:1}svg.lanes{flex:none}
.names .node{font-weight:600;font-size:12px}.names .sub{fill:#888}
text.axis{fill:#999;font-size:9px}text.cut{fill:#c62828;text-anchor:middle;pointer-events:auto}
.grid{stroke:#f0f0f0}.lane{stroke:#e2e2e2}path{fill:none;stroke-width:1}
.span rect{fill:#90b4dd;stroke:#5b86b8;stroke-width:.5}.span.inner rect{fill:#cfd8dc;stroke:#90a4ae}
.span.failed rect{fill:#f2c9a1;stroke:#c77b30}
.span.guilty rect{fill:#e53935;stroke:#8e0000;stroke-width:1.5}.span.guilty text{fill:#fff;font-weight:600}
.call{stroke:#4f7cac;opacity:.55}.reply{stroke:#5b9a68;opacity:.55}.lost{stroke:#c62828;stroke-width:1.6}
.wire.there{stroke:#4f7cac}.wire.back{stroke:#5b9a68}.dot{fill:#78909c}.bad{fill:#c62828}
.flag path{fill:#ffb300;stroke:#b27c00}.flag .pole{fill:none;stroke-dasharray:3 2}.flag text{font-weight:600;font-size:9px}
.down{fill:#424242;opacity:.28}.level{fill:#d9c7ec;stroke:#8e63b8}.heal{stroke:#2e7d32;stroke-dasharray:5 3;fill:none}
.diverged{stroke:#d81b60;stroke-width:1.5;fill:none}text.heal,text.diverged{stroke:none;fill:#2e7d32}text.diverged{fill:#d81b60}
[data-n]{cursor:pointer}[data-n]:hover{stroke-width:2.5;opacity:1}.key span{display:inline-block;margin-right:14px}
.key i{display:inline-block;width:12px;height:9px;margin-right:4px;border-radius:2px}
"""
SCRIPT: Final = """
const show=(run,n)=>{const lines=LINES[run];const from=Math.max(0,n-6);document.getElementById('what').textContent=
lines.slice(from,n+7).map((l,i)=>(from+i===n?'▶ ':'  ')+l).join('\\n')};
document.querySelectorAll('.run').forEach((run,index)=>run.addEventListener('click',e=>{
const hit=e.target.closest('[data-n],[data-t]');if(!hit)return;let n=hit.dataset.n;
if(n===undefined){const t=+hit.dataset.t;n=LINES[index].findIndex(l=>parseFloat(l)>=t)}show(index,Math.max(0,+n))}));
const first=document.querySelector('.guilty');if(first)first.scrollIntoView({block:'nearest',inline:'center'});
"""
KEY: Final = (
    ("#90b4dd", "operation"), ("#e53935", "operation the verdict names"), ("#f2c9a1", "ended in an error"),
    ("#cfd8dc", "served, or a work request"), ("#4f7cac", "call"), ("#5b9a68", "reply"), ("#c62828", "lost"),
    ("#ffb300", "fault"), ("#bdbdbd", "down"), ("#d9c7ec", "credits in use"),
)  # fmt: skip


def page(outcome: Outcome, neighbour: Neighbour | None) -> str:
    """Return the page of an outcome whose trace was kept."""
    run = timeline_of(outcome)
    other = timeline_of(neighbour.outcome) if neighbour is not None else None
    scale = _scale(run, other)
    failure, case = outcome.failure, outcome.case
    verdict = f"<b>{escape(failure.kind)}</b>\n{escape(failure.message)}" if failure else "no failure"
    token = encode(case)
    title = f"{case.scenario}, seed {case.seed}: {failure.kind if failure else 'passed'}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>",
        f"<h1>{escape(title)}</h1>",
        f"<div>{_facts(outcome)}</div>",
        f'<div class="verdict{"" if failure else " passed"}">{verdict}</div>',
        f"<div><code>netfs trial replay {escape(token)}</code></div>",
        _faults(outcome), _guilty(run), "<h2>Timeline</h2>", _key(),
        _picture(run, scale, None, ""),
        _beneath(outcome, neighbour, other, scale),
        "<h2>Trace around what was clicked</h2><pre id=what>click a message, an operation or a flag</pre>",
        f"<script>const LINES={_lines(run, other)};{SCRIPT}</script></html>",
    ]  # fmt: skip
    return "\n".join(parts)


def _facts(outcome: Outcome) -> str:
    case = outcome.case
    return (
        f"{case.transport}, {'encrypted' if case.encrypt else 'plain'}, {case.clients} clients, {outcome.operations} operations, "
        f"{outcome.steps} steps, {outcome.virtual_s:.6f} s of virtual time, trace {outcome.trace}"
    )


def _scale(run: Timeline, other: Timeline | None) -> Scale:
    runs = [run] if other is None else [run, other]
    moments = [event.time_s for each in runs for event in each.events]
    moments += [time_s for each in runs for span in each.spans for time_s in (span.start_s, span.end_s) if time_s is not None]
    return Scale(moments, max(WIDTH, PER_MOMENT * len(set(moments))))


def _picture(run: Timeline, scale: Scale, diverged_s: float | None, more: str) -> str:
    names, lanes = draw(run, scale, diverged_s=diverged_s)
    return f'<div class="run{more}">{names}{lanes}</div>'


def _beneath(outcome: Outcome, neighbour: Neighbour | None, other: Timeline | None, scale: Scale) -> str:
    """Draw the nearest run that passes, and show where it parts."""
    if neighbour is None or other is None or outcome.lines is None or neighbour.outcome.lines is None:
        return "<h2>Nearest passing run</h2><div>none was found: every neighbour of this trial fails too</div>"
    ours, theirs = outcome.lines, neighbour.outcome.lines
    same = neighbour.same
    pair = [lines[same] if same < len(lines) else "(the trace had ended)" for lines in (ours, theirs)]
    at = next((float(line.partition(" ")[0]) for line in pair if line[:1].isdigit()), None)
    return (
        f"<h2>Nearest passing run: {escape(neighbour.how)}</h2>"
        f"<div>the same for {same} lines of the trace, then</div>"
        f"<pre>failing  {escape(pair[0])}\npassing  {escape(pair[1])}</pre>" + _picture(other, scale, at, " dim")
    )


def _faults(outcome: Outcome) -> str:
    plan = outcome.case.plan
    if plan is None or not (plan.faults or plan.knobs):
        return ""
    rows = "".join(
        f"<tr><td>{escape(str(fault))}</td><td>{escape(ROWS[fault.id].name)}</td>"
        f"<td>{'took effect' if fault.id in outcome.fired else 'never took effect'}</td>"
        f"<td>{escape(', '.join(ROWS[fault.id].allowed))}</td></tr>"
        for fault in plan.faults
    )
    knobs = "".join(f"<tr><td>{escape(name)} = {value}</td><td>knob</td></tr>" for name, value in plan.knobs)
    return f"<h2>What went wrong on purpose</h2><table><tr><th>fault<th>what<th><th>may end in</tr>{rows}{knobs}</table>"


def _guilty(run: Timeline) -> str:
    rows = "".join(
        f"<tr><td>{escape(span.node)}</td><td>{escape(span.detail or span.label)}</td><td>{span.start_s:.6f}</td>"
        f"<td>{'never' if span.end_s is None else f'{span.end_s:.6f}'}</td></tr>"
        for span in run.spans
        if span.guilty
    )
    if not rows:
        return ""
    return f"<h2>Operations the verdict names</h2><table><tr><th>by<th>operation<th>called<th>returned</tr>{rows}</table>"


def _key() -> str:
    colours = (f'<span><i style="background:{colour}"></i>{what}</span>' for colour, what in KEY)
    return f'<div class="key">{"".join(colours)}</div>'


def _lines(run: Timeline, other: Timeline | None) -> str:
    """Return the traces for the script; a closing tag in them must not end it."""
    lines = [list(run.lines)] + ([list(other.lines)] if other is not None else [])
    return json.dumps(lines, ensure_ascii=False).replace("</", "<\\/")
