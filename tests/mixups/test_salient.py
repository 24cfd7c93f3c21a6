"""SaliencyMix, GuidedMixup and Saliency Grafting against their loops; and what every guided mixup keeps to."""

import itertools

import numpy as np
import oracles_salient as oracle
import pytest
import torch
from mixup_kinds import SIZES, batch_of, every_size
from tiny_networks import PlainNet, tiny_cnn, tiny_vit

from samix.mixups.attentive import AttentiveMix, SnapMix
from samix.mixups.handmade import CutMix, RandomChoice
from samix.mixups.saliency import blur, gaussian, gradient_saliency, spectral_residual
from samix.mixups.salient import (
    GuidedMixup,
    SaliencyGrafting,
    SaliencyMix,
    farthest_cycle,
    guidedmixup,
    saliency_grafting,
    saliencymix,
)

KINDS = {
    "saliencymix": SaliencyMix,
    "saliencymix_fine": lambda **kw: SaliencyMix(saliency="fine", **kw),
    "saliencymix_one_box": lambda **kw: SaliencyMix(one_box=True, **kw),
    "guidedmixup": GuidedMixup,
    "guidedmixup_gradient": lambda **kw: GuidedMixup(saliency="gradient", **kw),
    "saliency_grafting": SaliencyGrafting,
    "attentivemix": AttentiveMix,
    "attentivemix_plus": lambda **kw: AttentiveMix(k=0, **kw),
    "snapmix": SnapMix,
}
AREA = ["saliencymix", "saliencymix_fine", "saliencymix_one_box", "guidedmixup", "attentivemix", "attentivemix_plus"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind, seed=0, **options):
    return KINDS[kind](generator=torch.Generator().manual_seed(seed), **({"prob": 1.0} | options))


def maps_of(size, shape=(6, 10), seed=0):
    return torch.rand(size, *shape, generator=torch.Generator().manual_seed(seed))


# Every guided mixup --------------------------------------------------------------------------------------------------


@every_kind
def test_shapes_types_and_ranges(kind):
    forms = ((1, torch.float32), (3, torch.bfloat16), (5, torch.float16), (2, torch.float64))
    number = list(KINDS).index(kind)  # a Latin square over sizes, batches and types; kinds begin at different corners
    for (row, size), (column, batch) in itertools.product(enumerate(SIZES), enumerate((1, 2, 3, 8))):
        channels, dtype = forms[(row + column + number) % 4]
        images, labels = batch_of(batch, (channels, *size), dtype)
        mixed = make(kind, per_sample=True)(images, labels, guide=maps_of(batch))
        assert mixed.images.shape == images.shape
        assert mixed.images.dtype == dtype
        assert mixed.images.isfinite().all()
        assert mixed.mask.shape == (batch, 1, *size)
        assert mixed.mask.dtype == mixed.weights.dtype == torch.float32
        assert 0 <= mixed.mask.min() <= mixed.mask.max() <= 1
        assert 0 <= mixed.weights.min() <= mixed.weights.max() <= 1
        if kind != "snapmix":
            torch.testing.assert_close(mixed.weights.sum(1), torch.ones(batch))


@pytest.mark.parametrize("kind", AREA)
def test_lam_is_the_share_of_own_pixels_in_label_and_image(kind):  # own black, partner white
    images, index = torch.cat([torch.zeros(4, 3, 24, 40), torch.ones(4, 3, 24, 40)]), torch.arange(8).roll(4)
    for seed in range(10):
        guide = maps_of(8, seed=seed)
        mixed = make(kind, seed, per_sample=True)(images, torch.arange(8), index=index, guide=guide)
        own = 1.0 - mixed.images[:4].double()
        torch.testing.assert_close(mixed.lam[:4].double(), own.mean((1, 2, 3)), atol=1e-6, rtol=0)
        torch.testing.assert_close(mixed.mask[:4].double(), own[:, :1], atol=1e-6, rtol=0)


