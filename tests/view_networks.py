"""Networks and views for tests of methods without labels: tiny ones, and ones whose outputs name the image and view."""

import copy

import torch
from tiny_networks import PlainNet
from torch import Tensor, nn


def trunk(norm: bool = False) -> nn.Module:
    """(B, 3, H, W) -> (B, 16); without BatchNorm each row is by itself."""
    net = PlainNet(norm=norm)
    net.fc, net.aside = nn.Identity(), nn.Identity()
    return net


def batch_of(size: int = 8, side: int = 16) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, side, side), torch.randn(size, 3, side, side)


class Colours(nn.Module):
    """(B, C, H, W) -> (B, C), the mean colour: of a mix of plain colours, the sources in their shares."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.same = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.dirac_(self.same.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.same(x).mean((2, 3))


def named_views(size: int, side: int = 8) -> tuple[Tensor, Tensor]:
    """Image i in its first view is plain in channel i, in its second in channel size + i."""
    names = torch.eye(2 * size).view(2, size, 2 * size, 1, 1).expand(-1, -1, -1, side, side).contiguous()
    return names[0], names[1]


def sources_of(z: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Of unit mixes of named first views: (B, size) share of each image; and of the second views likewise."""
    shares = z / z.sum(1, keepdim=True)
    return shares[:, :size], shares[:, size:]


def grads(module: nn.Module) -> dict[str, Tensor]:
    """Gradients that are there and not 0, by name."""
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}


def check_continued(whole: nn.Module, other: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """``other``, another start, takes the second half of the steps from the state of ``whole``, and ends as it does."""
    half = len(batches) // 2
    first, second = (torch.optim.SGD(method.parameter_groups(0.1), 0.1, 0.9) for method in (whole, other))

    def steps(method: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            method.generator.manual_seed(number)
            optimizer.zero_grad()
            method(batches[number])[0].backward()
            optimizer.step()
            method.after_step(number / len(batches))

    steps(whole, first, range(half))
    other.load_state_dict(copy.deepcopy(whole.state_dict()))
    other.progress = whole.progress
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(whole, first, range(half, len(batches)))
    steps(other, second, range(half, len(batches)))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), other.state_dict().values(), strict=True))
