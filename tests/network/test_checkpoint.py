"""Checkpoints: what was saved comes back, others' weights fit, and nothing untrusted runs."""

import io
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from s3_server import S3Server
from torch import Tensor, nn

import radnet_lake
from radnet_lake.errors import CheckpointError, SettingError
from radnet_lake.network import checkpoint
from radnet_lake.network.checkpoint import (
    build_network,
    decode_checkpoint,
    describe_network,
    encode_checkpoint,
    load_network,
)
from radnet_lake.network.foreign import load_foreign
from radnet_lake.network.heads import Head
from radnet_lake.network.resnet import NetworkSettings, RadNet, scale_grey

SMALL = NetworkSettings(depth=10, width=4, features=16)
VOLUMES = torch.randint(0, 256, (2, 1, 16, 32, 40), dtype=torch.uint8)
OTHER_HEADS = (Head("side", "single", ("left", "right")), Head("age", "scalar", ("years",)))


def make_network(config: NetworkSettings = SMALL, *heads: Head) -> RadNet:
    """As after training: no weight or running statistic is what it began as."""
    network = RadNet(config, heads or None)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            low, high = (0.5, 2.0) if name.endswith(("var", "weight")) else (-0.3, 0.3)
            tensor.uniform_(low, high)
    return network.eval()


def make_checkpoint(network: RadNet) -> dict[str, Any]:
    settings = {"slices": 16, "rows": 32, "columns": 40}
    described = describe_network(network)
    return described | {"preprocessing": "1-abc", "settings": settings, "run": {"seed": 0}}


def save(state: object, path: Path) -> str:
    torch.save(state, path)
    return str(path)


def name_as_others(network: RadNet, prefix: str = "") -> OrderedDict[str, Tensor]:
    weights = network.encoder.state_dict()
    return OrderedDict((prefix + name, tensor.clone()) for name, tensor in weights.items())


def apply_encoder(network: RadNet) -> Tensor:
    with torch.no_grad():
        return network.encoder(scale_grey(VOLUMES))[-1]


def test_checkpoint_comes_back_with_its_network() -> None:
    network = make_network()
    state = make_checkpoint(network) | {"optimizer": {"state": {0: torch.rand(3)}}}
    back = decode_checkpoint(encode_checkpoint(state), "last.pt")
    assert back.keys() == state.keys()
    assert back["settings"] == state["settings"]
    assert torch.equal(back["optimizer"]["state"][0], state["optimizer"]["state"][0])
    built = build_network(back)
    assert not built.training
    assert built.config == SMALL
    with torch.no_grad():
        assert torch.equal(built(VOLUMES).features, network(VOLUMES).features)
    # It is a network of its own: to train it changes no checkpoint.
    nn.init.zeros_(built.features.weight)
    assert back["model"]["features.weight"].any()


