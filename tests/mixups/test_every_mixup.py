"""Every mixup by its name: built from a recipe, trained for a step, painted; on a CNN, or on a ViT where it needs."""

import json

import pytest
import torch

from samix.mixups import MIXUPS
from samix.recipes import Recipe
from samix.recipes.build import METHODS, NAMES, build_method, mixup_defaults
from samix.train.steps import seed_draws
from samix.viz.show import Show

CNN = {"model": "resnet18", "model_args": '{"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}', "size": 32}
VIT = {
    "model": "vit_tiny_patch16_224",
    "model_args": '{"patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}',
    "size": 32,
}
NEEDS_VIT = {"patchcutmix", "tokenmix", "smmix", "transmix", "mixpro", "tla"}
PATCHED = {"patchcutmix", "tokenmix", "tla"}
every_name = pytest.mark.parametrize("name", NAMES)


def recipe_of(name: str, **changes: object) -> Recipe:
    options = {"patch": 8} if name in PATCHED else {}
    return Recipe(mixup=name, mixup_options=options, **{**(VIT if name in NEEDS_VIT else CNN), **changes})


def method_of(name: str, **changes: object):
    torch.manual_seed(0)
    return build_method(recipe_of(name, **changes), 5, ((0.5,) * 3, (0.2,) * 3))


@pytest.fixture(scope="module")
def batch():
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 5


@every_name
def test_a_step_trains_the_network_and_is_a_function_of_its_seed(name, batch):
    losses = []
    for _ in range(2):
        method = method_of(name)
        method.start_epoch()
        total = 0.0
        for step in range(3):
            seed_draws(method, 0, 0, step)
            loss, parts = method(batch)
            assert loss.isfinite()
            assert all(not part.requires_grad for part in parts.values())
            loss.backward()
            total += float(loss.detach())
        grads = [p.grad for p in method.parameters() if p.requires_grad]
        assert any(g is not None and bool((g != 0).any()) for g in grads)
        losses.append(total)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("vanilla", "guidedmixup", "comixup")])
def test_two_seeds_give_two_losses(name, batch):  # those left out draw nothing, or nothing that decides here
    found = set()
    for seed in range(6):
        if len(found) > 1:
            break
        method = method_of(name).eval()
        method.start_epoch()
        if hasattr(method, "mixup"):
            seed_draws(method, seed, 0, 0)
            method(batch)  # recursive mixups have nothing to mix into the first batch
        seed_draws(method, seed, 0, 1)
        found.add(round(float(method(batch)[0].detach()), 6))
    assert len(found) > 1


@every_name
def test_options_are_plain_values(name):
    options = mixup_defaults(name)
    assert json.loads(json.dumps(options)) == options


@every_name
def test_channels_last_gives_the_same_loss(name, batch):
    images, labels = batch
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        method = method_of(name)
        seed_draws(method, 0, 0, 0)
        found.append(float(method((images.contiguous(memory_format=layout), labels))[0].detach()))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@every_name
def test_a_batch_of_one_and_an_odd_batch_are_trained_on(name, batch):
    images, labels = batch
    method = method_of(name).eval() if name not in NEEDS_VIT else method_of(name)
    for size in (1, 3):
        seed_draws(method, 0, 0, size)
        loss, _ = method((images[:size], labels[:size]))
        assert loss.isfinite()


@every_name
def test_preview_shows_the_mix_and_moves_nothing(name, batch):
    images, labels = batch
    method = method_of(name)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    states = [g.get_state() for g in method.generators()]
    index = torch.arange(8).roll(3)
    shown = method.preview(images, labels, 0.4, index)
    assert shown.images.shape == images.shape
    assert all(torch.equal(a, b.get_state()) for a, b in zip(states, method.generators(), strict=True))
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())
    assert method.training


@pytest.mark.parametrize("name", [n for n in MIXUPS if n not in METHODS])
def test_show_paints_each_by_name_without_a_network(name, tmp_path):
    told = Show(name, (), tmp_path / "a.png", 32, (0.3, 0.7)).write(dpi=40)
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert "a.png" in told


def test_all_begin_with_the_same_network():
    first = method_of("vanilla").model.state_dict()
    for name in ("mixup", "cutmix", "puzzlemix", "samix", "adautomix"):
        method = method_of(name)
        other = method.model.backbone.model if name in METHODS else method.model
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in first.items()), name
