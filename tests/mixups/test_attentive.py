"""AttentiveMix and SnapMix against their loops and closed forms; the networks they look with."""

import copy

import numpy as np
import oracles_salient as oracle
import pytest
import timm
import torch
import torch.nn.functional as F
from mixup_kinds import batch_of, every_size
from tiny_networks import PlainNet, randomised, tiny_cnn

from samix.mixups.attentive import AttentiveMix, SnapMix, attentivemix, snapmix
from samix.mixups.saliency import activation_map, class_activation


def maps_of(size, shape=(6, 10), seed=0):
    return torch.rand(size, *shape, generator=torch.Generator().manual_seed(seed))


def seeded(cls, seed=0, **options):
    return cls(generator=torch.Generator().manual_seed(seed), **options)


# AttentiveMix --------------------------------------------------------------------------------------------------------


@every_size
@pytest.mark.parametrize("grid", [(7, 7), (3, 5), (1, 2)])
def test_attentivemix_is_its_loop(size, grid):
    x, partner, cells = torch.randn(6, 2, *size), torch.randn(6, 2, *size), grid[0] * grid[1]
    lam, scores = torch.tensor([0.0, 1e-4, 0.3, 0.5, 0.9, 1.0]), maps_of(6, grid)
    scores[3] = scores[3].round()  # ties
    mixed = attentivemix(x, partner, lam, scores)
    for i in range(6):
        count = 0 if lam[i] == 0 else max(int(lam[i] * cells + 1e-3), 1)
        expected = oracle.attentivemix_mask(size, count, scores[i].numpy())
        assert np.array_equal(mixed.mask[i, 0].numpy(), expected)
        assert mixed.lam[i].item() == pytest.approx(expected.mean())
    assert torch.equal(mixed.images, torch.where(mixed.mask.bool(), x, partner))


@pytest.mark.parametrize("k", range(1, 49))
def test_exactly_k_cells_are_kept(k):
    images, labels = batch_of(3, (1, 28, 14))
    mixed = seeded(AttentiveMix, k=k)(images, labels, index=torch.tensor([1, 2, 0]), guide=maps_of(3, (7, 7)))
    cells = mixed.mask[:, 0, ::4, ::2]
    assert cells.sum((1, 2)).tolist() == [k] * 3
    torch.testing.assert_close(mixed.lam, torch.full((3,), k / 49))


def test_lam_is_the_share_of_pixels_where_cells_differ_in_size():
    images, labels = batch_of(2, (1, 24, 40))
    mixed = seeded(AttentiveMix)(images, labels, index=torch.tensor([1, 0]), guide=maps_of(2, (7, 7)))
    torch.testing.assert_close(mixed.lam, mixed.mask.mean((1, 2, 3)))
    assert (mixed.lam != 6 / 49).any()


def test_the_own_map_decides_and_a_constant_changes_nothing():
    images, labels = batch_of(3)
    guide, index = maps_of(3), torch.tensor([1, 2, 0])
    mixed = seeded(AttentiveMix)(images, labels, index=index, guide=guide)
    shifted = seeded(AttentiveMix)(images, labels, index=index, guide=guide + 5.0)
    assert torch.equal(mixed.mask, shifted.mask)
    guide[1] = maps_of(1, seed=9)[0]
    other = seeded(AttentiveMix)(images, labels, index=index, guide=guide)
    assert torch.equal(mixed.mask[[0, 2]], other.mask[[0, 2]])
    assert not torch.equal(mixed.mask[1], other.mask[1])


def test_attentivemix_plus_draws_how_many_cells():
    images, labels = batch_of(4, (1, 28, 28))
    mix, counts = seeded(AttentiveMix, k=0, alpha=1.0, per_sample=True), []
    for _ in range(60):
        mixed = mix(images, labels, index=torch.arange(4).roll(1), guide=maps_of(4, (7, 7)))
        counts += (mixed.lam * 49).round().int().tolist()
    assert min(counts) == 1  # never none, also for a small lam
    assert max(counts) < 49
    assert 21 < np.mean(counts) < 27  # floor(49 lam) is 24 in the mean


def test_the_number_of_cells_does_not_depend_on_alpha():
    images, labels = batch_of(4, (1, 28, 28))
    for alpha in (1e-3, 2.0):
        mixed = seeded(AttentiveMix, alpha=alpha)(images, labels, index=torch.arange(4).roll(1), guide=maps_of(4))
        torch.testing.assert_close(mixed.lam, torch.full((4,), 6 / 49))


def test_attentivemix_looks_with_the_network_in_training():
    images, labels = batch_of(4, (3, 96, 160))
    net = randomised(PlainNet())
    mix = seeded(AttentiveMix, feature="late")
    guide = activation_map(net, images, feature="late")
    guide = guide - guide.amin((1, 2), keepdim=True)
    expected = seeded(AttentiveMix)(images, labels, guide=guide)
    assert mix.requirements.model
    assert torch.equal(mix(images, labels, model=net).images, expected.images)


