"""Progress: lines in a log, from counts and messages; reports as their text."""

import time

import pytest

from radnet_lake.cli.progress import ProgressBar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_log_has_a_line_every_ten_seconds(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar("preprocess") as progress:
        progress(0, 100, "volumes", messages=["100 volumes to make, 3 series known"])
        for done in range(10, 60, 10):
            clock[0] += 4
            progress(done, 100, "volumes", {"failed": 1})
    assert capsys.readouterr().err.splitlines() == [
        "preprocess: 100 volumes to make, 3 series known",
        "preprocess: 30 volumes, 2.5 volumes/s, 1 failed, about 28 s left",
    ]


def test_the_rate_counts_from_when_it_is_known_what_there_is_to_do(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar("train") as progress:
        progress(0, None, "volumes", messages=["starting workers"])
        clock[0] += 500
        progress(0, None, "volumes")
        clock[0] += 20
        progress(400, None, "volumes")
    assert capsys.readouterr().err.splitlines() == [
        "train: starting workers",
        "train: 400 volumes, 20 volumes/s",
    ]
