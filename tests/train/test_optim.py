"""Learning rates by hand, groups by kind, and what the optimisers' names mean."""

import math

import pytest
import torch
from runs import small_recipe, vit_recipe
from tiny_networks import PlainNet, tiny_cnn

import samix
from samix.methods.samix import SAMix
from samix.methods.supervised import Supervised
from samix.mixups.handmade import NoMixup
from samix.recipes.build import build_method
from samix.train.optim import build_optimizer, learning_rate, parameter_groups, set_learning_rates


def vanilla(norm=True):
    return Supervised(PlainNet(norm=norm), NoMixup(), num_classes=5)


def schedule(recipe, method=None, steps_per_epoch=4):
    """Learning rate of every step, by name of group."""
    optimizer = build_optimizer(method or vanilla(), recipe)
    found = {group["name"]: [] for group in optimizer.param_groups}
    for step in range(recipe.epochs * steps_per_epoch):
        set_learning_rates(optimizer, recipe, step, steps_per_epoch)
        for group in optimizer.param_groups:
            found[group["name"]].append(group["lr"])
    return found


def cosine(start, end, progress):
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def test_learning_rate_goes_from_start_to_end():
    assert learning_rate(0.1, 0.02, 0.0) == 0.1
    assert learning_rate(0.1, 0.02, 0.5) == pytest.approx(0.06)
    assert learning_rate(0.1, 0.02, 1.0) == pytest.approx(0.02)
    assert learning_rate(0.1, 0.02, 0.1, warmup=0.2) == pytest.approx(0.05)


def test_per_step_schedule_moves_at_every_step():
    found = schedule(small_recipe(epochs=3, lr=0.2, lr_end=0.01, schedule="step"))["network"]
    assert found == pytest.approx([cosine(0.2, 0.01, step / 12) for step in range(12)])


