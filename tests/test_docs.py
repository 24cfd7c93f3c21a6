"""The documentation is true: its Python runs, its commands can be read, its links lead somewhere, its API is whole."""

import contextlib
import doctest
import importlib
import inspect
import io
import pkgutil
import re
import shlex
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from PIL import Image
from process_groups import run_script, started
from runs import SLIM
from tiny_networks import tiny_cnn, tiny_vit
from torch import nn

import samix
import samix.compare.cost
from samix.cli import recipe_options
from samix.cli.main import COMMANDS
from samix.hub.source import Source

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = ROOT / "docs/tutorials"  # their pages are made of scripts, which tests/test_tutorials.py runs
# Snippets that need what is not here: downloads, a ResNet-50 of another library.
NEEDS_MORE = {"docs/methods/attentivemix.md": "downloads weights"}
# A vision transformer of one class token, for the mixups that read its attention.
VIEW_PAGES = {f"{name}.md" for name in (*samix.SSL_METHODS, "samix-i", "samix-c")}
VIT_PAGES = {"mixpro.md", "smmix.md", "tla.md", "tokenmix.md", "transmix.md", "maskmix.md", "patchcutmix.md"}


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    """Text of the fenced blocks of a language, with the number of their first line."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if found[1] == language:
            yield text[: found.start(2)].count("\n") + 1, found[2]


# Python


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the snippets find: runs of a second, a photograph, a file of weights."""
    place = tmp_path_factory.mktemp("docs")
    small = {"model_args": SLIM, "limit": 40, "epochs": 1, "batch_size": 20, "size": 16, "device": "cpu"}
    quiet = {"out": str(place / "runs"), "quiet": True, "pictures": False}
    options = {"mixup": "samix", "train": "digits", "recipe": "digits-quick", **small, **quiet}
    samix.fit(run="NAME", **options)
    samix.fit(run="images-samix-s0", stem="default", **options)
    samix.fit(run="ssl", **{**options, "mixup": "vanilla", "stem": "default", "model_args": "{}"})
    shutil.copytree(place / "runs/NAME", place / "runs/digits-quick-samix-s0")
    numbered = [(f"{name}/{i}.jpg", i) for name in ("cat", "dog") for i in range(1, 11)]
    paths = [("new.jpg", 0), *((f"{folder}/{path}", i) for folder in ("DIR", "LABELLED") for path, i in numbered)]
    for path, i in paths:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (200, 20 * i, 100 * ("cat" in path))).save(place / path)
    torch.save(timm.create_model("resnet18", num_classes=1000).state_dict(), place / "weights.pth")
    return place


def names_of(page):
    """What the snippets of a page take as given."""
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1])
    model = tiny_vit(100) if page.name in VIT_PAGES else tiny_cnn(100)
    return {
        "samix": samix,
        "torch": torch,
        "Path": Path,
        "images": images,
        "labels": labels,
        "loader": [(images, labels), (images.flip(0), labels.flip(0))],
        "model": model,
        "network": model,
        "encoder": timm.create_model("resnet18", num_classes=0) if page.name in VIEW_PAGES else model,
        "net": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
        "num_classes": 100,
        "logits": model(images).detach(),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "view_q": torch.randn(32, 3, 32, 32),
        "view_k": torch.randn(32, 3, 32, 32),
        "frozen": tiny_vit(100).eval(),
        **(detectron2_names() if page.name == "evaluation.md" else {}),
    }


def detectron2_names():
    """A ResNet-50 of timm, and one of torchvision without its classifier."""
    theirs = torchvision.models.resnet50()
    theirs.fc = nn.Identity()
    backbone = timm.create_model("resnet50", num_classes=0)
    return {"backbone": backbone, "state": backbone.state_dict(), "torchvision_resnet50": theirs}


@pytest.fixture
def narrow_projector(monkeypatch):
    """Barlow Twins' projector has layers of 8192; of 256 here."""
    presets = {name: replace(options, dim=256) for name, options in samix.BarlowTwins.presets.items()}
    monkeypatch.setattr(samix.BarlowTwins, "presets", presets)


PYTHON_PAGES = [
    page
    for page in PAGES
    if any(blocks(page, "python")) and name_of(page) not in NEEDS_MORE and page.parent != TUTORIALS
]


@pytest.mark.usefixtures("narrow_projector")
@pytest.mark.parametrize("page", PYTHON_PAGES, ids=name_of)
def test_snippets_run_as_pasted(page, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    names = names_of(page)
    for line, code in blocks(page, "python"):
        names = {**names, **{k: v for k, v in names_of(page).items() if k in ("images", "labels", "loader")}}
        text = "\n" * (line - 1) + code
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(text, name_of(page), "exec"), names)


OWN_DOCSTRING = [
    name for name in samix.__all__ if inspect.isroutine(value := getattr(samix, name)) or isinstance(value, type)
]


def test_every_public_name_has_an_example():
    assert [name for name in OWN_DOCSTRING if ">>>" not in (getattr(samix, name).__doc__ or "")] == []


