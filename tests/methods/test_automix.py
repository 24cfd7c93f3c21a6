"""AutoMix's and SAMix's step: equal to the algorithm by hand, gradients where they belong, no state moved that should
not be.

``python tests/methods/test_automix.py`` prints the golden losses, for a change that is meant to change them.
"""

import copy
import dataclasses
import math

import numpy as np
import oracles_learned as oracles
import pytest
import torch
import torch.nn.functional as F
from timm.models.resnet import ResNet
from tiny_networks import PlainNet, randomised, tiny_cnn, tiny_vit
from torch import nn

import samix
from samix.methods.automix import AutoMix, AutoMixOptions
from samix.methods.learned import Draw, mask_report
from samix.methods.options import mask_schedule
from samix.methods.samix import SAMix, SAMixOptions

NETWORKS = {
    "cnn": (tiny_cnn, {}, (32, 32)),
    "vit": (lambda: tiny_vit(img_size=(32, 48)), {}, (32, 48)),
    "plain": (PlainNet, {"feature": "body"}, (28, 20)),
}
PARTS = ["clean", "mixed", "generation", "mask"]


def build(kind="cnn", cls=SAMix, seed=0, preset="reference", spread=True, **options):
    """A method and a batch of 6; ``spread`` gives its Mixer and its averaged copy weights of their own."""
    torch.manual_seed(seed)
    make, names, size = NETWORKS[kind]
    options = dataclasses.replace(cls.presets[preset], **options)
    method = cls(make(), 5, options, generator=torch.Generator().manual_seed(seed), **names)
    if spread:
        randomised(method.mixer, 0.5)
        with torch.no_grad():
            for parameter in method.ema_model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return method, (torch.randn(6, 3, *size), torch.tensor([0, 1, 2, 3, 4, 0]))


def force(method, *draws):
    """Lets a step draw these (lam, index) in turn: first the classification branch, then the generation branch."""
    queue = [Draw(torch.as_tensor(lam), torch.as_tensor(index)) for lam, index in draws]
    draws = list(queue)
    method.draw = lambda size, device: queue.pop(0)
    return draws


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module, before):
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def close(one, other, **tolerance):
    return one.keys() == other.keys() and all(torch.allclose(one[name], other[name], **tolerance) for name in one)


def train(method, batch, steps=3, lr=0.05):
    optimizer = torch.optim.SGD(method.parameter_groups(lr=lr), momentum=0.9)
    losses = []
    for step in range(steps):
        loss, _ = method(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step / steps)
        losses.append(loss.item())
    return losses


# The promise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("method", ["SAMix", "AutoMix"])
def test_the_loop_of_the_readme_trains_any_network_and_gives_it_back(kind, method):
    make, names, size = NETWORKS[kind]
    model = make()
    given = state(model)
    loader = [(torch.randn(4, 3, *size), torch.randint(5, (4,))) for _ in range(3)]

    method = getattr(samix, method)(model, num_classes=5, **names)
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.1), momentum=0.9)
    for step, batch in enumerate(loader):
        loss, parts = method(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step / len(loader))
    exported = method.export()

    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert set(PARTS) <= set(parts)
    assert not any(part.requires_grad for part in parts.values())
    assert type(exported) is type(model)
    assert exported.state_dict().keys() == given.keys()
    assert not exported.training
    assert exported(loader[0][0]).shape == (4, 5)
    assert all((model.state_dict()[name] != value).any() for name, value in given.items() if name.endswith("fc.weight"))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("cls", [AutoMix, SAMix])
@pytest.mark.parametrize("preset", ["reference", "paper", "fast"])
def test_every_preset_trains_every_trainable_parameter(kind, cls, preset):
    method, batch = build(kind, cls, preset=preset)
    loss, _ = method(batch)
    loss.backward()
    grouped = [p for group in method.parameter_groups(lr=0.1) for p in group["params"]]
    unused = {"model.backbone.model.aside.weight", "model.backbone.model.aside.bias"}
    for name, parameter in method.named_parameters():
        if name.startswith("ema_model."):
            assert parameter.grad is None, name
            assert not any(parameter is p for p in grouped), name
        elif name not in unused:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert any(parameter is p for p in grouped), name
    assert len(grouped) == len({id(p) for p in grouped})


# The step by hand ----------------------------------------------------------------------------------------------------


def mixed_head(heads):
    return {name: heads.mixed_head[f"fc/{name}"] for name in ("weight", "bias")}


