"""Inference on Ray Data: a checkpoint and a stream of volumes in, probabilities and features out.

Each worker is an actor that holds the network, which lies once in Ray's object store; volumes come
from stream.py. Probabilities: 3D-RADNet 2.2, softmax of sequence, view and contrast, sigmoid of
each region of coverage. Features: the fully connected layer of 1000 before the outputs.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy

from radnet_lake.errors import SettingError, StoreError
from radnet_lake.network.checkpoint import build_network
from radnet_lake.network.heads import Head
from radnet_lake.ray_cluster import count_attempts
from radnet_lake.volume.stream import SeriesIndex, StreamConfig, stream_volumes

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_WEIGHTS = ("format", "network", "heads", "preprocessing", "settings", "model")
"""Of a checkpoint: what prediction needs. The optimiser's state is twice the weights."""
_MM_PER_CM = 10.0
MAX_ATTEMPTS = 3
"""Of a batch whose workers die: if memory is too small, they die each time."""


def stream_predictions(
    state: dict[str, Any],
    config: StreamConfig,
    index: SeriesIndex | None = None,
    *,
    batch: int = 8,
    workers: int = 0,
    gpu: bool = False,
    precision: str = "fp32",
) -> Iterator[pa.Table]:
    """A checkpoint and a stream of volumes -> predictions of each volume, in the stream's order.

    state: as checkpoint.decode_checkpoint gives it; config.settings must be its "settings".
    index: as stream_volumes takes it. workers: actors, each with a GPU if `gpu`, else with its
    share of the CPUs; 0: one for each GPU, or one. precision: fp32 or bf16 (autocast).

    Columns: SeriesInstanceUID; sequence_probabilities list<float>[5], view_probabilities [3],
    contrast_probabilities [2], coverage_probabilities [9], by the classes of the checkpoint's
    heads; spacing_mm float, between resized slices; features list<float>[1000]; with
    config.failures `reason` too, and what belongs to no volume means nothing.

    Raises SettingError for a GPU that is not there or whose memory is too small, CheckpointError
    as build_network does, StoreError where workers die again and again; else as stream_volumes.
    """
    if precision not in PRECISIONS:
        raise SettingError(f"{precision!r} is unknown", "--precision", "use fp32 or bf16")
    build_network(state)  # a wrong checkpoint is an error here, not in each worker
    dataset = stream_volumes(config, index)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    if gpu and gpus < max(workers, 1):
        remedy = "ask for fewer workers, or leave --gpu out"
        raise SettingError(f"the Ray cluster has {gpus} GPUs", "--gpu", remedy)
    workers = workers or (gpus if gpu else 1)
    threads = _share_cores(workers, gpu)
    weights = ray.put({name: state[name] for name in _WEIGHTS if name in state})
    dataset.context.raise_original_map_exception = True
    predicted = dataset.map_batches(
        _Predictor,
        fn_constructor_args=(weights, threads, gpu, precision),
        fn_args=(count_attempts(),),
        batch_size=batch,
        batch_format="numpy",
        compute=ActorPoolStrategy(size=workers),
        # Reserve half of the threads it uses; otherwise Ray could not schedule the read tasks.
        num_cpus=max(0.5, threads // 2),
        num_gpus=1 if gpu else 0,
    )
    try:
        for table in predicted.iter_batches(batch_size=None, batch_format="pyarrow"):
            if table.num_rows:
                yield table
    except torch.OutOfMemoryError:
        what = "the GPU's memory is too small for a batch"
        raise SettingError(what, "--batch", "use a smaller one") from None


def _share_cores(workers: int, gpu: bool) -> int:
    """Number of workers -> threads of each: its share of the smallest node that can hold it."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fit = [node for node in nodes if node.get("GPU" if gpu else "CPU", 0) >= 1] or nodes
    each = -(-workers // len(fit))
    return max(1, int(min(node.get("CPU", 1) for node in fit)) // each)


class _Predictor:
    """One worker, which holds the network: batches of volumes -> tables of predictions."""

    def __init__(self, weights: Any, threads: int, gpu: bool, precision: str) -> None:
        torch.set_num_threads(min(threads, os.cpu_count() or 1))
        self.device = "cuda" if gpu else "cpu"
        self.dtype = PRECISIONS[precision]
        self.network = build_network(ray.get(weights)).to(self.device)

    @torch.inference_mode()
    def __call__(self, batch: dict[str, npt.NDArray[Any]], attempts: Any) -> pa.Table:
        # Ray Data repeats a batch whose worker died for ever.
        first = batch["SeriesInstanceUID"][0].encode()
        if ray.get(attempts.begin.remote(first)) > MAX_ATTEMPTS:
            what, remedy = "a worker died at each try of a batch", "use a smaller --batch"
            raise StoreError(what, "Ray", f"{remedy} or fewer workers, if memory is short")
        # A copy, for the batch is a view that must not be written to.
        volume = torch.from_numpy(np.array(batch["volume"]))  # (B, D, H, W)
        volume = volume[:, None].to(self.device)  # (B, 1, D, H, W)
        reduced = self.dtype is not torch.float32
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=reduced):
            output = self.network(volume)
        columns: dict[str, Any] = {"SeriesInstanceUID": batch["SeriesInstanceUID"]}
        for head in self.network.labels:
            logits = output.logits[head.name].float()  # (B, classes)
            columns |= _to_columns(head, logits)
        columns["features"] = _to_lists(output.features.float())
        if "reason" in batch:
            columns["reason"] = pa.array(batch["reason"], pa.string())
        return pa.table(columns)


def _to_columns(head: Head, logits: torch.Tensor) -> dict[str, Any]:
    if head.kind == "scalar":
        return {f"{head.name}_mm": logits[:, 0].cpu().numpy() * np.float32(_MM_PER_CM)}
    share = logits.softmax(dim=1) if head.kind == "single" else logits.sigmoid()
    return {f"{head.name}_probabilities": _to_lists(share)}


def _to_lists(values: torch.Tensor) -> pa.Array:
    """(B, n) -> a list of n for each row."""
    n_rows, length = values.shape
    offsets = np.arange(0, (n_rows + 1) * length, length, dtype=np.int32)
    flat = pa.array(values.cpu().numpy().reshape(-1))
    return pa.ListArray.from_arrays(offsets, flat)


def to_matrix(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Numbers, or lists of equal length -> (rows, n)."""
    values = column.combine_chunks()
    flat = values.flatten() if pa.types.is_list(values.type) else values
    matrix: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    return matrix.reshape(len(values), -1) if len(values) else matrix.reshape(0, 1)