@every_kind
def test_lam_one_gives_the_image_and_lam_zero_the_partner_bit_by_bit(kind):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        images, labels = batch_of(5, (3, 24, 40), dtype)
        index, lam = torch.tensor([1, 2, 3, 4, 0]), torch.tensor([0.0, 1.0, 0.0, 0.5, 1.0])
        mixed = make(kind)(images, labels, lam=lam, index=index, guide=maps_of(5))
        for i in (1, 4):
            assert torch.equal(mixed.images[i], images[i])
            assert mixed.weights[i].tolist() == [1, 0]
        if kind == "saliency_grafting":
            continue  # lam = 0 grafts all salient cells, not the whole partner
        for i in (0, 2):
            assert torch.equal(mixed.images[i], images[index[i]])
            assert mixed.weights[i].tolist() == [0, 1]


@every_kind
def test_a_batch_of_one_and_a_row_paired_with_itself_are_not_mixed(kind):
    images, labels = batch_of(1)
    mixed = make(kind)(images, labels, model=tiny_cnn())
    assert torch.equal(mixed.images, images)
    assert mixed.weights.tolist() == [[1, 0]]
    images, labels = batch_of(3)
    mixed = make(kind)(images, labels, index=torch.tensor([1, 0, 2]), guide=maps_of(3))
    assert torch.equal(mixed.images[2], images[2])
    assert mixed.weights[2].tolist() == [1, 0]
    assert mixed.mask[2].min() == 1


@every_kind
@pytest.mark.parametrize("off", [{"prob": 0.0}, {"alpha": 0.0}, {"alpha": -1.0}], ids=str)
def test_prob_zero_and_alpha_zero_switch_mixing_off_and_nothing_is_looked_at(kind, off):
    images, labels = batch_of(6)
    mixed = make(kind, **off)(images, labels, model=torch.nn.Identity())
    assert torch.equal(mixed.images, images)
    assert torch.equal(mixed.lam, torch.ones(6))


@every_kind
@pytest.mark.parametrize("flat", [0.0, 1.0, 1e-30, torch.nan])
def test_flat_and_broken_maps_are_no_trouble(kind, flat):
    images, labels = batch_of(4)
    mixed = make(kind)(images, labels, guide=torch.full((4, 5, 5), flat))
    assert mixed.images.isfinite().all()
    assert mixed.weights.isfinite().all()


@every_kind
def test_inputs_are_not_modified_and_the_output_owns_its_memory(kind):
    images, labels = batch_of(5)
    guide = maps_of(5)
    before, names, seen = images.clone(), labels.clone(), guide.clone()
    for lam in (None, 1.0, 0.0):
        mixed = make(kind)(images, labels, lam=lam, guide=guide)
        assert torch.equal(images, before)
        assert torch.equal(labels, names)
        assert torch.equal(guide, seen)
        assert mixed.images.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()


@every_kind
def test_works_in_inference_mode_and_under_autocast_and_keeps_channels_last(kind):
    images, labels = batch_of(4, (3, 32, 32))
    net = tiny_cnn()
    plain = make(kind)(images, labels, model=net)
    with torch.inference_mode():
        assert torch.equal(make(kind)(images, labels, model=net).images, plain.images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert make(kind)(images, labels, model=net).weights.dtype == torch.float32
    assert not make(kind)(images.clone().requires_grad_(), labels, model=net).images.requires_grad
    mixed = make(kind)(images.to(memory_format=torch.channels_last), labels, guide=maps_of(4))
    assert mixed.images.is_contiguous(memory_format=torch.channels_last)


@every_kind
def test_same_seed_same_batch_and_the_global_generator_is_left_alone(kind):
    images, labels = batch_of(5, (3, 32, 32))
    net, state = tiny_cnn(drop_rate=0.5), torch.get_rng_state()
    first = make(kind, 3)(images, labels, model=net)
    assert torch.equal(torch.get_rng_state(), state)
    again = make(kind, 3)(images, labels, model=net)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.weights, again.weights)
    if not kind.startswith("guidedmixup"):  # which draws nothing
        assert not torch.equal(first.images, make(kind, 4)(images, labels, model=net).images)