def test_per_epoch_schedule_holds_within_an_epoch():
    found = schedule(small_recipe(epochs=3, lr=0.2, lr_end=0.0, schedule="epoch"))["network"]
    assert found == pytest.approx([cosine(0.2, 0.0, step // 4 / 3) for step in range(12)])


@pytest.mark.parametrize("kind", ["epoch", "step"])
def test_warm_up_climbs_from_the_first_step_and_is_never_zero(kind):
    recipe = small_recipe(epochs=5, lr=0.2, schedule=kind, warmup_epochs=2.0)
    found = schedule(recipe)["network"]
    assert found[:7] == pytest.approx([0.2 * (step + 1) / 8 for step in range(7)])
    assert found[7] == pytest.approx(0.2)
    done = [step if kind == "step" else step // 4 * 4 for step in range(8, 20)]
    assert found[8:] == pytest.approx([cosine(0.2, 0.0, step / 20) for step in done])
    assert min(found) > 0


def test_warm_up_of_a_part_of_an_epoch_and_of_more_than_all():
    part = schedule(small_recipe(epochs=2, lr=1.0, schedule="step", warmup_epochs=0.5))["network"]
    assert part[:2] == pytest.approx([0.5, 1.0])
    with pytest.raises(ValueError, match=r"warmup_epochs must be in \[0, 2\], got 4"):
        small_recipe(epochs=2, lr=1.0, warmup_epochs=4.0)


@pytest.mark.parametrize(
    ("changes", "start", "end"),
    [
        ({"mixer_lr": None, "mixer_lr_end": None, "lr_end": 0.05}, 0.2, 0.05),
        ({"mixer_lr": 0.4, "mixer_lr_end": None, "lr_end": 0.05}, 0.4, 0.0),
        ({"mixer_lr": 0.4, "mixer_lr_end": 0.1, "lr_end": 0.05}, 0.4, 0.1),
        ({"mixer_lr": None, "mixer_lr_end": 0.1, "lr_end": 0.05}, 0.2, 0.1),
    ],
)
def test_the_mixer_has_a_learning_rate_of_its_own(changes, start, end):
    found = schedule(small_recipe("samix", epochs=3, lr=0.2, schedule="step", **changes), SAMix(tiny_cnn(), 5))
    assert found["network"] == pytest.approx([cosine(0.2, 0.05, step / 12) for step in range(12)])
    assert found["mixer"] == pytest.approx([cosine(start, end, step / 12) for step in range(12)])


def test_the_predictor_of_simsiam_keeps_its_learning_rate():
    recipe = small_recipe(lr=0.2, lr_end=0.0)
    method = samix.SimSiam(tiny_cnn(num_classes=0))
    ends = {group["name"]: group["lr_end"] for group in parameter_groups(method, recipe)}
    assert ends == {"network": 0.0, "predictor": 0.2}


def test_norms_and_biases_are_decayed_or_not():
    method = SAMix(tiny_cnn(), 5)
    together = parameter_groups(method, small_recipe("samix", weight_decay=0.3, decay_norms=True))
    assert [(group["name"], group["weight_decay"]) for group in together] == [("network", 0.3), ("mixer", 0.3)]
    apart = parameter_groups(method, small_recipe("samix", weight_decay=0.3, decay_norms=False))
    for group in apart:
        vectors = {p.ndim <= 1 for p in group["params"]}
        assert vectors == {group["weight_decay"] == 0.0}
        assert group["lr_start"] == {"network": 0.1, "mixer": small_recipe("samix").mixer_lr}[group["name"]]
    trained = {id(p) for p in method.model.parameters()} | {id(p) for p in method.mixer.parameters()}
    for groups in (together, apart):
        ids = [id(p) for group in groups for p in group["params"]]
        assert len(ids) == len(set(ids))
        assert set(ids) == trained


def test_momentum_is_plain_and_sgd_is_nesterov():
    plain = build_optimizer(vanilla(), small_recipe(optimizer="momentum", momentum=0.8))
    assert type(plain) is torch.optim.SGD
    assert [(g["momentum"], g["nesterov"], g["weight_decay"]) for g in plain.param_groups] == [(0.8, False, 5e-4)]
    assert build_optimizer(vanilla(), small_recipe(optimizer="sgd")).param_groups[0]["nesterov"]


def test_two_steps_of_momentum_by_hand():
    """v <- m v + (g + wd w), w <- w - lr v, with no dampening."""
    recipe = small_recipe(optimizer="momentum", momentum=0.9, weight_decay=0.1, lr=0.5)
    method = vanilla()
    optimizer = build_optimizer(method, recipe)
    weight = method.model.fc.weight
    expected, velocity = weight.detach().clone(), torch.zeros_like(weight)
    for factor in (1.0, -3.0):
        gradient = torch.full_like(weight, factor)
        weight.grad = gradient.clone()
        optimizer.step()
        velocity = 0.9 * velocity + gradient + 0.1 * expected
        expected = expected - 0.5 * velocity
        torch.testing.assert_close(weight.detach(), expected)


def test_the_mixer_may_have_a_momentum_of_its_own():
    optimizer = build_optimizer(SAMix(tiny_cnn(), 5), small_recipe("samix", mixer_momentum=0.0))
    assert {g["name"]: g["momentum"] for g in optimizer.param_groups} == {"network": 0.9, "mixer": 0.0}


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_momentum_is_beta1_of_adaptive_optimisers(name):
    recipe = small_recipe("samix", optimizer=name, momentum=0.8, mixer_momentum=0.5, lr=1e-3)
    optimizer = build_optimizer(SAMix(tiny_cnn(), 5), recipe)
    assert {g["name"]: g["betas"] for g in optimizer.param_groups} == {"network": (0.8, 0.999), "mixer": (0.5, 0.999)}


@pytest.mark.parametrize("name", ["momentum", "sgd", "adamw", "lamb", "lars", "rmsprop", "lion", "adan"])
def test_optimisers_of_timm_take_a_step(name):
    method = vanilla()
    optimizer = build_optimizer(method, small_recipe(optimizer=name, lr=0.01))
    before = method.model.fc.weight.detach().clone()
    loss, _ = method((torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])))
    loss.backward()
    optimizer.step()
    assert not torch.equal(before, method.model.fc.weight)


def test_an_unknown_optimiser_lists_the_known():
    with pytest.raises(ValueError, match=r"optimizer must be one of .*adamw.*momentum.*sgd.*; got 'sdg'"):
        build_optimizer(vanilla(), small_recipe(optimizer="sdg"))


def test_frozen_parameters_are_left_out():
    method = build_method(vit_recipe("samix"), 10)
    ids = {id(p) for group in parameter_groups(method, vit_recipe("samix")) for p in group["params"]}
    assert not ids & {id(p) for p in method.ema_model.parameters()}


def test_class_tokens_and_position_embeddings_are_not_decayed():
    method = build_method(vit_recipe("vanilla", decay_norms=False, weight_decay=0.3), 10)
    network = next(module for module in method.modules() if hasattr(module, "pos_embed"))
    decay = {
        id(p): group["weight_decay"]
        for group in build_optimizer(method, vit_recipe("vanilla", decay_norms=False, weight_decay=0.3)).param_groups
        for p in group["params"]
    }
    assert decay[id(network.pos_embed)] == decay[id(network.cls_token)] == 0.0
    assert decay[id(network.blocks[0].attn.qkv.weight)] == 0.3
    assert decay[id(network.blocks[0].attn.qkv.bias)] == 0.0


def test_layer_decay_gives_timm_s_rates_and_leaves_the_mixer_and_the_mixed_head_alone():
    """timm's own grouping is the oracle; the last group, its classifier, has factor 1."""
    from timm.optim import param_groups_layer_decay

    recipe = small_recipe("samix", layer_decay=0.5, lr=0.2, mixer_lr=0.3)
    method = build_method(recipe, 10)
    network = method.model.model
    expected = {
        id(p): group["lr_scale"]
        for group in param_groups_layer_decay(network, layer_decay=0.5)
        for p in group["params"]
    }
    optimizer = build_optimizer(method, recipe)
    set_learning_rates(optimizer, recipe, 0, 4)
    seen = 0
    for group in optimizer.param_groups:
        start = 0.3 if group["name"] == "mixer" else 0.2 * expected.get(id(group["params"][0]), 1.0)
        assert group["lr_start"] == pytest.approx(start)
        for parameter in group["params"]:
            seen += 1
            if group["name"] == "network":
                assert expected.get(id(parameter), 1.0) == pytest.approx(group["lr_start"] / 0.2)
    assert seen == sum(p.requires_grad for p in method.parameters())
    assert len({group["lr"] for group in optimizer.param_groups}) > 4
    with pytest.raises(ValueError, match="layer_decay needs a network of timm"):
        build_optimizer(vanilla(), small_recipe(layer_decay=0.5))
