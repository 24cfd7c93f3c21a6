"""Every kind of export loads in every documented way, or refuses; and gives the predictions of the trained network."""

import dataclasses
import json
import random
import re
import shutil

import pytest
import timm
import torch
from PIL import Image
from runs import SLIM, fit, small_recipe, vit_recipe
from safetensors.torch import load_file, save_file

import samix
from samix.data import EvalBatches, load_data
from samix.hub.checkpoints import check_sizes, load_method
from samix.hub.network_config import NetworkConfig, read_config
from samix.recipes.build import build_augment
from samix.recipes.pretrain_named import PRETRAIN_RECIPES
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.train import RunOptions
from samix.train.checkpoint import write_sealed
from samix.train.pretraining import PretrainRun

SINGLE = '{"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}'
RECIPES = {
    "small-deep": small_recipe("cutmix"),
    "small-single": small_recipe("cutmix", model_args=SINGLE, size=16),
    "half": small_recipe("samix", stem="half", size=16),
    "default": small_recipe("samix", stem="default", size=40),
    "vit": vit_recipe("mixup"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return {name: fit(recipe, out, name) for name, recipe in RECIPES.items()}


def held_out(folder):
    """Images as the run evaluated them, and the logits of the network that it reports."""
    method, recipe, _ = load_method(folder / "last.pt")
    data = load_data("digits")
    batches = EvalBatches(data, batch_size=50, size=recipe.size, augment=build_augment(recipe, data))
    images, _ = next(iter(batches.batches()))
    with torch.no_grad():
        return data, images, next(iter(method.predict(images).values()))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("place", ["", "export", "last.pt", "export/model.safetensors"])
def test_samix_load_gives_the_reported_network(runs, name, place):
    _, images, logits = held_out(runs[name])
    net = samix.load(runs[name] / place)
    with torch.no_grad():
        assert torch.allclose(net(images), logits, rtol=1e-5, atol=1e-5)
    assert net.class_names == tuple("0123456789")


@pytest.mark.parametrize("name", RECIPES)
def test_the_transform_prepares_images_as_the_run_evaluated_them(runs, name):
    data, images, logits = held_out(runs[name])
    net = samix.load(runs[name])
    prepared = torch.stack([net.transform(data.val.image(row)) for row in range(8)])
    assert torch.allclose(prepared, images[:8], atol=1e-5)
    found = net.predict([data.val.image(row) for row in range(8)], top=10, batch_size=3)
    for prediction, row in zip(found, logits.softmax(1), strict=False):
        assert prediction.name == net.class_names[int(row.argmax())]
        assert prediction.probabilities == pytest.approx(row.sort(descending=True).values.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_timm_alone_builds_the_same_network_or_refuses(runs, name):
    _, images, logits = held_out(runs[name])
    if name in ("default", "vit"):
        net = timm.create_model(f"local-dir:{runs[name] / 'export'}", pretrained=True).eval()
        with torch.no_grad():
            assert torch.allclose(net(images), logits, rtol=1e-5, atol=1e-5)
    else:
        with pytest.raises(RuntimeError, match=r"samix\.load"):
            timm.create_model(f"local-dir:{runs[name] / 'export'}", pretrained=True)


@pytest.mark.parametrize("name", RECIPES)
def test_the_lines_of_the_card_run(runs, name, tmp_path, monkeypatch):
    Image.new("RGB", (20, 20), (200, 200, 200)).save(tmp_path / "new.jpg")
    monkeypatch.chdir(tmp_path)
    folder = runs[name] / "export"
    place = "/".join(folder.parts[-3:])
    card = (folder / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == (2 if name in ("default", "vit") else 1)
    for block in blocks:
        assert place in block
        scope: dict[str, object] = {}
        exec(block.replace(place, str(folder)), scope)
        assert isinstance(scope["net"], torch.nn.Module)


def test_a_network_without_labels_gives_features(tmp_path):
    named = PRETRAIN_RECIPES["digits-moco"].build({"method": "simsiam", "mixup": "vanilla"})
    small = {"model_args": SLIM, "limit": 100, "epochs": 1, "batch_size": 20, "size": 8, "knn": 5}
    recipe = dataclasses.replace(named, method="simsiam", method_options={}, mixup="vanilla", mixup_options={}, **small)
    run = PretrainRun(recipe, RunOptions(out=str(tmp_path), run="ssl", device="cpu", quiet=True))
    run.fit()
    net = samix.load(run.folder)
    assert net(torch.zeros(2, 3, 8, 8)).shape == (2, 16)
    with pytest.raises(ValueError, match="gives features"):
        net.predict(Image.new("RGB", (8, 8)))
    report = samix.load_init(timm.create_model("resnet18", num_classes=5, **json.loads(SLIM)), run.folder)
    assert set(report.new) == {"fc.weight", "fc.bias"}


def test_another_byte_in_the_weights_is_noticed(runs, tmp_path):
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((runs["vit"] / "export" / file).read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    state["head.bias"][0] += 1
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not those that were written"):
        samix.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architecture", "../evil"),
        ("architecture", "hf-hub:owner/name"),
        ("model_args", {"checkpoint_path": "x.pt"}),
        ("model_args", {"pretrained": True}),
        ("model_args", {"layers": [10**6, 1, 1, 1]}),
        ("model_args", {"channels": [10**9]}),
        ("size", 10**6),
        ("size", True),
        ("num_classes", 10**9),
        ("mean", [float("nan")] * 3),
        ("std", [0.0, 1.0, 1.0]),
        ("class_names", ["a"]),
        ("stem", "other"),
        ("resize", "large"),
    ],
)
def test_a_config_from_elsewhere_is_checked(runs, tmp_path, field, value):
    values = json.loads((runs["vit"] / "export/config.json").read_text())
    values["samix"]["network"][field] = value
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="network" if field == "architecture" else field):
        read_config(tmp_path / "config.json")


def test_a_config_of_timm_is_read(tmp_path):
    net = timm.create_model("resnet18", num_classes=3, layers=[1, 1, 1, 1], channels=[8, 8, 16, 16])
    values = {"architecture": "resnet18", "num_classes": 3, "model_args": json.loads(SINGLE)}
    values["pretrained_cfg"] = {"input_size": [3, 64, 64], "crop_pct": 0.5, "mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "config.json").write_text(json.dumps(values))
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    found = samix.load(f"local-dir:{tmp_path}")
    assert found.config == NetworkConfig(
        "resnet18", 3, json.loads(SINGLE), size=64, resize=128, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(found(x), net.eval()(x))


def test_a_config_that_was_changed_is_refused(runs, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(runs["half"] / "export", folder)
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    good = json.dumps(values)
    for field, value in (("stem", "default"), ("mean", [0.5, 0.5, 0.5]), ("class_names", list("9876543210"))):
        values = json.loads(good)
        values["samix"]["network"][field] = value
        path.write_text(json.dumps(values), encoding="utf-8")
        with pytest.raises(ValueError, match=r"config.json is damaged: it was changed after it was written; export"):
            samix.load(folder)
    del values["samix"]["network_sha256"]
    path.write_text(json.dumps(values), encoding="utf-8")
    assert samix.load(folder).class_names == tuple("9876543210")


def test_a_network_larger_than_its_file_is_refused_before_memory_is_taken(runs, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(runs["half"] / "export", folder)
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["samix"]["network"]["model_args"] = {"layers": [9, 9, 9, 9], "channels": [16384] * 4}  # 86 GB
    del values["samix"]["network_sha256"]
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ValueError, match=r"export names a network of [\d,]+ parameters and holds [\d,]+ values"):
        samix.load(folder)


def test_a_checkpoint_that_asks_for_more_than_it_holds_is_refused(runs, tmp_path):
    state = torch.load(runs["half"] / "last.pt", weights_only=True)
    state["recipe"]["model_args"] = json.dumps({"layers": [9, 9, 9, 9], "channels": [16384] * 4})
    write_sealed(tmp_path / "last.pt", state)
    with pytest.raises(ValueError, match=r"last.pt names a network of [\d,]+ parameters and holds [\d,]+ values"):
        samix.load(tmp_path / "last.pt")


def test_a_checkpoint_with_a_longer_queue_than_it_holds_is_refused(tmp_path):
    held = {"method": {"queue": torch.zeros(8, 32)}, "data": {"classes": []}}
    made = PretrainRecipe(model="resnet18", model_args=SLIM, method="moco")
    held["method"]["weights"] = torch.zeros(1000, 1000)
    with pytest.raises(ValueError, match=r"sets queue to 1073741824, and none of its tensors is that long; it is"):
        check_sizes(dataclasses.replace(made, method_options={"queue": 2**30}), held, tmp_path / "last.pt")
    check_sizes(dataclasses.replace(made, method_options={"queue": 16384}), held, tmp_path / "last.pt")


@pytest.mark.parametrize("new_format", [True, False])
def test_weights_are_read_in_both_formats_of_torch(tmp_path, new_format):
    net = timm.create_model("test_resnet", num_classes=3)
    torch.save(net.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=new_format)
    loaded = samix.load(tmp_path / "w.pth", model=timm.create_model("test_resnet", num_classes=3))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x), net.eval()(x))
    (tmp_path / "text.pt").write_text("hello", encoding="utf-8")
    with pytest.raises(ValueError, match=r"text.pt is damaged, or holds more than weights \((?!mmap)"):
        samix.load(tmp_path / "text.pt")


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "LA", "P", "1"])
def test_an_opened_image_is_predicted_as_its_file(runs, tmp_path, mode):
    net = samix.load(runs["half"])
    raw = random.Random(0).randbytes(12 * 10 * 4)
    image = Image.frombytes("RGBA", (12, 10), raw)
    if mode == "I;16":
        image = Image.frombytes("I;16", (12, 10), raw[:240])
    elif mode == "P":
        image = image.convert("RGB").quantize(8)
    else:
        image = image.convert(mode)
    image.save(tmp_path / "a.png")
    first, second = net.predict([tmp_path / "a.png", image], top=10)
    assert (first.names, first.probabilities) == (second.names, pytest.approx(second.probabilities, abs=1e-6))
    opaque = image.convert("RGB")
    if mode in ("RGBA", "LA", "I;16"):  # which a plain conversion spoils
        assert net.predict(opaque, top=10)[0].probabilities != pytest.approx(first.probabilities, abs=1e-6)


@pytest.mark.parametrize(
    "image", [torch.zeros(3, 9, 9), torch.zeros(9, 9, 4).byte(), torch.zeros(9, 9).byte(), None, 3]
)
def test_what_is_no_image_is_refused(runs, image):
    with pytest.raises(ValueError, match=r"an image must be a path, a PIL image or a uint8 tensor \(3, H, W\), got"):
        samix.load(runs["half"]).predict([image])
