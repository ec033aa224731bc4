"""Published weights: a safetensors file comes back bit for bit, and a hostile one is refused."""

import json
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from radnet_lake.errors import CheckpointError, SettingError
from radnet_lake.network.checkpoint import (
    build_network,
    decode_checkpoint,
    describe_network,
    encode_checkpoint,
    load_network,
)
from radnet_lake.network.foreign import load_foreign, read_network_config
from radnet_lake.network.heads import Head
from radnet_lake.network.resnet import NetworkSettings, RadNet
from radnet_lake.network.weights_file import encode_safetensors
from radnet_lake.train.run_folder import RunFolder, read_trained_network

SMALL = NetworkSettings(depth=10, width=4, features=8)
HEADS = (Head("side", "single", ("left", "right")), Head("age", "scalar", ("years",)))
REST = {
    "preprocessing": "1-abc",
    "settings": {"slices": 16, "clip": "0.1,99.9", "anti_alias": True},
    "run": {"seed": 0, "git": None, "config": {"lr": 0.1 + 0.2}},
    "progress": {"best_loss": 1 / 3, "sums": None},
}


def make_state(channels_last: bool = False) -> dict[str, Any]:
    network = RadNet(SMALL, HEADS)
    if channels_last:
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return describe_network(network) | REST


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_file_comes_back_bit_for_bit(channels_last: bool) -> None:
    state = make_state(channels_last)
    back = decode_checkpoint(encode_safetensors(state), "best.safetensors")
    assert {k: v for k, v in back.items() if k != "model"} == {
        k: v for k, v in state.items() if k != "model"
    }
    assert back["model"].keys() == state["model"].keys()
    for name, weight in state["model"].items():
        assert back["model"][name].dtype == weight.dtype
        assert torch.equal(back["model"][name], weight)
    assert build_network(back).labels == HEADS


def test_the_library_reads_weights_and_metadata(tmp_path: Path) -> None:
    state, file = make_state(), tmp_path / "best.safetensors"
    file.write_bytes(encode_safetensors(state))
    assert safetensors.torch.load_file(file).keys() == state["model"].keys()
    with safetensors.safe_open(file, "pt") as opened:
        described = json.loads(opened.metadata()["radnet_lake"])
    assert described["heads"] == state["heads"]
    assert described["run"] == REST["run"]


@pytest.mark.parametrize("value", [np.float64(1), {1, 2}, b"bytes", torch.zeros(1)])
def test_what_json_cannot_hold_is_not_written(value: object) -> None:
    with pytest.raises(TypeError):
        encode_safetensors(make_state() | {"run": {"loss": value}})


def test_a_file_is_loaded_for_itself_and_as_initial_weights(tmp_path: Path) -> None:
    state, file = make_state(), tmp_path / "published.safetensors"
    file.write_bytes(encode_safetensors(state))
    assert torch.equal(load_network(str(file)).features.weight, state["model"]["features.weight"])
    other = RadNet(SMALL)
    report = load_foreign(other.encoder, str(file))
    assert not report.missing + report.misshapen
    assert torch.equal(other.encoder.conv1.weight, state["model"]["encoder.conv1.weight"])
    assert read_network_config(str(file)) == SMALL
    trained = read_trained_network(str(file))
    assert trained.config == REST["run"]["config"]
    assert trained.where == str(file)
    with pytest.raises(SettingError, match="is a file of weights; give the folder of its run"):
        RunFolder(str(file))


def test_weights_by_others_are_initial_weights_only(tmp_path: Path) -> None:
    theirs, ours = RadNet(SMALL), RadNet(SMALL)
    weights = {f"module.{name}": t for name, t in theirs.encoder.state_dict().items()}
    weights["module.fc.weight"] = torch.rand(3)
    file = tmp_path / "medicalnet.safetensors"
    safetensors.torch.save_file(weights, file, {"format": "pt"})
    report = load_foreign(ours.encoder, str(file))
    assert report.unexpected == ("fc.weight",)
    assert not report.missing + report.misshapen
    assert torch.equal(ours.encoder.layer4[0].conv2.weight, theirs.encoder.layer4[0].conv2.weight)
    assert read_network_config(str(file)) is None
    with pytest.raises(CheckpointError, match=r"no checkpoint of radnet_lake.*--init"):
        load_network(str(file))


