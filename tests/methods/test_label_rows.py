"""Learned mixups on labels that are rows (B, K): one-hot, soft, and several classes per image."""

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import tiny_cnn

from samix.methods.adautomix import AdAutoMix
from samix.methods.automix import AutoMix
from samix.methods.samix import SAMix

K = 5


def step(cls, labels, options="reference", **arguments):
    """Loss, parts and gradients of one step, from equal weights and draws."""
    torch.manual_seed(0)
    method = cls(tiny_cnn(K), K, options, generator=torch.Generator().manual_seed(1), **arguments)
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    loss, parts = method(images, labels)
    loss.backward()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return float(loss.detach()), {name: float(part) for name, part in parts.items()}, gradients


@pytest.mark.parametrize("cls", [AutoMix, SAMix, AdAutoMix])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_one_hot_rows_train_as_class_ids(cls, dtype):
    ids = torch.tensor([0, 1, 2, 3, 4, 0])
    loss, parts, gradients = step(cls, ids)
    other, same, others = step(cls, F.one_hot(ids, K).to(dtype))
    assert other == pytest.approx(loss, rel=1e-5)
    assert same == pytest.approx(parts, rel=1e-4, abs=1e-6)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, others[name], rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize("cls", [AutoMix, SAMix])
def test_several_classes_per_image_train_by_binary_cross_entropy(cls):
    labels = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 1, 0, 1]] * 2)
    torch.manual_seed(0)
    method = cls(tiny_cnn(K), K, generator=torch.Generator().manual_seed(1)).eval()
    images = torch.randn(6, 3, 32, 32)
    with torch.no_grad():
        by_hand = F.binary_cross_entropy_with_logits(method.model.clean(images), labels.float())
        assert float(method.cross_entropy(images, labels.float())) == pytest.approx(float(by_hand), rel=1e-5)
    _, parts, gradients = step(cls, labels)
    assert 0.0 < parts["generation"] < 2.0  # a mean over classes, near log 2 at the start
    assert any(name.startswith("mixer.") and float(g.abs().sum()) > 0 for name, g in gradients.items())


def test_a_batch_in_which_every_row_has_one_class_follows_the_kind_that_is_said():
    rows = F.one_hot(torch.tensor([0, 1, 2, 3, 4, 0]), K)
    said = step(SAMix, rows, targets="multilabel")[1]["clean"]
    assert said < 1.0 < step(SAMix, rows)[1]["clean"]  # log 2 and log 5 at the start


@pytest.mark.parametrize(
    ("cls", "options", "labels", "message"),
    [
        (SAMix, "reference", torch.rand(6), "class ids must be integers"),
        (SAMix, "reference", torch.linspace(-2, 2, 30).view(6, 5), r"not values|must be in"),
        (SAMix, "reference", torch.zeros(6, 32, 32).long(), "labels must have shape"),
        (SAMix, "paper", torch.full((6, K), 1 / K), "eta balances the two classes of a pair, so it needs class ids"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(cls, options, labels, message):
    with pytest.raises(ValueError, match=message):
        step(cls, labels, options)
