"""The generated parts of the method cards: facts, picture, command, Python, and the table of options."""

import dataclasses
import inspect
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import docstring_parser
import tomllib

import samix
from samix.methods.contrastive import SSL_METHODS
from samix.methods.contrastive.samix_c import SAMixCOptions
from samix.methods.contrastive.samix_i import SAMixIOptions
from samix.mixups import MIXUPS
from samix.mixups.base import Augmentation
from samix.recipes.build import METHODS

DOCS = Path(__file__).parent
METHODS_FOLDER = DOCS / "methods"
COUNTED = METHODS_FOLDER / "step-cost.json"  # of benchmarks/counted_cost.py
MEASURED = DOCS / "results/policies-cpu-32.json"  # of benchmarks/policies.py
LEARNED_VIEWS = {"samix-i": SAMixIOptions, "samix-c": SAMixCOptions}


@dataclass(frozen=True)
class Method:
    """One registered method: its name on the command line, its class, and the dataclass of its options."""

    name: str
    kind: type[Any]
    options: type[Any]
    defaults: Any
    family: str


@cache
def methods() -> dict[str, Method]:
    """Every method that has a card, by name."""
    found = {}
    for name, kind in MIXUPS.items():
        if name != "vanilla":
            found[name] = Method(name, kind, kind, None, kind.family)
    for name, learned in METHODS.items():
        defaults = learned.presets["reference"]
        found[name] = Method(name, learned, type(defaults), defaults, "Learned")
    found["mixer"] = Method("mixer", samix.Mixer, samix.Mixer, None, "Learned")
    for name, view in SSL_METHODS.items():
        defaults = next(iter(view.presets.values()))
        found[name] = Method(name, view, type(defaults), defaults, "Without labels")
    for name, options in LEARNED_VIEWS.items():
        found[name] = Method(name, samix.MoCo, options, options(), "Without labels")
    return found


@cache
def facts() -> dict[str, dict[str, str]]:
    """What docs/cards.toml says of each method."""
    return tomllib.loads((DOCS / "cards.toml").read_text(encoding="utf-8"))


def page_name(name: str) -> str:
    """The page of a method, without its ending."""
    return facts().get(name, {}).get("page", name.replace("_", "-"))


def title(name: str) -> str:
    """The title of a method."""
    return facts().get(name, {}).get("title", name)


# Facts


def python_name(method: Method) -> str:
    """The class as a user writes it, linked to the API where it is public."""
    name = method.kind.__name__
    if name not in samix.__all__:
        return f"`{method.kind.__module__}.{name}`"
    page = "without-labels" if method.name in SSL_METHODS or method.name in LEARNED_VIEWS else "mixups"
    page = "learned" if method.name in METHODS or method.name == "mixer" else page
    return f"[`samix.{name}`](../api/{page}.md#samix.{name})"


def command(method: Method) -> str:
    """The command that uses a method."""
    if method.name in SSL_METHODS:
        return f"samix pretrain --data images:DIR --method {method.name}"
    if method.name in LEARNED_VIEWS:
        return f"samix pretrain --data images:DIR --method moco --mixup {method.name.removesuffix('-i')}"
    return f"samix train --data DIR --mixup {'mixer:default' if method.name == 'mixer' else method.name}"


def snippet(method: Method) -> str:
    """Three lines of Python."""
    name = method.kind.__name__
    if method.name == "samix-c":
        return (
            "mixup = samix.SAMixer(256)  # 256: channels of the third stage of a ResNet-18\n"
            "options = samix.MoCoOptions(queue=4096)  # less than the images, or an image meets its own key\n"
            "clusters = samix.SAMixCOptions(clusters=100)\n"
            "method = samix.MoCo(encoder, options, mixup=mixup, mixup_options=clusters, images=5000)\n"
            "method.clusters  # method(view_q, view_k, ids); ids: rows of the images in the data"
        )
    if method.name in SSL_METHODS or method.name in LEARNED_VIEWS:
        mixup = ", mixup=samix.SAMixer(256)" if method.name in LEARNED_VIEWS else ""
        return f"method = samix.{name}(encoder{mixup})\nloss, parts = method(view_q, view_k)\nloss.backward()"
    if method.name in METHODS:
        return (
            f"method = samix.{name}(model, num_classes=100)  # optimiser: method.parameter_groups(lr)\n"
            "loss, parts = method(images, labels)\n"
            "loss.backward()  # then optimizer.step() and method.after_step(progress)"
        )
    if method.name == "mixer":
        made = 'samix.Mixer.from_pretrained("default")'
    elif name in samix.__all__:
        made = f"samix.{name}()"
    else:
        return (
            f"from {method.kind.__module__} import {name}\n\n"
            f"batch = {name}()(images, labels)\nloss = batch.loss(model(batch.images))"
        )
    required = method.kind().requirements
    if required.model or required.inside_network or required.relabels or required.stateful:
        head = "head = mix.attach(model, 100)  # 100 classes; give head.parameters() to the optimiser\n"
        made += f"\n{head}" * required.stateful
        made = made.rstrip("\n")
        return f"mix = {made}\nlogits, batch = mix.forward_through(model, images, labels)\nloss = batch.loss(logits)"
    return f"mix = {made}\nbatch = mix(images, labels)\nloss = batch.loss(model(batch.images))"


def overrides(kind: type[Any], name: str) -> bool:
    """Whether a mixup has a method of its own in place of the base class's."""
    return getattr(kind, name) is not getattr(Augmentation, name)