@pytest.fixture(scope="module")
def data() -> bytes:
    network = RadNet(NetworkSettings(depth=10, width=1, features=1), HEADS)
    return encode_safetensors(describe_network(network) | REST)


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.999])
def test_truncated_files_are_refused(share: float, data: bytes) -> None:
    with pytest.raises(CheckpointError, match="copy it again"):
        decode_checkpoint(data[: int(len(data) * share)], "best.safetensors")


def test_no_flipped_bit_becomes_another_network(data: bytes) -> None:
    whole = decode_checkpoint(data, "-")
    refused, dice = 0, random.Random(0)
    for _ in range(200):
        damaged, place = bytearray(data), dice.randrange(len(data))
        damaged[place] ^= 1 << dice.randrange(8)
        try:
            state = decode_checkpoint(bytes(damaged), "-")
        except CheckpointError:
            refused += 1
            continue
        assert {k: v for k, v in state.items() if k != "model"} == {
            k: v for k, v in whole.items() if k != "model"
        }
        assert all(torch.equal(state["model"][name], t) for name, t in whole["model"].items())
    assert refused > 150


def with_header(header: object, length: int | None = None, body: bytes = bytes(64)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def claim(shape: list[int], end: int, start: int = 0) -> bytes:
    return with_header({"a": {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}})


HOSTILE: dict[str, Callable[[], bytes]] = {
    "length beyond any file": lambda: with_header({}, 2**64 - 1),
    "length beyond the file": lambda: with_header({}, 10**6),
    "shape beyond the file": lambda: claim([1 << 20, 1 << 20], 64),
    "shape that overflows": lambda: claim([1 << 40, 1 << 40], 64),
    "negative shape": lambda: claim([-4, -4], 64),
    "offsets beyond the file": lambda: claim([1 << 20], 1 << 22),
    "offsets backwards": lambda: claim([16], 0, 64),
    "bytes without a tensor": lambda: with_header({}),
    "no JSON": lambda: with_header(b"{" * 40),
    "nesting": lambda: with_header(b'{"a":' + b"[" * 200_000),
    "metadata that is a list": lambda: with_header({"__metadata__": []}, body=b""),
    "description that is no object": lambda: with_header(
        {"__metadata__": {"radnet_lake": "[1]"}}, body=b""
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_before_memory_is_taken(name: str, tmp_path: Path) -> None:
    file = tmp_path / "hostile.safetensors"
    file.write_bytes(HOSTILE[name]())
    network = RadNet(SMALL)
    tracemalloc.start()
    try:
        for load in (load_network, lambda uri: load_foreign(network.encoder, uri)):
            with pytest.raises(CheckpointError, match=r"hostile\.safetensors: .*damaged"):
                load(str(file))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_runs_of_earlier_versions_load_until_their_best_is_replaced(tmp_path: Path) -> None:
    run, old, new = RunFolder(str(tmp_path)), make_state(), make_state()
    run.folder.write("checkpoints/best.pt", encode_checkpoint(old))
    assert run.has_checkpoint("best")
    assert run.locate_checkpoint("best").endswith("checkpoints/best.pt")
    for model in (run.read_checkpoint("best")["model"], load_network(run.uri).state_dict()):
        assert torch.equal(model["features.weight"], old["model"]["features.weight"])
    run.write_checkpoint(new, "best")
    assert run.folder.names("checkpoints/") == ["checkpoints/best.safetensors"]
    for model in (run.read_checkpoint("best")["model"], load_network(run.uri).state_dict()):
        assert torch.equal(model["features.weight"], new["model"]["features.weight"])


def test_the_best_checkpoint_serves_as_the_last_one(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    run.write_checkpoint(make_state(), "best")
    run.folder.write("checkpoints/last.pt", run.folder.read("checkpoints/best.safetensors"))
    assert run.read_checkpoint("last")["progress"] == REST["progress"]
