"""The Ray that work runs on, where it does not come up."""

import pytest
import ray

from radnet_lake.errors import SettingError, StoreError
from radnet_lake.ray_cluster import start_ray


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each start of Ray was asked for; all of them fail as Ray's own node does."""
    asked: list[str] = []

    def fail(address: str, **_: object) -> None:
        asked.append(address)
        raise Exception("The current node timed out during startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "init", fail)
    return asked


def test_a_local_ray_that_comes_late_is_started_once_more(starts: list[str]) -> None:
    with pytest.raises(StoreError, match=r"a local Ray did not start: .*timed out.*; free memory"):
        start_ray()
    assert starts == ["local", "local"]


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ConnectionError("no answer")

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(SettingError, match="RAY_ADDRESS: no Ray cluster answers"):
        start_ray()