def by_hand(method, batch, classification, generation, adjusted):
    """The four parts of AutoMix's loss for a tiny CNN, in float64, from the pieces of the networks and plain loops."""
    o, (images, labels) = method.options, batch
    x, y = images.double(), labels.numpy()
    online, slow = (copy.deepcopy(heads).double() for heads in (method.model, method.ema_model))

    def features(model):
        stem = model.maxpool(model.act1(model.bn1(model.conv1(x))))
        return model.layer3(model.layer2(model.layer1(stem))).detach().numpy()

    def logits(heads, head, images):
        pooled = heads.model.forward_features(images).mean((2, 3))
        return (pooled @ head["weight"].T + head["bias"]).detach().numpy()

    z, weights, size = features(slow.backbone.model), oracles.weights_of(method.mixer), tuple(x.shape[2:])

    def masks(draw):
        own, partner, lam = z, z[draw.index.numpy()], draw.lam.double().numpy()
        if isinstance(o, AutoMixOptions):
            kinds = {"lam_channel": o.lam_channel, "upsample": o.upsample}
            return oracles.automixer_masks(own, partner, lam, weights, size, **kinds)
        kinds = {name: getattr(o, name) for name in ("lam_scale", "activation", "norm", "upsample")}
        return oracles.samixer_masks(
            own, partner, lam, weights, size, gamma=o.gamma, scale_content=False, training=True, **kinds
        )

    def mixed(mask, draw):
        mask = torch.from_numpy(mask)
        return mask * x + (1 - mask) * x[draw.index]

    q_masks = masks(classification)
    for mask, lam in zip(q_masks, classification.lam.double().tolist(), strict=True):
        if adjusted:
            mask[:] = oracles.adjusted_mask(mask, lam)
        if min(lam, 1 - lam) <= o.lam_margin:
            mask[:] = lam
    lam, partner = classification.lam.double().numpy(), y[classification.index]
    seen = logits(online, mixed_head(online), mixed(q_masks, classification))
    clean = logits(online, dict(online.model.fc.named_parameters()), x)
    parts = {
        "clean": oracles.mixed_cross_entropy(clean, y, y, np.ones(len(y)), o.smoothing),
        "mixed": oracles.mixed_cross_entropy(seen, y, partner, lam, o.smoothing),
    }
    k_masks, lam, partner = masks(generation), generation.lam.double().numpy(), y[generation.index]
    judged = logits(slow, mixed_head(slow), mixed(k_masks, generation))
    parts["generation"] = oracles.mixed_cross_entropy(judged, y, partner, lam, o.smoothing)
    if o.eta is not None:
        parts["generation"] = oracles.local_cross_entropy(judged, y, partner, lam) + o.eta * parts["generation"]
    parts["mask"] = oracles.mask_mean_loss(k_masks, lam, o.mask_margin, o.mask_over_batch)
    parts["mask"] -= o.mask_variance * oracles.mask_variance(k_masks, o.mask_over_batch)
    return parts


PER_SAMPLE = {"mask_over_batch": False, "mask_margin": 0.0, "smoothing": 0.1}
SHARES = {
    "scalar": (torch.full((6,), 0.3), torch.full((6,), 0.6)),
    "margin": (torch.full((6,), 0.05), torch.full((6,), 0.97)),
    "per sample": (torch.tensor([0.0, 0.08, 0.2, 0.5, 0.91, 0.93]), torch.tensor([1.0, 0.9, 0.02, 0.4, 0.5, 0.6])),
}


@pytest.mark.parametrize("lams", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (AutoMix, {}),
        (AutoMix, {"lam_channel": False, "upsample": "bilinear"} | PER_SAMPLE),
        (AutoMix, {"eta": 0.1, "adjust_prob": 1.0, "mask_variance": 2.0, "bn_statistics": "both"}),
        (SAMix, {}),
        (SAMix, {"lam_scale": 0.25, "eta": 0.5} | PER_SAMPLE),
        (SAMix, {"adjust_prob": 1.0, "activation": "relu", "norm": "layer", "lam_margin": 0.03}),
        (SAMix, {"gamma": 0.5, "adjust_prob": 1.0, "lam_margin": -1.0, "upsample": "nearest", "bn_statistics": "both"}),
    ],
)
def test_a_step_equals_the_algorithm_by_hand(cls, options, lams):
    method, batch = build(cls=cls, **options)
    # With a fixed point, and in the second a pair of one class.
    indices = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([5, 4, 0, 2, 1, 3])
    draws = force(method, *zip(lams, indices, strict=True))
    expected = by_hand(method, batch, *draws, adjusted=method.options.adjust_prob == 1.0)
    loss, parts = method(batch)
    for name in PARTS:
        assert float(parts[name]) == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name
    total = sum(expected[name] for name in PARTS[:3]) + method.options.mask_weight * expected["mask"]
    assert loss.item() == pytest.approx(total, rel=1e-4)


