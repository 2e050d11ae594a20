"""Trio shell. A process that runs trials for a campaign: ranges of seeds come in as lines, a row of JSON goes out for each seed.

    in:   {"scenario": "mixed", …}        the specification, once
          0:50                            a range, again and again; the end of the input ends the process
    out:  {"seed": 0, …}                  one row for each seed, in order

A process of its own, because a trial that brings the interpreter down, or never ends, must cost one seed and not the campaign.
Owns no memory.
"""

import json
import logging
import sys
from collections.abc import Iterable
from typing import TextIO

from trials.seeds import Spec, parse_seeds, run_seed
from trials.sim import settled

__all__ = ["serve"]


def serve(lines: Iterable[str], output: TextIO) -> None:
    """Run what the lines ask for."""
    asked = iter(lines)
    spec = Spec.from_dict(json.loads(next(asked)))
    # Broken connections are what trials are made of: what the code under trial logs stays off the terminal.
    logging.getLogger().addHandler(logging.NullHandler())
    with settled():
        for line in asked:
            for seed in parse_seeds(line.strip()):
                output.write(json.dumps(run_seed(spec, seed), separators=(",", ":")) + "\n")
                output.flush()


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
