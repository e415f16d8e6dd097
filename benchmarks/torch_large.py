"""The larger benchmark models in plain PyTorch: logits out, images as `[N, C, H, W]`."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import nn

from .bench_model import CLASSES
from .large_models import (
    AUTOENCODER_INPUT,
    EFFICIENTNET_BLOCKS,
    IMAGENET,
    MOBILENET_BLOCKS,
    VOCABULARY,
)


def convolved(
    channels: int,
    filters: int,
    kernel: int,
    stride: int = 1,
    activation: type[nn.Module] | None = None,
    groups: int = 1,
) -> list[nn.Module]:
    """A convolution without bias, normalized and activated."""
    conv = nn.Conv2d(
        channels, filters, kernel, stride, padding=kernel // 2, bias=False, groups=groups
    )
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01)]
    return layers + ([activation(inplace=True)] if activation else [])  # type: ignore[call-arg]


class Residual(nn.Module):
    """A branch beside the identity, or beside a shortcut, activated or not."""

    def __init__(
        self,
        branch: list[nn.Module],
        shortcut: list[nn.Module] | None = None,
        activated: bool = False,
    ) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        self.shortcut = nn.Sequential(*(shortcut or []))
        self.last = nn.ReLU(inplace=True) if activated else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.shortcut(x) + self.branch(x))


class Gate(nn.Module):
    """Squeeze and excitation: channels times a sigmoid of what their means say."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.weights = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.SiLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weights(x)


def _classified(layers: list[nn.Module], channels: int) -> nn.Module:
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, IMAGENET)
    )


def _mobilenet() -> nn.Module:
    layers, channels = convolved(3, 32, 3, 2, nn.ReLU6), 32
    for expansion, filters, count, first in MOBILENET_BLOCKS:
        for i in range(count):
            stride, wide = 1 if i else first, expansion * channels
            branch = convolved(channels, wide, 1, 1, nn.ReLU6) if expansion > 1 else []
            branch += convolved(wide, wide, 3, stride, nn.ReLU6, groups=wide)
            branch += convolved(wide, filters, 1)
            same = (stride, channels) == (1, filters)
            layers += [Residual(branch)] if same else branch
            channels = filters
    return _classified([*layers, *convolved(channels, 1280, 1, 1, nn.ReLU6)], 1280)


def _resnet50() -> nn.Module:
    layers: list[nn.Module] = [*convolved(3, 64, 7, 2, nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, count in enumerate((3, 4, 6, 3)):
        filters = 64 * 2**stage
        for i in range(count):
            stride = 2 if stage and not i else 1
            branch = convolved(channels, filters, 1, 1, nn.ReLU)
            branch += convolved(filters, filters, 3, stride, nn.ReLU)
            branch += convolved(filters, 4 * filters, 1)
            shortcut = None if i else convolved(channels, 4 * filters, 1, stride)
            layers.append(Residual(branch, shortcut, activated=True))
            channels = 4 * filters
    return _classified(layers, channels)


def _efficientnet() -> nn.Module:
    layers, channels = convolved(3, 32, 3, 2, nn.SiLU), 32
    for expansion, kernel, filters, count, first in EFFICIENTNET_BLOCKS:
        for i in range(count):
            stride, wide = 1 if i else first, expansion * channels
            branch = convolved(channels, wide, 1, 1, nn.SiLU) if expansion > 1 else []
            branch += convolved(wide, wide, kernel, stride, nn.SiLU, groups=wide)
            branch += [Gate(wide, max(1, channels // 4)), *convolved(wide, filters, 1)]
            same = (stride, channels) == (1, filters)
            layers += [Residual(branch)] if same else branch
            channels = filters
    return _classified([*layers, *convolved(channels, 1280, 1, 1, nn.SiLU)], 1280)


class UNet(nn.Module):
    """Two convolutions at each level, down and up again, with what was there joined on."""

    def __init__(self, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        sizes = [3, *(width * 2**level for level in range(depth + 1))]
        self.down = nn.ModuleList(_twice(a, b) for a, b in itertools.pairwise(sizes))
        pairs = list(itertools.pairwise(sizes[:0:-1]))
        self.wider = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
        self.up = nn.ModuleList(_twice(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(width, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = []
        for i, level in enumerate(self.down):
            x = level(nn.functional.max_pool2d(x, 2) if i else x)
            levels.append(x)
        for wider, up, there in zip(self.wider, self.up, levels[-2::-1], strict=True):
            x = up(torch.cat([there, wider(x)], 1))
        return self.head(x)


def _twice(channels: int, filters: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(filters, filters, 3, padding=1), nn.ReLU(inplace=True)),
    )


class LastOfGRU(nn.Module):
    """Rows of an embedding through a GRU, of which the last output is classified."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(self.embedding(x))[0][:, -1])


def _autoencoder(width: int = 4096, code: int = 64) -> nn.Module:
    sizes = (AUTOENCODER_INPUT, width, width, code, width, width)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(width, AUTOENCODER_INPUT), nn.Sigmoid())


LARGE_TORCH_MODELS: dict[str, Callable[[], nn.Module]] = {
    "mobilenetv2": _mobilenet,
    "resnet50": _resnet50,
    "efficientnetb0": _efficientnet,
    "unet": UNet,
    "gru-text": LastOfGRU,
    "autoencoder": _autoencoder,
}
