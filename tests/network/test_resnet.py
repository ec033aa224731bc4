"""The network: shapes, the function that its weights stand for, freezing, and what it refuses.

B volumes, C channels, D slices, H rows, W columns.
"""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radnet_lake.errors import LakeError, SettingError
from radnet_lake.network import heads as heads_module
from radnet_lake.network.heads import Head, read_heads
from radnet_lake.network.resnet import (
    BOTTLENECK_FROM,
    DEPTHS,
    ENCODERS,
    NORMS,
    Encoder,
    NetworkSettings,
    RadNet,
    scale_grey,
)

SMALL = NetworkSettings(depth=10, width=4, features=16)


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)


def make_volumes(count: int, *shape: int) -> Tensor:
    """(B, 1, D, H, W) of noise, its first slice blank."""
    volumes = torch.randint(0, 256, (count, 1, *shape), dtype=torch.uint8)
    volumes[:, :, 0] = 0
    return volumes


def randomise(module: nn.Module) -> None:
    """Weights and running statistics none of which is 0 or 1."""
    for name, tensor in module.state_dict().items():
        if tensor.dim() == 1:
            low, high = (0.5, 2.0) if name.endswith(("var", "weight")) else (-0.3, 0.3)
            tensor.uniform_(low, high)


def test_heads_are_those_of_the_paper() -> None:
    assert [(head.name, head.kind, len(head.classes)) for head in read_heads()] == [
        ("sequence", "single", 5),
        ("view", "single", 3),
        ("contrast", "single", 2),
        ("coverage", "multi", 9),
        ("spacing", "scalar", 1),
    ]


@pytest.mark.parametrize(
    "rows",
    [
        "view,single,0,axial,\nview,single,2,coronal,",
        "view,single,0,axial,\nview,multi,1,coronal,",
        "view,vector,0,axial,",
        "spacing,scalar,0,a,\nspacing,scalar,1,b,",
        "view,single,0,axial,\nspacing,scalar,0,mm,\nview,single,0,coronal,",
    ],
)
def test_wrong_classes_are_told(rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "classes.csv").write_text(f"head,kind,index,value,meaning\n{rows}\n")
    monkeypatch.setattr(heads_module.schema, "SQL_DIR", tmp_path)
    with pytest.raises(LakeError, match=r"classes\.csv"):
        read_heads()


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("norm", NORMS)
def test_stages_have_the_channels_and_strides_that_a_decoder_is_told(
    encoder: str, depth: int, norm: str
) -> None:
    config = NetworkSettings(depth=depth, width=2, encoder=encoder, norm=norm)
    network = ENCODERS[encoder](config).eval()
    shape = (17, 40, 33)
    with torch.inference_mode():
        stages = network(torch.rand(1, 1, *shape))
    assert len(stages) == len(network.channels) == len(network.strides) == 5
    for stage, channels, strides in zip(stages, network.channels, network.strides, strict=True):
        sizes = tuple(math.ceil(n / stride) for n, stride in zip(shape, strides, strict=True))
        assert stage.shape == (1, channels, *sizes)
        assert stage.isfinite().all()


def test_channels_and_strides_of_the_papers_encoder() -> None:
    encoder = RadNet(NetworkSettings()).encoder
    assert encoder.channels == (64, 256, 512, 1024, 2048)
    assert encoder.strides == tuple((n, n, n) for n in (2, 4, 8, 16, 32))
    dilated = ENCODERS["medicalnet"](NetworkSettings(width=4))
    assert dilated.strides[-1] == (8, 8, 8)
    fine = Encoder(replace(SMALL, stem_stride=1))
    assert [stride[0] for stride in fine.strides] == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_depth_answers_for_every_head(depth: int) -> None:
    network = RadNet(NetworkSettings(depth=depth, width=4, features=24))
    output = network(make_volumes(2, 16, 33, 48))
    assert {name: tuple(logits.shape) for name, logits in output.logits.items()} == {
        head.name: (2, len(head.classes)) for head in read_heads()
    }
    assert output.features.shape == (2, 24)
    assert (output.features >= 0).all()
    assert (output.features > 0).any()


