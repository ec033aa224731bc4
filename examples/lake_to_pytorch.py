"""A lake's volumes and labels in a plain PyTorch loop: a small network learns the scan plane.

    python examples/lake_to_pytorch.py LAKE [EPOCHS]

LAKE must hold volumes: radnet-lake preprocess --lake LAKE --slices 16 --rows 48 --columns 48
"""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import radnet_lake
from radnet_lake.stream import ResampleSettings, StreamConfig, stream_volumes

SIZE = ResampleSettings(16, 48, 48)


def make_network(classes: int) -> nn.Sequential:
    """(B, 1, 16, 48, 48) -> (B, classes)."""
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv3d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(16 * 8, classes),
    )  # fmt: skip


def train(lake: str, epochs: int) -> list[float]:
    """Train on the training split; the mean loss of each epoch."""
    torch.manual_seed(0)
    network = make_network(3)
    optimiser = torch.optim.Adam(network.parameters(), 0.003)
    losses = []
    for epoch in range(epochs):
        config = StreamConfig(lake=lake, split="train", settings=SIZE, first_epoch=epoch, seed=1)
        total, count = 0.0, 0
        for batch in stream_volumes(config).iter_batches(batch_size=8):
            # uint8 grey levels; arrays of the stream must not be written to.
            volumes = torch.from_numpy(batch["volume"].copy())[:, None].float() / 255
            planes = torch.from_numpy(batch["view"].copy())  # axial, coronal, sagittal; -1 unknown
            loss: Tensor = F.cross_entropy(network(volumes), planes, ignore_index=-1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total, count = total + float(loss.detach()) * len(planes), count + len(planes)
        losses.append(total / count)
        print(f"epoch {epoch + 1}: loss {losses[-1]:.3f} over {count} series")
    return losses


def main() -> None:
    """Say what the lake holds, then train."""
    lake = sys.argv[1] if len(sys.argv) > 1 else sys.exit(__doc__)
    with radnet_lake.connect(lake) as connection:
        counts = connection.sql('select "view", count(*) from training_set group by all').fetchall()
    print(f"training set by plane: {dict(counts)}")
    train(lake, int(sys.argv[2]) if len(sys.argv) > 2 else 3)


if __name__ == "__main__":
    main()
