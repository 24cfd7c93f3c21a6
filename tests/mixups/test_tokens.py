"""Mixups on the patch grid: against loops, then masks, weights, windows, losses, and no trace of extra passes."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles_salient import pixels_of
from oracles_tokens import best_window, maskmix_mask, patch_box, smmix_image, tokenmix_pair, window_side
from tiny_networks import PlainNet, randomised, tiny_vit
from torch import nn

from samix.batch import Mixed, pair_batch
from samix.methods.supervised import Supervised
from samix.mixups.cells import grid_of, to_pixels
from samix.mixups.handmade import MixUp
from samix.mixups.maskmix import MaskMix, maskmix
from samix.mixups.patch_cutmix import PatchCutMix, cutmix_patches
from samix.mixups.smmix import SMMix, consistency_loss, region_loss, smmix
from samix.mixups.tokenmix import TokenMix, block_cells, tokenmix, tokenmix_weights
from samix.networks.attention import received_attention
from samix.networks.inference import inspecting

SIZES = [(32, 32), (24, 40), (33, 17), (7, 7)]
every_size = pytest.mark.parametrize("size", SIZES, ids=str)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pair_of(size, batch=4, channels=3):
    return torch.randn(batch, channels, *size), torch.randn(batch, channels, *size)


def scores_of(size, cell, batch=4):
    return torch.rand(batch, -(-size[0] // cell) * -(-size[1] // cell))


KINDS = {
    "patchcutmix": lambda **kw: PatchCutMix(patch=8, **kw),
    "patchcutmix_whole": lambda **kw: PatchCutMix(patch=4, clip=False, **kw),
    "maskmix": MaskMix,
    "tokenmix": lambda **kw: TokenMix(**{"patch": 8, "maps": "area", "switch": 0.0} | kw),
    "tokenmix_random": lambda **kw: TokenMix(
        **{"patch": 4, "maps": "area", "switch": 0.0, "style": "random", "fixed_lam": None} | kw
    ),
    "smmix": lambda **kw: functools.partial(SMMix(**{"switch": 0.0} | kw), guide=torch.rand(8, 4, 4)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


# What is true of all of them ------------------------------------------------------------------------------------------


@every_kind
@every_size
def test_shapes_types_shares_and_untouched_inputs(kind, size):
    for channels, dtype in ((1, torch.float32), (3, torch.bfloat16), (5, torch.float16), (2, torch.float64)):
        images = torch.randn(8, channels, *size).to(dtype)
        before = images.clone()
        mixed = KINDS[kind](per_sample=True, generator=seeded())(images, torch.arange(8))
        assert torch.equal(images, before)
        assert mixed.images.shape == images.shape
        assert mixed.images.dtype == dtype
        assert mixed.mask.shape == (8, 1, *size)
        assert mixed.mask.dtype == mixed.weights.dtype == torch.float32
        assert set(mixed.mask.unique().tolist()) <= {0.0, 1.0}
        torch.testing.assert_close(mixed.weights.sum(1), torch.ones(8))


@every_kind
def test_lam_is_the_share_of_own_pixels_in_label_and_image(kind):  # own black, partner white
    images = torch.cat([torch.zeros(4, 3, 24, 40), torch.ones(4, 3, 24, 40)])
    for seed in range(20):
        mixed = KINDS[kind](per_sample=True, generator=seeded(seed))(
            images, torch.arange(8), index=torch.arange(8).roll(4)
        )
        own = 1.0 - mixed.images[:4]
        torch.testing.assert_close(mixed.lam[:4], own.mean((1, 2, 3)), atol=1e-6, rtol=0)
        torch.testing.assert_close(mixed.mask[:4], own[:, :1])


@every_kind
@every_size
def test_lam_one_gives_the_image_and_lam_zero_the_partner_bit_by_bit(kind, size):
    images, index = torch.randn(8, 3, *size), torch.arange(8).roll(1)
    lam = torch.tensor([0.0, 1.0, 0.0, 0.5, 1.0, 0.3, 0.9, 0.0])
    mixed = KINDS[kind](generator=seeded())(images, torch.arange(8), lam=lam, index=index)
    for i, share in enumerate(lam.tolist()):
        if share in (0.0, 1.0):
            assert torch.equal(mixed.images[i], images[i if share else index[i]])
            assert mixed.lam[i] == share


@every_kind
def test_unmixed_batches_and_rows_that_are_paired_with_themselves(kind):
    images = torch.randn(8, 3, 32, 32)
    for off in ({"prob": 0.0}, {"alpha": 0.0}):
        mixed = KINDS[kind](**off)(images, torch.arange(8), index=torch.arange(8).roll(1))
        assert torch.equal(mixed.images, images)
        assert torch.equal(mixed.lam, torch.ones(8))
    index = torch.tensor([1, 0, 2, 4, 3, 6, 5, 7])
    mixed = KINDS[kind](generator=seeded())(images, torch.arange(8), index=index)
    for i in (2, 7):
        assert torch.equal(mixed.images[i], images[i])
        assert mixed.lam[i] == 1
    if kind != "smmix":
        assert torch.equal(KINDS[kind]()(images[:1], torch.zeros(1).long()).images, images[:1])


@every_kind
def test_same_seed_same_batch_and_the_global_generators_are_left_alone(kind):
    images, mix, again = torch.randn(8, 3, 32, 32), KINDS[kind](generator=seeded(3)), KINDS[kind](generator=seeded(3))
    if kind == "smmix":
        again = functools.partial(again.func, guide=mix.keywords["guide"])
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = mix(images, torch.arange(8))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(first.images, again(images, torch.arange(8)).images)
    assert not torch.equal(first.images, mix(images, torch.arange(8)).images)


@every_kind
def test_channels_last_is_kept(kind):
    images = torch.randn(8, 3, 32, 32)
    mix = KINDS[kind](generator=seeded())
    plain = mix(images, torch.arange(8), lam=0.5, index=torch.arange(8).roll(1))
    assert plain.images.is_contiguous()
    last = mix(images.to(memory_format=torch.channels_last), torch.arange(8), lam=0.5, index=torch.arange(8).roll(1))
    assert last.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(24, 40), (7, 7)], ids=str)
def test_policies_compile_as_one_graph_and_give_the_same(size):
    (x, partner), lam = pair_of(size), torch.tensor([0.2, 1.0, 0.0, 0.7])
    cells, maps = (torch.rand(4, 2, 3) < 0.5).float(), torch.rand(2, 4, 4, 5)
    for policy, args in (
        (functools.partial(cutmix_patches, patch=8), (torch.rand(4, 2),)),
        (functools.partial(maskmix, cell=8), (scores_of(size, 8),)),
        (tokenmix, (cells,)),
        (smmix, tuple(maps)),
    ):
        compiled = torch.compile(policy, backend="eager", fullgraph=True)
        for got, want in zip(compiled(x, partner, lam, *args), policy(x, partner, lam, *args), strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PatchCutMix(patch=0), "patch must be a whole number"),
        (lambda: MaskMix(cell=-1), "cell must be a whole number"),
        (lambda: MaskMix(patch=2.5), "patch must be a whole number in"),
        (lambda: TokenMix(style="line"), "style must be one of block, random"),
        (lambda: TokenMix(maps="cam"), "maps must be"),
        (lambda: TokenMix(fixed_lam=2.0), "fixed_lam must be in"),
        (lambda: TokenMix(surplus=-1.0), "surplus must be in"),
        (lambda: TokenMix(switch=1.5), "switch must be in"),
        (lambda: TokenMix(mixup_alpha=float("nan")), "mixup_alpha must be a finite number"),
        (lambda: SMMix(min_side=0.8), "min_side must be at most max_side"),
        (lambda: SMMix(regions=-1.0), "regions must be in"),
        (lambda: maskmix(*pair_of((8, 8)), torch.ones(4), torch.rand(4, 3), cell=4), "scores must have shape"),
        (lambda: SMMix().apply(*pair_of((8, 8)), torch.ones(4)), "needs a map of each image"),
        (lambda: SMMix()(*pair_of((8, 8))[:1], torch.arange(4)), "looks at the network"),
        (lambda: TokenMix(switch=0.0)(torch.randn(4, 3, 8, 8), torch.arange(4)), "give model="),
        (lambda: TokenMix(switch=0.0, maps="attention")(torch.randn(4, 3, 8, 8), torch.arange(4)), "give model="),
    ],
)
def test_wrong_options_say_what_is_right(make, said):
    with pytest.raises((ValueError, TypeError), match=said):
        make()


# CutMix by patches ----------------------------------------------------------------------------------------------------


@every_size
@pytest.mark.parametrize("clip", [True, False])
def test_patch_boxes_equal_the_loop_and_no_patch_is_cut(size, clip):
    x, partner = pair_of(size, 40)
    lam, centre = torch.rand(40).double().float(), torch.rand(40, 2)
    lam[:2] = torch.tensor([0.0, 1.0])
    mixed = cutmix_patches(x, partner, lam, centre, patch=8, clip=clip)
    for i in range(40):
        cells = patch_box(grid_of(size, 8), lam[i].item(), centre[i].tolist(), clip)
        assert np.array_equal(mixed.mask[i, 0].numpy(), pixels_of(cells, size))
    torch.testing.assert_close(mixed.lam, mixed.mask.mean((1, 2, 3)))


def test_a_small_box_keeps_its_size():  # CutMix's own rounding makes 2 of a side of 3
    x, partner = pair_of((224, 224), 1, 1)
    mixed = cutmix_patches(x, partner, torch.tensor([1 - (3 / 14) ** 2]), torch.tensor([[0.5, 0.5]]))
    assert mixed.mask.numel() - mixed.mask.sum() == (3 * 16) ** 2


# MaskMix --------------------------------------------------------------------------------------------------------------


@every_size
@pytest.mark.parametrize("cell", [3, 8, 16, 50])
def test_maskmix_equals_the_loop(size, cell):
    x, partner = pair_of(size, 6)
    lam, scores = torch.tensor([0.0, 1.0, 0.3, 0.5, 0.77, 0.01]), scores_of(size, cell, 6)
    mixed = maskmix(x, partner, lam, scores, cell=cell)
    for i in range(6):
        mask = maskmix_mask(size, lam[i].item(), scores[i].tolist(), cell)
        assert np.array_equal(mixed.mask[i, 0].numpy(), mask)
        assert mixed.lam[i].item() == pytest.approx(mask.mean(), abs=1e-6)


def test_maskmix_cells_are_drawn_for_each_sample_and_a_quarter_of_the_side():
    images = torch.randn(8, 3, 224, 224)
    mixed = MaskMix(generator=seeded())(images, torch.arange(8), lam=0.5, index=torch.arange(8).roll(1))
    assert len(torch.unique(mixed.mask.flatten(1), dim=0)) > 5
    cells = mixed.mask[:, 0].unfold(1, 56, 56).unfold(2, 56, 56)
    assert torch.equal(cells.amin((3, 4)), cells.amax((3, 4)))
    assert torch.equal(mixed.lam, torch.full((8,), 0.5))
    assert MaskMix(patch=16).side(images.shape) == 64
    assert MaskMix(cell=28).side(images.shape) == 28


# TokenMix -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["block", "random"])
def test_tokenmix_covers_112_of_196_patches_by_one_mask_per_batch(style):
    mix = TokenMix(style=style, maps="area", switch=0.0, generator=seeded())
    exact = 0
    for _ in range(20):
        cells = mix.draw_cells(mix.draw_lam(8), (224, 224))
        assert torch.equal(cells, cells[:1].expand_as(cells))
        count = int(cells[0].sum())
        assert count <= 112
        exact += count == 112
    assert exact == 20 if style == "random" else exact >= 15
    lam = torch.tensor([1.0, 0.0, 0.5, 0.9, 0.99])
    assert mix.covered(lam, (14, 14)).tolist() == [0, 196, 112, 33, 15]
    assert mix.draw_cells(lam, (224, 224)).sum((1, 2))[:2].tolist() == [0, 196]


def test_blocks_are_rectangles_and_random_cells_are_scattered():
    def borders(style):
        mix = TokenMix(style=style, maps="area", switch=0.0, generator=seeded())
        cells = torch.stack([mix.draw_cells(mix.draw_lam(1), (224, 224))[0] for _ in range(20)])
        return cells.diff(dim=1).abs().sum() + cells.diff(dim=2).abs().sum()

    assert borders("block") < 0.6 * borders("random")
    first = block_cells((14, 14), 196, np.random.default_rng(0))
    assert set(np.unique(first)) <= {0.0, 1.0}
    assert block_cells((3, 5), 0, np.random.default_rng(0)).sum() == 0
    assert all(block_cells((1, 1), 1, np.random.default_rng(s)).sum() <= 1 for s in range(5))


def test_tokenmix_masks_are_per_sample_where_asked_for():
    mix = TokenMix(per_sample=True, maps="area", switch=0.0, generator=seeded())
    cells = mix.draw_cells(mix.draw_lam(4), (224, 224))
    assert len(torch.unique(cells.flatten(1), dim=0)) == 4


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_tokenmix_weights_equal_the_loop(grid):
    own, partner, cells = torch.rand(6, *grid), torch.rand(6, *grid), (torch.rand(6, *grid) < 0.5).float()
    weights = tokenmix_weights(own, partner, cells, torch.full((6,), 0.5))
    for i in range(6):
        expected = tokenmix_pair(own[i].numpy(), partner[i].numpy(), cells[i].numpy())
        assert weights[i].tolist() == pytest.approx(expected, abs=1e-6)
    assert (weights.sum(1) - 1).abs().max() > 1e-3  # not normalised


def test_uniform_maps_give_the_share_of_cells_and_maps_of_any_size_are_taken():
    cells = (torch.rand(6, 4, 5) < 0.5).float()
    for uniform in (torch.full((6, 4, 5), 0.3), torch.zeros(6, 7, 7), torch.ones(6, 2, 2), torch.ones(6, 9, 11)):
        weights = tokenmix_weights(uniform, uniform, cells, torch.full((6,), 0.5))
        torch.testing.assert_close(weights[:, 1], cells.mean((1, 2)))
        torch.testing.assert_close(weights.sum(1), torch.ones(6))
    whole = tokenmix_weights(torch.rand(6, 7, 7), torch.rand(6, 7, 7), cells, torch.ones(6))
    assert torch.equal(whole, torch.tensor([[1.0, 0.0]]).expand(6, 2))
    corner = torch.zeros(6, 8, 10)
    corner[:, :2, :2] = 1.0  # all in the first cell
    weights = tokenmix_weights(corner, corner, cells, torch.full((6,), 0.5))
    torch.testing.assert_close(weights[:, 1], cells[:, 0, 0])


def test_tokenmix_takes_maps_of_teacher_network_or_caller():
    images, labels, index = torch.randn(4, 3, 32, 32), torch.arange(4), torch.arange(4).roll(1)
    model, teacher = randomised(tiny_vit()), randomised(tiny_vit())

    def mix(**kw):
        return TokenMix(patch=8, switch=0.0, generator=seeded(), **kw)

    plain = mix(maps="area")(images, labels, index=index)
    given = torch.rand(4, 4, 4)
    batches = {
        "given": mix()(images, labels, index=index, guide=given),
        "network": mix()(images, labels, index=index, model=model),
        "teacher": mix(teacher=teacher)(images, labels, index=index),
        "teacher first": mix(teacher=teacher)(images, labels, index=index, model=model),
        "attention": mix(maps="attention")(images, labels, index=index, model=model),
    }
    for batch in batches.values():
        assert torch.equal(batch.images, plain.images)
        assert not torch.allclose(batch.weights, plain.weights)
    cells = F.adaptive_avg_pool2d(1 - plain.mask, (4, 4)).squeeze(1)
    expected = tokenmix_weights(given, given[index], cells, plain.lam)
    torch.testing.assert_close(batches["given"].weights, expected)
    assert torch.equal(batches["teacher"].weights, batches["teacher first"].weights)
    assert not torch.equal(batches["teacher"].weights, batches["network"].weights)


def test_fixed_lam_and_the_draw_of_lam():
    assert torch.equal(TokenMix().draw_lam(3), torch.full((3,), 0.5))
    assert torch.equal(TokenMix(prob=0.0).draw_lam(3), torch.ones(3))
    drawn = TokenMix(fixed_lam=None, per_sample=True, generator=seeded()).draw_lam(100)
    assert drawn.std() > 0.2


# The switch to MixUp --------------------------------------------------------------------------------------------------


def test_switch_is_the_share_of_batches_that_get_mixup():
    images, labels = torch.randn(6, 1, 8, 8), torch.arange(6)
    mix = TokenMix(patch=2, maps="area", switch=0.3, generator=seeded())
    mixups = []
    for _ in range(300):
        batch = mix(images, labels, index=torch.arange(6).roll(1))
        mixups.append(bool((batch.mask != batch.mask.round()).any()))
    assert 0.22 < np.mean(mixups) < 0.38


def test_a_lam_of_the_caller_and_a_batch_without_mixing_are_not_switched():
    images, labels = torch.randn(6, 3, 8, 8), torch.arange(6)
    mix = TokenMix(patch=2, maps="area", switch=1.0)
    assert set(mix(images, labels, lam=0.5).mask.unique().tolist()) == {0.0, 1.0}
    for off in ({"alpha": 0.0}, {"prob": 0.0}):
        assert torch.equal(TokenMix(patch=2, maps="area", switch=1.0, **off)(images, labels).images, images)
    same = MixUp(alpha=0.8, generator=seeded(1))
    mix = TokenMix(maps="area", switch=1.0, generator=seeded(1))
    torch.rand(1, generator=same.generator)  # the switch
    assert torch.equal(mix(images, labels).images, same(images, labels).images)


# SMMix ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (8, 8)])
def test_smmix_equals_the_loop(grid):
    size = (grid[0] * 4, grid[1] * 4)
    x, partner = pair_of(size, 30)
    lam, maps = torch.rand(30), torch.rand(2, 30, *grid)
    lam[:2] = torch.tensor([0.0, 1.0])
    mixed = smmix(x, partner, lam, *maps)
    for i in range(30):
        image, mask = smmix_image(
            x[i].numpy(), partner[i].numpy(), lam[i].item(), maps[0, i].double().numpy(), maps[1, i].double().numpy()
        )
        assert np.array_equal(mixed.mask[i, 0].numpy(), mask)
        assert np.array_equal(mixed.images[i].numpy(), image)


def test_window_sides_are_uniform_between_3_and_10_of_14():
    mix = SMMix(switch=0.0, per_sample=True, generator=seeded())
    lam = mix.draw_lam(4000)
    guide = torch.rand(1, 14, 14).expand(4000, -1, -1)
    mixed = smmix(torch.zeros(4000, 1, 14, 14), torch.ones(4000, 1, 14, 14), lam, guide, guide)
    sides = ((1 - mixed.lam) * 196).sqrt().round().long()
    counts = torch.bincount(sides, minlength=11)[3:]
    assert counts.sum() == 4000
    assert counts.min() > 400
    assert counts.max() < 600
    torch.testing.assert_close(mixed.lam, 1 - sides.float() ** 2 / 196)
    assert SMMix(generator=seeded()).draw_lam(5).unique().numel() == 1
    for share in (0.0, 0.2, 0.4, 0.6, 0.9, 0.96, 1.0):
        side = window_side(14, share)
        assert abs(side - 14 * (1 - share) ** 0.5) <= 1.0


def test_the_window_has_the_partner_s_peak_and_spares_the_own():
    x, partner = torch.zeros(16, 1, 56, 56), torch.zeros(16, 1, 56, 56)
    own, other = torch.zeros(16, 14, 14), torch.zeros(16, 14, 14)
    for i in range(16):
        r, c = int(torch.randint(14, ())), int(torch.randint(14, ()))
        own[i, r, c] = other[i, c, r] = 1.0
        x[i, 0, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4] = 1.0
        partner[i, 0, 4 * c : 4 * c + 4, 4 * r : 4 * r + 4] = 2.0
    mixed = smmix(x, partner, torch.full((16,), 0.75), own, other)
    assert torch.equal((mixed.images == 1.0).sum((1, 2, 3)), torch.full((16,), 16))  # the own peak is all there
    assert torch.equal((mixed.images == 2.0).sum((1, 2, 3)), torch.full((16,), 16))  # and the partner's


def losses_setup(**options):
    model = randomised(tiny_vit(**options), 0.15)
    mix = SMMix(switch=0.0, pairing="cycle", generator=seeded())
    return model, mix, torch.randn(4, 3, 32, 32), torch.arange(4)


@pytest.mark.parametrize("options", [{}, {"global_pool": "avg"}, {"reg_tokens": 2}], ids=str)
def test_smmix_s_losses_equal_the_plain_computation(options):
    model, mix, images, labels = losses_setup(**options)
    head = mix.attach(model, 5)
    model.eval()
    logits, batch = mix.forward_through(model, images, labels)
    with inspecting(model):
        clean, guide = received_attention(model, images)
    again = SMMix(switch=0.0, pairing="cycle", generator=seeded())(images, labels, guide=guide)
    assert torch.equal(batch.images, again.images)
    torch.testing.assert_close(logits, model(batch.images))
    tokens = model.forward_features(batch.images)[:, model.num_prefix_tokens :]
    partner, kl, own_loss, partner_loss = batch.index[:, 1], 0.0, 0.0, 0.0
    for i in range(4):
        expected = (batch.lam[i] * clean[i] + (1 - batch.lam[i]) * clean[partner[i]]).softmax(0)
        kl += (expected * (expected.log() - logits[i].log_softmax(0))).sum() / 4
        cells = batch.mask[i, 0, ::8, ::8].flatten().bool()
        pooled = model.fc_norm(tokens[i, cells].mean(0)), model.fc_norm(tokens[i, ~cells].mean(0))
        own_loss += F.cross_entropy(head(pooled[0]), labels[i]) / 4
        partner_loss += F.cross_entropy(head(pooled[1]), labels[partner[i]]) / 4
    torch.testing.assert_close(batch.extra["consistency"], kl)
    torch.testing.assert_close(batch.extra["regions"], 0.5 * (own_loss + partner_loss))


def test_regions_that_are_empty_do_not_count_and_no_gradient_reaches_the_clean_pass():
    images, index = torch.zeros(3, 1, 8, 8), torch.arange(3).roll(1)
    mask = torch.ones(3, 1, 8, 8)
    mask[2, :, :4] = 0.0
    batch = pair_batch(Mixed(images, mask.mean((1, 2, 3)), mask), torch.arange(3), index)
    tokens = torch.randn(3, 2, 2, 5)
    own = torch.stack([tokens[0].mean((0, 1)), tokens[1].mean((0, 1)), tokens[2, 1].mean(0)])
    expected = F.cross_entropy(own, torch.arange(3)) + F.cross_entropy(tokens[2, 0].mean(0), index[2]) / 3
    torch.testing.assert_close(region_loss(tokens, batch, nn.Identity()), expected)
    clean = torch.randn(3, 5, requires_grad=True)
    same = consistency_loss(clean.detach(), clean, pair_batch(Mixed(images, torch.ones(3), mask), index, index))
    assert not same.requires_grad
    assert same.item() == pytest.approx(0.0, abs=1e-6)


def test_smmix_trains_its_head_in_every_step_and_leaves_it_out_without():
    for switch, prob in ((0.0, 1.0), (1.0, 1.0), (0.0, 0.0)):
        mix = SMMix(switch=switch, prob=prob, generator=seeded())
        method = Supervised(tiny_vit(), mix, num_classes=5)
        loss, parts = method((torch.randn(4, 3, 32, 32), torch.arange(4)))
        loss.backward()
        assert all(p.grad is not None for p in mix.head.parameters())
        assert ("consistency" in parts) == (switch == 0.0 and prob == 1.0)
        assert bool(mix.head.weight.grad.any()) == (switch == 0.0 and prob == 1.0)
    _, batch = SMMix(switch=0.0).forward_through(tiny_vit(), torch.randn(4, 3, 32, 32), torch.arange(4))
    assert set(batch.extra) == {"consistency"}
    with pytest.raises(ValueError, match="plain ViT of timm"):
        Supervised(PlainNet(), SMMix(), num_classes=5)
    with pytest.raises(ValueError, match="SMMix takes class or soft labels"):
        SMMix().forward_through(tiny_vit(), torch.randn(4, 3, 32, 32), torch.rand(4))
    hot = F.one_hot(torch.arange(4), 5).float()
    losses = []
    for labels in (torch.arange(4), hot):
        torch.manual_seed(1)
        mix = SMMix(switch=0.0, generator=seeded())
        losses.append(Supervised(tiny_vit(), mix, num_classes=5)((torch.ones(4, 3, 32, 32), labels))[0])
    torch.testing.assert_close(*losses)


def state_of(model):
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    modes = [m.training for m in model.modules()]
    return hooks, modes, [t.clone() for t in model.state_dict().values()], torch.get_rng_state()


def assert_no_trace(before, model):
    hooks, modes, tensors, random = before
    now = state_of(model)
    assert now[0] == hooks == 0
    assert now[1] == modes
    assert all(torch.equal(a, b) for a, b in zip(now[2], tensors, strict=True))
    assert torch.equal(now[3], random)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    "mix", [SMMix(switch=0.0), TokenMix(switch=0.0), TokenMix(switch=0.0, maps="attention")], ids=lambda m: m.name
)
def test_the_extra_pass_leaves_no_trace_also_when_the_model_raises(mix):
    model = tiny_vit(drop_rate=0.3, proj_drop_rate=0.3, drop_path_rate=0.3).train()
    model.blocks[1].eval()
    before = state_of(model)
    mix(torch.randn(4, 3, 32, 32, generator=seeded()), torch.arange(4), model=model)
    assert_no_trace(before, model)
    with pytest.raises(AssertionError):
        mix(torch.randn(4, 3, 40, 40, generator=seeded()), torch.arange(4), model=model)
    assert_no_trace(before, model)


def test_to_pixels_gives_every_pixel_its_cell():
    for size in SIZES:
        cells = torch.rand(2, 3, 5)
        assert np.array_equal(to_pixels(cells, size)[0, 0].numpy(), pixels_of(cells[0].numpy(), size).astype("float32"))
    assert best_window(np.ones((3, 3)), 2, 2, True) == (0, 0)
