"""Which Ray cluster the work runs on: the one around us, or one of our own."""

import logging
import os
from typing import Any

import ray
from ray.data import DataContext

from radnet_lake.errors import SettingError


def start_ray() -> None:
    """Use the cluster that RAY_ADDRESS names, as in a submitted job, or start a local one.

    Raises SettingError where RAY_ADDRESS names a cluster that does not answer.
    """
    # Ray Data prints whole tracebacks of errors that it raises again anyway.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", include_dashboard=False, **quiet)
    except ConnectionError as error:
        remedy = "start the cluster, or unset RAY_ADDRESS to use this machine alone"
        raise SettingError(f"no Ray cluster answers: {error}", "RAY_ADDRESS", remedy) from None