def test_heads_are_those_it_was_trained_with() -> None:
    network = make_network(SMALL, *OTHER_HEADS)
    built = build_network(decode_checkpoint(encode_checkpoint(make_checkpoint(network)), "-"))
    assert built.labels == OTHER_HEADS
    assert built(VOLUMES).logits.keys() == {"side", "age"}


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_network_is_loaded_from_a_run_or_a_file(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    network = make_network()
    data = encode_checkpoint(make_checkpoint(network))
    if place == "disk":
        run = str(tmp_path / "run")
        (tmp_path / "run" / "checkpoints").mkdir(parents=True)
        (tmp_path / "run" / "checkpoints" / "best.pt").write_bytes(data)
    else:
        server: S3Server = request.getfixturevalue("s3")
        bucket = server.bucket()
        run = f"s3://{bucket}/run"
        server.client().put_object(Bucket=bucket, Key="run/checkpoints/best.pt", Body=data)
    for uri in (run, f"{run}/", f"{run}/checkpoints/best.pt"):
        loaded = radnet_lake.load_network(uri)
        with torch.no_grad():
            assert torch.equal(loaded(VOLUMES).features, network(VOLUMES).features)
    with pytest.raises(SettingError, match=r"radnet-lake train --out"):
        load_network(f"{run}/checkpoints/other.pt")


@pytest.fixture(scope="module")
def tiny() -> bytes:
    network = RadNet(NetworkSettings(depth=10, width=1, features=1), OTHER_HEADS)
    return encode_checkpoint(make_checkpoint(network))


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_truncated_checkpoints_are_told(share: float, tiny: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"last\.pt: .*copy it again"):
        decode_checkpoint(tiny[: int(len(tiny) * share)], "last.pt")


def test_no_flipped_bit_becomes_another_weight(tiny: bytes) -> None:
    whole = decode_checkpoint(tiny, "-")
    refused = 0
    dice = random.Random(0)
    for _ in range(200):
        place = dice.randrange(len(tiny))
        damaged = bytearray(tiny)
        damaged[place] ^= 1 << dice.randrange(8)
        try:
            state = decode_checkpoint(bytes(damaged), "-")
        except CheckpointError:
            refused += 1
            continue
        assert state.keys() == whole.keys()
        assert all(torch.equal(state["model"][name], t) for name, t in whole["model"].items())
    assert refused > 50


def test_other_files_are_told(tmp_path: Path) -> None:
    for data in (b"", b"DICM" * 100, os.urandom(999)):
        with pytest.raises(CheckpointError, match="damaged"):
            decode_checkpoint(data, "-")
    foreign = Path(save(make_network().state_dict(), tmp_path / "f.pt")).read_bytes()
    with pytest.raises(CheckpointError, match="--init"):
        decode_checkpoint(foreign, "-")


def test_newer_format_is_told() -> None:
    state = make_checkpoint(make_network()) | {"format": 2}
    with pytest.raises(CheckpointError, match="update radnet_lake"):
        decode_checkpoint(encode_checkpoint(state), "-")


class Bomb:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    state = make_checkpoint(make_network()) | {"run": Bomb(mark)}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    legacy = io.BytesIO()
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    files = {"zip": buffer.getvalue(), "legacy": legacy.getvalue(), "raw": pickle.dumps(state)}
    network = make_network()
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            load_network(str(path))
        with pytest.raises(CheckpointError, match=f"{name}: .*code, which is never run"):
            load_foreign(network.encoder, str(path))
    assert not mark.exists()


def test_compressed_members_are_refused(tiny: bytes) -> None:
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(tiny)) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(CheckpointError):
        decode_checkpoint(packed.getvalue(), "-")


def test_files_of_any_size_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(make_checkpoint(make_network()), tmp_path / "large.pt")
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 1000)
    with pytest.raises(CheckpointError, match="are not read"):
        load_network(path)


@pytest.mark.parametrize("value", [np.float64(1), np.zeros(3), {1, 2}, Path("x")])
def test_what_could_not_be_read_again_is_not_written(value: object) -> None:
    with pytest.raises(TypeError, match=r"state\['run'\]\['loss'\]"):
        encode_checkpoint({"run": {"loss": value}})


@pytest.mark.parametrize(
    "wrong",
    [
        {"network": {"depth": 10, "width": 8, "features": 16}},
        {"network": {"depth": 12}},
        {"network": {"depth": 10, "wide": 4}},
        {"network": {"depth": 101, "width": 256, "features": 65_536}},
        {"network": None},
        {"heads": [["side", "single"]]},
        {"heads": [["a.b", "single", ["x"]]]},
        {"heads": []},
        {"model": {}},
        {"model": [1, 2]},
        {"model": {"features.weight": "text"}},
    ],
)
def test_checkpoints_that_do_not_hold_together_are_told(wrong: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="another checkpoint"):
        build_network(make_checkpoint(make_network()) | wrong)