@every_kind
def test_maps_are_asked_for_where_the_network_is_needed(kind):
    images, labels = batch_of(3)
    mix = make(kind)
    assert mix.requirements.model == (not kind.startswith("saliencymix") and kind != "guidedmixup")
    if mix.requirements.model:
        with pytest.raises(ValueError, match="give model="):
            mix(images, labels)
    else:
        assert mix(images, labels).images.shape == images.shape
    with pytest.raises(ValueError, match="give guide="):
        mix.mix(images)


@every_kind
@pytest.mark.parametrize("network", [tiny_cnn, tiny_vit])
def test_a_network_is_looked_at_and_trained_through(kind, network):
    images, labels = batch_of(4, (3, 32, 32))
    net = network(num_classes=7)
    logits, mixed = make(kind).forward_through(net, images, labels)
    mixed.loss(logits).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert net.training


@every_kind
def test_options_are_plain_values_that_make_the_same_object(kind):
    mix = make(kind)
    options = mix.options()
    assert all(isinstance(value, bool | int | float | str) for value in options.values())
    assert type(mix)(**options) == mix


@every_kind
def test_labels_at_each_pixel_are_mixed_where_pixels_keep_their_place(kind):
    images, labels = torch.rand(3, 3, 24, 40), torch.randint(5, (3, 24, 40))
    if kind == "snapmix":
        with pytest.raises(ValueError, match="moves pixels"):
            make(kind)(images, labels, guide=maps_of(3))
    else:
        assert make(kind)(images, labels, guide=maps_of(3)).shares.shape == (3, 2, 24, 40)


def test_a_guided_mixup_may_be_one_of_several():
    mix = RandomChoice([GuidedMixup(prob=1.0), CutMix()], generator=torch.Generator().manual_seed(0))
    images, labels = batch_of(4)
    for _ in range(4):
        assert mix(images, labels).images.shape == images.shape


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        (SaliencyMix, {"saliency": "other"}),
        (GuidedMixup, {"saliency": "fine"}),
        (SaliencyGrafting, {"temperature": 0.0}),
        (SaliencyGrafting, {"grid": 0}),
        (SaliencyGrafting, {"norm": 3}),
    ],
)
def test_wrong_options_are_refused(cls, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        cls(**wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_kind
def test_same_seed_same_batch_on_the_gpu(kind):
    images, labels = batch_of(5, (3, 32, 32))
    guide, net = maps_of(5), tiny_cnn().cuda()
    here, there = (
        make(kind)(*b, guide=g) for b, g in (((images, labels), guide), ((images.cuda(), labels.cuda()), guide.cuda()))
    )
    torch.testing.assert_close(there.images.cpu(), here.images, atol=1e-4, rtol=0)
    torch.testing.assert_close(there.weights.cpu(), here.weights, atol=1e-5, rtol=0)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype=dtype):
            looked = make(kind)(images.cuda(), labels.cuda() % 5, model=net)
        assert looked.images.isfinite().all()
        assert looked.weights.isfinite().all()


# SaliencyMix ---------------------------------------------------------------------------------------------------------


@every_size
def test_saliencymix_is_its_loop(size):
    x, partner = torch.randn(6, 2, *size), torch.randn(6, 2, *size)
    lam, centre = torch.rand(6), torch.rand(6, 2)
    for shape in (size, (4, 5)):
        saliency = maps_of(6, shape)
        saliency[2] = 0.7
        mixed = saliencymix(x, partner, lam, saliency, centre)
        for i in range(6):
            expected = oracle.saliencymix_mask(size, lam[i], saliency[i].numpy(), centre[i].numpy())
            assert np.array_equal(mixed.mask[i, 0].numpy(), expected)
            assert mixed.lam[i].item() == pytest.approx(expected.mean())
    assert torch.equal(mixed.images, torch.where(mixed.mask.bool(), x, partner))


@pytest.mark.parametrize("at", [(12, 20), (0, 0), (23, 39), (0, 25)])
def test_saliencymix_centres_its_box_on_the_peak(at):
    saliency = torch.zeros(1, 24, 40)
    saliency[0][at] = 1.0
    mixed = saliencymix(
        torch.zeros(1, 1, 24, 40), torch.ones(1, 1, 24, 40), torch.tensor([0.75]), saliency, torch.rand(1, 2)
    )
    rows, columns = mixed.images[0, 0].nonzero().T
    assert (rows.min(), rows.max() + 1) == (max(at[0] - 6, 0), min(at[0] + 6, 24))
    assert (columns.min(), columns.max() + 1) == (max(at[1] - 10, 0), min(at[1] + 10, 40))


def test_saliencymix_looks_at_the_partner_alone_and_takes_the_first_of_equal_peaks():
    images, labels = batch_of(4)
    guide, index = maps_of(4, (24, 40)), torch.tensor([1, 0, 3, 2])
    mixed = make("saliencymix")(images, labels, lam=0.7, index=index, guide=guide)
    other = guide.clone()
    other[0] = maps_of(1, (24, 40), seed=7)[0]
    again = make("saliencymix")(images, labels, lam=0.7, index=index, guide=other)
    assert torch.equal(mixed.mask[0], again.mask[0])
    assert not torch.equal(mixed.mask[1], again.mask[1])
    ties = torch.zeros(2, 4, 4)
    ties[:, 1, 2] = ties[:, 3, 0] = 1.0
    first = saliencymix(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4), torch.full((2,), 0.75), ties, torch.rand(2, 2))
    assert first.images[0, 0, 1, 2] == 1
    assert first.images[0, 0, 3, 0] == 0


