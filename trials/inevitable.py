"""Trio shell. When a failure becomes inevitable: runs that are the same up to a moment and random after it.

Up to the moment a run follows its seed; then every random stream and the schedule are seeded anew, some times over. The share of
runs that still fail, as a function of the moment, jumps where the decisive thing happens. Owns no memory.
"""

from collections.abc import Callable

from trials.case import Outcome, run_case

__all__ = ["chart", "curve"]

WIDTH = 50


def curve(whole: Outcome, points: int, tries: int, told: Callable[[], object]) -> list[tuple[float, int, int]]:
    """Return moments in virtual time with how many runs of how many failed as the whole run did."""
    assert whole.failure is not None
    found: list[tuple[float, int, int]] = []
    for number in range(points):
        at_s = whole.virtual_s * number / max(1, points - 1)
        failed = 0
        for other in range(1, tries + 1):
            outcome = run_case(whole.case, reseed=(at_s, other))
            failed += outcome.failure is not None and outcome.failure.kind == whole.failure.kind
            told()
        found.append((at_s, failed, tries))
    return found


def chart(found: list[tuple[float, int, int]], kind: str) -> list[str]:
    """Return the curve as lines of text."""
    lines = [f"random from   share of runs that end in {kind}"]
    for at_s, failed, tries in found:
        share = failed / tries
        lines.append(f"{at_s:10.6f} s  {'█' * round(share * WIDTH):<{WIDTH}} {share:4.0%}")
    jump = max(range(1, len(found)), key=lambda n: found[n][1] / found[n][2] - found[n - 1][1] / found[n - 1][2], default=0)
    if jump and found[jump][1] > found[jump - 1][1]:
        lines.append(f"what decides it happens between {found[jump - 1][0]:.6f} s and {found[jump][0]:.6f} s")
    return lines
