"""Files are whole or absent; an export says how to load it, and those very lines load it where samix cannot be."""

import dataclasses
import json
import re
import shutil

import pytest
import torch
from runs import SLIM, fit, new_run, python, small_recipe, vit_recipe

from samix.checkpoint import load_checkpoint, load_into, save_checkpoint, versions, write_text, write_whole
from samix.engine import Run


def test_write_whole_replaces_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "new λ")
    assert path.read_text(encoding="utf-8") == "new λ"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert path.read_text(encoding="utf-8") == "old"
    write_text(path, "new")  # the stray temporary is in nobody's way
    assert path.read_text(encoding="utf-8") == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_an_interrupted_first_write_leaves_no_file(tmp_path):
    def fail(temporary):
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "a.txt", fail)
    assert not (tmp_path / "a.txt").exists()


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """fsync, then the name: after a power cut there is the old file or the new one."""
    import samix.checkpoint as module

    order = []
    fsync, replace = module.os.fsync, module.Path.replace
    monkeypatch.setattr(module.os, "fsync", lambda fd: (order.append("fsync"), fsync(fd)))
    monkeypatch.setattr(module.Path, "replace", lambda a, b: (order.append("replace"), replace(a, b)))
    save_checkpoint(tmp_path / "a.pt", {"x": torch.zeros(2)})
    assert order == ["fsync", "replace", "fsync"]


def test_load_checkpoint_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*last.pt; a run writes last.pt and best.pt"):
        load_checkpoint(tmp_path / "last.pt")


def test_load_into_names_what_differs():
    net = torch.nn.Linear(2, 3)
    with pytest.raises(
        ValueError, match=r"another network: 1 missing \(first: bias\), 1 unknown \(first: scale\), 1 of"
    ):
        load_into(net, {"weight": torch.zeros(3, 9), "scale": torch.zeros(1)}, "last.pt")


def test_versions_are_of_what_decides_a_result():
    assert torch.__version__.startswith(versions()["torch"])
    assert {"python", "samix", "timm", "numpy", "torchvision", "accelerate"} == set(versions()) - {"torch"}


# Export ---------------------------------------------------------------------------------------------------------------

SINGLE = '{"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}'
NETWORKS = {
    "deep small": small_recipe("samix"),
    "deep half": small_recipe("samix", stem="half", size=16),
    "single small": small_recipe("samix", model_args=SINGLE),
    "single half": small_recipe("cutmix", model_args=SINGLE, stem="half", size=16),
    "single default": small_recipe("cutmix", model_args=SINGLE, stem="default", size=32),
    "deep default": small_recipe(
        "samix", stem="default", size=32, model_args=SLIM.replace("}", ', "act_layer": "silu"}')
    ),
    "vit": vit_recipe("samix", size=32),
}

LOADER = """
import sys

class NoSamix:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "samix":
            raise ImportError("samix is not to be had here")

sys.meta_path.insert(0, NoSamix())
import torch
torch.set_num_threads(1)
try:
    import samix
except ImportError:
    pass
else:
    raise SystemExit("samix was imported")
code = torch.load(sys.argv[1] + "/code.pt")
found = {}
for name, lines in code.items():
    scope = {}
    exec(lines, scope)
    images = torch.load(sys.argv[1] + f"/{name}/images.pt")
    with torch.no_grad():
        found[name] = scope["net"](images)
torch.save(found, sys.argv[1] + "/found.pt")
"""


def test_an_export_is_loaded_by_the_lines_of_its_readme_without_samix(tmp_path, monkeypatch):
    """For every stem, and a ViT: the logits are those of the averaged network that was evaluated."""
    monkeypatch.setattr(Run, "draw", lambda run: None)
    expected, code = {}, {}
    for name, recipe in NETWORKS.items():
        run = new_run(dataclasses.replace(recipe, epochs=1), tmp_path / name, "run")
        run.fit()
        images = torch.randn(3, 3, recipe.size, recipe.size)
        torch.save(images, tmp_path / name / "images.pt")
        with torch.no_grad():
            expected[name] = next(iter(run.method.eval().predict(images).values()))
        text = (run.folder / "export/README.md").read_text(encoding="utf-8")
        (code[name],) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
        assert "samix" not in code[name]
        # "Run from the folder that holds": the last three parts of the path are given.
        assert f"Run from the folder that holds `{name}`" in text
        code[name] = f"import os\nos.chdir({str(tmp_path)!r})\n" + code[name]
    torch.save(code, tmp_path / "code.pt")
    python(LOADER, tmp_path)
    found = torch.load(tmp_path / "found.pt")
    for name in NETWORKS:
        torch.testing.assert_close(found[name], expected[name], msg=lambda text, name=name: f"{name}: {text}")


def test_an_export_holds_config_and_card(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "draw", lambda run: None)
    folder = fit(small_recipe("samix"), tmp_path) / "export"
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architecture"] == "resnet18"
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == 10
    assert config["pretrained_cfg"]["input_size"] == [3, 8, 8]
    assert config["samix"]["recipe"]["mixup"] == "samix"
    assert config["samix"]["class_names"] == [str(n) for n in range(10)]
    card = (folder / "README.md").read_text(encoding="utf-8")
    top1 = json.loads((folder.parent / "summary.json").read_text(encoding="utf-8"))["top1"]
    assert f"Top-1 {top1:.2f} %" in card
    assert "8 x 8" in card


def test_an_export_can_be_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "draw", lambda run: None)
    folder = fit(small_recipe("cutmix"), tmp_path)
    weights = (folder / "export/model.safetensors").read_bytes()
    shutil.rmtree(folder / "export")
    fit(small_recipe("cutmix"), tmp_path, resume=True)
    assert (folder / "export/model.safetensors").read_bytes() == weights