def test_each_branch_draws_its_own_lam_and_pairs():
    method, batch = build()
    draws, draw = [], method.draw
    method.draw = lambda *arguments: draws.append(draw(*arguments)) or draws[-1]
    for _ in range(4):
        method(batch)
    assert len(draws) == 8
    assert len({float(d.lam[0]) for d in draws}) == 8
    assert len({tuple(d.index.tolist()) for d in draws}) > 4
    for d in draws:
        assert d.lam.shape == d.index.shape == (6,)
        assert sorted(d.index.tolist()) == list(range(6))
        assert (d.lam == d.lam[0]).all()
    method, batch = build(per_sample=True, pairing="cycle")
    d = method.draw(6, torch.device("cpu"))
    assert len(set(d.lam.tolist())) == 6
    assert (d.index != torch.arange(6)).all()


def test_masks_are_adjusted_as_often_as_asked(monkeypatch):
    calls = []
    for prob in (0.0, 0.25, 1.0):
        method, _ = build(adjust_prob=prob)
        calls.append(sum(bool(method.bernoulli(prob, torch.device("cpu"))) for _ in range(400)) / 400)
    assert calls[0] == 0.0
    assert calls[1] == pytest.approx(0.25, abs=0.07)
    assert calls[2] == 1.0


@pytest.mark.parametrize("cls", [AutoMix, SAMix])
def test_constant_masks_are_lam_and_change_no_draw_and_teach_the_mixer_nothing(cls):
    learned, batch = build(cls=cls)
    control, _ = build(cls=cls, constant_masks=True)
    draws = {}
    for method in (learned, control):
        drawn, draw = draws.setdefault(method, []), method.draw
        method.draw = lambda *arguments, drawn=drawn, draw=draw: drawn.append(draw(*arguments)) or drawn[-1]
    losses = {method: method(batch) for method in (learned, control)}
    for one, other in zip(draws[learned], draws[control], strict=True):
        assert torch.equal(one.lam, other.lam)
        assert torch.equal(one.index, other.index)
    assert losses[learned][1]["clean"] == losses[control][1]["clean"]
    assert losses[learned][1]["mixed"] != losses[control][1]["mixed"]
    losses[control][0].backward()
    assert all(not parameter.grad.any() for parameter in control.mixer.parameters())
    mixed = control.preview(*batch, 0.3, torch.arange(6).roll(1))
    assert torch.equal(mixed.mask, torch.full_like(mixed.mask, 0.3))


def test_the_report_has_the_spread_within_masks_and_the_distance_of_their_means_from_lam():
    masks = torch.stack([torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.full((2, 2), 0.8)]).unsqueeze(1)  # (2, 1, 2, 2)
    report = mask_report(masks, torch.tensor([[0.7], [0.5]]))
    assert float(report["mask_std"]) == pytest.approx((1 / 3) ** 0.5 / 2)  # of 0, 1, 0, 1 without bias, and of none
    assert float(report["mask_error"]) == pytest.approx((0.2 + 0.3) / 2)


def test_the_losses_do_not_depend_on_the_statistics_option():
    values = []
    for statistics in ("clean", "both"):
        method, batch = build(bn_statistics=statistics)
        force(method, *[(torch.full((6,), 0.4), torch.arange(6).roll(1))] * 2)
        values.append(method(batch)[0].item())
    assert values[0] == values[1]


