"""Mixing by maps: shares, stored maps, crops and pairs, against loops and by invariants."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from samix.mixers.maps import MapStore, crop_maps, least_overlap, mix_by_maps, softmax_masks
from samix.mixers.score import contest_mask


@pytest.mark.parametrize("count", [2, 3, 5])
def test_shares_of_k_images_are_met_and_masks_sum_to_one(count):
    torch.manual_seed(2)
    maps = 4 * torch.randn(12, count, 6, 6)
    shares = torch.distributions.Dirichlet(torch.ones(count)).sample((12,))
    masks = softmax_masks(maps, shares, (48, 48))
    assert torch.allclose(masks.sum(1), torch.ones(12, 48, 48), atol=1e-5)
    assert (masks.mean((2, 3)) - shares).abs().max() < 0.01


def test_two_images_by_softmax_are_the_pair_form():
    torch.manual_seed(3)
    maps, lam = torch.randn(7, 2, 5, 5), torch.rand(7)
    masks = softmax_masks(maps, torch.stack([lam, 1 - lam], 1), (40, 40))
    assert torch.allclose(masks[:, :1], contest_mask(maps[:, :1], maps[:, 1:], lam, (40, 40)), atol=1e-5)


def test_stored_maps_take_256_bytes_an_image_and_come_back():
    store = MapStore(10)
    rows, maps = torch.tensor([7, 2]), 3 * torch.randn(2, 1, 16, 16).clamp(-3, 3)
    store.write(rows, maps)
    assert store.values[0].numel() * store.values.element_size() == 256
    assert (store.read(rows) - maps).abs().max() <= store.limit / 127 / 2 + 1e-5
    with pytest.raises(KeyError, match="no stored map"):
        store.read(torch.tensor([7, 3]))


def test_crops_of_maps_are_the_cells_of_the_crop():
    maps = torch.arange(64.0).view(1, 1, 8, 8)
    boxes, flips = torch.tensor([[0.25, 0.5, 0.75, 1.0]]), torch.tensor([False])
    assert torch.allclose(crop_maps(maps, boxes, flips, (4, 4)), maps[:, :, 4:8, 2:6], atol=1e-4)
    assert torch.allclose(crop_maps(maps, boxes, ~flips, (4, 4)), maps[:, :, 4:8, 2:6].flip(3), atol=1e-4)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    wanted = F.interpolate(maps, (16, 16), mode="bilinear", align_corners=False)
    assert torch.allclose(crop_maps(maps, whole, flips, (16, 16)), wanted, atol=1e-4)


def test_partners_with_least_overlap_show_other_places():
    maps = torch.full((4, 1, 8, 8), -3.0)
    maps[:2, :, :, :4] = 3.0
    maps[2:, :, :, 4:] = 3.0
    index = least_overlap(maps)
    assert sorted(index.tolist()) == [0, 1, 2, 3]
    assert all((row < 2) != (int(index[row]) < 2) for row in range(4))


def test_a_mix_of_three_is_the_sum_of_masked_images_in_a_loop():
    torch.manual_seed(4)
    images, labels, maps = torch.randn(5, 3, 12, 12), torch.arange(5), 2 * torch.randn(5, 1, 4, 4)
    index = torch.stack([torch.arange(5), torch.arange(5).roll(1), torch.arange(5).roll(2)], dim=1)
    shares = torch.tensor([[0.5, 0.3, 0.2]]).repeat(5, 1)
    batch = mix_by_maps(images, labels, maps, shares, index)
    masks = softmax_masks(torch.stack([torch.cat([maps[int(j)] for j in row]) for row in index]), shares, (12, 12))
    for b in range(5):
        wanted = sum(masks[b, k] * images[index[b, k]] for k in range(3))
        assert torch.allclose(batch.images[b], wanted, atol=1e-5)
    assert torch.equal(batch.labels, labels[index])
    assert torch.equal(batch.weights, shares)


def test_maps_of_another_shape_are_refused():
    images, labels, index = torch.randn(2, 3, 8, 8), torch.arange(2), torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="maps must be"):
        mix_by_maps(images, labels, torch.randn(2, 2, 4, 4), torch.full((2, 2), 0.5), index)
    with pytest.raises(ValueError, match="shares and index"):
        mix_by_maps(images, labels, torch.randn(2, 1, 4, 4), torch.full((2, 3), 1 / 3), index)
