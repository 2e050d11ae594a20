"""Sans-IO. Issue again what may succeed the second time.

    before   | 0 done | 1 half      | 2 nothing | 3 nothing |B| 4 nothing |        B: a boundary
    run               |      | - - - - - left - - - - - - -|
    after    | 0 done | 1         | 2    | 3    | 5 new    | | 4         |

Runs when nothing of the stream is in flight. The filesystem may look at the request as a whole first (`retry_request`). Then each
run of parts that want a retry and lie end to end, not across a boundary, is tiled anew: the prepare hook says how much goes in
one issue now, which may be less than before or more; parts that are left over are dropped, and new ones are made where there are
too few. What the first part of a run has got it keeps. A read from the cache that failed is a download by now. A part that ended
without progress is issued again after a growing delay, and not for ever (`IDLE_RETRIES`). The memory is taken from the request's
unmoved iterator, so nothing depends on how far a transport moved its own. After read_retry.c and write_retry.c of Linux
netfslib. Owns no memory.
"""

from typing import Final

from netfs.engine.events import trace_rreq, trace_sreq
from netfs.engine.request import IoRequest, IoSubrequest
from netfs.engine.split import allowed, cut_memory, launch

__all__ = ["FIRST_DELAY_S", "LONGEST_DELAY_S", "delay_s", "reissue"]

FIRST_DELAY_S: Final = 0.01
LONGEST_DELAY_S: Final = 1.0


def delay_s(rreq: IoRequest) -> float:
    """Return how long to wait before the next retry: not at all while each issue has moved something."""
    idle = max(
        (subreq.retry_count + 1 for subreq in rreq.subrequests if subreq.need_retry and not subreq.made_progress), default=0
    )
    # The first time at once: most often it is a size or a source that has changed.
    return 0.0 if idle < 2 else min(FIRST_DELAY_S * 2.0 ** (idle - 2), LONGEST_DELAY_S)


def reissue(rreq: IoRequest) -> None:
    """Issue all that wants a retry, up to the first part that has failed; terminations inside only leave their verdict."""
    assert rreq.advancing and not rreq.in_flight
    rreq.paused = False
    trace_rreq(rreq, "RESUBMT")
    rreq.inode.ops.retry_request(rreq)
    subreqs = rreq.subrequests
    index = 0
    while index < len(subreqs) and not rreq.paused:
        if subreqs[index].failed:
            rreq.paused = True
        elif subreqs[index].need_retry:
            index = _retry_run(rreq, index)
            if rreq.sequential:
                return
        else:
            index += 1


def _retry_run(rreq: IoRequest, index: int) -> int:
    """Tile the run that begins at `index` anew and issue it. Returns: the index behind it."""
    subreqs = rreq.subrequests
    end = index + 1
    while end < len(subreqs) and _continues(subreqs[end - 1], subreqs[end]):
        end += 1
    tiles = _tile(rreq, subreqs[index:end])
    subreqs[index:end] = tiles
    for tile in tiles:
        if rreq.paused:
            break
        if not tile.failed:
            tile.need_retry = False
            trace_sreq(tile, "RETRY")
            rreq.inode.probe.retries += 1
            launch(tile)
            if rreq.sequential:
                break
    return index + len(tiles)


def _continues(before: IoSubrequest, subreq: IoSubrequest) -> bool:
    """What is left of the two lies end to end, and may be cut anew as one."""
    return subreq.need_retry and not (subreq.transferred or before.boundary) and subreq.source is before.source


def _tile(rreq: IoRequest, run: list[IoSubrequest]) -> list[IoSubrequest]:
    """Return what takes the place of a run; none of it is issued yet.

    They are new objects, so that a second termination of the old issue, which would be a defect below, finds nobody.
    """
    first = run[0]
    pos = first.start + first.transferred
    left = run[-1].start + run[-1].length - pos
    idle = 0 if any(old.made_progress for old in run) else max(old.retry_count for old in run) + 1
    cursor = rreq.iter.copy()
    cursor.advance(pos - rreq.start)
    cursor.truncate(left)
    tiles: list[IoSubrequest] = []
    while left:
        spare = run[len(tiles)] if len(tiles) < len(run) else None
        number = rreq.nr_subrequests if spare is None else spare.index
        tile = IoSubrequest(rreq, number, first.source, pos, 0, cursor, left)
        tile.retry_count = idle
        tile.need_retry = True
        if not tiles:
            tile.start, tile.transferred = first.start, first.transferred
        try:
            tile.iter = cut_memory(rreq, cursor, allowed(tile, left))
        except Exception as error:  # noqa: BLE001 (a prepare hook that fails ends the request, like an issue that does)
            tile.iter, tile.error, tile.failed, tile.need_retry = cursor, error, True, False
        length = tile.iter.count
        tile.length = tile.transferred + length
        pos += length
        left -= length
        if spare is None:
            rreq.nr_subrequests += 1
            trace_sreq(tile, "SPLIT")
        tiles.append(tile)
    tiles[-1].boundary = run[-1].boundary
    for surplus in run[len(tiles) :]:
        trace_sreq(surplus, "SPRFL")
    return tiles