def needs(method: Method) -> str:
    """What a method reads or trains beside the network, in words."""
    if method.name in LEARNED_VIEWS:
        return "trains a Mixer beside MoCo" + ("; a bank of keys" if method.name == "samix-c" else "")
    if method.name in SSL_METHODS:
        return "two views of each image, no labels"
    if method.name in METHODS:
        return "the network; trains a Mixer"
    if method.name == "mixer":
        return "a trained Mixer"
    required = method.kind().requirements
    words = []
    if required.inside_network:
        words.append("acts inside the network")
    elif required.model:
        words.append("reads the network")
    elif required.relabels:
        words.append("reads the network in the training pass")
    if required.stateful:
        words.append("remembers the previous batch")
    if overrides(method.kind, "attach"):
        words.append("may train a head of its own")
    return "; ".join(words) or "images and labels only"


@cache
def counted() -> dict[str, float]:
    """Operations of a step by method, in plain supervised steps."""
    if not COUNTED.exists():
        return {}
    return {name: row["counted"] for name, row in json.loads(COUNTED.read_text(encoding="utf-8"))["results"].items()}


@cache
def mixing_times() -> dict[str, float]:
    """Milliseconds in which a mixup mixes the batch that was measured, with maps that are given."""
    rows = json.loads(MEASURED.read_text(encoding="utf-8"))["results"][0]["rows"]
    wanted = ("samix", "samix, map given", "samix, solver")
    return {row["mixup"]: 1000 * row["seconds"] for row in rows if row["who"] in wanted}


def step_price(name: str) -> str:
    """The cost of a step as a number, or a dash."""
    return f"{counted()[name]:.2f}" if name in counted() else "–"


def cost(method: Method) -> str:
    """The cost of a step in words."""
    if method.name not in counted():
        return "not counted yet"
    words = f"{step_price(method.name)} plain supervised steps, by counted operations"
    if method.name in mixing_times():
        words += (
            f"; mixing itself takes {mixing_times()[method.name]:.2g} ms for 128 images of 32 pixels on one CPU thread"
        )
    return words


def source(name: str) -> str:
    """Where a method was published."""
    said = facts().get(name, {})
    link = f", [arXiv:{said['arxiv']}](https://arxiv.org/abs/{said['arxiv']})" if said.get("arxiv") else ""
    return said.get("source", "") + link


def fact_rows(name: str) -> dict[str, str]:
    """The facts about one method, in the order of the page."""
    method = methods()[name]
    rows = {"class": python_name(method), "family": method.family, "needs": needs(method)}
    if method.name not in SSL_METHODS and method.name not in LEARNED_VIEWS:
        rows["share of image A in the label"] = facts().get(name, {}).get("label", "")
        rows["a label at each pixel"] = "yes" if takes_pixel_labels(method) else "refused"
    return {**rows, "cost of a step": cost(method), "source": source(name)}


def takes_pixel_labels(method: Method) -> bool:
    """Whether a mixup can mix labels at each pixel."""
    if method.name in METHODS or not issubclass(method.kind, Augmentation):
        return False
    return method.kind().requirements.preserves_geometry


def facts_block(names: list[str]) -> str:
    """The generated top of a card: picture, command, Python, and a table with a column for each method."""
    columns = {name: fact_rows(name) for name in names}
    first = methods()[names[0]]
    parts = ["```bash\n" + "\n".join(command(methods()[name]) for name in names) + "\n```"]
    parts.append(f"```python\n{snippet(first)}\n```")
    picture = METHODS_FOLDER / f"{page_name(names[0])}.png"
    if picture.exists():
        about = "Two batches" if first.name == "comixup" else "Pairs of photographs, mixed at five values of λ"
        parts.append(f"![{about}: {title(names[0])}]({picture.name})")
    head = " | ".join(title(name) for name in names) if len(names) > 1 else ""
    rows = [f"| | {head} |", "|---|" + "---|" * len(names)]
    rows += [f"| {key} | " + " | ".join(columns[name][key] for name in names) + " |" for key in columns[names[0]]]
    return "\n\n".join([*parts, "\n".join(rows)])


# Options


@cache
def described(kind: type[Any]) -> dict[str, str]:
    """What the docstrings of a dataclass and its bases say of each option."""
    words: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        parsed = docstring_parser.parse(inspect.cleandoc(base.__dict__.get("__doc__") or ""))
        words.update({p.arg_name: " ".join((p.description or "").split()) for p in parsed.params})
    return words


def plain(text: str) -> str:
    """Docstring markup as Markdown, for a cell of a table."""
    text = re.sub(r":(?:class|func|meth|mod|data):`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    return text.replace("|", "\\|")


def options_block(name: str) -> str:
    """The table of a method's options."""
    method = methods()[name]
    defaults = method.defaults if method.defaults is not None else None
    rows = ["| option | default | |", "|---|---|---|"]
    for option in dataclasses.fields(method.options):
        if option.name in ("generator", "network", "name", "preset") or option.name.startswith("_"):
            continue
        value = getattr(defaults, option.name) if defaults is not None else option.default
        shown = "" if value is dataclasses.MISSING else f"`{json.dumps(value) if isinstance(value, str) else value}`"
        rows.append(f"| `{option.name}` | {shown} | {plain(described(method.options).get(option.name, ''))} |")
    return "\n".join(rows)
