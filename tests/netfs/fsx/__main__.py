"""Replay operations that were kept, or draw new ones:

python -m tests.netfs.fsx FILE                     replay
python -m tests.netfs.fsx --shrink FILE            replay with ever fewer operations, keep the fewest that still fail
python -m tests.netfs.fsx --seed 7 --count 10000 transport=stream encrypted=1 cache=active rsize=4096
"""

import argparse
import sys
from pathlib import Path

import trio

from servers.stores.memory import MemoryStore
from tests.netfs.fsx.model import Difference, NewStore, run_ops, run_random, write_log
from tests.netfs.fsx.ops import Op, parse
from tests.netfs.fsx.worlds import Setting


def fails(setting: Setting, ops: list[Op], new_store: NewStore = MemoryStore) -> Difference | None:
    try:
        trio.run(run_ops, setting, ops, new_store)
    except Difference as difference:
        return difference
    return None


def shrunk(setting: Setting, ops: list[Op], new_store: NewStore = MemoryStore) -> list[Op]:
    """Leave out what is not needed for the failure, in ever smaller pieces."""
    piece = len(ops) // 2
    while piece:
        at = 0
        while at < len(ops):
            fewer = ops[:at] + ops[at + piece :]
            difference = fails(setting, fewer, new_store)
            if difference is None:
                at += piece
            else:
                ops = difference.ops
        piece //= 2
    return ops


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.netfs.fsx", description="Random operations on a file.")
    parser.add_argument("words", nargs="*", help="a file of operations, or settings such as cache=active")
    parser.add_argument("--shrink", action="store_true", help="find the fewest operations that still fail")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    arguments = parser.parse_args()
    found: Difference | None
    if len(arguments.words) == 1 and "=" not in arguments.words[0]:
        first, *lines = Path(arguments.words[0]).read_text(encoding="ascii").splitlines()
        setting = Setting.parse(first.removeprefix("#"))
        ops = [parse(line) for line in lines if line and not line.startswith("#")]
        found = fails(setting, ops)
        if found is not None and arguments.shrink:
            found = fails(setting, shrunk(setting, found.ops)) or found
    else:
        setting = Setting.parse(" ".join(arguments.words))
        try:
            trio.run(run_random, setting, arguments.seed, arguments.count)
            found = None
        except Difference as difference:
            found = difference
    if found is None:
        sys.stdout.write("as it should be\n")
        return 0
    path = write_log(found, arguments.seed)
    sys.stdout.write(f"{found}\n{path}: {len(found.ops)} operations\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
