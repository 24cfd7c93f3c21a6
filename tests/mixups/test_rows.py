"""The short ways of CutMix and MixUp through a batch on the CPU give what the policies give, bit by bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixup_kinds import batch_of, make

from samix.mixups.base import as_array, choose, on_host
from samix.mixups.boxes import CutMix, _sides_on_host, cut_side, cutmix, cutmix_rows
from samix.mixups.handmade import MixUp, mixup


def bits(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(as_array(x))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_cutmix_by_rows_equals_the_policy_bit_by_bit(data):
    batch = data.draw(st.integers(1, 5))
    height, width = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    share = st.one_of(st.sampled_from([0.0, 1.0, 0.25, 0.75]), st.floats(0, 1, width=32))
    place = st.floats(0, 1, width=32, exclude_max=True)
    lam = torch.tensor(data.draw(st.lists(share, min_size=batch, max_size=batch)))
    centre = torch.tensor(data.draw(st.lists(st.tuples(place, place), min_size=batch, max_size=batch)))
    index = torch.tensor(data.draw(st.lists(st.integers(0, batch - 1), min_size=batch, max_size=batch)))
    images = torch.randn(batch, 2, height, width).to(dtype)
    images[torch.rand_like(images) < 0.1] = torch.nan
    images[torch.rand_like(images) < 0.1] = -0.0
    for x in (
        images,
        images.to(memory_format=torch.channels_last),
        images.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        for clip in (True, False):
            expected = cutmix(x, x[index], lam, centre, clip=clip)
            got = cutmix_rows(x, index, lam, centre, clip=clip)
            assert torch.equal(bits(got.images), bits(expected.images))
            assert torch.equal(got.mask, expected.mask)
            assert torch.equal(got.lam, expected.lam)
            assert got.images.stride() == x.stride()
            assert got.lam.dtype == got.mask.dtype == torch.float32
            assert torch.equal(bits(x), bits(images))


@pytest.mark.parametrize("size", [7, 32, 33, 224])
def test_random_draws_take_the_same_box_both_ways(size):
    lam, centre = torch.rand(20000), torch.rand(20000, 2)
    for clip in (True, False):
        start, stop = _sides_on_host(lam.numpy(), centre.numpy(), size, size + 1, clip)
        for axis, side in enumerate((size, size + 1)):
            expected = cut_side(torch.sqrt(1.0 - lam), centre[:, axis], side, clip)
            assert torch.equal(torch.from_numpy(start[axis]).float(), expected[0])
            assert torch.equal(torch.from_numpy(stop[axis]).float(), expected[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("per_sample", [True, False])
def test_mixup_by_rows_equals_the_policy_bit_by_bit(dtype, per_sample):
    images, labels = batch_of(6, dtype=dtype)
    for x in (images, images.to(memory_format=torch.channels_last)):
        mixed = make("mixup", per_sample=per_sample)(x, labels)
        expected = mixup(x, x[mixed.index[:, 1]], mixed.lam)
        assert torch.equal(mixed.images, expected.images)
        assert mixed.images.stride() == x.stride()
        assert torch.equal(mixed.mask, expected.mask)


def test_rows_are_written_only_to_plain_cpu_tensors_without_a_graph():
    x = torch.zeros(1, 1, 2, 2)
    assert on_host(x)
    assert not on_host(x.to("meta"))
    assert not on_host(torch.nn.Parameter(x))  # a subclass may have a mind of its own
    x.requires_grad_()
    assert not on_host(x)
    with torch.no_grad():
        assert on_host(x)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_gradients_flow_to_both_images_where_they_are_asked_for(kind):
    images = torch.randn(3, 2, 6, 6, requires_grad=True)
    mixed, _ = make(kind).mix(images, 0.5, torch.tensor([1, 2, 0]))
    (gradient,) = torch.autograd.grad(mixed.images.sum(), images)
    expected = mixed.mask + (1 - mixed.mask)[torch.tensor([2, 0, 1])]
    torch.testing.assert_close(gradient, expected.expand_as(gradient))


def test_a_subclass_with_a_policy_of_its_own_is_obeyed():
    class Own(CutMix):
        def apply(self, x, partner, lam, guides=None, **extras):
            return choose(x, partner, torch.ones(len(x), 1, *x.shape[2:]))

    class Sum(MixUp):
        def apply(self, x, partner, lam, guides=None, **extras):
            return mixup(x, x, lam)

    images, labels = batch_of(4)
    for kind in (Own, Sum):
        assert torch.equal(kind()(images, labels, lam=0.3, index=torch.tensor([1, 0, 3, 2])).images, images)


@pytest.mark.parametrize("index", [[1, 2, 3], [-1, 0, 1]])
def test_rows_that_are_not_there_are_named(index):
    images, labels = batch_of(3)
    with pytest.raises(ValueError, match="index must name rows 0 to 2, got values from"):
        make("cutmix")(images, labels, index=torch.tensor(index))


def test_choose_in_channels_last_equals_choose():
    images, labels = batch_of(4)
    for kind in ("fmix", "gridmix", "resizemix"):
        one = make(kind)(images, labels)
        two = make(kind)(images.to(memory_format=torch.channels_last), labels)
        torch.testing.assert_close(one.images, two.images, atol=1e-5, rtol=0)
        assert torch.equal(one.mask, two.mask)
