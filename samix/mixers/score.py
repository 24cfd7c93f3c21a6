"""The score generator: one map an image, and a mask by the contest of two maps.

A head scores the cells of each image, and the mask of a pair is ``sigmoid(s_i - s_j + offset)`` with the offset for
which the mask's mean is lam. This carries SAMix^P (arXiv:2111.15454) further than its paper: the maps do not depend on
the partner, so they can be stored, cropped and flipped with their image, and compared among k images.

Letters: B batch, D feature channels, M maps an image (1 or 2), h w feature cells, k images of one mix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from samix.mixers.base import MaskGenerator, MaskGeneratorConfig, resize
from samix.runtime.checks import Range
from samix.runtime.typed_options import Positive

STEPS, POLISH, COARSE = 16, 3, 32  # of the solver: steps, steps at full size, cells per side where it begins


@dataclass(frozen=True)
class ScoreMixerConfig(MaskGeneratorConfig):
    """What a score generator is.

    Args:
        width: channels inside the head.
        maps: 1 scores an image alike as own and as partner; 2 scores it once for each role.
        gain: standard deviation of the scores over a batch in training; a larger one makes masks harder.
    """

    name: ClassVar[str] = "score"

    width: Annotated[int, Range(1, 65536)] = 64
    maps: Literal[1, 2] = 1
    gain: Positive = 2.5


class ScoreMixer(MaskGenerator):
    """Scores the cells of each image, and paints masks by comparing two score maps.

    Example:
        >>> mixer = samix.ScoreMixer(112).eval()
        >>> scores = mixer.project(torch.randn(4, 112, 8, 8))
        >>> mixer.predict_mask(scores, scores.flip(0), torch.full((4,), 0.3), (128, 128)).shape
        torch.Size([4, 1, 128, 128])
    """

    config_class = ScoreMixerConfig

    def __init__(self, dim: int, config: ScoreMixerConfig | None = None, **options: object) -> None:
        super().__init__(dim, config, **options)
        width, maps = self.config.width, self.config.maps
        self.head = nn.Sequential(
            nn.BatchNorm2d(dim),
            nn.Conv2d(dim, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ELU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ELU(),
            nn.Conv2d(width, maps, 1, bias=False),
            nn.BatchNorm2d(maps, affine=False),  # without it the scores grow until the masks saturate
        )

    def project(self, z: Tensor) -> Tensor:
        """Scores the cells of each image: (B, D, h, w) -> (B, M, h, w) float32."""
        with torch.autocast(z.device.type, enabled=False):
            scores: Tensor = self.head(z.float())
            return self.config.gain * scores  # type: ignore[no-any-return]

    def predict_mask(self, projected: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """Predicts the mask of each pair from its scores; see :func:`contest_mask`."""
        return contest_mask(projected, partner, lam, size)


def contest_mask(own: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
    """Computes the masks of pairs: the image with the higher score shows, for the share lam of the pixels.

    Args:
        own: (B, M, h, w) scores of the own images. Of two maps the first is that of an own image, the second that of a
            partner.
        partner: (B, M, h, w) scores of the partners.
        lam: (B,) share of the own image, in [0, 1].
        size: (H, W) of the images.

    Returns:
        (B, 1, H, W) float32, 1 where the own pixel stays; its mean is lam.
    """
    with torch.autocast(own.device.type, enabled=False):
        logit = contest_logit(own, partner, size)
        return torch.sigmoid(logit + fit_offset(logit, lam))


def contest_logit(own: Tensor, partner: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns the logits (B, 1, H, W) float32 of the masks of :func:`contest_mask`, without their offsets."""
    return resize((own[:, :1] - partner[:, -1:]).float(), size, "bilinear")


def fit_offset(logit: Tensor, lam: Tensor) -> Tensor:
    """Computes what :func:`solve_offset` does, for maps (B, 1, H, W): on a small copy first, then at full size."""
    if min(logit.shape[-2:]) <= COARSE:
        return solve_offset(logit, lam)
    small = resize(logit.detach(), (COARSE, COARSE), "bilinear")
    return solve_offset(logit, lam, solve_offset(small, lam), POLISH)


def solve_offset(logit: Tensor, lam: Tensor, start: Tensor | None = None, steps: int = STEPS) -> Tensor:
    """Finds o with ``mean(sigmoid(logit + o)) = lam`` for each sample.

    Newton's method on the logit of the mean, inside a bracket that each step narrows; a step that would leave the
    bracket bisects it. All samples run together for a fixed number of steps. The gradient is that of the implicit
    function, do/dlogit = -sigmoid'(logit + o) / sum(sigmoid'(logit + o)).

    Args:
        logit: (B, ...) float32 or float64, finite.
        lam: (B,) in [0, 1]; at 0 and 1 the mean is within 1e-6 of lam.
        start: offsets to start from; None starts from the logit of lam.
        steps: of the search.

    Returns:
        (B, 1, ..., 1), with as many dimensions as the logit.
    """
    shape = (-1, *[1] * (logit.dim() - 1))
    with torch.no_grad():
        flat = logit.detach().flatten(1)
        wanted = torch.logit(lam.to(flat).clamp(1e-6, 1.0 - 1e-6))
        low, high = wanted - flat.amax(1), wanted - flat.amin(1)  # there every cell is at most, at least lam
        offset = wanted - flat.mean(1) if start is None else start.view(-1).to(flat)
        for _ in range(steps):
            cells = torch.sigmoid(flat + offset[:, None])
            mean = cells.mean(1).clamp(1e-7, 1.0 - 1e-7)
            error = torch.logit(mean) - wanted  # nearly linear in the offset, near lam 0 and 1 too
            slope = (mean - cells.square().mean(1)).clamp(min=1e-12) / (mean * (1.0 - mean))
            low, high = torch.where(error < 0, offset, low), torch.where(error > 0, offset, high)
            newton = offset - error / slope
            offset = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
        offset = offset.view(shape)
    if not (logit.requires_grad and torch.is_grad_enabled()):
        return offset
    cells = torch.sigmoid(logit + offset)
    mean = cells.flatten(1).mean(1).view(shape)
    slope = (cells * (1.0 - cells)).detach().flatten(1).mean(1).view(shape).clamp(min=1e-6)
    return offset - (mean - mean.detach()) / slope
