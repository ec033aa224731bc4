"""Segmentation: takes an image (D, H, W) and a trained run, gives the organ's mask on its grid.

The segmenter runs over windows, which are merged (3D-RADNet 2.3). Beyond the paper, each optional:
overlapping windows averaged, only the largest component kept, a second segmenter on the region
around the first mask.

Shapes: D slices of a case, H rows, W columns; d, h, w those of the segmenter's input; B windows.

Not MONAI's sliding_window_inference, because the proposal chooses the windows, overlaps take the
nearest one, and each window is scaled by its own minimum and maximum, as published.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from radnet_lake.errors import CheckpointError, SettingError
from radnet_lake.network.checkpoint import (
    SEGMENTER,
    build_network,
    decode_checkpoint,
)
from radnet_lake.network.resnet import RadNet
from radnet_lake.network.vnet import Segmenter, build_segmenter
from radnet_lake.network.weights_file import SUFFIX
from radnet_lake.train.config import CheckpointSettings
from radnet_lake.train.run_folder import RunFolder, TrainedNetwork, read_trained_network
from radnet_lake.transfer.case_folder import CaseSettings, check_alike, decode_settings
from radnet_lake.transfer.proposal import score_regions
from radnet_lake.transfer.train_plan import REGIONS
from radnet_lake.transfer.windows import (
    Region,
    bound_mask,
    choose_windows,
    cut_image,
    list_windows,
    paste,
)
from radnet_lake.volume.frame import Array, Vector
from radnet_lake.volume.resample import ResampleSettings

HALF = 0.5
MARGIN_MM = 20.0
"""Around the first mask, for the refining pass, where its run does not say."""
SLICES_AT_ONCE = 16
"""Brought to the case's own rows and columns at a time: 16 MiB of 512x512."""
NEIGHBOURS = np.ones((3, 3, 3), np.uint8)
"""Voxels that share a face, an edge or a corner are connected."""

Image = npt.NDArray[np.int16]
Mask = npt.NDArray[np.uint8]


class Method(NamedTuple):
    """How windows become one mask.

    average: where windows overlap, the mean of their probabilities, else that of the window whose
    middle is nearest. largest: the largest component alone. refine: a second pass on what lies
    around the first mask. threshold: probability from which on a voxel is the organ's.
    """

    average: bool = False
    largest: bool = False
    refine: bool = False
    threshold: float = HALF

    @property
    def label(self) -> str:
        """Its name in tables, as "plain" or "average+largest"."""
        words = [word for word in ("average", "largest", "refine") if getattr(self, word)]
        words += [] if self.threshold == HALF else [f"from {self.threshold:g}"]
        return "+".join(words) or "plain"


@dataclass(frozen=True, kw_only=True)
class MethodSettings(CheckpointSettings):
    """Which segmenter is used, and how its windows become masks."""

    run: str = field(kw_only=False, metadata={"positional": "RUN"})
    """folder or s3://bucket/prefix that `radnet-lake liver train` wrote"""
    average: bool = False
    """where windows overlap, take the mean (default: the window whose middle is nearest)"""
    largest: bool = False
    """keep the largest component alone"""
    refine: str = ""
    """a run of `radnet-lake liver train --refine`, for a second pass around the first mask"""
    batch: int = 2
    """windows at a time"""


class Trained(NamedTuple):
    """What a run of `radnet-lake liver train` learned, and with it one with --refine.

    first, refining: checkpoints of their segmenters; regions: of the pretrained network. cases:
    what the cases were made with that it learned from. config: the run's settings; margin_mm: of
    the refining run's boxes; refined_by: where that run lies.
    """

    run: str
    config: dict[str, Any]
    cases: CaseSettings
    first: dict[str, Any]
    refining: dict[str, Any] | None = None
    regions: dict[str, Any] | None = None
    margin_mm: float = MARGIN_MM
    refined_by: str = ""


