"""AutoMix's Mix Block and SAMix's Mixer against their equations in loops, then the properties that follow from them."""

import itertools
from functools import partial

import numpy as np
import oracles_learned as oracles
import pytest
import torch
from tiny_networks import randomised

from samix.batch import Mixed
from samix.mixers.automix import AutoMixer
from samix.mixers.base import adjust_mask, attention_width, margin_mask, resize
from samix.mixers.samix import SAMixer, scale_lam

B, D, CELLS, SIZE = 3, 6, (3, 4), (7, 10)
LAMS = {"scalar": torch.full((B,), 0.3), "per_sample": torch.tensor([0.05, 0.5, 0.9])}


def features(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (B, D, *CELLS)))


def masks_of(mixer, z, index, lam, size=SIZE):
    projected = mixer.project(z)
    return mixer.predict_mask(projected, projected[index], lam, size)


# Against the equations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", LAMS.values(), ids=LAMS)
@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
@pytest.mark.parametrize("lam_channel", [True, False])
def test_automixer_equals_its_equations(lam_channel, upsample, lam):
    mixer = randomised(AutoMixer(D, lam_channel=lam_channel, upsample=upsample), 0.6)
    own, partner = features(), features()
    weights = oracles.weights_of(mixer)
    expected = oracles.automixer_masks(
        own.double().numpy(),
        partner.double().numpy(),
        lam.double().numpy(),
        weights,
        SIZE,
        lam_channel=lam_channel,
        upsample=upsample,
    )
    images, others = torch.randn(B, 3, *SIZE), torch.randn(B, 3, *SIZE)
    mixed = mixer(images, others, lam, (own, partner))
    np.testing.assert_allclose(mixed.mask.detach().numpy(), expected, atol=1e-5)
    assert expected.std() > 0.01  # the comparison is not one of constants
    blended = expected * images.numpy() + (1 - expected) * others.numpy()
    np.testing.assert_allclose(mixed.images.detach().numpy(), blended, atol=1e-5)
    assert torch.equal(mixed.lam, lam)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("gamma", "lam_scale", "activation", "norm", "upsample", "scale_content"),
    [
        *itertools.product(
            [1.0], [-1.0, 0.25], ["elu", "relu"], ["batch", "layer"], ["bilinear", "nearest"], [True, False]
        ),
        (0.0, -1.0, "elu", "batch", "bilinear", False),
        (0.4, 1.0, "relu", "batch", "bilinear", True),
        (None, -1.0, "relu", "layer", "bilinear", True),
    ],
)
def test_samixer_equals_its_equations(gamma, lam_scale, activation, norm, upsample, scale_content, training):
    options = {"activation": activation, "norm": norm, "upsample": upsample, "scale_content": scale_content}
    mixer = randomised(SAMixer(D, gamma=gamma, lam_scale=lam_scale, **options), 0.6).train(training)
    weights = oracles.weights_of(mixer)
    number = float(torch.as_tensor(mixer.gamma).detach())
    assert 0.0 < number < 1.0 or gamma is not None
    for lam in LAMS.values():
        own, partner = features(), features()
        expected = oracles.samixer_masks(
            own.double().numpy(),
            partner.double().numpy(),
            lam.double().numpy(),
            weights,
            SIZE,
            gamma=number,
            lam_scale=lam_scale,
            training=training,
            **options,
        )
        mask = mixer.predict_mask(mixer.project(own), mixer.project(partner), lam, SIZE)
        np.testing.assert_allclose(mask.detach().numpy(), expected, atol=1e-5)
        assert expected.std() > 0.01


def both_mixers() -> list:
    return [
        AutoMixer(D),
        AutoMixer(D, lam_channel=False, upsample="bilinear"),
        SAMixer(D),
        SAMixer(D, gamma=None, lam_scale=0.25, norm="layer", activation="relu", scale_content=True),
    ]


