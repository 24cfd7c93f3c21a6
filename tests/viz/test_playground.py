"""The page of two pictures: its frames are the mixups' own, and in a browser the slider moves them."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from browsers import open_page
from PIL import Image
from runs import fit, small_recipe

from samix.batch import Mixed, pair_batch
from samix.cli.main import main
from samix.mixers.pretrained import DEFAULT
from samix.mixups import MIXUPS
from samix.viz import playground_page as page_module
from samix.viz.playground import Playground, find_source
from samix.viz.playground_page import COLUMNS, Sheet, playground_page, share_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A red and a blue picture with a white corner, of other sizes."""
    folder = tmp_path_factory.mktemp("photos")
    for name, colour, size in (("a<b.png", (200, 30, 30), (60, 40)), ("b.png", (30, 30, 200), (40, 70))):
        picture = Image.new("RGB", size, colour)
        picture.paste((255, 255, 255), (0, 0, size[0] // 2, size[1] // 2))
        picture.save(folder / name)
    return folder / "a<b.png", folder / "b.png"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return fit(small_recipe("samix"), out, "samix"), fit(small_recipe("vanilla"), out, "vanilla")


@pytest.fixture(scope="module")
def whole(photos, trained, tmp_path_factory):
    """The page of every mixup and a trained one, at a small size."""
    path = tmp_path_factory.mktemp("page") / "all.html"
    said = Playground(images=photos, html=path, also=(str(trained[0]),), frames=5, size=64).write()
    return path, said


def facts_of(path):
    found = re.search(r"const facts = (\{.*\});\n", path.read_text(encoding="utf-8"))
    return json.loads(found[1])


def frame(facts, number, kind, at):
    """A frame as the script cuts it out, (H, W, 3)."""
    found = facts["sheets"][number][kind]
    found = facts["sheets"][found][kind] if isinstance(found, int) else found
    side = facts["side"]
    with Image.open(io.BytesIO(base64.b64decode(found.partition(",")[2]))) as image:
        left, top = side * (at % COLUMNS), side * (at // COLUMNS)
        return np.asarray(image.convert("RGB").crop((left, top, left + side, top + side))).astype(float)


def heads(path):
    return re.findall(r"<h3>(.*?)</h3>", path.read_text(encoding="utf-8"))


# What is on it --------------------------------------------------------------------------------------------------------


def test_every_mixup_is_on_the_page(whole):
    path, said = whole
    default = ["mixer-default"] if DEFAULT.is_dir() else []
    assert sorted(heads(path)) == sorted([*MIXUPS, "samix", *default])
    assert f"{len(heads(path))} mixups, 5 lambdas" in said
    assert "not shown" not in said


def test_the_first_frame_is_the_partner_and_the_last_the_own_picture(whole):
    facts, names = facts_of(whole[0]), heads(whole[0])
    at = names.index("mixup")
    own, partner, half = (frame(facts, at, "mixed", n) for n in (4, 0, 2))
    assert own[-10:, -10:].mean((0, 1)) == pytest.approx([200, 30, 30], abs=8)
    assert partner[-10:, -10:].mean((0, 1)) == pytest.approx([30, 30, 200], abs=8)
    assert half[-10:, -10:].mean((0, 1)) == pytest.approx([115, 30, 115], abs=8)
    assert frame(facts, at, "mask", 1).mean() == pytest.approx(255 / 4, abs=4)


def test_shares_and_means_are_those_of_the_mixup(whole):
    facts, names = facts_of(whole[0]), heads(whole[0])
    assert facts["lams"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert facts["sheets"][names.index("mixup")]["shares"] == [[lam, 1 - lam] for lam in facts["lams"]]
    cutmix = facts["sheets"][names.index("cutmix")]
    assert [own for own, _ in cutmix["shares"]] == pytest.approx(cutmix["means"], abs=0.002)
    assert cutmix["means"] == sorted(cutmix["means"])
    assert frame(facts, names.index("cutmix"), "mask", 2).mean() / 255 == pytest.approx(cutmix["means"][2], abs=0.02)
    snapmix = facts["sheets"][names.index("snapmix")]["shares"]
    assert any(abs(own + partner - 1) > 0.01 for own, partner in snapmix)


def test_equal_pictures_are_stored_once(whole):
    facts, names = facts_of(whole[0]), heads(whole[0])
    alike = facts["sheets"][names.index("manifoldmix")]["mixed"]
    assert alike == names.index("mixup")
    assert isinstance(facts["sheets"][alike]["mixed"], str)


def test_the_page_stands_alone(whole):
    text = whole[0].read_text(encoding="utf-8")
    assert "http" not in text
    assert len(text) < 3_000_000
    assert "a&lt;b.png" in text
    assert "a<b.png" not in text


def test_a_page_that_would_be_too_large_gets_smaller_pictures(monkeypatch):
    noise = torch.rand(5, 3, 144, 144)
    sheets = [Sheet(f"m{n}", "Guided by maps", noise.roll(n, 2), noise[:, :1], [(0.5, 0.5)] * 5) for n in range(2)]
    page = lambda: playground_page(noise[:2], ["a", "b"], [n / 4 for n in range(5)], sheets, [])  # noqa: E731
    assert '"side":144' in page()
    monkeypatch.setattr(page_module, "LARGEST", len(page()) // 2)
    assert '"side":144' not in page()
    assert len(page()) < page_module.LARGEST


def test_shares_of_a_label_of_one_class_twice_add_up():
    images, labels = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    batch = pair_batch(Mixed(images, torch.tensor([0.3, 0.7]), None), labels, torch.tensor([0, 1]))
    assert share_of(batch) == (1.0, 0.0)


# What is refused ------------------------------------------------------------------------------------------------------


def test_what_makes_no_picture_is_named(photos, trained, tmp_path):
    also = (str(trained[0] / "best.pt"), str(trained[1]))
    said = Playground(images=photos, html=tmp_path, also=also, mixups=("cutmix",), frames=2, size=16).write()
    path = tmp_path / "playground.html"
    assert heads(path)[:1] == ["samix"]
    assert "cutmix" in heads(path)
    assert said.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": ()}, "mixes two images, got 0"),
        ({"frames": 1}, r"frames must be a whole number in \[2, 101\]"),
        ({"size": 4}, r"size must be a whole number in \[8, "),
        ({"mixups": ("cutmx",)}, "unknown mixup cutmx; choose of vanilla"),
        ({"mixups": ("samix",)}, r"trained ones are given by --also"),
        ({"also": ("/nowhere",)}, "neither a checkpoint, a run's folder, nor a Mixer"),
    ],
)
def test_wrong_options_are_refused(photos, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Playground(**{"images": photos, "html": tmp_path / "x.html", **changes}).write()
    assert not (tmp_path / "x.html").exists()


def test_sources_are_checkpoints_runs_and_mixers(trained):
    run = trained[0]
    assert find_source(str(run)) == str(run / "best.pt")
    assert find_source(str(run / "last.pt")) == str(run / "last.pt")
    assert find_source(str(run / "mixer")) == f"mixer:{run / 'mixer'}"
    assert find_source(f"mixer:{run / 'mixer'}") == f"mixer:{run / 'mixer'}"


def test_the_command_writes_it(photos, trained, tmp_path, capsys):
    path = tmp_path / "page.html"
    arguments = ["show", "--html", str(path), *map(str, photos), "--mixups", "cutmix", "--frames", "3", "--size", "32"]
    assert main([*arguments, "--also", str(trained[0] / "mixer")]) == 0
    assert heads(path) == ["mixer-samix", "cutmix"]
    assert "2 mixups, 3 lambdas" in capsys.readouterr().out


# In a browser ---------------------------------------------------------------------------------------------------------

PIXELS = "[...document.querySelectorAll('canvas')].map(canvas => canvas.toDataURL())"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (375, 760)])
def test_the_slider_moves_the_frames(whole, scheme, width, height):
    facts, names = facts_of(whole[0]), heads(whole[0])
    with open_page(whole[0], width, height, scheme) as (tab, said):
        settle(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        before = tab.evaluate(PIXELS)
        assert len(before) == 2 * len(names)
        slider = tab.locator("#lam")
        slider.focus()
        tab.keyboard.press("ArrowRight")
        settle(tab)
        assert tab.locator("#told").inner_text() == "0.75"
        after = tab.evaluate(PIXELS)
        for name in ("mixup", "cutmix", "fmix", "tokenmix"):
            at = names.index(name)
            assert before[2 * at] != after[2 * at], name
            assert before[2 * at + 1] != after[2 * at + 1], name
        label = tab.locator(f".label[data-n='{names.index('cutmix')}']").inner_text()
        assert label.startswith(f"label {facts['sheets'][names.index('cutmix')]['shares'][3][0]:.2f} + ")
        tab.keyboard.press("Home")
        settle(tab)
        assert slider.get_attribute("aria-valuetext") == "0.00"
        tab.keyboard.press("End")
        settle(tab)
        assert tab.locator("#told").inner_text() == "1.00"
        tab.locator("#play").click()
        tab.wait_for_function("document.getElementById('told').textContent !== '1.00'")
        tab.locator("#play").click()
        assert tab.locator("#play").get_attribute("aria-pressed") == "false"
        dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, dark[4:-1].split(","))) < 200) == (scheme == "dark")
        assert said == []


def settle(tab):
    """Until the frame that was asked for is painted."""
    tab.evaluate("Promise.all([...loaded.values()].map(i => i.decode()))")
    tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