def test_attentivemix_looks_with_a_network_of_its_own():
    images, labels = batch_of(4, (3, 64, 64))
    net = randomised(tiny_cnn())
    mix = seeded(AttentiveMix, frozen=net)
    assert not mix.requirements.model
    assert torch.equal(
        mix(images, labels).images, seeded(AttentiveMix)(images, labels, guide=activation_map(net, images)).images
    )
    assert "frozen" not in mix.options()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_named_network_is_fetched_once_and_sees_images_as_it_was_trained(monkeypatch, channels):
    net, made = randomised(tiny_cnn()), []
    net.pretrained_cfg = {"input_size": (3, 64, 96), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}

    def create(name, *, pretrained):
        made.append((name, pretrained))
        return net

    monkeypatch.setattr(timm, "create_model", create)
    pixels, labels = batch_of(3, (channels, 64, 96))
    pixels = pixels.sigmoid()
    mean, std = (0.5,) * channels, (0.25,) * channels
    mix = seeded(AttentiveMix, network="some_network", mean=mean, std=std)
    assert not mix.requirements.model
    found = mix.look((pixels - 0.5) / 0.25, labels, None)
    mix((pixels - 0.5) / 0.25, labels)
    assert made == [("some_network", True)]
    assert not any(p.requires_grad for p in net.parameters())
    shift, scale = torch.tensor(net.pretrained_cfg["mean"]), torch.tensor(net.pretrained_cfg["std"])
    seen = (pixels.expand(-1, 3, -1, -1) - shift.view(1, 3, 1, 1)) / scale.view(1, 3, 1, 1)
    expected = activation_map(net, seen)
    torch.testing.assert_close(found, expected - expected.amin((1, 2), keepdim=True), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("wrong", [{"k": -1}, {"k": 50}, {"grid": 0}, {"network": "resnet18", "frozen": PlainNet()}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AttentiveMix(**wrong)


# SnapMix -------------------------------------------------------------------------------------------------------------


@every_size
@pytest.mark.parametrize("shape", [None, (4, 5), (1, 1)])
def test_snapmix_is_its_loop(size, shape):
    x, partner = torch.randn(8, 2, *size), torch.randn(8, 2, *size)
    lam, source_lam = torch.rand(8), torch.rand(8)
    lam[6], source_lam[7] = 1.0, 1.0
    centre, source_centre = torch.rand(8, 2), torch.rand(8, 2)
    own, other = maps_of(8, shape or size) + 2.0, maps_of(8, shape or size, seed=1)
    mixed, share = snapmix(x, partner, lam, source_lam, centre, source_centre, (own, other))
    for i in range(8):
        box = oracle.snapmix_box(size, lam[i], centre[i].numpy())
        source = oracle.snapmix_box(size, source_lam[i], source_centre[i].numpy())
        maps = [m[i].double().numpy() for m in (own, other)]
        images, a, b = oracle.snapmix(x[i].numpy(), partner[i].numpy(), box, source, *maps)
        np.testing.assert_allclose(mixed.images[i].numpy(), images, atol=1e-4)
        assert mixed.lam[i].item() == pytest.approx(a, abs=1e-5)
        assert share[i].item() == pytest.approx(b, abs=1e-5)


def test_what_is_pasted_is_the_partners_crop_resized():
    x, partner = torch.zeros(1, 3, 32, 48), torch.rand(1, 3, 32, 48)
    lam, source_lam = torch.tensor([0.75]), torch.tensor([0.4])
    mixed, _ = snapmix(x, partner, lam, source_lam, torch.full((1, 2), 0.5), torch.full((1, 2), 0.4), (maps_of(1),) * 2)
    rows, columns = (mixed.mask[0, 0] == 0).nonzero().T
    assert (len(rows.unique()), len(columns.unique())) == (16, 24)
    half = [int(side * 0.6**0.5) // 2 for side in (32, 48)]
    middle = [int(0.4 * side) for side in (32, 48)]
    crop = partner[:, :, middle[0] - half[0] : middle[0] + half[0], middle[1] - half[1] : middle[1] + half[1]]
    expected = F.interpolate(crop, (16, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(mixed.images[:, :, 8:24, 12:36], expected, atol=1e-5, rtol=1e-5)
    assert (mixed.images[:, :, :8] == 0).all()


def test_flat_maps_weigh_by_area():
    x, draws = torch.zeros(6, 1, 24, 40), [torch.rand(6, 2) for _ in range(2)]
    lam, source_lam = torch.rand(6) * 0.8, torch.rand(6) * 0.8
    for level in (0.0, 3.0):
        guides = (torch.full((6, 4, 5), level), torch.full((6, 4, 5), level))
        mixed, share = snapmix(x, x + 1, lam, source_lam, *draws, guides)
        torch.testing.assert_close(mixed.lam, mixed.mask.mean((1, 2, 3)))
        for i in range(6):
            top, bottom, left, right = oracle.snapmix_box((24, 40), source_lam[i], draws[1][i].numpy())
            assert share[i].item() == pytest.approx((bottom - top) * (right - left) / 960, abs=1e-6)


def test_an_empty_box_on_either_side_is_no_mix():
    x, partner, centre = torch.randn(2, 3, 24, 40), torch.randn(2, 3, 24, 40), torch.rand(2, 2)
    lam, source_lam = torch.tensor([1.0, 0.3]), torch.tensor([0.3, 1.0])
    mixed, share = snapmix(x, partner, lam, source_lam, centre, centre, (maps_of(2), maps_of(2)))
    assert torch.equal(mixed.images, x)
    assert mixed.lam.tolist() == [1, 1]
    assert share.tolist() == [0, 0]


def test_weights_follow_the_maps_and_need_not_sum_to_one():
    images, labels = batch_of(2, (1, 32, 32))
    guide = torch.zeros(2, 32, 32)
    guide[0, 16, 16] = guide[1, 16, 16] = 1.0
    at = {"centre": torch.full((2, 2), 0.5), "source_centre": torch.tensor([[0.5, 0.5], [0.0, 0.0]])}
    lam = torch.full((2,), 0.75)
    mixed, share = snapmix(images, images.flip(0), lam, lam, at["centre"], at["source_centre"], (guide, guide))
    torch.testing.assert_close(mixed.lam, torch.zeros(2))  # all that counts is covered
    torch.testing.assert_close(share, torch.tensor([1.0, 0.0]))  # cut out in row 0 only
    batch = seeded(SnapMix)(images, labels, guide=maps_of(2, (8, 8)), index=torch.tensor([1, 0]))
    assert (batch.weights.sum(1) - 1).abs().max() > 1e-3


def test_images_of_one_class_add_their_weights_once():
    images, labels = batch_of(2, (1, 32, 32))
    labels = torch.tensor([3, 3])
    batch = seeded(SnapMix)(images, labels, guide=maps_of(2, (8, 8)), index=torch.tensor([1, 0]))
    logits = torch.randn(2, 7)
    each = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(batch.loss(logits), (batch.weights.sum(1) * each).mean())
    torch.testing.assert_close(batch.soft_targets(7)[:, 3], batch.weights.sum(1))


def test_snapmix_draws_two_boxes_and_both_are_as_alpha_says():
    mix, own, other = seeded(SnapMix), [], []
    for _ in range(400):
        extras = mix.draw_extras(torch.Size((2, 1, 32, 32)))
        own.append(mix.draw_lam(2)[0].item())
        other.append(extras["source_lam"][0].item())
    for drawn in (own, other):
        assert np.mean(drawn) == pytest.approx(0.5, abs=0.03)
        assert np.var(drawn) == pytest.approx(1 / 44, rel=0.25)  # of Beta(5, 5)
    assert abs(np.corrcoef(own, other)[0, 1]) < 0.15
    assert not torch.equal(extras["centre"], extras["source_centre"])


def test_snapmix_looks_at_the_class_of_each_image_and_leaves_the_statistics_alone():
    images, labels = batch_of(4, (3, 64, 64))
    net = randomised(tiny_cnn(num_classes=7)).train()
    state = copy.deepcopy(net.state_dict())
    batch = seeded(SnapMix)(images, labels, model=net)
    assert all(torch.equal(net.state_dict()[k], v) for k, v in state.items())
    expected = seeded(SnapMix)(images, labels, guide=class_activation(net, images, labels))
    assert torch.equal(batch.images, expected.images)
    assert torch.equal(batch.weights, expected.weights)
    one_hot = seeded(SnapMix)(images, F.one_hot(labels, 7).float(), model=net)
    torch.testing.assert_close(one_hot.weights, batch.weights)


def test_snapmix_reads_any_network_by_the_names_of_its_layers():
    images, labels = batch_of(4, (3, 32, 32))
    mix = seeded(SnapMix, feature="late", classifier="fc")
    assert mix(images, labels % 5, model=PlainNet()).weights.shape == (4, 2)
    with pytest.raises(ValueError, match="not a timm network"):
        seeded(SnapMix)(images, labels % 5, model=PlainNet())


def test_snapmix_refuses_values_and_labels_at_each_pixel():
    images = torch.randn(3, 3, 16, 16)
    with pytest.raises(ValueError, match="SnapMix takes class"):
        SnapMix()(images, torch.rand(3), guide=maps_of(3))
    with pytest.raises(ValueError, match="moves pixels"):
        SnapMix()(images, torch.zeros(3, 16, 16, dtype=torch.int64), guide=maps_of(3))


# Compiled ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["attentivemix", "snapmix"])
def test_policies_compile_as_one_graph(policy):
    x, partner, lam = torch.randn(3, 3, 24, 40), torch.randn(3, 3, 24, 40), torch.rand(3)
    given = {
        "attentivemix": (attentivemix, (x, partner, lam, maps_of(3))),
        "snapmix": (
            snapmix,
            (x, partner, lam, torch.rand(3), torch.rand(3, 2), torch.rand(3, 2), (maps_of(3), maps_of(3, seed=1))),
        ),
    }
    function, draws = given[policy]
    compiled, plain = torch.compile(function, backend="eager", fullgraph=True)(*draws), function(*draws)
    if policy == "snapmix":
        assert torch.equal(compiled[1], plain[1])
        compiled, plain = compiled[0], plain[0]
    for there, here in zip(compiled, plain, strict=True):
        assert torch.equal(there, here)