def apply_reference(weights: dict[str, Tensor], x: Tensor, depth: int, encoder: str) -> Tensor:
    """The same network in eval mode, straight from He et al. 2015 and Chen et al. 2019."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{part}"].view(1, -1, 1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def conv(x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv3d(x, weight, None, stride, padding, dilation)

    x = norm(conv(x, "conv1", 2), "bn1").clamp(min=0)
    x = F.max_pool3d(F.pad(x, (1,) * 6), 3, 2)  # after the ReLU a zero is as good as nothing
    dilations = (1, 1, 2, 4) if encoder == "medicalnet" else (1, 1, 1, 1)
    for layer, (blocks, dilation) in enumerate(zip(DEPTHS[depth], dilations, strict=True), 1):
        for k in range(blocks):
            name = f"layer{layer}.{k}"
            stride = 2 if k == 0 and layer > 1 and dilation == 1 else 1
            if depth >= BOTTLENECK_FROM:
                y = norm(conv(x, f"{name}.conv1"), f"{name}.bn1").clamp(min=0)
                y = norm(conv(y, f"{name}.conv2", stride, dilation), f"{name}.bn2").clamp(min=0)
                y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
            else:
                y = norm(conv(x, f"{name}.conv1", stride, dilation), f"{name}.bn1").clamp(min=0)
                y = norm(conv(y, f"{name}.conv2", 1, dilation), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in weights:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            elif x.shape != y.shape:
                x = F.avg_pool3d(x, 1, stride)
                x = torch.cat([x, x.new_zeros(len(x), y.shape[1] - x.shape[1], *x.shape[2:])], 1)
            x = (x + y).clamp(min=0)
    return x


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("depth", [10, 18, 50])
def test_weights_stand_for_the_published_function(depth: int, encoder: str) -> None:
    config = NetworkSettings(depth=depth, width=3, encoder=encoder)
    network = ENCODERS[encoder](config).double().eval()
    randomise(network)
    x = torch.rand(2, 1, 17, 32, 40, dtype=torch.float64)
    with torch.no_grad():
        expected = apply_reference(network.state_dict(), x, depth, encoder)
        torch.testing.assert_close(network(x)[-1], expected)


@pytest.mark.long
def test_the_papers_network_steps_at_its_full_size() -> None:
    network = RadNet(NetworkSettings())
    assert sum(weight.numel() for weight in network.parameters()) == 48_224_092
    output = network(make_volumes(1, 48, 192, 192))
    torch.stack([logits.square().sum() for logits in output.logits.values()]).sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


def test_grey_levels_become_0_to_1() -> None:
    volumes = make_volumes(2, 8, 9, 10)
    scaled = scale_grey(volumes)
    assert torch.equal(scaled, scale_grey(volumes.float()))
    assert torch.equal(scaled, volumes.float() / 255)


def test_standardising_looks_at_each_volumes_own_voxels_above_0() -> None:
    volumes = make_volumes(2, 8, 9, 10)
    volumes[1] //= 2
    scaled = scale_grey(volumes, standardise=True)
    for volume, result in zip(volumes, scaled, strict=True):
        inside = result[volume > 0]
        assert inside.mean().abs() < 1e-5
        assert inside.std(correction=0) == pytest.approx(1, abs=1e-5)
        assert (result[volume == 0] == 0).all()
    longer = torch.cat([volumes, torch.zeros_like(volumes)], 2)
    torch.testing.assert_close(scale_grey(longer, standardise=True)[:, :, :8], scaled)
    assert (scale_grey(torch.zeros_like(volumes), standardise=True) == 0).all()


def test_float_volumes_mean_the_same_as_bytes() -> None:
    network = RadNet(replace(SMALL, standardise=True)).eval()
    volumes = make_volumes(1, 16, 32, 32)
    assert torch.equal(network(volumes).features, network(volumes.float()).features)


@pytest.mark.parametrize("how", ["channels_last", "bf16", "both"])
def test_faster_forms_tell_nearly_the_same(how: str) -> None:
    network = RadNet(replace(SMALL, width=16)).eval()
    randomise(network)
    volumes = make_volumes(2, 16, 48, 48)
    with torch.no_grad():
        plain = network(volumes)
        if how != "bf16":
            network.to(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16, enabled=how != "channels_last"):
            fast = network(volumes)
    tolerance = 1e-5 if how == "channels_last" else 0.03
    for name, logits in plain.logits.items():
        assert fast.logits[name].dtype == torch.float32
        scale = logits.abs().max().item()
        torch.testing.assert_close(fast.logits[name], logits, rtol=0, atol=tolerance * scale)
    if how != "channels_last":
        assert not torch.equal(fast.features, plain.features)


def test_half_precision_learns_from_two_slices() -> None:
    """As layer4 does of 48; torch 2.13 alone gives the weights a gradient of unwritten memory."""
    conv = RadNet(replace(SMALL, width=16)).encoder.layer2[0].conv2
    x = torch.randn(2, conv.in_channels, 2, 6, 6)
    upstream = torch.randn_like(x)
    grads = []
    for enabled in (False, True):
        conv.zero_grad()
        junk = torch.full((1 << 20,), float("nan"))
        del junk  # what is read unwritten shall be seen
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            (conv(x) * upstream).sum().backward()
        grads.append(conv.weight.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=0.02 * grads[0].abs().max().item())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.long
def test_compiled_network_learns_the_same() -> None:
    network = RadNet(SMALL)
    volumes = make_volumes(2, 16, 32, 32)
    names = list(network.state_dict())
    grads = []
    for _ in range(2):
        network.zero_grad()
        network(volumes).features.square().sum().backward()
        grads.append(network.encoder.conv1.weight.grad)
        # One graph, forward and backward; the code that inductor would write takes a minute.
        network.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(*grads)
    assert list(network.state_dict()) == names


def test_group_norm_does_not_mix_volumes() -> None:
    volumes = make_volumes(3, 16, 32, 32)
    for norm, alike in (("group", True), ("batch", False)):
        network = RadNet(replace(SMALL, norm=norm))
        together, alone = network(volumes).features[:2], network(volumes[:2]).features
        assert torch.allclose(together, alone, atol=1e-5) == alike


@pytest.mark.parametrize("layers", [0, 2, 4])
def test_frozen_layers_stay_as_they_are(layers: int) -> None:
    network = RadNet(SMALL).train()
    randomise(network)
    network.encoder.freeze(layers)
    network.eval()
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, weight_decay=0.1)
    output = network(make_volumes(4, 16, 32, 32))
    torch.stack([logits.square().sum() for logits in output.logits.values()]).sum().backward()
    optimizer.step()
    fixed = ("encoder.conv1.", "encoder.bn1.")
    fixed += tuple(f"encoder.layer{n}." for n in range(1, layers + 1))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith(fixed), name


def test_bottlenecks_begin_as_their_shortcut() -> None:
    x = torch.rand(2, 16, 4, 4, 4)
    assert torch.equal(Encoder(replace(SMALL, depth=50)).layer1[1](x), x)
    assert not torch.equal(Encoder(replace(SMALL, width=16)).layer1[0](x), x)


@pytest.mark.parametrize(
    ("wrong", "stated"),
    [
        ({"depth": 20}, "--depth: 20 is unknown; use 10, 18, 34, 50, 101"),
        ({"norm": "layer"}, "--norm"),
        ({"encoder": "vit"}, "--encoder.*resnet"),
        ({"stem_stride": 4}, "--stem-stride"),
        ({"width": 0}, "--width"),
        ({"width": 64.0}, "--width"),
        ({"features": 10**9}, "--features"),
    ],
)
def test_wrong_settings_are_told(wrong: dict[str, object], stated: str) -> None:
    with pytest.raises(SettingError, match=stated):
        NetworkSettings(**wrong)


@pytest.mark.parametrize("shape", [(1, 1, 7, 32, 32), (1, 3, 16, 32, 32), (1, 16, 32, 32)])
def test_volumes_that_do_not_fit_are_told(shape: tuple[int, ...]) -> None:
    network = RadNet(SMALL).eval()
    with pytest.raises(SettingError, match="x".join(map(str, shape))):
        network(torch.zeros(shape))


def test_batch_norm_of_a_single_value_is_told_before_torch_stops() -> None:
    network = RadNet(SMALL)
    with pytest.raises(SettingError, match="--batch"):
        network(make_volumes(1, 16, 32, 32))
    assert network.eval()(make_volumes(1, 16, 32, 32)).features.isfinite().all()
    assert RadNet(replace(SMALL, norm="group"))(make_volumes(1, 16, 32, 32)).features.numel()


def test_heads_may_be_others_than_todays() -> None:
    network = RadNet(SMALL, (Head("side", "single", ("left", "right")),))
    assert network(make_volumes(2, 16, 32, 32)).logits["side"].shape == (2, 2)


@pytest.mark.parametrize("layers", [-1, 5])
def test_no_more_layers_can_be_frozen_than_there_are(layers: int) -> None:
    with pytest.raises(SettingError, match="give 0 to 4"):
        Encoder(SMALL).freeze(layers)