@pytest.mark.parametrize(
    ("prefix", "wrap"),
    [
        ("module.", lambda weights: {"state_dict": weights}),  # MedicalNet
        ("", lambda weights: weights),  # MONAI, by itself
        ("", lambda weights: {"net": weights, "optimizer": {"lr": 1e-3}}),  # by its handlers
        ("encoder.", lambda weights: {"format": 1, "model": weights}),  # a run of ours
    ],
)
def test_weights_by_others_are_the_same_network(prefix: str, wrap: Any, tmp_path: Path) -> None:
    theirs, ours = make_network(), make_network()
    weights = name_as_others(theirs, prefix)
    weights[f"{prefix}conv_seg.0.weight"] = torch.rand(3)
    weights[f"{prefix}fc.weight"] = torch.rand(3)
    report = load_foreign(ours.encoder, save(wrap(weights), tmp_path / "theirs.pt"))
    assert torch.equal(apply_encoder(ours), apply_encoder(theirs))
    assert len(report.loaded) == 60
    assert not report.missing + report.misshapen + report.changed
    assert report.unexpected == ("conv_seg.0.weight", "fc.weight")
    assert str(report) == (
        "60 of 60 weights of the encoder loaded\nunexpected: conv_seg.0.weight, fc.weight"
    )


def test_old_files_of_weights_load(tmp_path: Path) -> None:
    theirs, ours = make_network(), make_network()
    path = tmp_path / "old.pth"
    state = {"state_dict": name_as_others(theirs, "module.")}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert not load_foreign(ours.encoder, str(path)).missing
    assert torch.equal(apply_encoder(ours), apply_encoder(theirs))


def test_first_layer_of_several_channels_is_summed(tmp_path: Path) -> None:
    theirs, ours = make_network(), make_network()
    weights = name_as_others(theirs)
    parts = torch.rand(1, 3, 1, 1, 1)
    weights["conv1.weight"] = weights["conv1.weight"] * parts / parts.sum()
    report = load_foreign(ours.encoder, save(weights, tmp_path / "colour.pt"))
    assert "conv1.weight (3 input channels summed)" in report.changed
    torch.testing.assert_close(apply_encoder(ours), apply_encoder(theirs))


def test_bias_before_a_norm_is_folded_into_it(tmp_path: Path) -> None:
    theirs, ours = make_network(), make_network()
    weights = name_as_others(theirs)
    conv = theirs.encoder.layer3[0].downsample[0]
    bias = torch.rand(conv.out_channels)
    weights["layer3.0.downsample.0.bias"] = bias
    conv.bias = nn.Parameter(bias)
    report = load_foreign(ours.encoder, save(weights, tmp_path / "biased.pt"))
    assert [name.split()[0] for name in report.changed] == ["layer3.0.downsample.1.running_mean"]
    assert not report.unexpected
    torch.testing.assert_close(apply_encoder(ours), apply_encoder(theirs))


def hold_itself() -> dict[str, Any]:
    state: dict[str, Any] = {}
    state["model"] = state
    return state


def test_what_does_not_fit_is_reported_and_left(tmp_path: Path) -> None:
    ours = make_network()
    before = {name: t.clone() for name, t in ours.encoder.state_dict().items()}
    weights = name_as_others(make_network())
    del weights["layer2.0.downsample.0.weight"]
    weights["layer4.0.conv1.weight"] = torch.rand(1, 2, 3)
    weights["layer4.7.conv1.\x1b[31m"] = torch.rand(1)
    report = load_foreign(ours.encoder, save(weights, tmp_path / "some.pt"))
    assert report.missing == ("layer2.0.downsample.0.weight",)
    assert report.misshapen == ("layer4.0.conv1.weight (1x2x3 for 32x16x3x3x3)",)
    assert "58 of 60" in str(report)
    assert "\x1b" not in str(report)
    for name in ("layer2.0.downsample.0.weight", "layer4.0.conv1.weight"):
        assert torch.equal(ours.encoder.state_dict()[name], before[name])


@pytest.mark.parametrize(
    "state",
    [
        {},
        hold_itself(),
        {"state_dict": {"a": 1}},
        [torch.rand(3)],
        torch.rand(3),
        {"conv1.weight": torch.rand(64, 3, 7, 7)},  # a network of images, not volumes
    ],
)
def test_files_without_such_weights_are_told(state: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weight fits"):
        load_foreign(make_network().encoder, save(state, tmp_path / "other.pt"))
