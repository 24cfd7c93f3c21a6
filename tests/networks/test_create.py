"""Networks by name: which are told the size of their images, and what is said of those that cannot be built."""

import os

import pytest
import timm
import torch

from samix.networks.create import create_network, sized_args, takes_image_size

SIZE = 256  # not the default of most networks, and a multiple of most patches and windows
# Families that do not run at SIZE, whatever they are told: their geometry follows from the size that they are made for.
OF_ONE_SIZE = ("crossvit_", "efficientformer_l", "haloregnetz_b")
EVERY = 1 if os.environ.get("SAMIX_SWEEP") == "all" else 150  # of timm's names; all take a quarter of an hour


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "cait_xxs24_224", "xcit_nano_12_p16_224", "volo_d1_224"])
def test_networks_that_take_a_size_are_told_it(name):
    assert sized_args(name, {}, 64) == {"img_size": 64}
    assert sized_args(name, {"img_size": 96}, 64) == {"img_size": 96}


@pytest.mark.parametrize("name", ["fastvit_t8", "davit_tiny", "efficientvit_b0", "nextvit_small", "shvit_s1"])
def test_networks_that_take_none_are_not(name):
    assert not takes_image_size(name)
    assert sized_args(name, {"drop_rate": 0.1}, 64) == {"drop_rate": 0.1}
    create_network(name, 5, {}, size=64)


def test_a_size_that_does_not_fit_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"cannot be built for images of 30 pixels .* take another size, or give"):
        create_network("nest_tiny", 5, {}, size=30)


def outcome(name: str, size: int = SIZE) -> str:
    """Nothing if a network gives logits at a size, else why not; no memory is taken."""
    try:
        with torch.device("meta"):
            logits = create_network(name, 5, {}, size=size).eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # whatever a network of another size raises
        return f"{type(error).__name__}: {str(error)[:120]}"
    return "" if tuple(logits.shape) == (1, 5) else f"gives {tuple(logits.shape)}"


def classifiers() -> list[str]:
    """All of timm's networks that have a classifier."""
    return [name for name in timm.list_models() if timm.get_pretrained_cfg(name, allow_unregistered=True).num_classes]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_classifiers_of_timm_run_at_a_size_of_the_users_choice():
    """``SAMIX_SWEEP=all`` takes every name."""
    names = [name for name in classifiers() if not name.startswith(OF_ONE_SIZE)]
    failed = {name: why for name in names[::EVERY] if (why := outcome(name))}
    assert not failed, failed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "size"), [("crossvit_tiny_240", 240), ("efficientformer_l1", 224), ("haloregnetz_b", 224)]
)
def test_those_that_do_not_run_at_their_own(name, size):
    assert outcome(name)
    assert not outcome(name, size)