class Models(NamedTuple):
    """The networks, in eval mode on their device.

    margin_mm: around the first mask, for the refining one. batch: windows at a time.
    """

    first: Segmenter
    refining: Segmenter | None = None
    regions: RadNet | None = None
    margin_mm: float = MARGIN_MM
    batch: int = 2
    device: str = "cpu"


class Proposal(NamedTuple):
    """The windows of a case. scores: the pretrained network's, none where it was not asked; chosen:
    which windows are segmented, by their place in regions."""

    regions: list[Region]
    scores: list[float]
    chosen: list[int]


class Segmentation(NamedTuple):
    """masks: 0 and 1, (D, H, W), by method. proposal: the windows they come from."""

    masks: dict[Method, Mask]
    proposal: Proposal


def read_trained(run: str, refine: str = "", checkpoint: str = "best") -> Trained:
    """Read a segmenter's run, and the refining run beside it if one is named.

    run, refine: folders, on disk or s3://, or .safetensors files; a file comes without the network
    that proposes windows. checkpoint: best or last, of both folders. Raises SettingError
    where a run is missing, is no segmenter's, was trained for the other pass, or where the two do
    not go together; CheckpointError for damaged ones.
    """
    network, cases = _read_segmenter(run, checkpoint)
    first = network.state
    if first.get("refine"):
        what = "was trained with --refine: it looks around a mask that another run has found"
        remedy = "give it as --refine, and a run without as RUN"
        raise SettingError(what, network.uri, remedy)
    regions = _read_regions(network.uri)
    trained = Trained(network.uri, network.config, cases, first, regions=regions)
    if not refine:
        return trained
    network, others = _read_segmenter(refine, checkpoint)
    refining = network.state
    if not refining.get("refine"):
        what = "was trained without --refine: it knows windows, not the box around a mask"
        raise SettingError(what, network.uri, "give a run of radnet-lake liver train --refine")
    check_alike(others, cases, f"--refine {network.uri}")
    margin_mm = float(network.config.get("margin_mm", MARGIN_MM))
    return trained._replace(refining=refining, margin_mm=margin_mm, refined_by=network.uri)


def _read_segmenter(uri: str, checkpoint: str) -> tuple[TrainedNetwork, CaseSettings]:
    network = read_trained_network(uri, checkpoint)
    if network.state.get("kind") != SEGMENTER:
        what = "is a run of `radnet-lake train`, which predicts labels, not masks"
        raise SettingError(what, network.uri, "give one of `radnet-lake liver train`")
    return network, decode_settings(network.state.get("cases") or {}, network.where)


def _read_regions(uri: str) -> dict[str, Any] | None:
    if uri.endswith(SUFFIX):
        return None  # a file holds one network
    run = RunFolder(uri)
    # names() lists every name with this prefix.
    if REGIONS not in run.folder.names(REGIONS):
        return None
    return decode_checkpoint(run.folder.read(REGIONS), f"{run.uri}/{REGIONS}")


def use_threads(count: int) -> None:
    """Let networks on the CPU use so many threads, in this process."""
    torch.set_num_threads(count)


def build_models(trained: Trained, batch: int = 2, device: str = "cpu") -> Models:
    """The networks of a run. device: as torch names it.

    Raises CheckpointError where a checkpoint does not hold together, SettingError for a device
    that is not there.
    """
    first = build_segmenter(trained.first)
    refining = build_segmenter(trained.refining) if trained.refining else None
    regions = build_network(trained.regions) if trained.regions else None
    try:
        for network in (first, refining, regions):
            if network is not None:
                network.to(device)
    except (RuntimeError, AssertionError) as error:
        what = f"{device} cannot be used ({type(error).__name__})"
        raise SettingError(what, "--gpu", "leave it out, or check the driver") from None
    return Models(first, refining, regions, trained.margin_mm, batch, device)


