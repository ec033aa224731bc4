"""The examples run: the script on a lake with volumes, the notebook from an archive on."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture
def programs(ray_local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`radnet-lake` on the path, and this worker's Ray for whoever starts one."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RAY_ADDRESS", ray_local)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.usefixtures("programs")
def test_the_notebook_runs_and_then_the_script_on_its_lake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(EXAMPLES / "lake_to_pytorch.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    printed = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", ()))
    first, _, last = printed.strip().splitlines()[-1].partition(" -> ")
    assert float(last) < float(first)

    monkeypatch.syspath_prepend(EXAMPLES)
    import lake_to_pytorch

    losses = lake_to_pytorch.train(str(tmp_path / "lake"), 3)
    assert losses[-1] < losses[0]
    assert "epoch 3: loss" in capsys.readouterr().out
