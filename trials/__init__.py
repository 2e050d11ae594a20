"""Client and server pairs, the simulator, trials and their checkers."""

from trials.pair import Pair, pair

__all__ = ["Pair", "pair"]
