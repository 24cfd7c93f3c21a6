"""The decay of the averaged copy may be warmed up; the reference does not."""

import pytest
import torch
from tiny_networks import tiny_cnn

from samix.methods.samix import SAMIX_PRESETS, SAMix, SAMixOptions
from samix.networks.ema import warmed_up


@pytest.mark.parametrize(("step", "expected"), [(0, 0.1), (8, 0.5), (80, 0.9), (9000, 0.999), (10**6, 0.999)])
def test_the_decay_is_warmed_up(step, expected):
    assert warmed_up(0.999, step) == pytest.approx(expected)
    assert warmed_up(0.0, step) == 0.0


@pytest.mark.parametrize("warmup", [False, True])
def test_the_copy_takes_the_share_of_the_network_that_the_decay_leaves(warmup):
    torch.manual_seed(0)
    method = SAMix(tiny_cnn(), 5, SAMixOptions(ema_warmup=warmup))
    weights = [p.clone() for p in method.ema_model.parameters()]
    for p in method.model.parameters():
        p.data += 1.0
    method.after_step(0.0)
    decay = warmed_up(0.999, method.step) if warmup else 0.999
    assert decay == (pytest.approx(2 / 11) if warmup else 0.999)
    for new, old in zip(method.ema_model.parameters(), weights, strict=True):
        torch.testing.assert_close(new, old + (1.0 - decay))


def test_presets_have_no_warm_up():
    assert not any(options.ema_warmup for options in SAMIX_PRESETS.values())
