"""Random values, options, batches and damage, and the network they go through; many are wrong."""

from __future__ import annotations

import random
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

K = 5  # classes
ODD = [0, 1, -1, 2, 0.5, 1.5, -0.3, 1e9, 1e-9, float("nan"), float("inf"), "", "x", "true", None, True, [], {}, 10**30]
TEXT = [
    *map(str, ODD),
    "digits",
    "folder:/nowhere",
    "cutmix",
    "samix",
    "--",
    "-1",
    "é",
    "a b",
    "'",
    "{",
    "[1",
    "../..",
    "\n",
]


class Net(nn.Module):
    """A convolution with BatchNorm, and a linear layer: a network that any mixup can look at."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(8, classes) if classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K).

        Raises:
            ValueError: whatever torch says of the input: it is this network's, not samix's, to speak of it.
        """
        try:
            logits: Tensor = self.fc(self.late(self.body(x)).mean((2, 3)))
        except RuntimeError as error:
            raise ValueError(" ".join(str(error).split())) from error
        return logits


def random_options(kind: type[Any], names: list[str], draw: random.Random) -> dict[str, Any]:
    """None, one or two options, of values that fit their types, or of any."""
    hints = get_type_hints(kind)
    return {
        name: draw.choice(ODD) if draw.random() < 0.4 else fitting(hints[name], draw)
        for name in draw.sample(names, min(len(names), draw.choice([0, 0, 0, 1, 1, 2])))
    }


def fitting(hint: Any, draw: random.Random) -> Any:
    """A value of a type."""
    choices = get_args(hint)
    if get_origin(hint) is Literal:
        return draw.choice(choices)
    kinds = choices or (hint,)
    if bool in kinds:
        return draw.random() < 0.5
    if float in kinds:
        return draw.choice([0.0, 0.1, 0.5, 0.9, 1.0, 2.0, draw.random()])
    if int in kinds:
        return draw.choice([1, 2, 3, 4, 8])
    return draw.choice(["", "x", "spectral"])


def random_batch(draw: random.Random, model_channels: int = 3) -> tuple[Any, Any]:
    """Images and labels; both as they should be in about half of all calls."""
    size = draw.choice([1, 2, 3, 4, 4, 5])
    channels = model_channels if draw.random() < 0.9 else draw.choice([1, 2, 5])
    height, width = (draw.choice([1, 2, 5, 7, 8, 8, 12, 16]) for _ in range(2))
    images: Any = torch.randn(size, channels, height, width)
    labels: Any = torch.randint(0, K, (size,))
    if draw.random() < 0.3:
        images = draw.choice(
            [
                lambda: images.to(
                    draw.choice([torch.float64, torch.bfloat16, torch.float16, torch.uint8, torch.int64])
                ),
                lambda: images.contiguous(memory_format=torch.channels_last),
                lambda: images.transpose(2, 3),
                lambda: images[0],
                lambda: images.permute(0, 2, 3, 1),
                lambda: images[:0],
                lambda: images * float("nan"),
                lambda: images * 1e30,
                lambda: torch.zeros_like(images),
                lambda: images.expand(size, channels, height, width)[:, :, :0],
                lambda: images.numpy(),
                lambda: images.requires_grad_(),
                lambda: None,
            ]
        )()
    if draw.random() < 0.3:
        labels = draw.choice(
            [
                lambda: labels + draw.choice([-1, 3, 10**6]),
                lambda: labels.to(draw.choice([torch.int32, torch.uint8, torch.float32, torch.bool, torch.float64])),
                lambda: torch.nn.functional.one_hot(labels, K).float(),
                lambda: torch.nn.functional.one_hot(labels, K),
                lambda: torch.rand(size, draw.choice([1, K, K + 1])),
                lambda: torch.rand(size),
                lambda: labels[:-1],
                lambda: labels[:, None],
                lambda: labels.tolist(),
                lambda: torch.randint(0, K, (size, height, width)),
                lambda: torch.full((size,), float("nan")),
                lambda: None,
            ]
        )()
    return images, labels


def random_value(draw: random.Random, depth: int = 0) -> Any:
    """Anything a file may hold."""
    if depth < 2 and draw.random() < 0.15:
        return [random_value(draw, depth + 1) for _ in range(draw.randrange(3))]
    if depth < 2 and draw.random() < 0.15:
        return {draw.choice(TEXT): random_value(draw, depth + 1) for _ in range(draw.randrange(3))}
    return draw.choice([*ODD, *TEXT, draw.randrange(1000), draw.random()])


def damage(data: bytes, draw: random.Random) -> bytes:
    """The bytes, cut or changed at random places; now and then as they were."""
    for _ in range(draw.choice([0, 1, 1, 1, 2, 5])):
        data = damage_once(data, draw)
    return data


def damage_once(data: bytes, draw: random.Random) -> bytes:
    """One change."""
    place, length = draw.randrange(len(data) + 1), draw.choice([1, 1, 2, 8, 100, 1000])
    before, after, beyond = data[:place], data[place:], data[place + length :]
    flipped = bytes([after[0] ^ 1 << draw.randrange(8)]) + after[1:] if after else b""
    changed = {
        "cut": before,
        "begun late": after,
        "put in": before + draw.randbytes(length) + after,
        "taken out": before + beyond,
        "zeroed": before + bytes(min(length, len(after))) + beyond,
        "flipped": before + flipped,
        "longer": data + draw.randbytes(length),
    }
    return changed[draw.choice(list(changed))]