@pytest.mark.parametrize("mixer", both_mixers(), ids=["auto", "auto-no-lam", "sa", "sa-paper"])
def test_projecting_once_and_gathering_equals_projecting_each_pair(mixer):
    randomised(mixer).eval()
    z, index, lam = features(), torch.tensor([2, 0, 1]), LAMS["per_sample"]
    images = torch.randn(B, 3, *SIZE)
    direct = mixer(images, images[index], lam, (z, z[index]))
    assert isinstance(direct, Mixed)
    assert torch.allclose(mixer.project(z)[index], mixer.project(z[index]), atol=1e-6)
    assert torch.allclose(masks_of(mixer, z, index, lam), direct.mask, atol=1e-6)


@pytest.mark.parametrize("mixer", both_mixers(), ids=["auto", "auto-no-lam", "sa", "sa-paper"])
def test_a_mask_depends_on_its_own_pair_alone_in_eval_mode(mixer):
    randomised(mixer).eval()
    own, partner, lam = features(), features(), LAMS["per_sample"]
    mask = mixer.predict_mask(mixer.project(own), mixer.project(partner), lam, SIZE)
    order = torch.tensor([1, 2, 0])
    moved = mixer.predict_mask(mixer.project(own[order]), mixer.project(partner[order]), lam[order], SIZE)
    alone = mixer.predict_mask(mixer.project(own[1:2]), mixer.project(partner[1:2]), lam[1:2], SIZE)
    assert torch.allclose(moved, mask[order], atol=1e-6)
    assert torch.allclose(alone, mask[1:2], atol=1e-6)


def test_scaling_the_content_changes_nothing_in_training_and_something_in_eval_mode():
    plain = randomised(SAMixer(D))
    scaled = SAMixer(D, scale_content=True)
    scaled.load_state_dict(plain.state_dict())
    own, partner, lam = features(), features() * 3, torch.full((B,), 0.2)

    def difference(lam):
        masks = [m.predict_mask(m.project(own), m.project(partner), lam, SIZE) for m in (plain, scaled)]
        return (masks[0] - masks[1]).abs().max()

    assert difference(lam) < 1e-4
    assert difference(LAMS["per_sample"]) > 1e-3  # BatchNorm cancels only what all samples share
    plain.eval(), scaled.eval()
    assert difference(lam) > 1e-3


# Properties ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mixer", both_mixers(), ids=["auto", "auto-no-lam", "sa", "sa-paper"])
def test_masks_are_finite_shares_in_every_float_type_and_for_large_features(mixer, dtype, scale):
    randomised(mixer, 1.0)
    z = (features(4, D, *CELLS) * scale).clamp(-scale, scale).to(dtype)
    images, index, lam = torch.randn(4, 3, *SIZE).to(dtype), torch.tensor([1, 2, 3, 0]), torch.full((4,), 0.4)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        mixed = mixer(images, images[index], lam, (z, z[index]))
        loss = mixed.images.float().pow(2).mean()
    loss.backward()
    assert mixed.mask.dtype == torch.float32
    assert mixed.mask.shape == (4, 1, *SIZE)
    assert mixed.images.dtype == dtype
    assert torch.isfinite(mixed.images).all()
    assert ((mixed.mask >= 0) & (mixed.mask <= 1)).all()
    assert all(torch.isfinite(p.grad).all() for p in mixer.parameters() if p.grad is not None)


def test_attention_scores_beyond_half_precision_do_not_overflow():
    mixer = SAMixer(1024)  # at the width of a ResNet-50: the product of query and key is far above 65504
    z = torch.full((2, 1024, 2, 2), 1e3).half()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        query, key, _ = mixer.attend(mixer.project(z), mixer.project(z), torch.full((2,), 0.5))
        assert (query.float().transpose(1, 2) @ key.float()).abs().max() > 65504
        mask = masks_of(mixer, z, torch.tensor([1, 0]), torch.full((2,), 0.5))
    assert torch.isfinite(mask).all()


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_the_partners_logit_lies_within_its_content(upsample):
    mixer = randomised(SAMixer(D, upsample=upsample), 1.0)
    projected, lam = mixer.project(features()), LAMS["scalar"]
    content = mixer.attend(projected, projected.roll(1, 0), lam)[2]
    share = 1.0 - mixer.predict_mask(projected, projected.roll(1, 0), lam, (31, 17)).flatten(1)
    assert (share.amin(1) >= torch.sigmoid(content.amin(1)) - 1e-6).all()
    assert (share.amax(1) <= torch.sigmoid(content.amax(1)) + 1e-6).all()


