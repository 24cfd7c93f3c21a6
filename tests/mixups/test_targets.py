"""What labels become in a mix: class ids, one-hot, multi-hot, regression values, and labels at each pixel."""

import math

import pytest
import torch
import torch.nn.functional as F
from mixup_kinds import KINDS, make

from samix.batch import MixedBatch, check_labels
from samix.methods.supervised import Supervised
from samix.mixups.boxes import CutMix, ResizeMix
from samix.mixups.handmade import MixUp
from samix.mixups.hidden import ManifoldMix

KEEP = [name for name in KINDS if make(name).requirements.preserves_geometry]


def images_of(batch=4, side=(6, 8)):
    return torch.randn(batch, 3, *side, generator=torch.Generator().manual_seed(2))


def pixel_loss(logits, labels, partner, mask, ignore=-100, smoothing=0.0):
    """The loss at each pixel by loops: each source by its share there, ignored pixels left out."""
    total, weight = 0.0, 0.0
    batch, classes, height, width = logits.shape
    for b in range(batch):
        for h in range(height):
            for w in range(width):
                scores = [float(logits[b, c, h, w]) for c in range(classes)]
                norm = math.log(sum(math.exp(s) for s in scores))
                for own, share in ((labels, float(mask[b, 0, h, w])), (partner, 1 - float(mask[b, 0, h, w]))):
                    label = int(own[b, h, w])
                    if label == ignore:
                        continue
                    nll = norm - scores[label]
                    flat = sum(norm - s for s in scores) / classes
                    total += share * ((1 - smoothing) * nll + smoothing * flat)
                    weight += share
    return total / weight


@pytest.mark.parametrize("ignore", [-100, 255])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_labels_at_each_pixel_are_mixed_by_the_mask(ignore, smoothing):
    images, index = images_of(), torch.tensor([1, 2, 3, 0])
    labels = torch.randint(5, (4, 6, 8), generator=torch.Generator().manual_seed(3))
    labels[0, :2] = ignore
    logits = torch.randn(4, 5, 6, 8, generator=torch.Generator().manual_seed(4))
    for kind in ("cutmix", "mixup", "smoothmix"):
        mixed = make(kind)(images, labels, lam=0.4, index=index)
        expected = pixel_loss(logits, labels, labels[index], mixed.mask, ignore, smoothing)
        assert mixed.loss(logits, smoothing, ignore).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KEEP)
def test_a_map_of_labels_that_copies_the_image_is_mixed_as_the_image_is(kind):
    images = images_of(4, (24, 24))
    mixed = make(kind)(images, images[:, 0], lam=0.5, index=torch.tensor([1, 2, 3, 0]))  # depth = the first channel
    torch.testing.assert_close(mixed.values, mixed.images[:, 0], atol=1e-5, rtol=0)


def test_pixels_of_class_ids_follow_a_binary_mask():
    images, index = images_of(), torch.tensor([1, 2, 3, 0])
    labels = torch.randint(5, (4, 6, 8))
    mixed = CutMix()(images, labels, lam=0.4, index=index)
    chosen = torch.where(mixed.mask[:, 0].bool(), labels, labels[index])
    targets = mixed.soft_targets(5)
    assert torch.equal(targets.argmax(1), chosen)
    assert torch.equal(targets.sum(1), torch.ones(4, 6, 8))
    right = F.one_hot(chosen, 5).movedim(3, 1).float()
    assert mixed.accuracy(right).item() == 1.0
    assert mixed.accuracy(right.roll(1, dims=1)).item() == 0.0


@pytest.mark.parametrize("mix", [ResizeMix(), ManifoldMix()], ids=["resizemix", "manifoldmix"])
def test_mixups_that_move_pixels_refuse_labels_at_each_pixel(mix):
    with pytest.raises(ValueError, match="moves pixels, so it cannot mix labels at each pixel; use CutMix"):
        mix(images_of(), torch.zeros(4, 6, 8, dtype=torch.long))


def test_wrong_labels_at_each_pixel_are_refused():
    labels = torch.zeros(4, 6, 8, dtype=torch.long)
    for wrong in (labels[:, :3], labels[:3], labels[:, None]):
        with pytest.raises(ValueError, match=r"labels must have shape \(4,\).*\(4, 6, 8\) for labels at each pixel"):
            CutMix()(images_of(), wrong)
    with pytest.raises(ValueError, match=r"use .long"):
        CutMix()(images_of(), labels.bool())
    mixed = CutMix()(images_of(), labels)
    with pytest.raises(ValueError, match=r"need logits \(B, K, 6, 8\), got \(4, 5, 3, 4\); resize the logits"):
        mixed.loss(torch.zeros(4, 5, 3, 4))
    with pytest.raises(ValueError, match="labels must have shape"):
        check_labels(labels, 4)  # where no size says that they are let in


