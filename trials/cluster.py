"""Trio shell. A campaign on a Dask cluster: seeds go out in small ranges, rows come back as they are known.

Nothing of it is needed elsewhere, so Dask is an extra: `pip install 'netfs[dask]'`. The workers must have the same netfs. Owns no
memory.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from trials.campaign import PART, Lost
from trials.seeds import Spec, run_seed

__all__ = ["SCHEME", "ClusterError", "run_on_dask"]

SCHEME: Final = "dask://"
CONNECT_S: Final = 20
ONE_AT_A_TIME: Final = threading.Lock()
Row = dict[str, Any]


class ClusterError(Exception):
    """There is no cluster to run on; one line."""


def run_part(spec: dict[str, Any], start: int, stop: int) -> list[Row]:
    """Run seeds in a worker of the cluster; a worker with several threads simulates in one at a time."""
    whole = Spec.from_dict(spec)
    with ONE_AT_A_TIME:
        return [run_seed(whole, seed) for seed in range(start, stop)]


def run_on_dask(address: str, spec: Spec, seeds: Iterable[range], took: Callable[[Row], object]) -> list[Lost]:
    """Run seeds on the cluster whose scheduler is at `dask://host:port`. took: is given each row when it is known.

    Returns: what has no result. Raises: ClusterError when there is no cluster, or no Dask.
    """
    if not address.startswith(SCHEME):
        raise ClusterError(f"{address}: a cluster is named {SCHEME}host:port, by its scheduler")
    try:
        from distributed import Client, as_completed  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ClusterError(f"running on a cluster needs Dask: pip install 'netfs[dask]' ({error})") from None
    try:
        client = Client(f"tcp://{address.removeprefix(SCHEME)}", timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise ClusterError(f"{address}: {error}") from None
    lost: list[Lost] = []
    with client:
        parts = [part[at : at + PART] for part in seeds for at in range(0, len(part), PART)]
        futures = {client.submit(run_part, spec.to_dict(), part.start, part.stop, pure=False, retries=1): part for part in parts}
        for future in as_completed(list(futures)):
            if future.status == "finished":
                for row in future.result():
                    took(row)
            else:
                lost.append(Lost(futures[future], f"of the cluster failed: {future.exception()}"))
    return lost
