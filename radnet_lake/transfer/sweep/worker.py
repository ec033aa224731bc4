"""What Ray Tune runs in a process of its own for each trial of a sweep.

Kept out of modules that use DuckDB: see ray_cluster.count_attempts.
"""

import traceback
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

from ray import tune

from radnet_lake.errors import RadnetLakeError


def run_trial(config: dict[str, int], trials: Sequence[Any], learn: Callable[[Any], None]) -> None:
    """Do one of the trials. An error would come again, so it is returned, not raised."""
    try:
        learn(trials[config["trial"]])
    except Exception as error:
        tune.report({"failed": _tell_reason(error)})


def _tell_reason(error: Exception) -> str:
    """An error of ours as it is; of a stranger kind and place, for its words may hold paths."""
    if isinstance(error, RadnetLakeError):
        return str(error)
    trace = traceback.extract_tb(error.__traceback__)
    place = f" at {PurePath(trace[-1].filename).name}:{trace[-1].lineno}" if trace else ""
    return f"{type(error).__name__}{place}"
