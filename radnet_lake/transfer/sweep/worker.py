"""What Ray Tune runs in a process of its own for each trial of a sweep.

Kept out of modules that use DuckDB: see ray_cluster.count_attempts.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ray import tune

from radnet_lake.errors import RadnetLakeError, describe_place


def run_trial(config: dict[str, int], trials: Sequence[Any], learn: Callable[[Any], None]) -> None:
    """Do one of the trials. An error would come again, so it is returned, not raised."""
    try:
        learn(trials[config["trial"]])
    except Exception as error:
        is_ours = isinstance(error, RadnetLakeError)
        tune.report({"failed": str(error) if is_ours else describe_place(error)})
