"""The benchmark models in plain PyTorch: logits out, images as `[N, C, H, W]`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .bench_model import CLASSES
from .small_models import RESNET_BLOCKS
from .torch_large import LARGE_TORCH_MODELS, Residual, convolved


class LastOfLSTM(nn.Module):
    """An LSTM of which the last output is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 128, batch_first=True)
        self.head = nn.Linear(128, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Block(nn.Module):
    """A pre-norm transformer block: attention, then a perceptron, each with a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=1e-3)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_mlp = nn.LayerNorm(width, eps=1e-3)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm_attention(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.norm_mlp(x))


class Transformer(nn.Module):
    """Blocks on tokens that are vectors, averaged and classified."""

    def __init__(self, width: int = 128, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width, heads, 4 * width) for _ in range(depth)))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x).mean(1))


def _mlp() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(784, 512), nn.ReLU(inplace=True)),
        *(nn.Linear(512, 512), nn.ReLU(inplace=True)),
        nn.Linear(512, CLASSES),
    )


def _cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.5), nn.Linear(1600, CLASSES)),
    )


def _resnet() -> nn.Module:
    channels = 16
    layers = convolved(3, channels, 3, 1, nn.ReLU)
    for filters, stride in RESNET_BLOCKS:
        branch = convolved(channels, filters, 3, stride, nn.ReLU) + convolved(filters, filters, 3)
        same = (channels, 1) == (filters, stride)
        shortcut = None if same else convolved(channels, filters, 1, stride)
        layers.append(Residual(branch, shortcut, activated=True))
        channels = filters
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)
    )


TORCH_MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "resnet": _resnet,
    "lstm": LastOfLSTM,
    "transformer": Transformer,
    "transformer6": lambda: Transformer(256, 8, 6),
    **LARGE_TORCH_MODELS,
}
