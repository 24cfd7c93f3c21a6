"""What is true of every mixup that draws for itself: shapes, labels, ends, memory, randomness, odd pixels."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixup_kinds import BINARY, KINDS, SIZES, batch_of, create, every_kind, every_size, make


@every_kind
def test_shapes_types_and_ranges(kind):
    forms = ((1, torch.float32), (3, torch.bfloat16), (5, torch.float16), (2, torch.float64))
    number = list(KINDS).index(kind)  # a Latin square over sizes, batches and types; kinds begin at different corners
    for (row, size), (column, batch) in itertools.product(enumerate(SIZES), enumerate((1, 2, 3, 8))):
        channels, dtype = forms[(row + column + number) % 4]
        images, labels = batch_of(batch, (channels, *size), dtype)
        mixed = make(kind, per_sample=True)(images, labels)
        assert mixed.images.shape == images.shape
        assert mixed.images.dtype == dtype
        assert mixed.mask.shape == (batch, 1, *size)
        assert mixed.mask.dtype == mixed.weights.dtype == torch.float32
        assert mixed.mask.min() >= 0
        assert mixed.mask.max() <= 1
        torch.testing.assert_close(mixed.weights.sum(1), torch.ones(batch))
        assert mixed.images.isfinite().all()


@every_kind
def test_lam_is_the_share_of_own_pixels_in_label_and_image(kind):  # own black, partner white
    x, partner = torch.zeros(4, 3, 24, 40), torch.ones(4, 3, 24, 40)
    images, index = torch.cat([x, partner]), torch.arange(8).roll(4)
    for seed in range(20):
        mixed = make(kind, seed, per_sample=True)(images, torch.arange(8), index=index)
        own = 1.0 - mixed.images[:4].double()
        tolerance = 1e-7 if kind in BINARY else 1e-5
        torch.testing.assert_close(mixed.lam[:4].double(), own.mean((1, 2, 3)), atol=tolerance, rtol=0)
        torch.testing.assert_close(mixed.mask[:4].double(), own[:, :1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [name for name in BINARY if name != "resizemix"])
def test_every_pixel_is_an_own_or_a_partner_pixel(kind):
    images, labels = batch_of(8)
    mixed = make(kind)(images, labels)
    partner = images[mixed.index[:, 1]]
    own = mixed.mask.bool().expand_as(images)
    assert torch.equal(mixed.images[own], images[own])
    assert torch.equal(mixed.images[~own], partner[~own])
    assert set(mixed.mask.unique().tolist()) <= {0.0, 1.0}


@every_kind
@every_size
def test_lam_one_gives_the_image_and_lam_zero_the_partner_bit_by_bit(kind, size):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        images, labels = batch_of(5, (3, *size), dtype)
        index = torch.tensor([1, 2, 3, 4, 0])
        mixed = make(kind)(images, labels, lam=torch.tensor([0.0, 1.0, 0.0, 0.5, 1.0]), index=index)
        for i in (1, 4):
            assert torch.equal(mixed.images[i], images[i])
            assert mixed.lam[i] == 1
        for i in (0, 2):
            assert torch.equal(mixed.images[i], images[index[i]])
            assert mixed.lam[i] == 0


@every_kind
def test_a_batch_of_one_and_a_row_paired_with_itself_are_not_mixed(kind):
    images, labels = batch_of(1)
    mixed = make(kind)(images, labels)
    assert torch.equal(mixed.images, images)
    assert mixed.lam.item() == 1
    assert mixed.mask.min() == 1
    images, labels = batch_of(3)
    mixed = make(kind)(images, labels, index=torch.tensor([1, 0, 2]))
    assert torch.equal(mixed.images[2], images[2])
    assert mixed.lam[2] == 1


@every_kind
@pytest.mark.parametrize("off", [{"prob": 0.0}, {"alpha": 0.0}, {"alpha": -1.0}], ids=str)
def test_prob_zero_and_alpha_zero_switch_mixing_off(kind, off):
    images, labels = batch_of(6)
    mixed = make(kind, **off)(images, labels, index=torch.arange(6).roll(1))
    assert torch.equal(mixed.images, images)
    assert torch.equal(mixed.lam, torch.ones(6))


@every_kind
def test_prob_is_the_share_of_batches_that_are_mixed(kind):
    images, labels = batch_of(2, (1, 8, 8))
    mix = make(kind, prob=0.3)
    mixed = [bool((mix(images, labels, index=torch.tensor([1, 0])).images != images).any()) for _ in range(100)]
    assert 0.18 < np.mean(mixed) < 0.42  # a box may be empty, too


@every_kind
def test_inputs_are_not_modified_and_the_output_owns_its_memory(kind):
    images, labels = batch_of(5)
    before, names = images.clone(), labels.clone()
    for lam in (None, 1.0, 0.0):
        mixed = make(kind)(images, labels, lam=lam)
        assert torch.equal(images, before)
        assert torch.equal(labels, names)
        assert mixed.images.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()


@every_kind
def test_works_in_inference_mode_and_makes_no_graph(kind):
    images, labels = batch_of(4)
    with torch.inference_mode():
        assert make(kind)(images, labels).images.shape == images.shape
    assert not make(kind)(images.requires_grad_(), labels).images.requires_grad


@every_kind
def test_channels_last_is_kept_and_changes_nothing_else(kind):
    images, labels = batch_of(4)
    plain = make(kind)(images, labels)
    mixed = make(kind)(images.to(memory_format=torch.channels_last), labels)
    assert mixed.images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(mixed.images, plain.images, atol=1e-6, rtol=0)
    assert plain.images.is_contiguous()


@every_kind
def test_same_seed_same_batch_and_the_global_generators_are_left_alone(kind):
    images, labels = batch_of(5)
    mix, again, other = make(kind, 3), make(kind, 3), make(kind, 4)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = mix(images, labels)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    assert torch.equal(first.images, again(images, labels).images)
    assert not torch.equal(first.images, other(images, labels).images)
    assert not torch.equal(first.images, mix(images, labels).images)


@every_kind
def test_without_a_generator_torch_seed_decides(kind):
    images, labels = batch_of(5)
    torch.manual_seed(5)
    first = create(kind, None)(images, labels)
    torch.manual_seed(5)
    assert torch.equal(first.images, create(kind, None)(images, labels).images)


@pytest.mark.parametrize("kind", BINARY)
def test_a_nan_pixel_stays_where_it_is_shown(kind):
    images, labels = batch_of(4)
    images[2, 1, 5, 5] = torch.nan
    images[2, 0, 7, 9] = torch.inf
    index = torch.arange(4).roll(1)  # row 3 has row 2 as its partner
    for seed in range(5):
        mixed = make(kind, seed)(images, labels, lam=0.5, index=index)
        assert mixed.images[:2].isfinite().all()
        spoilt = ~mixed.images[2:].isfinite()
        own = mixed.mask[2:].bool().expand_as(spoilt)
        assert torch.equal(spoilt[0], ~images[2].isfinite() & own[0])
        assert not (spoilt[1] & own[1]).any()


def test_a_nan_pixel_spoils_both_mixes_of_its_row_under_a_soft_mask_and_no_other():
    images, labels = batch_of(4)
    images[2, 1, 5, 5] = torch.nan
    for kind in ("mixup", "smoothmix"):
        mixed = make(kind)(images, labels, lam=0.5, index=torch.arange(4).roll(1))
        where = mixed.images.isnan().nonzero().tolist()
        assert where == [[2, 1, 5, 5], [3, 1, 5, 5]]


@every_kind
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape_lam_and_pairing_gives_a_proper_target(kind, data):
    batch = data.draw(st.integers(1, 5))
    size = data.draw(st.tuples(st.integers(2, 12), st.integers(4, 12)))
    index = torch.tensor(data.draw(st.permutations(range(batch))))
    lam = torch.tensor(data.draw(st.lists(st.floats(0, 1, width=32), min_size=batch, max_size=batch)))
    images, labels = batch_of(batch, (1, *size))
    mixed = make(kind, data.draw(st.integers(0, 9)))(images, labels, lam=lam, index=index)
    target = mixed.soft_targets(7)
    assert (target >= 0).all()
    torch.testing.assert_close(target.sum(1), torch.ones(batch))
    assert torch.equal(mixed.index, torch.stack([torch.arange(batch), index], 1))
    low = torch.minimum(images, images[index]) - 1e-5
    high = torch.maximum(images, images[index]) + 1e-5
    if kind != "resizemix":
        assert ((mixed.images >= low) & (mixed.images <= high)).all()


@every_kind
def test_options_are_plain_values_that_make_the_same_object(kind):
    mix = make(kind)
    options = mix.options()
    assert "generator" not in options
    assert all(isinstance(value, bool | int | float | str | None) for value in options.values())
    assert type(mix)(**options) == mix


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_kind
def test_same_seed_same_batch_on_the_gpu(kind):
    images, labels = batch_of(5)
    here, there = make(kind)(images, labels), make(kind)(images.cuda(), labels.cuda())
    torch.testing.assert_close(there.images.cpu(), here.images, atol=1e-4, rtol=0)
    torch.testing.assert_close(there.weights.cpu(), here.weights, atol=1e-6, rtol=0)
