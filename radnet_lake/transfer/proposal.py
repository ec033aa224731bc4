"""Region proposal: how sure the pretrained network is that a window holds the organ.

The score of a window is the sigmoid of a class of the coverage head (3D-RADNet 2.3); which windows
are taken: see windows.choose_windows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from radnet_lake.errors import CheckpointError, SettingError
from radnet_lake.network.resnet import RadNet
from radnet_lake.transfer.windows import Region, cut_image
from radnet_lake.volume.resample import ResampleSettings

HEAD = "coverage"
WHOLE = 0.999
"""Share of the organ from which on a window holds all of it."""


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


def measure_proposal(rows: Sequence[Mapping[str, Any]], threshold: float) -> list[dict[str, Any]]:
    """How well windows are picked, on cases with their truth: the rows of proposal.csv.

    rows: of cases, as case_folder.CASES has them, with `covered_above` and `covered`: share of the
    organ's voxels in the windows above the threshold, and in the chosen ones. Cases without scores
    are left out.

    patients: all; held_out and known, as is_known says. rule: above, windows above the threshold;
    chosen, these or the highest. whole: windows with at least WHOLE of the organ; any: with some of
    it. Recall is the share of such windows that are picked, precision the share of picked windows
    that are such; null where there is none. organ_share: mean over cases of the organ's share in
    the picked windows. missed: cases of which no picked window has any of the organ.
    """
    scored = [row for row in rows if row["scores"] is not None]
    groups = {
        "all": scored,
        "held_out": [row for row in scored if row["is_known"] is False],
        "known": [row for row in scored if row["is_known"]],
    }
    return [
        {"patients": name, "rule": rule, "cases": len(some)} | _measure(some, rule, threshold)
        for name, some in groups.items()
        if some
        for rule in ("above", "chosen")
    ]


def _measure(rows: Sequence[Mapping[str, Any]], rule: str, threshold: float) -> dict[str, Any]:
    share = np.concatenate([row["window_organ"] for row in rows])
    if rule == "above":
        covered = [row["covered_above"] for row in rows]
        is_picked = np.concatenate([np.array(row["scores"]) > threshold for row in rows])
    else:
        covered = [row["covered"] for row in rows]
        places = [np.arange(len(row["scores"])) for row in rows]
        chosen = [row["chosen"] for row in rows]
        is_picked = np.concatenate([np.isin(*pair) for pair in zip(places, chosen, strict=True)])
    measures: dict[str, Any] = {"windows": len(share), "picked": int(is_picked.sum())}
    for name, is_such in (("whole", share >= WHOLE), ("any", share > 0)):
        both = int((is_such & is_picked).sum())
        measures[f"{name}_windows"] = int(is_such.sum())
        measures[f"{name}_recall"] = both / int(is_such.sum()) if is_such.any() else None
        measures[f"{name}_precision"] = both / int(is_picked.sum()) if is_picked.any() else None
    return measures | {"organ_share": float(np.mean(covered)), "missed": covered.count(0)}


def format_proposal(rows: Sequence[Mapping[str, Any]], threshold: float) -> list[str]:
    """Rows of measure_proposal -> lines of a table; none without rows."""
    if not rows:
        return []
    groups = f"{'whole organ in it':>22}{'some of it in it':>22}{'organ':>11}"
    names = (*("recall", "precision") * 2, "covered")
    lines = [
        f"proposal{'windows':>22}{'picked':>9}{groups}",
        f"{'':39}{''.join(f'{name:>11}' for name in names)}",
    ]
    for row in rows:
        shares = [row[f"{n}_{m}"] for n in ("whole", "any") for m in ("recall", "precision")]
        cells = "".join(
            f"{'-' if value is None else f'{value:.3f}':>11}"
            for value in (*shares, row["organ_share"])
        )
        rule = f"> {threshold:g}" if row["rule"] == "above" else "or highest"
        name = f"{row['patients'].replace('_', ' ')}, {rule}"
        lines.append(f"  {name:21}{row['windows']:>7}{row['picked']:>9}{cells}")
    return lines
