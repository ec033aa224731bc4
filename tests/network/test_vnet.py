"""The segmenter: any encoder, any size, frozen as asked; checkpoints bring it back."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from radnet_lake.errors import CheckpointError, SettingError
from radnet_lake.network.checkpoint import (
    build_network,
    decode_checkpoint,
    describe_network,
    encode_checkpoint,
)
from radnet_lake.network.dice import DiceObjective
from radnet_lake.network.foreign import load_foreign
from radnet_lake.network.resnet import DEPTHS, ENCODERS, NetworkSettings, RadNet
from radnet_lake.network.vnet import (
    FREEZE,
    Segmenter,
    build_segmenter,
    describe_segmenter,
    load_segmenter,
)

SMALL = NetworkSettings(depth=10, width=4, features=8)


def draw_windows(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_logits_have_the_size_of_any_window(depth: int, encoder: str, stem_stride: int) -> None:
    config = NetworkSettings(depth, 2, 4, encoder=encoder, stem_stride=stem_stride)
    segmenter = Segmenter(config, 4).eval()
    with torch.inference_mode():
        for size in ((8, 8, 8), (9, 13, 18)):
            logits = segmenter(draw_windows(2, 1, *size))
            assert logits.shape == (2, 1, *size)
            assert logits.isfinite().all()


def test_wrong_shapes_and_settings_are_named() -> None:
    with pytest.raises(SettingError, match="--slices, --rows"):
        Segmenter(SMALL)(draw_windows(1, 1, 4, 16, 16))
    for width in (0, 1, 1000, True, "16", None):
        with pytest.raises(SettingError, match="--decoder-width"):
            Segmenter(SMALL, width)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="--freeze: '4' is unknown; use all, 3"):
        Segmenter(SMALL).freeze("4")


@pytest.mark.parametrize("what", FREEZE)
def test_what_is_frozen_stays_as_it_was_and_the_rest_learns(what: str) -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(SMALL, 4).train()
    segmenter.freeze(what)
    before = {name: tensor.clone() for name, tensor in segmenter.state_dict().items()}
    optimiser = torch.optim.Adam([p for p in segmenter.parameters() if p.requires_grad], 0.01)
    segmenter.eval().train()  # as around a validation
    objective = DiceObjective()
    mask = torch.zeros(2, 16, 16, 16)
    mask[:, 4:10, 4:10] = 1
    for _ in range(2):
        optimiser.zero_grad()
        objective(segmenter(draw_windows(2, 1, 16, 16, 16)), {"mask": mask})[0].sum().backward()
        optimiser.step()
    changed = {
        name.removeprefix("encoder.").split(".")[0]
        for name, tensor in segmenter.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    parts = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
    n_frozen = {"all": 6, "3": 5, "2": 4, "1": 3}.get(what, 0)
    assert changed == {*parts[n_frozen:], "decoder"}


def test_frozen_encoder_keeps_nothing_for_a_gradient() -> None:
    segmenter = Segmenter(SMALL, 4).train()
    assert any(stage.requires_grad for stage in segmenter.encoder(torch.rand(2, 1, 16, 16, 16)))
    segmenter.freeze("all")
    stages = segmenter.encoder(torch.rand(2, 1, 16, 16, 16))
    assert not any(stage.requires_grad for stage in stages)


@pytest.mark.long
def test_it_learns_a_ball_from_two_windows() -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(SMALL, 4).train()
    segmenter.freeze("all")
    place = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 16)] * 3, indexing="ij"))
    mask = (place.square().sum(0) < 0.3).to(torch.uint8).expand(2, -1, -1, -1)
    windows = (60 + 120 * mask + torch.randint(0, 60, mask.shape))[:, None].to(torch.uint8)
    optimiser = torch.optim.Adam(segmenter.decoder.parameters(), 0.02)
    objective = DiceObjective()
    for _ in range(30):
        optimiser.zero_grad()
        losses, sums = objective(segmenter(windows), {"mask": mask})
        losses.sum().backward()
        optimiser.step()
    dice = objective.summarise(sums)["dice"]
    assert dice is not None
    assert dice > 0.95


def test_bfloat16_on_a_cpu_has_finite_gradients_and_full_logits() -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(NetworkSettings(depth=10, width=8), 8).train()
    with torch.autocast("cpu", torch.bfloat16):
        # Of 24 slices layer4 has two, where torch 2.13 leaves gradients unwritten.
        logits = segmenter(draw_windows(2, 1, 24, 16, 16))
    assert logits.dtype == torch.float32
    DiceObjective()(logits, {"mask": torch.ones(2, 24, 16, 16)})[0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in segmenter.parameters())


def test_decoder_costs_no_more_than_the_papers_encoder() -> None:
    segmenter, windows = Segmenter(NetworkSettings()).eval(), torch.rand(1, 1, 16, 64, 64)
    counts = []
    for forward in (segmenter.encoder, segmenter):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            forward(windows)
        counts.append(counter.get_total_flops())
    assert counts[1] < 2 * counts[0]
    parts = (segmenter.encoder, segmenter.decoder)
    sizes = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert sizes[1] < 0.1 * sizes[0]


def test_segmenter_comes_back_from_its_run(tmp_path: Path) -> None:
    segmenter = Segmenter(SMALL, 6).eval()
    state = describe_segmenter(segmenter, "kidney")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.pt").write_bytes(encode_checkpoint(state))
    back = load_segmenter(str(tmp_path))
    assert back.decoder_width == 6
    assert not back.training
    windows = draw_windows(1, 1, 16, 16, 16)
    with torch.inference_mode():
        assert torch.equal(back(windows), segmenter(windows))
    assert decode_checkpoint(encode_checkpoint(state), "-")["organ"] == "kidney"


def test_checkpoint_of_the_other_kind_is_refused_by_name() -> None:
    network, segmenter = RadNet(SMALL), Segmenter(SMALL)
    with pytest.raises(CheckpointError, match=r"no decoder; give a run of radnet-lake liver train"):
        build_segmenter(describe_network(network))
    with pytest.raises(CheckpointError, match=r"segmenter.*; give a run of radnet-lake train"):
        build_network(describe_segmenter(segmenter, "liver"))
    state = describe_segmenter(segmenter, "liver")
    for damage in ({"decoder_width": "x"}, {"decoder_width": 8}, {"network": {"depth": 18}}):
        with pytest.raises(CheckpointError):
            build_segmenter(state | damage)


def test_encoder_takes_the_weights_of_a_pretrained_run(tmp_path: Path) -> None:
    network = RadNet(SMALL)
    file = tmp_path / "best.pt"
    file.write_bytes(encode_checkpoint(describe_network(network)))
    segmenter = Segmenter(SMALL)
    report = load_foreign(segmenter.encoder, str(file))
    assert not report.missing
    assert not report.misshapen
    assert "features.weight" in report.unexpected
    for name, tensor in network.encoder.state_dict().items():
        assert torch.equal(segmenter.encoder.state_dict()[name], tensor), name
    deeper = Segmenter(NetworkSettings(depth=18, width=4))
    assert load_foreign(deeper.encoder, str(file)).missing
