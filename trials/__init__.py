"""Client and server pairs, the simulator, trials and their checkers."""

from typing import TYPE_CHECKING

from transport.on_demand import on_demand

if TYPE_CHECKING:
    from trials.pairs import Pair, pair
else:
    __getattr__ = on_demand(__name__, {"Pair": "trials.pairs", "pair": "trials.pairs"})

__all__ = ["Pair", "pair"]
