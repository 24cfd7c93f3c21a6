"""Adversarial AutoMix: its masks by loops, its step by hand, whose gradient goes where, and the turn of its steps."""

import copy
import dataclasses

import numpy as np
import oracles_learned as oracles
import pytest
import torch
import torch.nn.functional as F
from runs import fit, run_differences, small_recipe
from tiny_networks import PlainNet, randomised, tiny_cnn, tiny_vit

from samix.methods.adautomix import ADAUTOMIX_PRESETS, AdAutoMix, AdAutoMixOptions, mix_sources, normalised
from samix.methods.learned import Draw
from samix.mixers.adversarial import AdversarialMixer
from samix.train import Run

NETWORKS = {
    "cnn": (tiny_cnn, {}, (32, 32)),
    "vit": (lambda: tiny_vit(img_size=(32, 48)), {}, (32, 48)),
    "plain": (PlainNet, {"feature": "body"}, (28, 20)),
}


def build(kind="cnn", seed=0, preset="reference", **options):
    """A method whose generator and averaged copy have weights of their own, and a batch of 6."""
    torch.manual_seed(seed)
    make, names, size = NETWORKS[kind]
    options = dataclasses.replace(ADAUTOMIX_PRESETS[preset], **options)
    method = AdAutoMix(make(), 5, options, generator=torch.Generator().manual_seed(seed), **names)
    randomised(method.mixer, 0.5)
    with torch.no_grad():
        for parameter in method.ema_model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return method, (torch.randn(6, 3, *size), torch.tensor([0, 1, 2, 3, 4, 0]))


def draw_of(samples, seed, margin=False):
    generator = torch.Generator().manual_seed(seed)
    lam = torch.rand(6, samples, generator=generator)
    if margin:
        lam[:2, 0] = 0.0  # plain where the own share is next to nothing
        lam[2:4, 1:] *= 1e-3  # and where it is nearly all
    index = [torch.arange(6), *(torch.randperm(6, generator=generator) for _ in range(samples - 1))]
    return Draw(normalised(lam), torch.stack(index, dim=1))


def force(method, *draws):
    queue = list(draws)
    method.draw = lambda size, device: queue.pop(0)


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def close(one, other, **tolerance):
    return one.keys() == other.keys() and all(torch.allclose(one[name], other[name], **tolerance) for name in one)


# The generator -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [2, 3, 4])
@pytest.mark.parametrize("lam_channel", [True, False])
@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
def test_masks_equal_their_loop_and_sum_to_one(samples, lam_channel, upsample):
    mixer = randomised(AdversarialMixer(6, lam_channel=lam_channel, upsample=upsample), 0.7)
    maps = [torch.randn(2, 6, 3, 2) for _ in range(samples)]
    lam = normalised(torch.rand(2, samples))
    masks = mixer.predict_masks([mixer.project(z) for z in maps], lam, (7, 5))
    arrays = [z.double().numpy() for z in maps]
    expected = oracles.adversarial_masks(
        arrays, lam.double().numpy(), oracles.weights_of(mixer), (7, 5), lam_channel=lam_channel, upsample=upsample
    )
    torch.testing.assert_close(masks.double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 7, 5))
    assert masks.min() > 0
    assert masks.std() > 0.01
    other = mixer.predict_masks([mixer.project(z) for z in maps], lam.roll(1, 1), (7, 5))
    assert torch.allclose(masks, other, atol=1e-4) != lam_channel  # masks follow lam by its channel alone


def test_the_order_of_the_images_does_not_matter():
    mixer = randomised(AdversarialMixer(6), 0.7)
    projected = [mixer.project(torch.randn(2, 6, 3, 3)) for _ in range(3)]
    lam = normalised(torch.rand(2, 3))
    masks = mixer.predict_masks(projected, lam, (6, 6))
    order = [2, 0, 1]
    swapped = mixer.predict_masks([projected[i] for i in order], lam[:, order], (6, 6))
    torch.testing.assert_close(swapped, masks[:, order])
    own = mixer.predict_mask(projected[0], projected[1], lam[:, 0], (6, 6))
    partner = mixer.predict_mask(projected[1], projected[0], 1 - lam[:, 0], (6, 6))
    torch.testing.assert_close(own + partner, torch.ones(2, 1, 6, 6))
    pair = torch.stack([lam[:, 0], 1 - lam[:, 0]], dim=1)
    torch.testing.assert_close(own, mixer.predict_masks(projected[:2], pair, (6, 6))[:, :1])  # of the first image