def test_regression_values_are_blended():
    images, index = images_of(), torch.tensor([1, 2, 3, 0])
    values = torch.tensor([1.0, -2.0, 0.5, 4.0])
    mixed = MixUp()(images, values, lam=0.3, index=index)
    torch.testing.assert_close(mixed.values, 0.3 * values + 0.7 * values[index])
    pairs = torch.randn(4, 2)
    torch.testing.assert_close(MixUp()(images, pairs, lam=0.3, index=index).values, 0.3 * pairs + 0.7 * pairs[index])
    with pytest.raises(ValueError, match=r"train on batch.values"):
        mixed.soft_targets(5)
    with pytest.raises(ValueError, match=r"do not fit logits \(4, 5\); for another loss train on batch.values"):
        mixed.loss(torch.zeros(4, 5))
    for predictions in (torch.zeros(4), torch.zeros(4, 1)):
        assert mixed.loss(predictions).item() == pytest.approx((mixed.values**2).mean().item())
    with pytest.raises(ValueError, match="smoothing is for classes"):
        mixed.loss(torch.zeros(4), 0.1)
    depth = CutMix()(images, torch.randn(4, 6, 8))
    with pytest.raises(ValueError, match=r"train on batch.values"):
        depth.loss(torch.zeros(4, 5, 6, 8))
    with pytest.raises(ValueError, match=r"these are torch.int64 class ids; use soft_targets"):
        _ = MixUp()(images, torch.arange(4)).values


def test_one_hot_and_class_ids_give_the_same_loss_and_multi_hot_its_mean():
    images, index, labels = images_of(), torch.tensor([1, 2, 3, 0]), torch.tensor([0, 2, 1, 1])
    logits = torch.randn(4, 3)
    for smoothing in (0.0, 0.1):
        ids = MixUp()(images, labels, lam=0.3, index=index).loss(logits, smoothing)
        hot = MixUp()(images, F.one_hot(labels, 3).float(), lam=0.3, index=index).loss(logits, smoothing)
        torch.testing.assert_close(ids, hot)
    multi = torch.tensor([[1.0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0]])
    mixed = MixUp()(images, multi, lam=0.3, index=index)
    torch.testing.assert_close(mixed.soft_targets(3), 0.3 * multi + 0.7 * multi[index])
    with pytest.raises(ValueError, match="targets have 3 columns, expected num_classes = 4"):
        mixed.soft_targets(4)


def test_smoothing_scales_with_weights_that_do_not_sum_to_one():
    batch = MixedBatch(
        images_of(2), torch.tensor([[0, 1], [2, 2]]), torch.tensor([[0.7, 0.6], [0.2, 0.1]]), torch.zeros(2, 2).long()
    )
    smoothed = torch.zeros(2, 3)
    for row in range(2):
        for label, weight in zip(batch.labels[row], batch.weights[row], strict=True):
            hot = F.one_hot(label, 3).float() * 0.8 + 0.2 / 3
            smoothed[row] += weight * hot
    torch.testing.assert_close(batch.soft_targets(3, 0.2), smoothed)


def test_further_terms_are_part_of_the_loss_and_of_a_step():
    images, labels = images_of(2), torch.tensor([0, 1])
    logits = torch.randn(2, 3)
    batch = MixedBatch(
        images, labels[:, None], torch.ones(2, 1), torch.arange(2)[:, None], extra={"more": torch.tensor(1.5)}
    )
    assert batch.loss(logits).item() == pytest.approx(F.cross_entropy(logits, labels).item() + 1.5)
    assert batch.label_loss(logits).item() == pytest.approx(F.cross_entropy(logits, labels).item())


def test_a_segmentation_network_trains_on_labels_at_each_pixel():
    net = torch.nn.Conv2d(3, 5, 1)
    method = Supervised(net, CutMix(generator=torch.Generator().manual_seed(0)), num_classes=5)
    labels = torch.randint(5, (4, 6, 8))
    loss, parts = method((images_of(), labels))
    loss.backward()
    assert net.weight.grad.abs().sum() > 0
    assert set(parts) == {"mixed"}