@pytest.mark.parametrize("steps", [2000, 60_000, 500_400])  # the last: ImageNet for 100 epochs
def test_the_warm_up_of_the_mask_loss_is_the_released_hook_at_every_length_of_a_run(steps):
    """The hook multiplies the weight by a cosine at each iteration, so what is left depends on the run's length."""
    weight, left = 1.0, {}
    for step in range(steps // 8):
        weight *= (1 + math.cos(math.pi * step / steps)) / 2
        left[step] = weight
    assert left[steps // 8 - 1] < 0.05
    for step in range(0, steps // 8, steps // 400):
        assert mask_schedule("warmup", step / steps, step) == pytest.approx(left[step], abs=0.01)


def test_the_mask_weight_follows_its_schedule():
    courses = {"constant": (1.0, 1.0), "linear": (0.5, 0.0), "cosine": (0.5, 0.0), "warmup": (0.0, 0.0)}
    for name, (halfway, end) in courses.items():
        assert mask_schedule(name, 0.0, 0) == 1.0
        assert mask_schedule(name, 0.5, 5000) == pytest.approx(halfway, abs=1e-9)
        assert mask_schedule(name, 1.0, 10000) == pytest.approx(end, abs=1e-9)
    with pytest.raises(ValueError, match="mask_schedule must be one of constant, linear, cosine, warmup; got 'sudden'"):
        mask_schedule("sudden", 0.5, 1)
    method, batch = build(mask_schedule="linear")
    method.after_step(0.75)
    loss, parts = method(batch)
    assert loss.item() == pytest.approx(float(sum(parts[name] for name in PARTS[:3]) + 0.025 * parts["mask"]), rel=1e-6)


# Gradients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("cls", [AutoMix, SAMix])
def test_each_network_learns_from_its_own_branch_alone(kind, cls):
    draws = [(torch.full((6,), 0.3), torch.arange(6).roll(1)), (torch.full((6,), 0.6), torch.arange(6).roll(2))]

    def fresh(*draws):
        method, batch = build(kind, cls)
        force(method, *draws)
        return method, *batch

    whole, images, labels = fresh(*draws)
    whole((images, labels))[0].backward()
    assert gradients(whole.ema_model) == {}

    first, *_ = fresh(draws[0])  # the classification branch and the clean images: the network, and nothing else
    projected = first.mixer.project(first.feature_map(images)).detach()
    mixed = first.classification_loss(images, labels, projected)
    (F.cross_entropy(first.model.clean(images), labels) + mixed).backward()
    assert gradients(first.mixer) == gradients(first.ema_model) == {}
    assert close(gradients(first.model), gradients(whole.model), atol=1e-6)

    second, *_ = fresh(draws[1])  # the generation branch: the Mixer, and nothing else
    generation, mask, _ = second.generation_losses(images, labels, second.mixer.project(second.feature_map(images)))
    (generation + 0.1 * mask).backward()
    assert gradients(second.model) == gradients(second.ema_model) == {}
    assert close(gradients(second.mixer), gradients(whole.mixer), atol=1e-6)
    assert all(grad.abs().max() > 0 for grad in gradients(second.mixer).values())


def test_the_classification_branch_sees_no_graph_and_the_judge_does():
    method, batch = build()
    seen = {}
    for name, heads in [("model", method.model), ("ema", method.ema_model)]:
        heads.mixed = lambda x, name=name, mixed=heads.mixed: seen.update({name: x}) or mixed(x)
    method(batch)
    assert not seen["model"].requires_grad
    assert seen["ema"].requires_grad
    assert not torch.equal(seen["model"], seen["ema"])


@pytest.mark.parametrize("cls", [AutoMix, SAMix])
def test_a_fresh_mixer_already_has_a_gradient_in_every_map(cls):
    method, batch = build(cls=cls, spread=False)
    method(batch)[0].backward()
    grads = gradients(method.mixer)
    assert all(grads[name].abs().max() > 0 for name in grads if name.endswith("weight")), grads.keys()


def test_optimizer_steps_leave_the_averaged_copy_and_after_step_moves_nothing_else():
    method, batch = build(ema_decay=0.9, ema_hold=0.5)
    method(batch)[0].backward()
    before = state(method)
    torch.optim.SGD(method.parameter_groups(lr=0.1)).step()
    moved = changed(method, before)
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert moved == trained
    before = state(method)
    method.after_step(0.2)
    names = {name for name, _ in method.ema_model.named_parameters(prefix="ema_model")}
    assert changed(method, before) == names | {"_extra_state"}
    for name, slow in method.ema_model.named_parameters():
        expected = 0.9 * before[f"ema_model.{name}"] + 0.1 * before[f"model.{name}"]
        assert torch.allclose(slow, expected, atol=1e-7), name
    assert method.progress == 0.2


def test_momentum_follows_its_schedule():
    method, _ = build(ema_decay=0.5, ema_decay_end=1.0, ema_hold=0.1)
    before = state(method)
    method.after_step(1.0)
    assert changed(method, before) == {"_extra_state"}
    method.after_step(0.0)
    name, slow = next(iter(method.ema_model.named_parameters()))
    assert torch.allclose(slow, (before[f"ema_model.{name}"] + before[f"model.{name}"]) / 2, atol=1e-7)


def test_a_learned_gamma_is_kept_in_its_range():
    method, batch = build(preset="paper", spread=False)
    method(batch)[0].backward()
    assert method.mixer.gamma.grad.abs() > 0
    with torch.no_grad():
        method.mixer.gamma.fill_(3.0)
    method.after_step(0.5)
    assert method.mixer.gamma.item() == 1.0


# State and randomness ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [AutoMix, SAMix])
def test_one_seed_gives_one_run_bit_for_bit_and_another_generator_another(cls):
    (one, batch), (two, _), (three, _) = build(cls=cls), build(cls=cls), build(cls=cls)
    three.generator.manual_seed(1)
    losses = [train(method, batch) for method in (one, two, three)]
    assert losses[0] == losses[1]
    assert not changed(one, state(two))
    assert losses[0] != losses[2]
    torch.manual_seed(3)
    four, five = AutoMix(tiny_cnn(), 5), AutoMix(tiny_cnn(), 5)
    assert not torch.equal(four.generator.get_state(), five.generator.get_state())
    torch.manual_seed(3)
    assert torch.equal(AutoMix(tiny_cnn(), 5).generator.get_state(), four.generator.get_state())


def test_steps_draw_from_the_methods_generator_only():
    method, batch = build()
    assert method.generators() == [method.generator]
    rng = torch.get_rng_state()
    before = method.generator.get_state()
    method(batch)
    assert torch.equal(torch.get_rng_state(), rng)
    assert not torch.equal(method.generator.get_state(), before)


@pytest.mark.parametrize("kind", NETWORKS)
def test_preview_shows_the_pairs_asked_for_and_changes_nothing(kind):
    method, (images, labels) = build(kind, per_sample=True, dropout=0.5)
    method.model.backbone.eval()  # modes are mixed, as when a part is frozen
    modes, before, rng = [m.training for m in method.modules()], state(method), torch.get_rng_state()
    generator, index = method.generator.get_state(), torch.tensor([1, 0, 3, 4, 5, 2])
    batch = method.preview(images, labels, 0.02, index)
    again = method.preview(images, labels, torch.full((6,), 0.02), index)
    assert [m.training for m in method.modules()] == modes
    assert not changed(method, before)
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(method.generator.get_state(), generator)

    assert torch.equal(batch.images, again.images)
    assert not batch.images.requires_grad
    assert torch.equal(batch.lam, torch.full((6,), 0.02))
    assert torch.equal(batch.labels, torch.stack([labels, labels[index]], dim=1))
    assert torch.equal(batch.index, torch.stack([torch.arange(6), index], dim=1))
    assert torch.allclose(batch.images, batch.mask * images + (1 - batch.mask) * images[index], atol=1e-6)
    assert batch.mask.std() > 1e-4  # not the margin's constant mask
    method.eval()
    guide = method.ema_model.feature_map(images)
    expected = method.mixer(images, images[index], torch.full((6,), 0.02), (guide, guide[index]))
    assert torch.allclose(expected.mask, batch.mask, atol=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_predict_reports_first_what_is_exported(kind):
    method, (images, _) = build(kind)
    train(method, (images, torch.arange(6) % 5))
    method.eval()
    with torch.no_grad():
        logits = method.predict(images)
        exported = method.export()
        assert list(logits) == ["ema", "ema_mixed_head", "model", "model_mixed_head"]
        assert torch.allclose(logits["ema"], exported(images), atol=1e-6)
        assert torch.allclose(logits["model"], method.model.backbone.model(images), atol=1e-6)
        values = [logits[name] for name in logits]
        assert not any(torch.allclose(a, b) for i, a in enumerate(values) for b in values[:i])
        next(exported.parameters()).fill_(9.0)
        assert torch.equal(method.predict(images)["ema"], logits["ema"])  # the export is a copy
    assert all(p.requires_grad for p in exported.parameters())
    assert not any(m.training for m in exported.modules())


@pytest.mark.parametrize("cls", [AutoMix, SAMix])
def test_a_saved_state_gives_the_same_logits_and_masks(cls):
    (one, batch), (two, _) = build(cls=cls), build(cls=cls, seed=5)
    train(one, batch)
    two.load_state_dict(one.state_dict())
    one.eval(), two.eval()
    with torch.no_grad():
        a, b = one.predict(batch[0]), two.predict(batch[0])
        assert all(torch.equal(a[name], b[name]) for name in a)
        index = torch.arange(6).roll(1)
        assert torch.equal(one.preview(*batch, 0.4, index).images, two.preview(*batch, 0.4, index).images)


def tracked(method, layer):
    return int(method.ema_model.backbone.model.get_submodule(layer).num_batches_tracked)


def test_clean_statistics_are_of_clean_images_at_every_depth():
    method, (images, labels) = build(bn_statistics="clean")
    late = []
    for _ in range(32):
        reference = copy.deepcopy(method.ema_model)
        counted = tracked(method, "layer4.0.bn2")
        method((images, labels))
        late.append(tracked(method, "layer4.0.bn2") - counted)
        with torch.no_grad():
            reference.feature_map(images, whole=late[-1] == 1)
        assert not changed(method.ema_model, reference.state_dict())
        method.step += 1
    assert late == [1, 0, 0, 0] * 8
    assert tracked(method, "layer1.0.bn2") == 32


def test_reference_statistics_are_of_clean_and_mixed_images():
    method, (images, labels) = build(bn_statistics="both")
    seen, reference = [], copy.deepcopy(method.ema_model)
    method.ema_model.mixed = lambda x, mixed=method.ema_model.mixed: seen.append(x.detach()) or mixed(x)
    method((images, labels))
    with torch.no_grad():
        reference.feature_map(images, whole=True)
        assert {name for name in changed(method.ema_model, reference.state_dict()) if "layer4" in name}
        reference.mixed(seen[0])
    assert not changed(method.ema_model, reference.state_dict())
    assert tracked(method, "layer4.0.bn2") == tracked(method, "layer1.0.bn2") == 2


def attention_dropout():
    return tiny_vit(attn_drop_rate=0.5, proj_drop_rate=0.3, drop_path_rate=0.5, pos_drop_rate=0.2)


def functional_dropout():
    return tiny_cnn(drop_rate=0.5, drop_path_rate=0.5)


@pytest.mark.parametrize("make", [attention_dropout, functional_dropout])
def test_the_averaged_copy_is_steady_while_the_network_has_dropout(make):
    method = SAMix(make(), 5)
    x = torch.randn(6, 3, 32, 32)
    for _ in range(2):  # also after a round of evaluation
        assert torch.equal(method.ema_model.mixed(x), method.ema_model.mixed(x))
        assert not torch.equal(method.model.mixed(x), method.model.mixed(x))
        method.eval()
        assert not any(m.training for m in method.modules())
        method.train()
    norms = [m for m in method.ema_model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.training for norm in norms)


# Batches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("cls", "preset", "options"),
    [(AutoMix, "reference", {}), (SAMix, "reference", {"norm": "layer"}), (SAMix, "paper", {"norm": "layer"})],
)
def test_a_batch_may_be_small_or_odd(cls, preset, options, size):
    options = dataclasses.replace(cls.presets[preset], **options)
    method = cls(PlainNet(norm=False), 5, options, feature="body")
    loss, parts = method((torch.randn(size, 3, 20, 20), torch.arange(size) % 5))
    loss.backward()
    assert all(torch.isfinite(part).all() for part in parts.values())
    assert all(torch.isfinite(grad).all() for grad in gradients(method).values())


@pytest.mark.parametrize("eta", [None, 0.5])
def test_two_halves_of_a_batch_equal_the_whole(eta):
    options = {"norm": "layer", "mask_over_batch": False, "smoothing": 0.1, "eta": eta, "mask_margin": 0.01}
    index = torch.tensor([1, 2, 3, 0, 6, 7, 4, 5])
    draws = [(torch.tensor([0.3] * 4 + [0.6] * 4), index), (torch.tensor([0.8] * 4 + [0.45] * 4), index.roll(0))]
    images, labels = torch.randn(8, 3, 32, 48), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])

    def run(rows):
        method, _ = build("vit", **options)
        force(method, *[(lam[rows], index[rows] - rows.start) for lam, index in draws])
        loss, parts = method((images[rows], labels[rows]))
        loss.backward()
        return loss.item(), {name: float(part) for name, part in parts.items()}, gradients(method)

    whole, first, second = run(slice(0, 8)), run(slice(0, 4)), run(slice(4, 8))
    assert whole[0] == pytest.approx((first[0] + second[0]) / 2, abs=1e-6)
    for name in PARTS:
        assert whole[1][name] == pytest.approx((first[1][name] + second[1][name]) / 2, abs=1e-6), name
    for name, grad in whole[2].items():
        assert torch.allclose(grad, (first[2][name] + second[2][name]) / 2, atol=1e-6), name


@pytest.mark.parametrize("cls", [AutoMix, SAMix])
def test_a_step_under_bfloat16_is_finite_and_keeps_losses_in_float32(cls):
    method, batch = build(cls=cls)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, parts = method(batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(torch.isfinite(part) for part in parts.values())
    assert all(torch.isfinite(grad).all() for grad in gradients(method).values())


def test_smoothing_acts_on_every_cross_entropy_as_released():
    parts = {}
    for smoothing in (0.0, 0.2):
        method, batch = build(smoothing=smoothing)
        force(method, *[(torch.full((6,), 0.4), torch.arange(6).roll(1))] * 2)
        parts[smoothing] = method(batch)[1]
    assert {name for name in PARTS if parts[0.0][name] != parts[0.2][name]} == {"clean", "mixed", "generation"}


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32])
def test_labels_may_be_integers_of_any_width(dtype):
    (one, (images, labels)), (two, _) = build(), build()
    assert one((images, labels.to(dtype)))[0].item() == two((images, labels))[0].item()


