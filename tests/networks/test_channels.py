"""Images of other channels or of another type than a network's: one line that says what to do, wherever they enter."""

import dataclasses
import json

import pytest
import torch
from runs import fit, small_recipe
from tiny_networks import PlainNet, tiny_cnn
from view_networks import trunk

import samix
from samix.cli.main import main
from samix.hub.export import write_export
from samix.hub.network_config import NetworkConfig
from samix.methods.contrastive import SSL_METHODS
from samix.networks.inference import channel_misfit, plain_errors

LABELS = torch.arange(8) % 5
LABELLED = {
    "supervised": lambda: samix.Supervised(tiny_cnn(), samix.CutMix(), num_classes=5),
    "guided": lambda: samix.Supervised(tiny_cnn(), samix.PuzzleMix(), num_classes=5),
    "samix": lambda: samix.SAMix(tiny_cnn(), 5),
    "adautomix": lambda: samix.AdAutoMix(tiny_cnn(), 5),
}


@pytest.mark.parametrize("name", LABELLED)
def test_a_method_says_what_fits_its_network(name):
    method, images = LABELLED[name](), torch.randn(8, 3, 32, 32)
    with pytest.raises(ValueError, match=r"takes 3-channel images, got 1-channel ones; .*in_chans=1"):
        method(images[:, :1], LABELS)
    with pytest.raises(ValueError, match=r"images are torch.float16, the network is torch.float32; use images.to"):
        method(images.half(), LABELS)
    for batch, got in ((images, "Tensor"), ((images,), "1 parts"), ({"image": images, "label": LABELS}, "dict")):
        with pytest.raises(ValueError, match=rf"a batch is \(images, labels\), got {got}; .* samix.MoCo"):
            method(batch)


@pytest.mark.parametrize("name", SSL_METHODS)
def test_a_method_of_views_says_what_fits_its_encoder(name):
    view = torch.randn(8, 3, 16, 16)
    with pytest.raises(ValueError, match="takes 3-channel images, got 1-channel ones"):
        SSL_METHODS[name](trunk())((view[:, :1], view[:, :1]))
    with pytest.raises(ValueError, match=r"images are torch.float16, the network is torch.float32"):
        SSL_METHODS[name](trunk())((view.half(), view.half()))


def test_other_errors_of_a_network_stay_as_they_are():
    images = torch.randn(2, 3, 8, 8)
    with pytest.raises(RuntimeError, match="to have 8 channels, but got 3"), plain_errors(images[:, :1], PlainNet()):
        PlainNet().body(images)  # of a layer inside: the images have other channels
    with pytest.raises(RuntimeError, match=r"^out of memory$"), plain_errors(images.half(), PlainNet()):
        raise RuntimeError("out of memory")
    assert channel_misfit(RuntimeError("size mismatch"), 3) == ""


def test_the_commands_refuse_a_network_of_grey_images_before_it_is_built(tmp_path, capsys):
    arguments = json.dumps({**small_recipe().model_kwargs, "in_chans": 1})
    assert main(["train", "--model", "resnet18", "--model-args", arguments, "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "samix: model_args sets in_chans to 1, but images are read in 3 channels, grey ones too; leave in_chans out, "
        "or train in a loop of your own\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("values", [1, 3])
def test_an_export_of_a_grey_network_runs_on_grey_tensors_and_refuses_files(values, tmp_path):
    network = tiny_cnn(5, in_chans=1).eval()
    config = NetworkConfig("custom", 5, size=32, resize=32, mean=(0.5,) * values, std=(0.25,) * values)
    write_export(tmp_path / "export", network, config, {}, "")
    loaded = samix.load(tmp_path / "export", model=tiny_cnn(5, in_chans=1))
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(loaded(images), network(images))
    reason = "but images are read in 3 channels" if values == 1 else "got 3-channel ones"
    with pytest.raises(ValueError, match=f"takes 1-channel images, {reason}"):
        loaded.predict(torch.zeros(3, 32, 32, dtype=torch.uint8))
    if values == 1:
        recipe = dataclasses.replace(small_recipe("cutmix"), init=str(tmp_path / "export"))
        with pytest.raises(ValueError, match="takes 1-channel images, but images are read in 3"):
            fit(recipe, tmp_path)
