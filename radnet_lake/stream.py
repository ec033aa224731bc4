"""Kept name: radnet_lake.stream."""

from radnet_lake.volume.stream import StreamConfig, stream_volumes

__all__ = ["StreamConfig", "stream_volumes"]