IMAGES, LABELS = torch.zeros(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (IMAGES.byte(), LABELS, ValueError, r"floating point, got torch.uint8; convert and normalise"),
        (IMAGES.bool(), LABELS, ValueError, "floating point, got torch.bool"),
        (IMAGES.numpy(), LABELS, TypeError, "images must be a torch.Tensor, got ndarray"),
        (IMAGES[0], LABELS, ValueError, r"images must have shape \(B, C, H, W\)"),
        (IMAGES[:0], LABELS[:0], ValueError, "none of them 0"),
        (IMAGES[:, :, :0], LABELS, ValueError, "none of them 0"),
        (IMAGES, LABELS.tolist(), TypeError, "labels must be a torch.Tensor, got list"),
        (IMAGES, LABELS.numpy(), TypeError, "labels must be a torch.Tensor, got ndarray"),
        (IMAGES, LABELS[:3], ValueError, r"labels must have shape \(4,\)"),
        (IMAGES, LABELS[:, None], ValueError, "must be one-hot or multi-hot"),
        (IMAGES, LABELS[:, None].float(), ValueError, "labels have 1 columns, the network has 5 classes"),
        (IMAGES, LABELS + 2, ValueError, r"labels must be in \[0, 4\], got values from 2 to 5"),
        (IMAGES, LABELS - 1, ValueError, r"labels must be in \[0, 4\], got values from -1 to 2"),
        (IMAGES, LABELS.float(), ValueError, "class ids must be integers"),
        (IMAGES, LABELS.bool(), ValueError, "got torch.bool; use .long"),
        (IMAGES, 3.0 * torch.ones(4, 5), ValueError, r"trains a classifier: give class ids, or rows in \[0, 1\]"),
        (IMAGES, torch.rand(4, 5), ValueError, 'say targets="soft", "multilabel"'),
        (IMAGES, F.one_hot(LABELS, 5).add(1), ValueError, "must be one-hot or multi-hot"),
    ],
)
def test_a_batch_that_cannot_be_mixed_is_refused_with_the_reason(images, labels, error, message):
    method, _ = build()
    with pytest.raises(error, match=message):
        method((images, labels))


