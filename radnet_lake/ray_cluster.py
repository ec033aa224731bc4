"""Which Ray cluster the work runs on: the one around us, or one of our own."""

import logging
import os
from collections import Counter
from typing import Any

import ray
from ray.data import DataContext

from radnet_lake.errors import SettingError, StoreError

WORKERS_PER_CPU = 3
"""Idle worker processes that a local Ray keeps; a new one takes a second to start."""


def start_ray(cpus: int | None = None) -> None:
    """Use the cluster that RAY_ADDRESS names, as in a submitted job, or start a local one.

    cpus: of a local one; default all. Raises SettingError where RAY_ADDRESS names a cluster that
    does not answer, StoreError where a local one does not start.
    """
    # Ray Data prints whole tracebacks of errors that it raises again anyway.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    # Measured on Ray 2.60: with reservation, listing runs ahead until half the object store is
    # full, and the first second starts one reader after the other; without, eight chunks ahead.
    context.op_resource_reservation_enabled = False
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            _start_local(cpus or os.cpu_count() or 1, quiet)
    except ConnectionError as error:
        remedy = "start the cluster, or unset RAY_ADDRESS to use this machine alone"
        raise SettingError(f"no Ray cluster answers: {error}", "RAY_ADDRESS", remedy) from None
    except Exception as error:
        # Ray raises bare Exceptions where a node of its own does not come up in time.
        if type(error) is not Exception:
            raise
        remedy = "free memory or wait until the machine is less busy, then run the same command"
        raise StoreError(f"a local Ray did not start: {error}", "Ray", remedy) from None


def _start_local(cpus: int, quiet: dict[str, Any], tries: int = 2) -> None:
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            _system_config={"num_workers_soft_limit": WORKERS_PER_CPU * cpus + 1},
            **quiet,
        )
    except Exception as error:
        # Ray gives its node 30 seconds to come up, and has no setting for it; on a busy machine
        # the files it waits for are in the page cache the second time.
        if type(error) is not Exception or tries == 1:
            raise
        ray.shutdown()
        _start_local(cpus, quiet, tries - 1)


def count_attempts() -> Any:
    """An actor: `begin.remote(name)` says how often that was begun, again where a worker died.

    Ray Data repeats a task whose worker died for ever.
    """
    # Kept out of modules that use DuckDB: Ray holds on to the class, and so to all that its module
    # names, until after the end of Python, of which DuckDB complains at length.
    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Attempts).remote()


class _Attempts:
    def __init__(self) -> None:
        self.begun: Counter[bytes] = Counter()

    def begin(self, name: bytes) -> int:
        self.begun[name] += 1
        return self.begun[name]


def start_board() -> Any:
    """An actor that keeps news: `post.remote(news)`, `take.remote()` gives and forgets them."""
    return ray.remote(num_cpus=0, max_restarts=-1)(_Board).remote()


class _Board:
    def __init__(self) -> None:
        self.news: list[dict[str, Any]] = []

    def post(self, news: dict[str, Any]) -> None:
        self.news.append(news)

    def take(self) -> list[dict[str, Any]]:
        news, self.news = self.news, []
        return news
