"""A campaign on a Dask cluster gives the rows that this machine gives. Run as a program it prints both."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

from trials.cluster import run_on_dask
from trials.seeds import Spec, run_seed

SPEC = Spec("metadata", operations=3)
SEEDS = range(4)


@pytest.mark.slow
def test_the_cluster_gives_what_this_machine_gives() -> None:
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("distributed is not installed")
    command = [sys.executable, "-m", "tests.trials.test_cluster"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["lost"] == 0
    assert found["there"] == found["here"] and len(found["here"]) == len(SEEDS)


def _main() -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        rows: list[dict[str, Any]] = []
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        lost = run_on_dask(address, SPEC, [SEEDS], rows.append)
    there = {str(row["seed"]): row["trace"] for row in rows}
    here = {str(seed): run_seed(SPEC, seed)["trace"] for seed in SEEDS}
    sys.stdout.write(json.dumps({"lost": len(lost), "there": there, "here": here}) + "\n")


if __name__ == "__main__":
    _main()