def segment_image(
    image: Image,
    steps_mm: Vector,
    models: Models,
    cases: CaseSettings,
    methods: Sequence[Method] = (Method(),),
    proposal: Proposal | None = None,
) -> Segmentation:
    """Masks of an image by each method; windows are segmented once for all of them.

    image: HU, (D, H, W), its slices cases.spacing_mm apart. steps_mm: (3, 3), as in volume.Volume.
    cases: as the segmenter's training had them. proposal: the image's windows where they are known;
    else models.regions proposes them, and where there is none, all are taken.

    Outside of the chosen windows is background. With `largest` the first mask, too, is its largest
    component before it is refined; an empty first mask stays empty. Held at once, besides masks:
    per way of merging one float32 for each voxel of (D, h, w); in a refining pass two for each
    voxel of its box.

    Raises VolumeError for an image that makes no window, CheckpointError where a segmenter gives
    no number, SettingError for methods without their model or a batch too large for the GPU.
    """
    if any(method.refine for method in methods) and models.refining is None:
        remedy = "give a run of radnet-lake liver train --refine"
        raise SettingError("there is no segmenter for it", "--refine", remedy)
    if proposal is None:
        proposal = propose_windows(image, models, cases)
    regions = [proposal.regions[place] for place in proposal.chosen]
    probabilities = predict_windows(models.first, image, regions, cases.settings, models)
    ways = {method.average for method in methods}
    merged = merge_windows(probabilities, regions, len(image), ways)
    firsts: dict[Method, Mask] = {}
    masks: dict[Method, Mask] = {}
    for method in methods:
        plain = method._replace(refine=False)
        if plain not in firsts:
            mask = _find_mask(merged[method.average], image.shape, method.threshold)
            firsts[plain] = keep_largest(mask) if method.largest else mask
        masks[method] = firsts[plain]
        if method.refine:
            masks[method] = refine_mask(image, firsts[plain], steps_mm, models, cases, method)
    return Segmentation(masks, proposal)


def propose_windows(image: Image, models: Models, cases: CaseSettings) -> Proposal:
    """The windows of an image, and which of them hold the organ (3D-RADNet 2.3).

    image: HU, (D, H, W). Without models.regions all are chosen. Raises as segment_image.
    """
    depth, rows, columns = image.shape
    regions = list_windows(depth, cases.settings.slices, cases.stride, rows, columns)
    if models.regions is None:
        return Proposal(regions, [], list(range(len(regions))))
    scores = score_regions(
        models.regions,
        image,
        regions,
        cases.settings,
        cases.region_label,
        models.batch,
        models.device,
    )
    return Proposal(regions, scores, choose_windows(scores, cases.threshold))


@torch.inference_mode()
def predict_windows(
    segmenter: Segmenter,
    image: Image,
    regions: Sequence[Region],
    settings: ResampleSettings,
    models: Models,
) -> Iterator[Array]:
    """Probabilities (d, h, w) of each region, one after the other, models.batch at a time.

    image: HU, (D, H, W). Raises as segment_image.
    """
    for first in range(0, len(regions), models.batch):
        grey = [cut_image(image, r, settings) for r in regions[first : first + models.batch]]
        windows = torch.from_numpy(np.stack(grey))[:, None]  # B of (d, h, w) -> (B, 1, d, h, w)
        try:
            predicted = segmenter(windows.to(models.device)).float().sigmoid()[:, 0].cpu().numpy()
        except torch.OutOfMemoryError:
            what = "the GPU's memory is too small for so many windows"
            raise SettingError(what, "--batch", "use a smaller one") from None
        if not np.isfinite(predicted).all():
            what = "the segmenter gives values that are no numbers"
            remedy = "use the other checkpoint, or train with a lower learning rate"
            raise CheckpointError(what, "the checkpoint", remedy)
        yield from predicted