def test_first_masks_are_alike_and_equal_images_share_alike():
    mixer = AdversarialMixer(8)
    z = [mixer.project(torch.randn(2, 8, 4, 4)) for _ in range(3)]
    first = mixer.predict_masks(z, torch.full((2, 3), 1 / 3), (8, 8))
    torch.testing.assert_close(first, torch.full((2, 3, 8, 8), 1 / 3), atol=0.02, rtol=0)
    randomised(mixer)
    alike = mixer.predict_masks([z[0], z[0]], torch.full((2, 2), 0.5), (8, 8))
    torch.testing.assert_close(alike, torch.full((2, 2, 8, 8), 0.5))


def test_masks_are_finite_float32_under_autocast_and_for_large_features():
    mixer = randomised(AdversarialMixer(8), 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        z = [mixer.project(1e3 * torch.randn(2, 8, 4, 4)) for _ in range(3)]
        masks = mixer.predict_masks(z, torch.full((2, 3), 1 / 3), (8, 8))
    assert masks.dtype == torch.float32
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 8, 8))
    with pytest.raises(ValueError, match="upsample must be one of nearest, bilinear"):
        AdversarialMixer(8, upsample="cubic")


# The draws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [2, 3, 5])
@pytest.mark.parametrize("per_sample", [False, True])
def test_shares_sum_to_one_and_the_first_image_is_the_own(samples, per_sample):
    method, _ = build(samples=samples, per_sample=per_sample, pairing="cycle")
    draw = method.draw(6, torch.device("cpu"))
    assert draw.lam.shape == draw.index.shape == (6, samples)
    torch.testing.assert_close(draw.lam.sum(1), torch.ones(6))
    assert draw.lam.min() >= 0
    assert (len(draw.lam.unique(dim=0)) == 6) == per_sample
    assert torch.equal(draw.index[:, 0], torch.arange(6))
    for column in draw.index[:, 1:].unbind(1):
        assert sorted(column.tolist()) == list(range(6))
        assert (column != torch.arange(6)).all()
    assert not torch.equal(draw.lam, method.draw(6, torch.device("cpu")).lam)


def test_shares_of_draws_that_are_all_zero_are_alike():
    torch.testing.assert_close(normalised(torch.zeros(2, 4)), torch.full((2, 4), 0.25))
    torch.testing.assert_close(normalised(torch.tensor([[1.0, 3.0]])), torch.tensor([[0.25, 0.75]]))


def test_the_mix_is_the_weighed_sum():
    images, labels, draw = torch.randn(6, 3, 4, 5), torch.arange(6), draw_of(3, 0)
    masks = torch.rand(6, 3, 4, 5).softmax(1)
    batch = mix_sources(images, labels, draw, masks)
    for b in range(6):
        expected = sum(masks[b, s] * images[draw.index[b, s]] for s in range(3))
        torch.testing.assert_close(batch.images[b], expected)
    assert torch.equal(batch.labels, draw.index)
    assert torch.equal(batch.weights, draw.lam)
    assert torch.equal(batch.mask, masks[:, :1])  # of the own image, which stands first
    assert mix_sources(images.bfloat16(), labels, draw, masks).images.dtype == torch.bfloat16


# The step ------------------------------------------------------------------------------------------------------------


