"""Region proposal: how sure the pretrained network is that a window holds the organ.

The score of a window is the sigmoid of a class of the coverage head (3D-RADNet 2.3); which windows
are taken, region.choose_windows says.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from radnet_lake.errors import CheckpointError, SettingError
from radnet_lake.network import RadNet
from radnet_lake.region import Region, cut_image
from radnet_lake.resample import ResampleSettings

HEAD = "coverage"


def find_class(network: RadNet, organ: str) -> int:
    """Index of a class of the coverage head. Raises SettingError that lists the classes."""
    classes = next((head.classes for head in network.labels if head.name == HEAD), ())
    if organ not in classes:
        what = f"the network knows no region {organ!r}"
        remedy = f"name one of: {', '.join(classes) or 'none, it was trained without coverage'}"
        raise SettingError(what, "--region-label", remedy)
    return classes.index(organ)


@torch.inference_mode()
def score_regions(
    network: RadNet,
    image: npt.NDArray[Any],
    regions: Sequence[Region],
    settings: ResampleSettings,
    organ: str,
    batch: int = 4,
    device: str = "cpu",
) -> list[float]:
    """Probability of the coverage class `organ` in each region of a CT (D, H, W), in HU.

    network: in eval mode, on the device. settings: of the volumes that it was trained on. Raises
    SettingError for a class that the network does not have, CheckpointError for scores that are no
    numbers, VolumeError as cut_image.
    """
    index = find_class(network, organ)
    scores: list[float] = []
    for start in range(0, len(regions), batch):
        some = [cut_image(image, region, settings) for region in regions[start : start + batch]]
        volume = torch.from_numpy(np.stack(some)[:, None])  # B x (D, H, W) -> (B, 1, D, H, W)
        logits = network(volume.to(device)).logits[HEAD]  # (B, classes)
        scores += logits[:, index].float().sigmoid().tolist()
    if not np.isfinite(scores).all():
        remedy = "use another checkpoint of the run"
        raise CheckpointError("its scores are no numbers", "the pretrained network", remedy)
    return scores