def test_gamma_zero_makes_the_mask_independent_of_lam():
    z, index = features(), torch.tensor([1, 2, 0])
    for gamma, same in [(0.0, True), (0.5, False)]:
        mixer = randomised(SAMixer(D, gamma=gamma), 1.0)
        assert torch.equal(masks_of(mixer, z, index, torch.zeros(B)), masks_of(mixer, z, index, torch.ones(B))) is same
    learned = randomised(SAMixer(D, gamma=None), 1.0)
    with torch.no_grad():
        learned.gamma.zero_()
    assert torch.equal(masks_of(learned, z, index, torch.zeros(B)), masks_of(learned, z, index, torch.ones(B)))


def test_automixer_reads_lam_only_by_its_channel():
    z, index = features(), torch.tensor([1, 2, 0])
    for lam_channel in (True, False):
        mixer = randomised(AutoMixer(D, lam_channel=lam_channel), 1.0)
        equal = torch.equal(masks_of(mixer, z, index, torch.zeros(B)), masks_of(mixer, z, index, torch.ones(B)))
        assert equal is not lam_channel


@pytest.mark.parametrize(
    ("mixer", "count"),
    [
        (AutoMixer(256, lam_channel=False), 33_153),
        (AutoMixer(256), 33_282),
        (AutoMixer(1024), 526_338),
        (SAMixer(256), 164_480),
        (SAMixer(1024), 2_624_000),
        (SAMixer(256, gamma=None), 164_481),
    ],
)
def test_parameter_counts_are_the_published_ones(mixer, count):
    assert sum(p.numel() for p in mixer.parameters()) == count


@pytest.mark.parametrize("size", [(32, 32), (30, 47), (5, 3), (2, 2), (224, 160)])
@pytest.mark.parametrize("mixer", [AutoMixer(D), SAMixer(D)], ids=["auto", "sa"])
def test_masks_have_the_images_size_whatever_it_is(mixer, size):
    guides = features(2, D, 3, 4), features(2, D, 3, 4)
    mixed = mixer(torch.randn(2, 3, *size), torch.randn(2, 3, *size), torch.full((2,), 0.5), guides)
    assert mixed.mask.shape == (2, 1, *size)
    assert mixed.images.shape == (2, 3, *size)


def test_nearest_upsampling_commutes_with_the_sigmoid():
    logit = torch.randn(2, 1, 3, 4) * 5
    nearest = torch.sigmoid(resize(logit, (12, 9), "nearest")) - resize(torch.sigmoid(logit), (12, 9), "nearest")
    assert nearest.abs().max() < 1e-6
    smooth = torch.sigmoid(resize(logit, (12, 9), "bilinear")) - resize(torch.sigmoid(logit), (12, 9), "bilinear")
    assert smooth.abs().max() > 0.01


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("make", [AutoMixer, partial(AutoMixer, lam_channel=False), SAMixer])
def test_a_fresh_mixer_paints_one_half_everywhere(make, lam):
    mixer = make(256)
    mask = masks_of(mixer, features(4, 256, 4, 4), torch.tensor([1, 2, 3, 0]), torch.full((4,), lam), (16, 16))
    assert (mask.mean() - 0.5).abs() < 0.05  # the spread of random weights: 0.01 of each logit's 16 contents
    assert mask.std() < 0.05