@pytest.mark.parametrize("saliency", ["spectral", "fine"])
def test_saliencymix_pastes_the_partners_lone_disc(saliency):
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    discs = [((rows - r) ** 2 + (columns - c) ** 2 <= 9) for r, c in ((30, 12), (12, 50), (24, 32))]
    images = torch.stack([0.1 * torch.rand(3, 48, 64) + 0.9 * disc for disc in discs])
    mix = make("saliencymix", alpha=1.0)
    mix.saliency = saliency
    mix.set_normalization((0.5,) * 3, (0.25,) * 3)
    mixed = mix((images - 0.5) / 0.25, torch.arange(3), lam=0.7, index=torch.tensor([1, 2, 0]))
    for row, partner in enumerate((1, 2, 0)):
        assert (mixed.mask[row, 0][discs[partner]] == 0).all()


def test_saliencymix_with_one_box_gives_all_the_first_partners():
    images, labels = batch_of(5)
    guide, index = maps_of(5, (24, 40)), torch.tensor([3, 0, 1, 2, 4])
    one = make("saliencymix_one_box")(images, labels, lam=0.6, index=index, guide=guide)
    own = make("saliencymix")(images, labels, lam=0.6, index=index, guide=guide)
    for row in (1, 2, 3):
        assert torch.equal(one.mask[row], own.mask[0])
    assert not torch.equal(own.mask[1], own.mask[0])


def test_a_flat_map_leaves_saliencymix_a_uniform_centre():
    images, labels = batch_of(2, (1, 16, 16))
    mix, covered = make("saliencymix"), torch.zeros(16, 16)
    for _ in range(300):
        mixed = mix(images, labels, lam=0.9, index=torch.tensor([1, 0]), guide=torch.ones(2, 8, 8))
        covered += 1 - mixed.mask[0, 0]
    assert covered[4:12, 4:12].min() > 0.3 * covered.max()


# GuidedMixup ---------------------------------------------------------------------------------------------------------


@every_size
def test_guidedmixup_is_its_loop(size):
    x, partner = torch.randn(5, 2, *size), torch.randn(5, 2, *size)
    lam = torch.tensor([0.5, 0.5, 0.5, 0.2, 0.9])
    for shape in (size, (4, 5)):
        own, other = maps_of(5, shape), maps_of(5, shape, seed=1)
        own[1], other[2, :2] = 0.0, 0.0
        mixed = guidedmixup(x, partner, lam, (own, other))
        for i in range(5):
            maps = [oracle.resized(m[i].double().numpy(), size) for m in (own, other)]
            expected = oracle.guidedmixup_mask(*maps, lam[i].double().item())
            np.testing.assert_allclose(mixed.mask[i, 0].numpy(), expected, atol=1e-5)
            assert mixed.lam[i].item() == pytest.approx(expected.mean(), abs=1e-5)
    torch.testing.assert_close(mixed.images, mixed.mask * x + (1 - mixed.mask) * partner)


