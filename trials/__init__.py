"""Client and server pairs, the simulator, trials and their checkers."""

from typing import TYPE_CHECKING

from transport.on_demand import on_demand

if TYPE_CHECKING:
    from trials.case import Case, Outcome, run_case
    from trials.faults.plan import Plan
    from trials.pairs import Pair, pair
    from trials.plugin import trial
    from trials.written import Trial
else:
    __getattr__ = on_demand(
        __name__,
        {
            "Case": "trials.case", "Outcome": "trials.case", "Pair": "trials.pairs", "Plan": "trials.faults.plan",
            "Trial": "trials.written", "pair": "trials.pairs", "run_case": "trials.case", "trial": "trials.plugin",
        },
    )  # fmt: skip

__all__ = ["Case", "Outcome", "Pair", "Plan", "Trial", "pair", "run_case", "trial"]