def merge_windows(
    probabilities: Iterable[Array], regions: Sequence[Region], depth: int, ways: Iterable[bool]
) -> dict[bool, Array]:
    """Windows merged into probabilities of a case, (D, h, w): nearest (False), mean (True).

    probabilities: (d, h, w) of each region. A region's slices are the case's own, so windows join
    before they are brought to its rows and columns: both are linear. Of windows whose middles are
    as near, the first counts; a slice without a window is 0.
    """
    owners, counts = _share_slices(regions, depth)
    merged: dict[bool, Array] = {}
    for place, (predicted, region) in enumerate(zip(probabilities, regions, strict=True)):
        start = region.start[0]
        inside = slice(max(start, 0), min(start + region.shape[0], depth))
        part = predicted[inside.start - start : inside.stop - start]
        for average in ways:
            if average not in merged:
                merged[average] = np.zeros((depth, *predicted.shape[1:]), np.float32)
            if average:
                merged[True][inside] += part / counts[inside, None, None]
            else:
                own = owners[inside] == place
                merged[False][inside][own] = part[own]
    return merged


def _share_slices(
    regions: Sequence[Region], depth: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """(D,) each: the region whose middle is nearest, -1 none; how many regions hold the slice."""
    index = np.arange(depth)
    starts = np.array([region.start[0] for region in regions])[:, None]
    lengths = np.array([region.shape[0] for region in regions])[:, None]
    holds = (starts <= index) & (index < starts + lengths)  # (regions, D)
    # Twice the distance: middles lie between slices.
    distance = np.where(holds, abs(2 * index - 2 * starts - lengths + 1), 4 * lengths.max() + depth)
    owners = np.where(holds.any(axis=0), distance.argmin(axis=0), -1)
    return owners, np.maximum(holds.sum(axis=0), 1).astype(np.float32)


def _find_mask(merged: Array, shape: tuple[int, ...], threshold: float) -> Mask:
    """(D, h, w) probabilities -> the mask on a case's grid (D, H, W), some slices at a time."""
    depth, rows, columns = shape
    mask = np.zeros((depth, rows, columns), np.uint8)
    for first in range(0, depth, SLICES_AT_ONCE):
        some = merged[first : first + SLICES_AT_ONCE]
        # Between values below the threshold a linear resize finds none above it.
        if some.max() >= threshold:
            region = Region((first, 0, 0), (len(some), rows, columns))
            values, where = paste(some, region, mask.shape)
            mask[where] = values >= threshold
    return mask


def keep_largest(mask: Mask) -> Mask:
    """The largest component of a mask (D, H, W) of 0 and 1; of equal ones the first.

    Voxels that touch in a face, an edge or a corner are connected.
    """
    kept = np.zeros_like(mask)
    boxes = ndimage.find_objects(mask)
    if not boxes:
        return kept
    box = boxes[0]
    labels, count = ndimage.label(mask[box], NEIGHBOURS)
    sizes = np.zeros(count + 1, np.int64)
    for first in range(0, len(labels), SLICES_AT_ONCE):
        some = labels[first : first + SLICES_AT_ONCE]
        sizes += np.bincount(some.reshape(-1), minlength=count + 1)
    kept[box] = labels == 1 + sizes[1:].argmax()
    return kept


def refine_mask(
    image: Image,
    mask: Mask,
    steps_mm: Vector,
    models: Models,
    cases: CaseSettings,
    method: Method,
) -> Mask:
    """The mask (D, H, W) that the refining segmenter finds around a first one.

    image: HU, (D, H, W). An empty mask stays empty. Raises as segment_image.
    """
    refined = np.zeros_like(mask)
    region = bound_mask(mask, models.margin_mm, steps_mm, cases.settings)
    if region is None or models.refining is None:
        return refined
    predicted = predict_windows(models.refining, image, [region], cases.settings, models)
    values, where = paste(next(predicted), region, mask.shape)
    refined[where] = values >= method.threshold
    return keep_largest(refined) if method.largest else refined