@pytest.mark.parametrize("cls", [AutoMixOptions, SAMixOptions])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"alpha": 0.0}, r"alpha must be in \(0, inf\), got 0.0"),
        ({"alpha": -1.0}, r"alpha must be in \(0, inf\)"),
        ({"alpha": math.nan}, r"alpha must be in \(0, inf\)"),
        ({"alpha": math.inf}, r"alpha must be in \(0, inf\)"),
        ({"ema_decay": 1.5}, r"ema_decay must be in \[0, 1\], got 1.5"),
        ({"ema_decay_end": math.nan}, r"ema_decay_end must be in \[0, 1\]"),
        ({"ema_hold": -0.1}, r"ema_hold must be in \[0, 1\]"),
        ({"adjust_prob": 2.0}, r"adjust_prob must be in \[0, 1\]"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\), got 1.0"),
    ],
)
def test_options_outside_their_range_are_refused(cls, option, message):
    with pytest.raises(ValueError, match=message):
        cls(**option)


def test_an_unknown_preset_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown preset 'best'; choose one of reference, paper, fast"):
        SAMix(tiny_cnn(), 5, "best")


# Kinds of labels -----------------------------------------------------------------------------------------------------

MULTI_HOT = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0, 1], [0, 0, 0, 1, 1]] * 2)[:6]


