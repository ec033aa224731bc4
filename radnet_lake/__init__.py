"""radnet_lake: from DICOM archives to labels by their headers, and to a pretrained 3D network."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "attach",
    "connect",
    "liver_case",
    "load_network",
    "read_volume",
    "stream",
]

if TYPE_CHECKING:
    from radnet_lake import liver_case, stream
    from radnet_lake.lake.views import attach, connect
    from radnet_lake.network.checkpoint import load_network
    from radnet_lake.volume.series_frames import read_volume

_MODULES = {
    "attach": "lake.views",
    "connect": "lake.views",
    "load_network": "network.checkpoint",
    "read_volume": "volume.series_frames",
}


def __getattr__(name: str) -> Any:
    # Late, because a Ray worker that reads headers needs neither DuckDB nor torch.
    if name in ("stream", "liver_case"):
        return import_module(f"radnet_lake.{name}")
    if name in _MODULES:
        return getattr(import_module(f"radnet_lake.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
