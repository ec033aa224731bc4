"""radnet_lake: from DICOM archives to labels by their headers, and to a pretrained 3D network."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "attach", "connect", "load_network", "read_volume"]

if TYPE_CHECKING:
    from radnet_lake.lake.views import attach, connect
    from radnet_lake.network.checkpoint import load_network
    from radnet_lake.volume.series_frames import read_volume


def __getattr__(name: str) -> Any:
    # Late, so that a Ray worker which only reads headers does not load DuckDB.
    if name in ("attach", "connect"):
        from radnet_lake.lake import views

        return getattr(views, name)
    if name == "read_volume":
        from radnet_lake.volume.series_frames import read_volume

        return read_volume
    if name == "load_network":
        from radnet_lake.network.checkpoint import load_network

        return load_network
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