@pytest.mark.parametrize("cls", [AutoMix, SAMix])
@pytest.mark.parametrize(
    ("kind", "dtype"), [("soft", torch.float32), ("multilabel", torch.float32), ("multilabel", None)]
)
def test_soft_and_multi_hot_labels_have_the_loss_of_their_kind_in_every_part(cls, kind, dtype):
    labels = torch.rand(6, 5).softmax(1) if kind == "soft" else MULTI_HOT if dtype is None else MULTI_HOT.to(dtype)
    seen = {}
    method, (images, _) = build(cls=cls)
    lam, index = torch.tensor([0.3, 0.45, 0.6, 0.5, 0.2, 0.5]), torch.tensor([3, 0, 5, 1, 4, 2])
    force(method, (lam, index), (lam, index))
    heads = {
        "clean": (method.model, "clean"),
        "mixed": (method.model, "mixed"),
        "generation": (method.ema_model, "mixed"),
    }
    for name, (network, head) in heads.items():
        run = getattr(network, head)
        setattr(network, head, lambda x, run=run, name=name: seen.setdefault(name, run(x)))
    _, parts = method(images, labels)
    mixed = lam[:, None] * labels + (1 - lam[:, None]) * labels[index]
    for name, logits in seen.items():
        target = labels.float() if name == "clean" else mixed
        if kind == "soft":
            expected = -(target * logits.detach().log_softmax(1)).sum(1).mean()
        else:
            p = logits.detach().sigmoid()
            expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
        assert float(parts[name]) == pytest.approx(float(expected), rel=1e-5), name


def test_a_run_keeps_the_kind_of_its_first_batch_or_the_one_it_was_given():
    rows = F.one_hot(torch.tensor([0, 1, 2, 3, 4, 0]), 5)
    method, (images, _) = build()
    method(images, MULTI_HOT)
    assert method.kind == "multilabel"
    method(images, rows)
    assert method.kind == "multilabel"
    method, _ = build()
    method(images, rows)
    with pytest.raises(ValueError, match=r'earlier batches had labels whose rows sum to 1.*say targets="multilabel"'):
        method(images, MULTI_HOT)
    told = SAMix(tiny_cnn(), 5, targets="multilabel")
    told(images, rows)
    told(images, MULTI_HOT)
    with pytest.raises(ValueError, match="targets must be one of None, class, soft, multilabel"):
        SAMix(tiny_cnn(), 5, targets="hard")


def test_the_eta_balance_needs_class_ids_or_one_hot_rows():
    method, (images, _) = build(eta=0.5)
    method(images, F.one_hot(torch.arange(6) % 5, 5))
    with pytest.raises(ValueError, match="eta balances the two classes of a pair, so it needs class ids"):
        method(images, torch.rand(6, 5).softmax(1))