@pytest.mark.usefixtures("narrow_projector")
@pytest.mark.parametrize("name", OWN_DOCSTRING)
def test_examples_of_docstrings_run_and_print_what_they_say(name, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    names = {**names_of(ROOT / "README.md"), "timm": timm}
    test = doctest.DocTestParser().get_doctest(getattr(samix, name).__doc__, names, name, None, None)
    report = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(test, out=report.write)
    assert report.getvalue() == ""


# Commands


class Parsed(Exception):
    """A command line was read whole."""


def command_lines():
    """Every ``samix ...`` line of a bash block, as (page, line, words)."""
    for page in PAGES:
        for first, code in blocks(page, "bash"):
            for offset, text in enumerate(code.replace("\\\n", "  ").splitlines()):
                for part in re.split(r"\s&&\s", text):
                    words = shlex.split(part, comments=True)
                    at = words.index("samix") if "samix" in words else -1
                    if at == 0 or (at > 0 and words[at - 1] in ("-m", "--")):
                        yield pytest.param(words[at + 1 :], id=f"{name_of(page)}:{first + offset}")


def stop_after(module, name, monkeypatch):
    """Makes a reader of options raise Parsed once it has read them."""
    real = getattr(module, name)

    def read(*arguments, **options):
        real(*arguments, **options)
        raise Parsed

    monkeypatch.setattr(module, name, read)


@pytest.mark.parametrize("words", list(command_lines()))
def test_commands_can_be_read(words, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    read_source = recipe_options.read_source
    here = lambda source: read_source(source) if Path(source).exists() else Source(source, {})  # noqa: E731  # no download
    monkeypatch.setattr(recipe_options, "read_source", here)
    monkeypatch.setattr(samix.compare.cost, "step_cost", lambda recipe: 1.0)  # --equal-time trains steps to count them
    command, rest = words[0], [word for word in words[1:] if word != "..."]
    assert command in COMMANDS, f"no such command: samix {command}"
    module = importlib.import_module(COMMANDS[command].partition(":")[0])
    reader = {"train": "read_run", "pretrain": "read_run", "compare": "read_plan"}.get(command, "read")
    stop_after(module, reader, monkeypatch)
    if words[:2] == ["mixer", "train"]:
        stop_after(importlib.import_module("samix.cli.train"), "read_run", monkeypatch)
    if rest == ["--help"]:
        return
    with contextlib.suppress(Parsed):
        module.__dict__[COMMANDS[command].partition(":")[2]](rest)
        pytest.fail("the command ran")


# Links


def anchors(page):
    """The anchors of a page's headings, as GitHub and the site name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    names = set(re.findall(r"^::: (.+)$", text, re.MULTILINE))  # of the API
    return names | {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{name_of(page)} links to {target}, which does not exist"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{name_of(page)} links to {target}; there are {sorted(anchors(place))}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_every_page_is_in_the_navigation():
    named = set(re.findall(r'"([^"]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8")))
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES[1:]}
    assert named <= pages
    assert {page for page in pages - named if not page.startswith("results/")} == set()  # commands write results


def test_the_silent_results_that_the_readme_counts():
    table = (ROOT / "docs/results/bad-input.md").read_text(encoding="utf-8").partition("Number of outcomes")[0]
    rows = [line.split("|")[2:6] for line in table.splitlines() if line.startswith("| ")][1:]
    silent = [sum("SILENT" in row[library] for row in rows) for library in range(4)]
    assert (len(rows), silent) == (25, [7, 1, 1, 0])
    assert "returns a wrong result without an error for 7, torchvision's and kornia's for 1, samix's for" in (
        ROOT / "README.md"
    ).read_text(encoding="utf-8")


# Cards


def test_the_cards_are_current_and_no_method_lacks_prose(tmp_path):
    process = started(run_script, ROOT / "docs/make_cards.py", "--check", log=tmp_path / "cards")
    assert (process.wait(), process.error) == (0, "")


# API


def test_the_api_pages_are_current_and_name_everything(tmp_path):
    process = started(run_script, ROOT / "docs/make_api.py", "--check", log=tmp_path / "api")
    assert process.wait() == 0, process.error


def test_every_public_name_has_a_docstring():
    assert [name for name in OWN_DOCSTRING if not getattr(samix, name).__doc__] == []


def test_every_public_method_is_documented_by_itself_or_its_base():
    packages = [samix.batch, samix.losses, samix.methods, samix.mixers, samix.mixups, samix.networks]
    names = [m.name for p in packages for m in pkgutil.walk_packages(p.__path__, p.__name__ + ".")]
    classes = {c for name in names for c in vars(importlib.import_module(name)).values() if inspect.isclass(c)}
    bare = [
        f"{cls.__module__}.{cls.__name__}.{name}"
        for cls in classes
        if cls.__module__.startswith("samix.")
        for name, member in vars(cls).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
        if not inspect.getdoc(getattr(cls, name))
    ]
    assert bare == []
