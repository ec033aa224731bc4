"""Public name: takes settings of a stream, gives the volumes of a lake as a Ray Data dataset."""

from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.stream import StreamConfig, stream_volumes

__all__ = ["ResampleSettings", "StreamConfig", "stream_volumes"]
