"""radnet_lake: from DICOM archives to labels by their headers, and to a pretrained 3D network."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "attach", "connect"]

if TYPE_CHECKING:
    from radnet_lake.lake import attach, connect


def __getattr__(name: str) -> Any:
    # Late, so that a Ray worker which only reads headers does not load DuckDB.
    if name in ("attach", "connect"):
        from radnet_lake import lake

        return getattr(lake, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