def by_hand(method, batch, classification, generation):
    """The step's losses from the equations, in NumPy but for the networks themselves."""
    o, (images, labels) = method.options, batch
    weights, y = oracles.weights_of(method.mixer), labels.numpy()
    online, slow = (copy.deepcopy(net) for net in (method.model, method.ema_model))
    with torch.no_grad():
        z = slow.feature_map(images)

    def masks_of(draw):
        maps = [z[rows].double().numpy() for rows in draw.index.unbind(1)]
        size = tuple(images.shape[2:])
        return oracles.adversarial_masks(
            maps, draw.lam.double().numpy(), weights, size, lam_channel=o.lam_channel, upsample=o.upsample
        )

    def mixed(masks, draw):
        sources = images.numpy()[draw.index.numpy()]  # (B, S, C, H, W)
        return torch.from_numpy((masks[:, :, None] * sources).sum(1)).float()

    def logits_of(head, x):
        with torch.no_grad():
            return head(x).double().numpy()

    def loss_of(logits, draw, smoothing=0.0):
        total = 0.0
        for u, rows, shares in zip(logits, draw.index.numpy(), draw.lam.double().numpy(), strict=True):
            for row, share in zip(rows, shares, strict=True):
                target = (1 - smoothing) * np.eye(5)[y[row]] + smoothing / 5
                total += share * oracles.cross_entropy(u, target)
        return total / len(logits)

    parts = {
        "clean": oracles.soft_cross_entropy(
            logits_of(online.clean, images), np.eye(5)[y] * (1 - o.smoothing) + o.smoothing / 5
        )
    }
    masks, plain = (
        masks_of(classification),
        np.broadcast_to(classification.lam.double().numpy()[:, :, None, None], (6, o.samples, *images.shape[2:])),
    )
    own = classification.lam[:, 0].numpy()
    near = np.minimum(own, 1 - own) <= o.lam_margin
    masks = np.where(near[:, None, None, None], plain, masks)
    parts["mixed"] = loss_of(logits_of(online.mixed, mixed(masks, classification)), classification, o.smoothing)
    if o.samples > 2:
        parts["linear"] = loss_of(logits_of(online.mixed, mixed(plain, classification)), classification, o.smoothing)
    judged = logits_of(slow.mixed, mixed(masks_of(generation), generation))
    parts["generation"] = loss_of(judged, generation, o.smoothing)
    sources, total = logits_of(slow.mixed, images), 0.0
    for u, rows, shares in zip(judged, generation.index.numpy(), generation.lam.double().numpy(), strict=True):
        total += sum(share * oracles.cosine(u, sources[row]) for row, share in zip(rows, shares, strict=True))
    rho = o.linear_weight
    network = parts["mixed"] + ((1 - rho) * parts["clean"] + rho * parts["linear"] if o.samples > 2 else parts["clean"])
    against = -o.beta * parts["generation"] + (1 - o.beta) * o.cos_sign * total / 6
    return parts, network + parts["generation"], network + against


@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"samples": 2, "beta": 0.1, "cos_sign": -1},
        {"samples": 4, "linear_weight": 0.2, "lam_channel": False, "upsample": "nearest", "smoothing": 0.1},
        {"bn_statistics": "both", "lam_margin": -1.0},
    ],
)
def test_a_step_equals_the_algorithm_by_hand(options, margin):
    method, batch = build(**options)
    draws = [draw_of(method.options.samples, seed, margin) for seed in (3, 4)]
    parts, cooperative, adversarial = by_hand(method, batch, *draws)
    for step, total in ((0, adversarial), (1, cooperative), (2, adversarial)):
        method.step = step
        force(method, *draws)
        loss, found = method(batch)
        assert set(found) == {*parts, "mask_std", "mask_error"}
        for name, part in parts.items():
            assert float(found[name]) == pytest.approx(part, rel=1e-4, abs=1e-5), name
        assert float(loss.detach()) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("samples", [2, 3])
def test_soft_and_multi_hot_labels_have_the_loss_of_their_kind(samples):
    images = build()[1][0]
    soft, hot = torch.rand(6, 5).softmax(1), (torch.rand(6, 5) > 0.4).float()
    hot[0] = 1.0
    draw = draw_of(samples, 3)
    for labels, loss in ((soft, F.cross_entropy), (hot, F.binary_cross_entropy_with_logits)):
        method, _ = build(samples=samples)
        force(method, draw, draw)
        seen = []
        run = method.ema_model.mixed
        method.ema_model.mixed = lambda x, run=run, seen=seen: seen.append(run(x)) or seen[-1]
        _, parts = method(images, labels)
        target = (draw.lam[:, :, None] * labels[draw.index]).sum(1)
        assert float(parts["generation"]) == pytest.approx(float(loss(seen[0].detach(), target)), rel=1e-5)