def test_masks_of_a_pair_and_of_its_swap_add_to_one():
    x, half, guides = torch.zeros(4, 1, 24, 40), torch.full((4,), 0.5), (maps_of(4), maps_of(4, seed=1))
    there, back = guidedmixup(x, x, half, guides), guidedmixup(x, x, half, guides[::-1])
    torch.testing.assert_close(there.mask + back.mask, torch.ones(4, 1, 24, 40))


def test_equal_maps_and_empty_maps_are_mixup_at_one_half():
    x, partner, half = torch.randn(3, 3, 24, 40), torch.randn(3, 3, 24, 40), torch.full((3,), 0.5)
    for guide in (maps_of(3), torch.zeros(3, 4, 4)):
        for scale in (1.0, 17.0):
            mixed = guidedmixup(x, partner, half, (guide, guide * scale))
            torch.testing.assert_close(mixed.images, (x + partner) / 2, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(mixed.lam, half)


@pytest.mark.parametrize("batch", [2, 3, 8, 33])
def test_the_greedy_pairs_are_its_loop_and_one_cycle(batch):
    for seed in range(5):
        maps = maps_of(batch, (5, 7), seed) ** 3
        index = farthest_cycle(maps)
        assert index.tolist() == oracle.farthest_cycle(maps.double().numpy())
        seen, row = [], 0
        for _ in range(batch):
            row = int(index[row])
            seen.append(row)
        assert sorted(seen) == list(range(batch))  # one cycle through all
        assert seen[-1] == 0
    assert farthest_cycle(maps_of(1)).tolist() == [0]


def test_equal_maps_are_still_paired_in_one_cycle():
    index = farthest_cycle(torch.ones(6, 4, 4))
    assert sorted(index.tolist()) == list(range(6))
    assert not (index == torch.arange(6)).any()


def test_guidedmixup_pairs_greedily_unless_told_otherwise():
    images, labels = batch_of(8)
    guide = maps_of(8) ** 3
    assert torch.equal(make("guidedmixup")(images, labels, guide=guide).index[:, 1], farthest_cycle(guide))
    rolled = make("guidedmixup", greedy=False, pairing="roll")(images, labels, guide=guide)
    assert torch.equal(rolled.index[:, 1], torch.arange(8).roll(1))
    given = torch.arange(8).roll(3)
    assert torch.equal(make("guidedmixup")(images, labels, guide=guide, index=given).index[:, 1], given)


def test_guidedmixup_makes_the_maps_of_its_options():
    images, labels = batch_of(4, (3, 32, 32))
    net = PlainNet()
    spectral = spectral_residual(images, size=128, style="guidedmixup")
    gradient = blur(gradient_saliency(net, images, labels), gaussian(7, 3.0))
    for kind, guide in (("guidedmixup", spectral), ("guidedmixup_gradient", gradient)):
        mixed = make(kind)(images, labels, model=net)
        torch.testing.assert_close(mixed.images, make(kind)(images, labels, guide=guide).images)


def test_guidedmixup_mixes_the_share_of_batches_that_prob_says():
    images, labels = batch_of(2, (1, 8, 8))
    mix = GuidedMixup(generator=torch.Generator().manual_seed(0))
    mixed = [mix(images, labels, guide=maps_of(2)).lam[0].item() < 1 for _ in range(300)]
    assert 0.4 < np.mean(mixed) < 0.6


# Saliency Grafting ---------------------------------------------------------------------------------------------------


@every_size
@pytest.mark.parametrize("norm", [1, 2])
def test_saliency_grafting_is_its_loop(size, norm):
    x, partner, lam = torch.randn(6, 2, *size), torch.randn(6, 2, *size), torch.rand(6)
    own, other, chance = maps_of(6, (3, 5)), maps_of(6, (3, 5), seed=1), torch.rand(6, 3, 5)
    options = {"temperature": 0.3, "norm": norm}
    mixed = saliency_grafting(x, partner, lam, (own, other), chance, **options)
    for i in range(6):
        maps = [m[i].double().numpy() for m in (own, other)]
        mask, share = oracle.grafting(size, lam[i].item(), *maps, chance[i].numpy(), **options)
        assert np.array_equal(mixed.mask[i, 0].numpy(), mask)
        assert mixed.lam[i].item() == pytest.approx(share, abs=1e-5)
    assert torch.equal(mixed.images, torch.where(mixed.mask.bool(), x, partner))


def test_only_cells_of_the_partner_that_are_salient_are_grafted():
    x, guide = torch.zeros(4, 1, 24, 40), maps_of(4, (6, 10))
    mixed = saliency_grafting(x, x + 1, torch.zeros(4), (maps_of(4, seed=3), guide), torch.rand(4, 6, 10))
    grafted = mixed.images[:, 0, ::4, ::4].bool()  # one pixel of each cell
    for i in range(4):
        assert grafted[i].any()
        assert guide[i][grafted[i]].min() > guide[i][~grafted[i]].max()
    part = saliency_grafting(x, x + 1, torch.full((4,), 0.6), (maps_of(4, seed=3), guide), torch.rand(4, 6, 10))
    assert ((part.images == 0) | (mixed.images == 1)).all()
    assert 0 < part.images.sum() < mixed.images.sum()


def test_a_lower_temperature_makes_fewer_cells_salient():
    x, guides = torch.zeros(4, 1, 24, 40), (maps_of(4), maps_of(4, seed=1))
    shares = [
        saliency_grafting(x, x + 1, torch.zeros(4), guides, torch.zeros(4, 6, 10), temperature=t).images.mean()
        for t in (0.05, 0.2, 1.0)
    ]
    assert shares[0] < shares[1] < shares[2]


def test_even_maps_and_norm_one_label_by_area():
    x, lam, ones = torch.zeros(8, 1, 24, 40), torch.rand(8), torch.ones(8, 3, 3)
    mixed = saliency_grafting(x, x + 1, lam, (ones, ones), torch.rand(8, 7, 7), norm=1)
    torch.testing.assert_close(mixed.lam, 1 - mixed.images.mean((1, 2, 3)))
    assert (mixed.lam < 1).any()


def test_nothing_grafted_is_lam_one():
    x, guides = torch.randn(3, 3, 24, 40), (maps_of(3), maps_of(3, seed=1))
    mixed = saliency_grafting(x, x + 1, torch.full((3,), 0.5), guides, torch.zeros(3, 7, 7))
    assert torch.equal(mixed.images, x)
    assert mixed.lam.tolist() == [1, 1, 1]


def test_saliency_grafting_draws_cells_and_lam_for_each_sample():
    images, labels = torch.zeros(6, 1, 28, 28), torch.arange(6)
    images[3:] = 1
    mixed = make("saliency_grafting")(images, labels, index=torch.arange(6).roll(3), guide=torch.ones(6, 7, 7))
    assert len({mask.sum().item() for mask in mixed.mask}) > 3


# Compiled ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["saliencymix", "guidedmixup", "saliency_grafting"])
def test_policies_compile_as_one_graph(policy):
    x, partner, lam, guides = (
        torch.randn(3, 3, 24, 40),
        torch.randn(3, 3, 24, 40),
        torch.rand(3),
        (maps_of(3), maps_of(3, seed=1)),
    )
    given = {
        "saliencymix": (saliencymix, (x, partner, lam, guides[1], torch.rand(3, 2))),
        "guidedmixup": (guidedmixup, (x, partner, lam, guides)),
        "saliency_grafting": (saliency_grafting, (x, partner, lam, guides, torch.rand(3, 7, 7))),
    }
    function, draws = given[policy]
    compiled = torch.compile(function, backend="eager", fullgraph=True)(*draws)
    for there, here in zip(compiled, function(*draws), strict=True):
        assert torch.equal(there, here)