# Does it learn? -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [AutoMix, SAMix])
def test_the_mixer_alone_learns_to_satisfy_a_frozen_judge(cls):
    method, (images, labels) = build(cls=cls, spread=False, mask_weight=0.0)
    randomised(method.ema_model, 0.3)  # a judge with opinions
    optimizer = torch.optim.Adam(method.mixer.parameters(), lr=0.01)
    draw = Draw(torch.full((6,), 0.3), torch.tensor([1, 2, 3, 4, 5, 0]))
    method.draw = lambda size, device: draw
    losses = []
    for _ in range(60):
        generation, _, _ = method.generation_losses(images, labels, method.mixer.project(method.feature_map(images)))
        optimizer.zero_grad()
        generation.backward()
        optimizer.step()
        losses.append(generation.item())
    assert losses[-1] < 0.9 * losses[0]
    assert min(losses) == pytest.approx(losses[-1], rel=0.02)


def objects(generator: torch.Generator, size: int = 16):
    """A bright square on noise in one of four quadrants, which is its class; with the square's place.

    Four classes rather than two: with two, a mixer may also hide both squares, and the judge answers one half each.
    """
    images = torch.randn(size, 3, 32, 32, generator=generator) * 0.5
    labels = torch.randint(4, (size,), generator=generator)
    place = torch.zeros(size, 1, 32, 32)
    for row, label in enumerate(labels.tolist()):
        top, left = 16 * (label // 2) + 2, 16 * (label % 2) + 2
        place[row, :, top : top + 12, left : left + 12] = 1.0
    return images + 2.0 * place, labels, place


@pytest.mark.slow
def test_samix_learns_to_show_the_partner_where_its_object_is():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    options = SAMixOptions(ema_decay=0.95, ema_decay_end=0.95, mask_weight=1.0, mask_over_batch=False)
    method = SAMix(tiny_cnn(4), 4, options, feature=2, generator=torch.Generator().manual_seed(0))
    network, mixer = method.parameter_groups(lr=0.02)
    optimizers = torch.optim.SGD([network], momentum=0.9), torch.optim.Adam(mixer["params"], lr=0.005)
    for step in range(200):
        loss, _ = method(objects(generator)[:2])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        method.after_step(step / 200)
    images, labels, place = objects(generator, 64)
    index = torch.arange(64).roll(1)
    differ = labels != labels[index]
    share = 1.0 - method.preview(images, labels, 0.5, index).mask[differ]  # of the partner
    own, partner = place[differ], place[index][differ]

    def mean_over(where):
        return float((share * where).sum() / where.sum())

    assert mean_over(partner) > mean_over(1 - own - partner) + 0.1
    assert mean_over(own) < mean_over(1 - own - partner) - 0.1
    assert mean_over(partner) > mean_over(own) + 0.4


# Golden losses: a change that means to change nothing reproduces these ------------------------------------------------


def golden_run(cls) -> list[float]:
    torch.manual_seed(11)
    model, size, steps = tiny_cnn(4), 12, 20
    assert isinstance(model, ResNet)
    method = cls(model, 4, generator=torch.Generator().manual_seed(12))
    data = torch.Generator().manual_seed(13)
    images = torch.randn(steps, size, 3, 64, 64, generator=data)
    labels = torch.randint(4, (steps, size), generator=data)
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.0005, mixer_lr=0.02), momentum=0.9)
    losses = []
    for step in range(steps):
        loss, _ = method((images[step], labels[step]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step((step + 1) / steps)
        losses.append(round(loss.item(), 6))
    return losses


GOLDEN = {
    "AutoMix": [
        4.32945,
        4.271575,
        4.135719,
        4.26229,
        4.187386,
        4.172798,
        4.200743,
        4.171548,
        4.093287,
        4.215895,
        4.167988,
        4.165642,
        4.108284,
        4.170324,
        4.048152,
        4.187255,
        4.134428,
        4.0314,
        4.158684,
        4.143335,
    ],
    "SAMix": [
        4.327111,
        4.272215,
        4.135891,
        4.262362,
        4.187432,
        4.171503,
        4.200184,
        4.171627,
        4.093235,
        4.216844,
        4.17026,
        4.162357,
        4.10808,
        4.158414,
        4.048173,
        4.195854,
        4.134943,
        4.025051,
        4.157505,
        4.133724,
    ],
}


@pytest.mark.parametrize("cls", [AutoMix, SAMix])
def test_twenty_steps_give_the_golden_losses(cls):
    assert golden_run(cls) == pytest.approx(GOLDEN[cls.__name__], rel=1e-4)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for golden in (AutoMix, SAMix):
        print(f'    "{golden.__name__}": {golden_run(golden)},')
