"""What a user relies on of masks: they lie where the organ is, on the case's own grid."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from liver_runs import CASES, SIZE, STEPS_MM, make_box, make_case, rig_segmenter, write_run

from radnet_lake.errors import CheckpointError, SettingError
from radnet_lake.network.dice import measure_overlap
from radnet_lake.network.heads import Head
from radnet_lake.network.resnet import NetworkSettings, RadNet
from radnet_lake.transfer.inference import (
    Method,
    Models,
    Proposal,
    build_models,
    keep_largest,
    merge_windows,
    read_trained,
    segment_image,
)
from radnet_lake.transfer.windows import Region, list_windows

PLAIN = Method()
ORGAN = make_box(20, slice(3, 17), slice(5, 15), slice(6, 20))


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(rig_segmenter(), rig_segmenter(), margin_mm=10)


def segment(models: Models, mask: np.ndarray, *methods: Method, chosen: list[int] | None = None):
    case = make_case(mask)
    windows = list_windows(len(mask), SIZE.slices, CASES.stride, *mask.shape[1:])
    proposal = Proposal(windows, [], chosen or list(range(len(windows))))
    found = segment_image(case.image, STEPS_MM, models, CASES, methods or (PLAIN,), proposal)
    return [found.masks[method] for method in methods or (PLAIN,)]


@pytest.mark.parametrize("depth", [5, 8, 20, 23])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_organ_is_found_to_the_voxel_in_cases_of_any_depth(
    models: Models, depth: int, batch: int
) -> None:
    organ = make_box(depth, slice(1, depth - 2), slice(5, 15), slice(6, 20))
    for mask in segment(models._replace(batch=batch), organ, PLAIN, Method(average=True)):
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, organ)


def test_what_no_window_holds_is_background(models: Models) -> None:
    # Windows of 8 slices from 0, 4, 8, 12.
    (mask,) = segment(models, ORGAN, chosen=[0, 2])
    np.testing.assert_array_equal(mask[:16], ORGAN[:16])
    assert not mask[16:].any()


def test_a_fine_grid_gets_its_mask_back_within_a_voxel_of_the_network(models: Models) -> None:
    organ = make_box(12, slice(2, 9), slice(30, 71), slice(22, 60), side=96)
    (mask,) = segment(models, organ)
    assert mask.shape == organ.shape
    shell = np.zeros_like(organ)
    shell[2:9, 26:75, 18:64] = 1
    shell[2:9, 34:67, 26:56] = 0
    assert not (mask != organ)[shell == 0].any()


@pytest.mark.parametrize("depth", [6, 8, 21, 40])
def test_windows_join_as_each_voxel_alone_says(depth: int) -> None:
    regions = list_windows(depth, 8, 4, 30, 30)[::2]
    said = np.random.default_rng(0).random((len(regions), 8, 3, 2), np.float32)
    merged = merge_windows(said, regions, depth, (False, True))
    for k in range(depth):
        holding = [
            (abs(k - (r.start[0] + 3.5)), said[n, k - r.start[0]])
            for n, r in enumerate(regions)
            if r.start[0] <= k < r.start[0] + 8
        ]
        nearest = min(holding, key=lambda pair: pair[0])[1] if holding else np.zeros((3, 2))
        mean = np.mean([part for _, part in holding], axis=0) if holding else np.zeros((3, 2))
        np.testing.assert_array_equal(merged[False][k], nearest)
        np.testing.assert_allclose(merged[True][k], mean, atol=1e-6)


def test_the_largest_component_alone_is_kept() -> None:
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[1, 1, 1:4] = 1
    mask[2, 2, 4] = mask[3, 3, 5] = 1  # joined by corners
    mask[6:8, 6, 6:8] = 1
    kept = keep_largest(mask)
    assert kept.sum() == 5
    assert (kept[:5] == mask[:5]).all()
    mask[4, 4, 6] = 0
    mask[1, 1, 1] = 0
    assert keep_largest(mask)[:5].sum() == 4  # of two as large, the first
    assert not keep_largest(np.zeros((3, 4, 5), np.uint8)).any()


def test_a_far_spot_goes_with_the_largest_component(models: Models) -> None:
    spotted = ORGAN.copy()
    spotted[1:3, 20:23, 1:4] = 1
    plain, largest = segment(models, spotted, PLAIN, Method(largest=True))
    np.testing.assert_array_equal(plain, spotted)
    np.testing.assert_array_equal(largest, ORGAN)


def test_the_refining_pass_sees_finer_than_the_first(models: Models) -> None:
    organ = make_box(12, slice(2, 9), slice(31, 70), slice(23, 59), side=96)
    plain, refined = segment(models, organ, PLAIN, Method(refine=True))
    first, second = (measure_overlap(mask > 0, organ > 0).dice for mask in (plain, refined))
    assert 0.8 < first < second


def test_an_empty_first_mask_stays_empty(models: Models) -> None:
    (mask,) = segment(models, np.zeros_like(ORGAN), Method(True, True, True))
    assert not mask.any()


def test_the_pretrained_network_chooses_windows(models: Models) -> None:
    network = RadNet(NetworkSettings(depth=10, width=4), (Head("coverage", "multi", ("liver",)),))
    case = make_case(ORGAN)
    for score, chosen in ((3.0, [0, 1, 2, 3]), (-3.0, [0])):
        with torch.no_grad():
            network.heads["coverage"].weight.zero_()
            network.heads["coverage"].bias.fill_(score)
        with_regions = models._replace(regions=network.eval())
        found = segment_image(case.image, STEPS_MM, with_regions, CASES)
        assert found.proposal.chosen == chosen
        assert found.proposal.scores == pytest.approx([1 / (1 + np.exp(-score))] * 4)
    # Above the threshold there is none: the first of the highest.
    np.testing.assert_array_equal(found.masks[PLAIN][:8], ORGAN[:8])
    assert not found.masks[PLAIN][8:].any()
    everywhere = segment_image(case.image, STEPS_MM, models, CASES)
    assert everywhere.proposal == Proposal(list_windows(20, 8, 4, 24, 24), [], [0, 1, 2, 3])


def test_values_that_are_no_numbers_are_told_and_never_an_empty_mask(models: Models) -> None:
    network = rig_segmenter()
    with torch.no_grad():
        network.decoder.tell.bias.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="no numbers"):
        segment(models._replace(first=network), ORGAN)


def test_refining_needs_its_segmenter(models: Models) -> None:
    with pytest.raises(SettingError, match="--refine"):
        segment(models._replace(refining=None), ORGAN, Method(refine=True))


def test_methods_have_names_of_their_own() -> None:
    bits = (False, True)
    methods = [Method(a, b, c, t) for a in bits for b in bits for c in bits for t in (0.5, 0.3)]
    assert len({method.label for method in methods}) == len(methods)
    assert Method().label == "plain"
    assert Method(average=True, refine=True).label == "average+refine"


def test_a_run_gives_its_models_with_the_refining_run_beside(tmp_path: Path) -> None:
    first = write_run(str(tmp_path / "first"), "cases")
    second = write_run(str(tmp_path / "second"), "cases", refine=True, margin_mm=7.0)
    trained = read_trained(first.uri, second.uri)
    assert trained.cases == CASES
    assert trained.config["freeze"] == "all"
    models = build_models(trained, batch=5)
    assert (models.batch, models.margin_mm, models.regions) == (5, 7.0, None)
    (mask,) = segment(models, ORGAN, Method(refine=True))
    np.testing.assert_array_equal(mask, ORGAN)


def test_a_published_file_gives_its_model_without_a_folder(tmp_path: Path) -> None:
    run = write_run(str(tmp_path / "run"), "cases")
    file = tmp_path / "liver.safetensors"
    file.write_bytes(run.folder.read("checkpoints/best.safetensors"))
    trained = read_trained(str(file))
    assert trained.cases == CASES
    models = build_models(trained)
    assert models.regions is None
    (mask,) = segment(models, ORGAN)
    np.testing.assert_array_equal(mask, *segment(build_models(read_trained(run.uri)), ORGAN))


def test_runs_of_the_other_pass_and_runs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    first = write_run(str(tmp_path / "first"), "cases")
    second = write_run(str(tmp_path / "second"), "cases", refine=True)
    with pytest.raises(SettingError, match=r"second: was trained with --refine.*give it as"):
        read_trained(second.uri)
    with pytest.raises(SettingError, match=r"first: was trained without --refine"):
        read_trained(first.uri, first.uri)
    with pytest.raises(SettingError, match="is no run folder"):
        read_trained(str(tmp_path / "none"))
    with pytest.raises(SettingError, match="no checkpoint of that name"):
        read_trained(first.uri, checkpoint="last")
    state = second.read_checkpoint()
    kidney = dataclasses.replace(CASES, organ="kidney").describe()
    second.write_checkpoint(state | {"cases": kidney}, "best")
    with pytest.raises(SettingError, match="the organ is kidney, the run's liver"):
        read_trained(first.uri, second.uri)
    second.write_checkpoint({**state, "kind": ""}, "best")
    with pytest.raises(SettingError, match=r"is a run of `radnet-lake train`"):
        read_trained(first.uri, second.uri)


def test_a_window_that_sticks_out_counts_where_the_case_is() -> None:
    said = np.ones((1, 8, 3, 2), np.float32)
    merged = merge_windows(said, [Region((-2, 0, 0), (8, 3, 2))], 10, (False,))
    assert merged[False][:, 0, 0].tolist() == [1] * 6 + [0] * 4
