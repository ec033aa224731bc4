"""Cases whose organ is all that is bright, and segmenters whose weights were set to find it."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from radnet_lake.network.resnet import NetworkSettings
from radnet_lake.network.vnet import Segmenter, describe_segmenter
from radnet_lake.train.run_folder import RunFolder
from radnet_lake.transfer.case_folder import CaseFolder, CaseSettings, StoredCase
from radnet_lake.transfer.windows import list_windows
from radnet_lake.volume.resample import ResampleSettings

SIZE = ResampleSettings(slices=8, rows=24, columns=24)
CASES = CaseSettings("liver", SIZE, 5.0, 4, 0.9, "liver", "0" * 16, "pairs", 0)
STEPS_MM = np.array([[0, 0, 5.0], [0, 2.0, 0], [2.0, 0, 0]])
VOXEL_ML = 0.02


def rig_segmenter() -> Segmenter:
    """It finds what is brighter than the rest of a window; where all is one grey level, nothing."""
    network = Segmenter(NetworkSettings(depth=10, width=4), 2)
    decoder = network.decoder
    last = decoder.levels[-1]
    with torch.no_grad():
        for module in (last.narrow, last.conv1, last.conv2, decoder.tell):
            for weight in module.parameters():
                weight.zero_()
        last.conv1.weight[:, -1, 1, 1, 1] = 1  # the grey image, joined last
        for n in range(len(last.conv2.weight)):
            last.conv2.weight[n, n, 1, 1, 1] = 1
        decoder.tell.weight.fill_(1)
        decoder.tell.bias.fill_(-0.3)
    return network.eval()


def make_case(mask: np.ndarray) -> StoredCase:
    """An organ of 200 HU in soft tissue of 0 HU."""
    image = np.where(mask > 0, 200, 0).astype(np.int16)
    return StoredCase(image, mask.astype(np.uint8), np.array([-20.0, -30, 40]), STEPS_MM)


def make_box(depth: int, *box: slice, side: int = 24) -> np.ndarray:
    """A mask (depth, side, side) that is 1 in a box of slices, rows, columns."""
    mask = np.zeros((depth, side, side), np.uint8)
    mask[box] = 1
    return mask


def make_row(name: str, case: StoredCase, chosen: list[int] | None = None) -> dict[str, Any]:
    """The row of a case, as `liver prepare` writes it; by default all windows are chosen."""
    depth, rows, columns = case.image.shape
    starts = [w.start[0] for w in list_windows(depth, SIZE.slices, CASES.stride, rows, columns)]
    return {
        "case": name,
        "patient": f"patient-of-{name}",
        "split": "test",
        "depth": depth,
        "rows": rows,
        "columns": columns,
        "spacing_mm": [5.0, 2.0, 2.0],
        "organ_voxels": int(case.mask.sum()),
        "organ_ml": int(case.mask.sum()) * VOXEL_ML,
        "starts": starts,
        "scores": [0.5] * len(starts),
        "chosen": list(range(len(starts))) if chosen is None else chosen,
        "is_known": False,
        "notes": [],
    }


def write_cases(uri: str, cases: list[tuple[dict[str, Any], StoredCase | None]]) -> CaseFolder:
    """A folder of cases; None: the file is not there."""
    folder = CaseFolder(uri)
    folder.write_settings(CASES)
    for row, case in cases:
        if case is not None:
            folder.write_case(row["case"], case, row)
    folder.write_cases([row for row, _ in cases])
    return folder


def write_run(uri: str, cases: str, refine: bool = False, **changes: Any) -> RunFolder:
    """A run's folder as `liver train` leaves it, without the training. changes: of its settings."""
    run = RunFolder(uri)
    run.write_config({"cases": cases, "freeze": "all", "share": 1.0, "margin_mm": 10.0} | changes)
    run.write_run({"kind": "segmenter", "examples": {"train": [], "validation": []}})
    state = describe_segmenter(rig_segmenter(), "liver")
    state |= {"settings": asdict(SIZE), "cases": CASES.describe(), "refine": refine}
    run.write_checkpoint(state | {"progress": {"epoch": 3}}, "best")
    return run
