"""Predictions against lambda and calibration: each on a case with a known answer."""

import pytest
import torch

from samix.analysis.calibration import calibration
from samix.analysis.passes import mixed_in_parts, partners_within
from samix.analysis.prediction import chance, lambda_curve
from samix.batch import MixedBatch
from samix.mixups.boxes import CutMix
from samix.mixups.handmade import MixUp

# Prediction against lambda --------------------------------------------------------------------------------------------


def coded(labels, classes=6):
    """Images whose pixels are the logarithm of nothing: pixel k of channel 0 is 1 for class k."""
    return torch.eye(classes)[labels][:, None, None].repeat(1, 3, 1, 1)


def proportional(images):
    """A classifier whose probabilities are the pixels: exact on mixed images."""
    return (images[:, 0, 0] + 1e-9).log()


def mixing(labels, index):
    images = coded(labels)
    return lambda lam: MixUp()(images, labels, lam=lam, index=index)


def test_a_proportional_classifier_follows_lambda_exactly():
    labels, index = torch.tensor([0, 1, 2, 3, 4, 4]), torch.tensor([1, 2, 3, 4, 5, 0])
    found = lambda_curve(proportional, mixing(labels, index), (0.2, 0.5, 0.7))
    assert found.pairs == 5  # 4 with 4 says nothing
    assert found.either == found.both == (100.0, 100.0, 100.0)
    assert found.share == pytest.approx((0.2, 0.5, 0.7), abs=1e-5)
    assert found.own == pytest.approx((0.2, 0.5, 0.7), abs=1e-5)
    assert found.partner == pytest.approx((0.8, 0.5, 0.3), abs=1e-5)
    assert found.error == pytest.approx(0.0, abs=1e-5)


def test_a_classifier_that_sees_the_larger_share_only():
    labels, index = torch.arange(6), torch.arange(6).roll(1)
    found = lambda_curve(lambda x: proportional(x) * 1000, mixing(labels, index), (0.3, 0.8))
    assert found.either == (100.0, 100.0)
    assert found.share == pytest.approx((0.0, 1.0), abs=1e-4)
    assert found.error == pytest.approx((0.3 + 0.2) / 2, abs=1e-4)


def test_guessing_gets_what_chance_says():
    classes, count = 6, 30_000
    labels = torch.randint(classes, (count,))
    index = torch.arange(count).roll(1)
    found = lambda_curve(lambda x: torch.randn(len(x), classes), mixing(labels, index), (0.5,))
    assert (found.either[0], found.both[0]) == pytest.approx(chance(classes), abs=1.0)


def test_the_share_in_the_label_counts_not_the_one_asked_for():
    labels, index = torch.arange(4), torch.arange(4).roll(1)
    images = torch.rand(4, 3, 9, 9)

    def mix(lam):
        return CutMix(generator=torch.Generator().manual_seed(3))(images, labels, lam=lam, index=index)

    found = lambda_curve(lambda x: torch.zeros(len(x), 4), mix, (0.5,))
    given = mix(0.5).weights[:, 0]
    assert found.given[0] == pytest.approx(float(given.mean()))
    assert found.error == pytest.approx(float((given - 0.5).abs().mean()), abs=1e-6)


def test_of_three_sources_the_second_largest_is_b():
    batch = MixedBatch(
        coded(torch.tensor([0])), torch.tensor([[0, 1, 2]]), torch.tensor([[0.5, 0.1, 0.4]]), torch.tensor([[0, 1, 2]])
    )
    logits = torch.tensor([[0.5, 0.01, 0.4, 0.03, 0.03, 0.03]]).log()
    found = lambda_curve(lambda x: logits, lambda lam: batch, (0.5,))
    assert (found.both[0], found.partner[0]) == pytest.approx((100.0, 0.4))
    assert found.share[0] == pytest.approx(5 / 9)


def test_lambda_curve_refuses_what_it_cannot_measure():
    labels, index = torch.zeros(4, dtype=torch.long), torch.arange(4).roll(1)
    with pytest.raises(ValueError, match="no pair has two classes"):
        lambda_curve(proportional, mixing(labels, index), (0.5,))
    with pytest.raises(ValueError, match=r"lams must be one or more numbers in \[0, 1\]"):
        lambda_curve(proportional, mixing(labels, index), (1.5,))


def test_mixing_in_parts_is_mixing_at_once():
    images, labels = torch.rand(7, 3, 8, 8), torch.arange(7)
    index = partners_within(7, 3, torch.Generator().manual_seed(0))
    assert all(int(i) // 3 == n // 3 for n, i in enumerate(index))
    assert (index != torch.arange(7))[:6].all()  # the last part holds one image

    def mix(x, y, lam, partner):
        return MixUp()(x, y, lam=lam, index=partner)

    parts, whole = mixed_in_parts(mix, images, labels, index, 3)(0.3), mix(images, labels, 0.3, index)
    for name in ("images", "labels", "weights", "index", "mask"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))


# Calibration ----------------------------------------------------------------------------------------------------------


def planted(confidence, hits, count=200, classes=4):
    """Probabilities with this confidence in class 1, right in ``hits`` of ``count``."""
    p = torch.full((count, classes), (1 - confidence) / (classes - 1))
    p[:, 1] = confidence
    return p, torch.where(torch.arange(count) < hits, 1, 2)


@pytest.mark.parametrize(("confidence", "hits"), [(0.9, 120), (0.55, 180), (0.7, 140)])
def test_a_planted_calibration_error_is_found(confidence, hits):
    found = calibration(*planted(confidence, hits))
    gap = 100 * (confidence - hits / 200)
    assert found.ece == pytest.approx(abs(gap), abs=1e-3)
    assert found.mce == pytest.approx(abs(gap), abs=1e-3)
    assert found.overconfidence == pytest.approx(gap, abs=1e-3)
    assert found.overconfidence_error == pytest.approx(confidence * max(gap, 0.0), abs=1e-3)


def test_errors_of_both_signs_add_up_in_ece_and_cancel_in_overconfidence():
    (p, y), (q, z) = planted(0.9, 140), planted(0.5, 140)  # 20 too sure, 20 too modest
    found = calibration(torch.cat([p, q]), torch.cat([y, z]))
    assert found.ece == pytest.approx(20.0, abs=1e-3)
    assert found.overconfidence == pytest.approx(0.0, abs=1e-3)
    assert found.overconfidence_error == pytest.approx(0.5 * 0.9 * 20.0, abs=1e-3)


def test_the_diagram_sums_to_the_error():
    p, y = (3 * torch.randn(500, 5)).softmax(1), torch.randint(5, (500,))
    found = calibration(p, y, bins=10)
    assert sum(found.bin_count) == 500
    terms = zip(found.bin_count, found.bin_accuracy, found.bin_confidence, strict=True)
    assert found.ece == pytest.approx(100 * sum(n / 500 * abs(a - c) for n, a, c in terms), abs=1e-3)
    for n, low, high in zip(found.bin_count, found.edges, found.edges[1:], strict=False):
        inside = (p.amax(1) >= low) & (p.amax(1) < high)
        assert n == int(inside.sum())


def test_a_certain_and_right_classifier_is_calibrated():
    y = torch.arange(12) % 3
    found = calibration(torch.eye(3)[y], y)
    assert (found.ece, found.overconfidence, found.bin_count[-1]) == (0.0, 0.0, 12)


def test_logits_are_refused_as_probabilities():
    with pytest.raises(ValueError, match=r"take logits.softmax\(1\)"):
        calibration(torch.randn(4, 3), torch.zeros(4, dtype=torch.long))
