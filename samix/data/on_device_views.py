"""Views of whole batches on their own device, from numbers drawn on the CPU; nothing here waits for the device.

For each view of an image 36 numbers in [0, 1): the 23 of flip and crop, whether to jitter, four strengths, four that
are sorted for the order of the jitter's operations, and those of grey, blur (whether, and sigma) and solarisation.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from samix.data.on_device import DRAWS, resized_crop
from samix.data.views import BLUR_SIGMA, ViewAugment, ViewRecipe

VIEW_DRAWS = DRAWS + 13  # columns of the draws of one view
JITTER, FACTORS, ORDER, GREY, BLUR, SIGMA, SOLARISE = (DRAWS + k for k in (0, 1, 5, 9, 10, 11, 12))
LUMA = (0.2989, 0.587, 0.114)  # shares of red, green and blue in grey, as torchvision rounds them
RADIUS = 11  # of the blur: 23 taps, 5.5 times the largest sigma
CPU_PIECE = 2**16  # pixels that a CPU treats at once: what the steps hand on stays in its cache
CONTRAST, SATURATION, HUE = 1, 2, 3  # operations of the jitter; 0 is brightness


def view_stored_size(size: int, native_size: int | None) -> int:
    """Returns the side at which a split is kept for views: 8/7 of `size`, or the images' own if less."""
    largest = round(size * 256 / 224)
    return largest if native_size is None else min(native_size, largest)


def views_of(images: Tensor, draws: Tensor, views: ViewAugment, size: int) -> list[Tensor]:
    """Makes the views, float32 (B, 3, side, side), of uint8 images (B, 3, S, S) by draws (B, views.count, 36)."""
    sides = [views.size(view, size) for view in range(views.count)]
    return [view_batch(images, draws[:, view], views.recipe(view), side) for view, side in enumerate(sides)]


