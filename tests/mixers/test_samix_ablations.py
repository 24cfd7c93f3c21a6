"""SAMix's Mixer with modules taken away: each equals its equations, and without any it is AutoMix's Mix Block."""

import math

import pytest
import torch
from tiny_networks import randomised

from samix.hub.mixer_export import mixer_network
from samix.mixers.automix import AutoMixer
from samix.mixers.pretrained import Mixer
from samix.mixers.samix import SAMixer
from samix.recipes import named_recipe
from samix.recipes.build import build_method

SIZE = (8, 8)


def pair(dim=6, batch=3, side=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, dim, side, side, generator=generator) for _ in range(2)]


def painted(mixer, own, partner, lam):
    return mixer.predict_mask(mixer.project(own), mixer.project(partner), lam, SIZE)


def test_without_its_modules_it_is_the_mix_block_of_automix():
    torch.manual_seed(0)
    block = randomised(AutoMixer(6, lam_channel=False))
    bare = SAMixer(6, gamma=0.0, attention="cross", content="linear", upsample="nearest")
    bare.load_state_dict({k.replace("query_key", "query"): v for k, v in block.state_dict().items()})
    own, partner = pair()
    lam = torch.tensor([0.1, 0.5, 0.8])
    torch.testing.assert_close(painted(bare, own, partner, lam), painted(block, own, partner, lam))


@pytest.mark.parametrize("gamma", [0.0, 1.0, 0.4])
@pytest.mark.parametrize(("attention", "content"), [("cross", "nonlinear"), ("mixing", "linear"), ("cross", "linear")])
def test_each_combination_equals_its_equations(attention, content, gamma):
    """The oracle convolves the scaled and concatenated maps themselves."""
    torch.manual_seed(1)
    mixer = randomised(SAMixer(6, gamma=gamma, attention=attention, content=content, upsample="nearest")).eval()
    own, partner = pair()
    lam = torch.tensor([0.2, 0.5, 0.9])
    a = own * (1 + gamma * lam).view(-1, 1, 1, 1)
    b = partner * (1 + gamma * (1 - lam)).view(-1, 1, 1, 1)
    if attention == "mixing":
        both = torch.cat([a, b], dim=1)
        query, key = mixer.query(both), mixer.key(both)
    else:
        query, key = mixer.query(a), mixer.query(b)
    value = mixer.value(partner)
    if content == "nonlinear":
        value = mixer.value_out(mixer.activation(mixer.norm(value)))
    scores = torch.einsum("bdn,bdm->bnm", query.flatten(2), key.flatten(2)) / math.sqrt(3)
    logit = torch.einsum("bnm,bm->bn", scores.softmax(dim=2), value.flatten(1)).view(-1, 1, 4, 4)
    wanted = 1 - torch.sigmoid(logit).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(painted(mixer, own, partner, lam), wanted)


def test_modules_that_are_left_out_have_no_weights():
    assert {k.split(".")[0] for k in SAMixer(6, attention="cross").state_dict()} == {
        "query", "value", "norm", "value_out",
    }  # fmt: skip
    assert {k.split(".")[0] for k in SAMixer(6, content="linear").state_dict()} == {"query", "key", "value"}


@pytest.mark.parametrize("wrong", [{"attention": "self"}, {"content": "quadratic"}])
def test_other_modules_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be one of"):
        SAMixer(6, **wrong)


@pytest.mark.parametrize("options", [{"attention": "cross"}, {"content": "linear"}, {}])
def test_a_mixer_without_modules_can_be_frozen_and_read(options, tmp_path):
    """What is left out stands in its config."""
    import dataclasses

    recipe = named_recipe("digits-quick", "samix")
    recipe = dataclasses.replace(recipe, mixup_options={**recipe.mixup_options, **options})
    method = build_method(recipe, 10)
    assert {name: getattr(method.mixer.config, name) for name in options} == options
    network = mixer_network(method, recipe, (0.5,) * 3, (0.2,) * 3, {})
    assert network.config.network_config == method.mixer.config
    network.save_pretrained(tmp_path / "mixer")
    read = Mixer.from_pretrained(tmp_path / "mixer").loaded.mixer
    own, partner = pair(read.dim)
    lam = torch.tensor([0.2, 0.5, 0.9])
    torch.testing.assert_close(painted(read, own, partner, lam), painted(method.mixer.eval(), own, partner, lam))