@pytest.mark.parametrize("mixer", both_mixers(), ids=["auto", "auto-no-lam", "sa", "sa-paper"])
def test_an_image_mixed_with_itself_is_itself(mixer):
    randomised(mixer, 2.0)
    images, z = torch.randn(B, 3, *SIZE), features()
    assert torch.equal(mixer(images, images.clone(), LAMS["per_sample"], (z, features())).images, images)


@pytest.mark.parametrize("mixer", both_mixers(), ids=["auto", "auto-no-lam", "sa", "sa-paper"])
def test_every_mixer_parameter_has_a_gradient(mixer):
    randomised(mixer)
    masks_of(mixer, features(), torch.tensor([1, 2, 0]), LAMS["per_sample"]).square().sum().backward()
    dead = [name for name, p in mixer.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead


def test_a_mixer_leaves_its_inputs_as_they_were():
    mixer, lam = randomised(SAMixer(D)), LAMS["per_sample"]
    inputs = [torch.randn(B, 3, *SIZE), torch.randn(B, 3, *SIZE), lam.clone(), features(), features()]
    before = [value.clone() for value in inputs]
    mixer(*inputs[:3], (inputs[3], inputs[4]))
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True))


def test_dropout_acts_in_training_only():
    mixer = randomised(SAMixer(D, dropout=0.5), 1.0)
    z, index, lam = features(), torch.tensor([1, 2, 0]), LAMS["scalar"]
    assert not torch.equal(masks_of(mixer, z, index, lam), masks_of(mixer, z, index, lam))
    mixer.eval()
    assert torch.equal(masks_of(mixer, z, index, lam), masks_of(mixer, z, index, lam))


def test_a_learned_gamma_starts_at_zero_learns_and_stays_within_its_range():
    mixer = randomised(SAMixer(D, gamma=None))
    assert SAMixer(D, gamma=None).gamma == 0.0
    for value, kept in [(1.5, 1.0), (-0.2, 0.0), (0.3, 0.3)]:
        with torch.no_grad():
            mixer.gamma.fill_(value)
        mixer.after_step()
        assert mixer.gamma.item() == pytest.approx(kept)
    with torch.no_grad():
        mixer.gamma.zero_()
    masks_of(mixer, features(), torch.tensor([1, 2, 0]), LAMS["scalar"]).square().sum().backward()
    assert mixer.gamma.grad.abs() > 0  # at the edge of the range it can still leave


def test_scaled_lam_has_the_listed_values():
    lam = torch.linspace(0, 1, 101)
    assert torch.equal(scale_lam(lam, -1), lam)
    assert scale_lam(torch.tensor([0.1, 0.25]), 0.25).tolist() == pytest.approx([0.1823, 0.3571], abs=5e-5)
    for k in (0.0, 0.25, 1.0, 10.0):
        scaled = scale_lam(lam, k)
        assert scaled[[0, 50, 100]].tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1e-6)
        assert torch.allclose(scaled + scaled.flip(0), torch.ones(101), atol=1e-6)
        assert (scaled.diff() > 0).all() or k == 0.0  # k = 0 is flat at one half
        assert (scaled.diff() > -1e-6).all()
    with pytest.raises(ValueError, match="lam_scale must be -1"):
        scale_lam(lam, -0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guides": None}, "needs guides"),
        ({"guides": (torch.zeros(B, D + 1, 2, 2), torch.zeros(B, D, 2, 2))}, "guides must have shape"),
        ({"guides": (torch.zeros(B, D, 2, 2), torch.zeros(B + 1, D, 2, 2))}, "guides must have shape"),
        ({"guides": (torch.zeros(B, D, 4), torch.zeros(B, D, 4))}, "guides must have shape"),
        ({"partner": torch.zeros(B, 3, 8, 9)}, "partner must have x's shape"),
        ({"lam": torch.tensor(0.5)}, "lam must have shape"),
    ],
)
def test_wrong_input_to_a_mixer_is_named(change, message):
    images, z = torch.zeros(B, 3, 8, 8), torch.zeros(B, D, 2, 2)
    given = {"x": images, "partner": images, "lam": torch.full((B,), 0.5), "guides": (z, z)} | change
    with pytest.raises(ValueError, match=message):
        SAMixer(D)(**given)


