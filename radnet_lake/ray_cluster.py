"""Which Ray cluster the work runs on: the one around us, or one of our own."""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext, Datasource
from ray.exceptions import RayError, RayTaskError

from radnet_lake.errors import RadnetLakeError, SettingError, StoreError, decode_error

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


def start_event_queue() -> Any:
    """An event queue as actor: `post.remote(event)`; `take.remote()` returns and clears."""
    return ray.remote(num_cpus=0, max_restarts=-1)(_EventQueue).remote()


class _EventQueue:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def post(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def take(self) -> list[dict[str, Any]]:
        events, self.events = self.events, []
        return events


def unwrap_error(error: BaseException) -> BaseException:
    """The error of ours that a worker raised, out of Ray's wrappers; else the error itself.

    Ray's wrapper is of our class, too, with a whole traceback for its text.
    """
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, RadnetLakeError) and not isinstance(inner, RayError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return error


def fetch(reference: Any) -> Any:
    """What a task, or a list of tasks, returned. Raises our own error as the worker raised it."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise unwrap_error(error) from None


def map_chunks(
    source: Datasource,
    n_listers: int,
    function: Callable[..., pa.Table],
    arguments: dict[str, Any],
    cpus: tuple[float, float],
) -> Iterator[dict[str, Any]]:
    """Rows that a function makes of the chunks of a source, as chunks end, in any order.

    source: read by n_listers tasks, one chunk a row. function: takes a table of chunks and the
    arguments, gives rows with a column `error`: None, or JSON of errors.encode_error, because
    Ray Data would wrap an exception and lose it. cpus: logical CPUs of a lister and of a worker.
    They must differ, because Ray Data fuses operators with equal resources, and listing must not
    wait for the work. Raises the first error.
    """
    context = DataContext.get_current()
    before = context.target_max_block_size
    # One block per row, because Ray makes tasks of blocks and each chunk needs its own.
    context.target_max_block_size = 1
    try:
        dataset = ray.data.read_datasource(
            source, override_num_blocks=n_listers, num_cpus=cpus[0]
        ).map_batches(
            function,
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs=arguments,
            num_cpus=cpus[1],
        )
        batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        for batch in batches:
            for row in batch.to_pylist():
                if row["error"]:
                    raise decode_error(json.loads(row["error"]))
                yield row
    except RayError as error:
        raise unwrap_error(error) from None
    finally:
        context.target_max_block_size = before