def test_the_cosine_of_a_mix_with_itself_is_one():
    method, (images, labels) = build(samples=3, beta=0.0)
    rows = torch.arange(6)[:, None].expand(6, 3)
    force(method, Draw(torch.full((6, 3), 1 / 3), rows))  # every image is mixed with itself
    projected = method.mixer.project(method.feature_map(images))
    _, loss, _ = method.adversarial_losses(images, labels, projected)
    assert float(loss.detach()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("samples", [2, 3])
@pytest.mark.parametrize("step", [0, 1])
def test_each_network_learns_from_its_own_branch_alone(kind, samples, step):
    draws = [draw_of(samples, 3), draw_of(samples, 4)]

    def fresh(*given):
        method, batch = build(kind, samples=samples)
        method.step = step
        force(method, *given)
        return method, *batch

    whole, images, labels = fresh(*draws)
    whole((images, labels))[0].backward()
    assert gradients(whole.ema_model) == {}

    first, *_ = fresh(draws[0])  # clean, mixed and linear images: the network, and nothing else
    mixed, linear = first.classification_losses(images, labels, first.mixer.project(first.feature_map(images)).detach())
    clean = F.cross_entropy(first.model.clean(images), labels)
    (mixed + clean if linear is None else mixed + 0.5 * clean + 0.5 * linear).backward()
    assert gradients(first.mixer) == gradients(first.ema_model) == {}
    assert close(gradients(first.model), gradients(whole.model), atol=1e-6)

    second, *_ = fresh(draws[1])  # the generator's branch: the generator, and nothing else
    second.adversarial_losses(images, labels, second.mixer.project(second.feature_map(images)))[1].backward()
    assert gradients(second.model) == gradients(second.ema_model) == {}
    assert close(gradients(second.mixer), gradients(whole.mixer), atol=1e-6)
    assert all(grad.abs().max() > 0 for grad in gradients(second.mixer).values())


def test_in_adversarial_steps_the_generator_raises_the_loss_and_in_others_lowers_it():
    for step, rises in ((0, True), (1, False)):
        method, (images, labels) = build(beta=1.0)
        method.step = step
        draw = draw_of(3, 5)
        method.draw = lambda size, device, draw=draw: draw
        optimizer = torch.optim.SGD(method.mixer.parameters(), lr=0.05)
        values = []
        for _ in range(20):
            ce, loss, _ = method.adversarial_losses(images, labels, method.mixer.project(method.feature_map(images)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(float(ce.detach()))
        assert (values[-1] > values[0] + 0.005) == rises
        assert (values[-1] < values[0] - 0.005) != rises


@pytest.mark.parametrize(
    ("interval", "turns"), [(2, [1, 0, 1, 0, 1]), (3, [1, 0, 0, 1, 0]), (1, [1, 1, 1, 1, 1]), (0, [0, 0, 0, 0, 0])]
)
def test_steps_take_turns_by_the_count_of_optimiser_steps(interval, turns):
    method, batch = build(interval=interval)
    found = []
    for number in range(5):
        found.append(int(method.adversarial))
        method(batch)
        method(batch)  # accumulated: not a step of its own
        assert int(method.get_extra_state()[0]) == method.step == number
        method.after_step(0.1)
    assert found == turns


def test_the_turn_is_part_of_the_state():
    method, batch = build()
    method.after_step(0.1)
    other, _ = build(seed=1)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    assert other.step == 1
    assert not other.adversarial
    third = copy.deepcopy(other)
    third.after_step(0.2)
    assert (third.step, other.step) == (2, 1)
    third.load_state_dict(other.state_dict())
    assert (third.step, other.step) == (1, 1)
    force(method, draw_of(3, 1), draw_of(3, 2))
    force(other, draw_of(3, 1), draw_of(3, 2))
    assert torch.equal(method(batch)[0], other(batch)[0])


class Killed(BaseException):
    """Stands for kill -9."""


def test_a_run_that_was_killed_and_resumed_ends_as_one_that_never_was(tmp_path, monkeypatch):
    """From step 5, which is cooperative: a count that started anew would make it adversarial."""
    recipe = small_recipe("adautomix", device_data=True, workers=0)
    whole = fit(recipe, tmp_path / "whole")
    train_step = Run.train_step

    def killed_at_seven(run, batch):
        if run.step == 7:
            raise Killed
        train_step(run, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_step", killed_at_seven)
        with pytest.raises(Killed):
            fit(recipe, tmp_path / "cut")
    assert torch.load(tmp_path / "cut/run/last.pt", weights_only=True)["step"] == 5
    assert run_differences(whole, fit(recipe, tmp_path / "cut", resume=True)) == []


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("preset", ["reference", "paper"])
@pytest.mark.parametrize("samples", [2, 3])
def test_the_bare_loop_trains_any_network_and_gives_it_back(kind, preset, samples):
    method, batch = build(kind, preset=preset, samples=samples)
    given = copy.deepcopy(method.model.backbone.model.state_dict())
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.05), momentum=0.9)
    before = copy.deepcopy(method.mixer.state_dict())
    for step in range(3):
        slow = copy.deepcopy(dict(method.ema_model.named_parameters()))
        loss, _ = method(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert all(torch.equal(p, slow[n]) for n, p in method.ema_model.named_parameters())
        method.after_step(step / 3)
        assert loss.isfinite()
    assert all((before[n] != value).any() for n, value in method.mixer.state_dict().items())
    exported = method.export()
    assert exported.state_dict().keys() == given.keys()
    assert exported(batch[0]).shape == (6, 5)
    assert next(iter(method.predict(batch[0]))) == "ema"


@pytest.mark.parametrize("samples", [2, 3])
def test_a_preview_shows_pairs_for_any_number_of_images_and_changes_nothing(samples):
    method, (images, labels) = build(samples=samples)
    state, draws = copy.deepcopy(method.state_dict()), method.generator.get_state()
    index = torch.tensor([1, 2, 3, 4, 5, 0])
    batch = method.preview(images, labels, 0.3, index)
    assert batch.mask.shape == (6, 1, 32, 32)
    torch.testing.assert_close(batch.images, batch.mask * images + (1 - batch.mask) * images[index])
    assert torch.equal(batch.index[:, 1], index)
    assert all(torch.equal(value, state[name]) for name, value in method.state_dict().items())
    assert torch.equal(draws, method.generator.get_state())
    assert method.training


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("samples", [2, 3])
def test_a_batch_may_be_small_or_odd(size, samples):
    method, _ = build("vit", samples=samples, pairing="cycle")
    loss, _ = method((torch.randn(size, 3, 32, 48), torch.arange(size) % 5))
    loss.backward()
    assert loss.isfinite()


def test_a_step_under_bfloat16_is_finite_and_keeps_losses_in_float32():
    method, batch = build()
    with torch.autocast("cpu", torch.bfloat16):
        loss, parts = method(batch)
    assert loss.dtype == torch.float32
    assert all(part.isfinite() for part in parts.values())


def test_one_seed_gives_one_run_and_draws_come_from_the_methods_generator_only():
    runs = []
    for seed in (0, 0, 1):
        method, batch = build()
        method.generator.manual_seed(seed)
        before = torch.get_rng_state()
        runs.append([float(method(batch)[0].detach()) for _ in range(3)])
        assert torch.equal(before, torch.get_rng_state())
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, r"samples must be a whole number in \[2, 2\^31\), got 1"),
        ({"pairing": "flip"}, "the same partner every time"),
        ({"beta": 1.5}, r"beta must be in \[0, 1\], got 1.5"),
        ({"linear_weight": -0.5}, r"linear_weight must be in \[0, 1\]"),
        ({"interval": -1}, r"interval must be a whole number in \[0, 2\^31\)"),
        ({"cos_sign": 0}, "cos_sign must be one of -1, 1; got 0"),
        ({"alpha": 0.0}, r"alpha must be in \(0, inf\)"),
        ({"ema_decay": 2.0}, r"ema_decay must be in \[0, 1\]"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AdAutoMixOptions(**options)


def test_options_that_have_no_effect_are_not_there():
    names = {f.name for f in dataclasses.fields(AdAutoMixOptions)}
    assert not [name for name in names if name.startswith("mask_") or name in ("eta", "adjust_prob")]
    AdAutoMixOptions(samples=2, pairing="flip")