def test_attention_has_half_the_channels_of_the_map():
    assert [attention_width(dim) for dim in (2, 7, 512)] == [1, 3, 256]


def test_a_mixer_of_one_channel_is_refused():
    with pytest.raises(ValueError, match="at least 2 feature channels"):
        AutoMixer(1)


# What is done to a mask ----------------------------------------------------------------------------------------------


def test_adjusted_masks_equal_the_two_cases_in_a_loop():
    mask, lam = torch.rand(6, 1, 5, 7), torch.tensor([0.0, 0.1, 0.4, 0.6, 0.9, 1.0])
    expected = [oracles.adjusted_mask(m.double().numpy(), float(share)) for m, share in zip(mask, lam, strict=True)]
    np.testing.assert_allclose(adjust_mask(mask, lam).numpy(), np.stack(expected), atol=1e-6)


@pytest.mark.parametrize("size", [1, 5])
def test_adjusted_masks_have_mean_lam_and_keep_range_and_order(size):
    mask, lam = torch.rand(size, 1, 16, 16) ** 2, torch.linspace(0.05, 0.95, size)
    adjusted = adjust_mask(mask, lam)
    assert torch.allclose(adjusted.mean((1, 2, 3)), lam, atol=1e-6)
    assert ((adjusted >= 0) & (adjusted <= 1)).all()
    order = mask.flatten(1).argsort(1)
    assert (adjusted.flatten(1).gather(1, order).diff(dim=1) >= 0).all()
    assert torch.allclose(adjust_mask(adjusted, lam), adjusted, atol=1e-6)


@pytest.mark.parametrize("start", ["zeros", "ones", "random", "binary", "nearly one"])
def test_adjusting_is_finite_at_both_ends_of_lam(start):
    masks = {
        "zeros": torch.zeros(4, 1, 6, 6),
        "ones": torch.ones(4, 1, 6, 6),
        "random": torch.rand(4, 1, 6, 6),
        "binary": (torch.rand(4, 1, 6, 6) < 0.5).float(),
        "nearly one": torch.full((4, 1, 6, 6), 1 - 2**-24),
    }
    lam = torch.tensor([0.0, 1.0, 0.3, 0.999])
    once = adjust_mask(masks[start], lam)
    twice = adjust_mask(once, lam)
    for adjusted in (once, twice):
        assert torch.isfinite(adjusted).all()
        assert torch.allclose(adjusted.mean((1, 2, 3)), lam, atol=1e-6)
    assert (once[0] == 0).all()
    assert (once[1] == 1).all()


def test_margin_replaces_masks_near_the_ends_of_lam_and_no_others():
    margin = 0.08
    lam = torch.tensor([0.0, 0.05, 0.08, 0.0801, 0.5, 0.9199, 0.92, 0.95, 1.0])
    mask = torch.rand(len(lam), 1, 3, 3)
    replaced = margin_mask(mask, lam, margin)
    for row, near in enumerate([True, True, True, False, False, False, True, True, True]):
        expected = torch.full((1, 3, 3), float(lam[row])) if near else mask[row]
        assert torch.equal(replaced[row], expected), float(lam[row])


def test_a_negative_margin_changes_nothing_and_one_half_changes_everything():
    mask, lam = torch.rand(3, 1, 4, 4), torch.tensor([0.0, 0.5, 1.0])
    assert torch.equal(margin_mask(mask, lam, -1.0), mask)
    assert torch.equal(margin_mask(mask, lam, 0.5), lam.view(-1, 1, 1, 1).expand_as(mask))


@pytest.mark.parametrize("option", [{"upsample": "bicubic"}, {"activation": "gelu"}, {"norm": "instance"}])
def test_an_unknown_choice_is_refused_with_the_known_ones(option):
    with pytest.raises(ValueError, match="must be one of"):
        SAMixer(8, **option)