def view_batch(images: Tensor, draws: Tensor, recipe: ViewRecipe, size: int) -> Tensor:
    """Makes one view of each image (B, 3, S, S) uint8, by draws (B, 36): (B, 3, size, size) float32 in [0, 1].

    The crop is bilinear without antialiasing (worker loading antialiases, and is bicubic in some kinds), the blur a
    true Gaussian over 23 taps with reflected borders (PIL's is three box filters with repeated borders), and pixels
    are not rounded between the steps. The mirror image is taken with the crop: it commutes with all the rest.
    """
    count = len(images)
    piece = max(8, CPU_PIECE // size**2) if images.device.type == "cpu" else count
    slices = [slice(first, first + piece) for first in range(0, count, piece)]
    with torch.autocast(images.device.type, enabled=False):  # its half precision is coarser than 8-bit pixels
        return torch.cat([_piece_of_view(images[part], draws[part], recipe, size) for part in slices])


def _piece_of_view(images: Tensor, draws: Tensor, recipe: ViewRecipe, size: int) -> Tensor:
    x = resized_crop(images, draws[:, :DRAWS], recipe.scale, size)
    for step in recipe.steps:
        if step == "jitter":
            x = colour_jitter(x, *jitter_draws(draws, recipe))
        elif step == "grey":
            x = grey(x, draws[:, GREY] < recipe.grey_p)
        elif step == "blur" and recipe.blur_p > 0:
            low, high = BLUR_SIGMA
            x = blur(x, low + (high - low) * draws[:, SIGMA], draws[:, BLUR] < recipe.blur_p)
        elif step == "solarise" and recipe.solarise_p > 0:
            x = solarise(x, draws[:, SOLARISE] < recipe.solarise_p)
    return x.clamp_(0, 1)  # weights that sum to one up to rounding


def jitter_draws(draws: Tensor, recipe: ViewRecipe) -> tuple[Tensor, Tensor]:
    """Returns factors and order of the colour jitter; without jitter, factors that change nothing.

    Returns:
        (B, 4) factors of brightness, contrast and saturation, 1 for none, and turns of hue, 0 for none; (B, 4) int64,
        the operation in each of four places.
    """
    low, reach, neutral = _jitter_range(recipe.jitter, draws.device)
    factors = low + reach * draws[:, FACTORS : FACTORS + 4]
    applied = (draws[:, JITTER : JITTER + 1] < recipe.jitter_p).float()
    return torch.lerp(neutral.expand_as(factors), factors, applied), draws[:, ORDER : ORDER + 4].argsort(1)


def colour_jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Changes brightness, contrast, saturation and hue of each image by its own factors, in its own order.

    The operations are torchvision's. The first three are affine maps of a pixel's colour, cut to [0, 1]: up to three of
    them before the turn of hue and up to three after it, so that hue, which costs most, is computed once.

    Args:
        images: (B, 3, H, W) float32 in [0, 1], as the result.
        factors: (B, 4), >= 0 for the first three, turns of hue in [-0.5, 0.5].
        order: (B, 4) int64, a permutation of 0..3 in each row: the operation at each position.
    """
    x = images.flatten(2)
    hue_at = (order == HUE).int().argmax(1, keepdim=True)  # of hue, (B, 1)
    count = torch.arange(3, device=x.device)
    operation = torch.cat([order[:, :3], order[:, 1:]], dim=1)  # (B, 6): places 0..2, then 1..3
    active = torch.cat([count < hue_at, count >= hue_at], dim=1)
    factor = torch.where(active, factors.gather(1, operation), 1.0)
    rest = 1 - factor
    unit, luma = _colour_maps(x.device)
    maps = factor[:, :, None, None] * unit + (rest * (operation == SATURATION))[:, :, None, None] * luma  # (B, 6, 3, 3)
    means = rest * (operation == CONTRAST)  # share of the mean grey level
    for slot in range(6):
        if slot == 3:
            x = turn_hue(x, factors[:, HUE])
        mean = x.mean(2) @ luma[0]  # (B,)
        x = torch.bmm(maps[:, slot], x).add_((means[:, slot] * mean)[:, None, None]).clamp_(0, 1)
    return x.view_as(images)


def turn_hue(colours: Tensor, turns: Tensor) -> Tensor:
    """Turns the hue of colours (B, 3, P) in [0, 1] by (B,) turns: red goes over yellow to green at 1/3.

    Without a branch: red, green and blue are sorted by minima and maxima, and the hue, in sixths of a turn, follows
    from the middle one and from which were swapped. Back from hue by the distances to the corners, clipped.
    """
    red, green, blue = (colours[:, channel : channel + 1] for channel in range(3))  # (B, 1, P)
    high, low = torch.maximum(green, blue), torch.minimum(green, blue)
    value, middle = torch.maximum(red, high), torch.minimum(red, high)  # middle: of the two that were compared
    swapped, second = (green < blue).float(), (red < high).float()
    chroma = value - torch.minimum(middle, low)
    start = torch.addcmul(-6 * swapped, second, 12 * swapped - 2)
    hue = (middle - low).div_(chroma.clamp(min=1e-12)).add_(start).abs_()  # [0, 6]
    hue = hue.add_(6 * turns[:, None, None])
    hue = hue.sub_((hue / 6).floor_().mul_(6))  # [0, 6)
    result = torch.empty_like(colours)
    for channel, (corner, sign, offset) in enumerate(((3, -1, 2), (2, 1, -1), (4, 1, -1))):
        missing = (hue - corner).abs_().mul_(sign).add_(offset).clamp_(0, 1)
        torch.addcmul(value, missing, chroma, value=-1, out=result[:, channel : channel + 1])
    return result


def grey(images: Tensor, chosen: Tensor) -> Tensor:
    """Makes the chosen ones, (B,) bool, of images (B, 3, H, W) grey."""
    unit, luma = _colour_maps(images.device)
    maps = torch.where(chosen[:, None, None], luma, unit)
    return torch.bmm(maps, images.flatten(2)).view_as(images)


def solarise(images: Tensor, chosen: Tensor) -> Tensor:
    """Inverts the upper half of [0, 1] in the chosen ones, (B,) bool, of images (B, C, H, W)."""
    return torch.lerp(images, torch.minimum(images, 1 - images), chosen.float()[:, None, None, None])


def blur(images: Tensor, sigma: Tensor, chosen: Tensor) -> Tensor:
    """Blurs the chosen ones of images (B, C, S, S) by Gaussians of sigma (B,) pixels; 23 taps, borders reflected.

    A row of an image times a matrix is that row blurred; so two batched products blur the whole, at a cost that does
    not depend on the number of taps.
    """
    count, channels, side, _ = images.shape
    matrix = blur_matrix(sigma, chosen, side)
    across = torch.bmm(images.reshape(count, channels * side, side), matrix.mT).view_as(images)
    return torch.matmul(matrix[:, None], across)


def blur_matrix(sigma: Tensor, chosen: Tensor, side: int) -> Tensor:
    """Makes matrices M, (B, S, S), so that M @ column is the column blurred; the unit matrix where not chosen."""
    radius = min(RADIUS, side - 1)  # a border is reflected once
    taps = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = (-0.5 * (taps / sigma[:, None]) ** 2).softmax(1)  # (B, taps)
    weights = weights * (weights > 1e-12)  # CPUs multiply by the smallest floats slowly
    weights = torch.where(chosen[:, None], weights, (taps == 0).float())
    return (weights @ _reflections(side, radius, sigma.device).flatten(1)).view(-1, side, side)


# Constants of a device. They are kept, as making them anew on a GPU would wait for a copy at each step.


@lru_cache(maxsize=64)
def _jitter_range(jitter: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the least factors, their range, and the factors that change nothing, (4,) each."""
    neutral, spread = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor(jitter)
    low = neutral - spread
    low[:3].clamp_(min=0)
    return low.to(device), (neutral + spread - low).to(device), neutral.to(device)


@lru_cache(maxsize=8)
def _colour_maps(device: torch.device) -> tuple[Tensor, Tensor]:
    """Makes the (3, 3) maps of a colour: to itself, and to its grey level."""
    return torch.eye(3, device=device), torch.tensor(LUMA, device=device).expand(3, 3).contiguous()


@lru_cache(maxsize=16)
def _reflections(side: int, radius: int, device: torch.device) -> Tensor:
    """Makes (taps, S, S): 1 where pixel i, moved by a tap and reflected at the borders, is pixel j."""
    source = torch.arange(side) + torch.arange(-radius, radius + 1)[:, None]
    source = (side - 1) - ((side - 1) - source.abs()).abs()
    return torch.nn.functional.one_hot(source, side).float().to(device)
