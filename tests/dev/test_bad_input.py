"""Wrong input ends in an error that names it, or in the right result; never in a wrong one without a word."""

import bad_input
import numpy as np
import pytest
import torch

import samix
from samix.batch import check_images
from samix.compat.loader import MixTransform
from samix.compat.timm import TimmMixup

EXPECTED = {
    "one-hot labels in int64 where ids are expected": None,
    "class id too large": "labels must be in [0, 6], got values from 3 to 8",
    "negative class id": "labels must be in [0, 6], got values from -1 to 4",
    "class ids as floats": "",
    "class ids as uint8": "got torch.uint8; use .long()",
    "class ids as bool": "got torch.bool; use .long()",
    "class ids of shape (B, 1)": "must be one-hot or multi-hot",
    "one label missing": "labels must have shape (6,)",
    "multi-hot float labels": None,
    "one-hot labels of another width": "6 columns",
    "images in uint8": "images must be floating point, got torch.uint8",
    "images in int64": "images must be floating point, got torch.int64",
    "images as (B, H, W, C)": "use images.permute(0, 3, 1, 2)",
    "one image (C, H, W), one label": "",
    "NumPy arrays": "",
    "empty batch": "none of them 0, got (0, 3, 12, 12)",
    "batch of one": None,
    "odd batch": None,
    "a NaN pixel": None,
    "input that must stay as it is": None,
    "images not contiguous": None,
    "alpha = -1": None,  # switches mixing off
    "alpha = NaN": "alpha must be a finite number, got nan",
    "alpha = infinity": "alpha must be a finite number, got inf",
    "lam = 1.5": "lam must be in [0, 1], got 1.5",
}
NUMBERS = {case.name: number for number, case in enumerate(bad_input.cases())}


def by_transform(kind, case):
    return MixTransform(getattr(samix, kind)(alpha=case.alpha), bad_input.K)(case.images, case.labels)


def by_timm_adapter(kind, case):
    return TimmMixup(getattr(samix, kind)(alpha=case.alpha), bad_input.K, 0.0)(case.images, case.labels)


def test_every_input_has_an_expectation():
    assert set(EXPECTED) == set(NUMBERS)


@pytest.mark.parametrize("call", [bad_input.by_samix, by_transform, by_timm_adapter])
@pytest.mark.parametrize("name", EXPECTED)
def test_wrong_input_is_named_or_made_right(name, call):
    if name == "lam = 1.5" and call is not bad_input.by_samix:
        pytest.skip("the adapters take no lam")
    for outcome in bad_input.judge_all(call, "samix", NUMBERS[name]).values():
        if EXPECTED[name] is None:
            assert outcome == ("right", "")
        else:
            assert outcome.kind == "error"
            assert EXPECTED[name] in outcome.words


def test_the_judge_finds_what_is_wrong():
    def with_(images=lambda x: x, targets=lambda t: t, write=False):
        def call(kind, case):
            mixed, target = bad_input.by_samix(kind, case)
            if write:
                case.images.mul_(0.5)
            return images(mixed), targets(target)

        return call

    def verdict(call, name="odd batch"):
        return bad_input.judge(call, "samix", "MixUp", NUMBERS[name])

    def fails(kind, case):
        raise RuntimeError("index 7 is out of bounds for dimension 1 with size 7")

    def inside(kind, case):
        raise AttributeError("batch")

    assert verdict(with_()).kind == "right"
    assert verdict(with_(targets=lambda t: t.flip(1))).words == "5 of 5 rows do not fit their targets"
    assert verdict(with_(images=lambda x: x + 1)).kind == "SILENT"
    assert verdict(with_(targets=lambda t: t[:3])).kind == "SILENT"
    assert verdict(with_(targets=lambda t: t * np.nan)).words == "NaN in images or targets"
    assert verdict(with_(write=True), "input that must stay as it is").kind == "SILENT"
    assert verdict(fails).kind == verdict(inside).kind == "unreadable"


def test_labels_out_of_range_are_named_by_loss_and_targets_alike():
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 5])
    batch = samix.CutMix()(images, labels)
    for call in (lambda: batch.soft_targets(5), lambda: batch.loss(torch.zeros(4, 5))):
        with pytest.raises(ValueError, match=r"labels must be in \[0, 4\], got values from 0 to 5"):
            call()
    pixels = torch.full((4, 8, 8), 5)
    pixels[:, :2] = -100
    batch = samix.CutMix()(images, pixels)
    assert batch.loss(torch.zeros(4, 6, 8, 8)).isfinite()
    with pytest.raises(ValueError, match=r"labels must be in \[0, 4\]"):
        batch.loss(torch.zeros(4, 5, 8, 8))


def test_only_square_images_with_three_columns_are_taken_for_channels_last():
    for shape in ((2, 3, 32, 32), (2, 64, 64, 1), (2, 3, 7, 3), (2, 16, 32, 3), (2, 64, 4, 4)):
        check_images(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"look like \(B, H, W, C\), got \(2, 32, 32, 3\)"):
        check_images(torch.zeros(2, 32, 32, 3))
