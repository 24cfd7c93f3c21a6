"""A mask generator from outside the package: registered, trained, saved, loaded and used, without a change to samix."""

import dataclasses
from typing import ClassVar

import pytest
import timm
import torch
from runs import small_recipe
from tiny_networks import tiny_cnn
from torch import nn

import samix
from samix.hub.mixer_export import has_mixer, mixer_network
from samix.methods.automix import AutoMix
from samix.methods.options import LearnedOptions
from samix.mixers import MASK_GENERATORS
from samix.mixers.base import MaskGenerator, MaskGeneratorConfig


@dataclasses.dataclass(frozen=True)
class DifferenceConfig(MaskGeneratorConfig):
    """What the generator below is."""

    name: ClassVar[str] = "difference"

    width: int = 8
    upsample: str = "bilinear"


class DifferenceMixer(MaskGenerator):
    """Looks for the cells of the partner that are unlike the own image."""

    config_class = DifferenceConfig

    def __init__(self, dim, config=None, **options):
        super().__init__(dim, config, **options)
        self.map = nn.Conv2d(dim, self.config.width, 1)
        self.content = nn.Conv2d(dim, 1, 1)

    def project(self, z):
        return torch.cat([self.map(z), self.content(z)], dim=1)

    def attend(self, projected, partner, lam):
        own, other = projected.flatten(2), partner.flatten(2)
        return own[:, :-1], lam.view(-1, 1, 1) * other[:, :-1], other[:, -1]


@dataclasses.dataclass(frozen=True)
class DifferenceOptions(LearnedOptions, DifferenceConfig):
    """Options of AutoMix's step with that generator."""


@pytest.fixture(autouse=True)
def registered():
    MASK_GENERATORS.register("difference", DifferenceMixer)
    yield
    MASK_GENERATORS._entries.pop("difference", None)


def train(steps=3, **options):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=5)
    options = DifferenceOptions(ema_decay=0.5, ema_decay_end=0.5, **options)
    method = AutoMix(network, 5, options, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.05))
    before = {name: p.clone() for name, p in method.mixer.named_parameters()}
    for step in range(steps):
        loss, _ = method(torch.randn(6, 3, 32, 32), torch.arange(6) % 5)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step((step + 1) / steps)
    assert isinstance(method.mixer, DifferenceMixer)
    moved = {name for name, p in method.mixer.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(before)
    return method.eval()


def test_it_is_trained_saved_loaded_and_mixes(tmp_path):
    method = train(width=6)
    assert method.mixer.config == DifferenceConfig(width=6)
    assert has_mixer(method)
    recipe = small_recipe("samix", model="test_resnet", model_args="{}", size=32, stem="default")
    mixer_network(method, recipe, (0.5,) * 3, (0.25,) * 3, {}).save_pretrained(tmp_path / "mixer")
    mix = samix.Mixer.from_pretrained(tmp_path / "mixer", adjust=False, lam_margin=-1)
    assert isinstance(mix.loaded.mixer, DifferenceMixer)
    images, labels, index = torch.randn(4, 3, 32, 32), torch.arange(4), torch.tensor([1, 2, 3, 0])
    shown = method.preview(images, labels, 0.3, index)
    found = mix(images, labels, lam=0.3, index=index)
    torch.testing.assert_close(found.images, shown.images)
    torch.testing.assert_close(found.mask, shown.mask)


def test_a_run_may_start_from_it(tmp_path):
    method = train()
    recipe = small_recipe("samix", model="test_resnet", model_args="{}", size=32, stem="default")
    mixer_network(method, recipe, (0.5,) * 3, (0.25,) * 3, {}).save_pretrained(tmp_path)
    network = timm.create_model("test_resnet", num_classes=5)
    again = AutoMix(network, 5, DifferenceOptions(init=str(tmp_path)))
    assert all(torch.equal(p, q) for p, q in zip(again.mixer.parameters(), method.mixer.parameters(), strict=True))
    with pytest.raises(ValueError, match="holds a DifferenceMixer"):
        samix.SAMix(timm.create_model("test_resnet", num_classes=5), 5, samix.SAMixOptions(init=str(tmp_path)))


def test_a_folder_of_a_generator_that_is_not_known_here_is_refused_with_what_to_do(tmp_path):
    method = train()
    recipe = small_recipe("samix", model="test_resnet", model_args="{}", size=32, stem="default")
    mixer_network(method, recipe, (0.5,) * 3, (0.25,) * 3, {}).save_pretrained(tmp_path)
    del MASK_GENERATORS._entries["difference"]
    with pytest.raises(ValueError, match=r"unknown mask generator 'difference'; choose one of automix, samix"):
        samix.Mixer.from_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"difference"', '"some.module:Network"'))
    with pytest.raises(ValueError, match="does not import code because a file says so"):
        samix.Mixer.from_pretrained(tmp_path)
    MASK_GENERATORS.register("difference", DifferenceMixer)


@pytest.mark.parametrize("name", MASK_GENERATORS)
def test_every_registered_generator_is_made_from_its_config(name):
    network = MASK_GENERATORS[name]
    config = network.config_class()
    assert config.name == name
    made = network(8, config)
    assert made.config is config
    assert network(8, **dataclasses.asdict(config)).config == config
    assert {k: v.shape for k, v in made.state_dict().items()} == {
        k: v.shape for k, v in network(8).state_dict().items()
    }
    z = torch.randn(3, 8, 4, 4)
    mask = made.predict_mask(made.project(z), made.project(z.flip(0)), torch.full((3,), 0.4), (16, 12))
    assert mask.shape == (3, 1, 16, 12)
    assert ((mask > 0) & (mask < 1)).all()


def test_an_unknown_generator_is_answered_with_the_known_ones():
    @dataclasses.dataclass(frozen=True)
    class Unknown(LearnedOptions, DifferenceConfig):
        name: ClassVar[str] = "samx"

    with pytest.raises(ValueError, match=r"unknown mask generator 'samx'; choose one of automix.*did you mean samix\?"):
        AutoMix(tiny_cnn(), 5, Unknown())
