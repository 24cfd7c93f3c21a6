"""Keeps the method cards in docs/methods, their index and their navigation in step with the registries.

``python docs/make_cards.py`` fills the generated parts of each page: facts, picture, command, Python, and the table of
options. They stand between ``<!-- facts: NAME -->`` or ``<!-- options: NAME -->`` and ``<!-- end -->``. The prose
around them is written by hand. A method without a page gets one with empty sections. The exit status is 1 if prose is
missing, and with ``--check`` also if a page is old.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from cards import (
    DOCS,
    LEARNED_VIEWS,
    METHODS_FOLDER,
    facts,
    facts_block,
    methods,
    needs,
    options_block,
    page_name,
    source,
    step_price,
    title,
)

SECTIONS = ("What it does", "Equation", "When to use it", "When not to use it")
BLOCK = re.compile(r"<!-- (facts|options): ([\w -]+?) -->\n.*?<!-- end -->", re.DOTALL)
INDEX = re.compile(r"<!-- (index|frameworks) -->\n.*?<!-- end -->", re.DOTALL)

# Pages


def new_page(name: str) -> str:
    """A page with empty sections, for a method that has none."""
    body = "\n\n".join(f"## {section}" for section in SECTIONS)
    return (
        f"# {title(name)}\n\n<!-- facts: {name} -->\n<!-- end -->\n\n{body}\n\n## Options\n\n"
        f"<!-- options: {name} -->\n<!-- end -->\n"
    )


def filled(text: str) -> str:
    """A page with its generated parts made anew."""

    def block(found: re.Match[str]) -> str:
        names = found[2].split()
        inner = facts_block(names) if found[1] == "facts" else options_block(names[0])
        return f"<!-- {found[1]}: {found[2]} -->\n{inner}\n\n<!-- end -->"

    return BLOCK.sub(block, text)


def missing_prose(name: str, text: str) -> list[str]:
    """What a page lacks, in words."""
    bare = BLOCK.sub("", text)
    found = []
    if not re.search(r"\A# .+\n\n\w", bare):
        found.append("a sentence under the title")
    for section in SECTIONS:
        part = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", bare, re.MULTILINE | re.DOTALL)
        if part is None or not part[1].strip():
            found.append(f"the section '{section}'")
    found += [f"'{key}' in docs/cards.toml" for key in ("title", "source") if not facts().get(name, {}).get(key)]
    return found


# Index and navigation

INDEX_COLUMNS = ("method", "name", "needs", "label", "step")
FAMILIES = {
    "Hand-made": "They look at nothing but the images.",
    "Guided by maps": "Saliency or activation maps say what is worth keeping.",
    "In hidden layers": "They mix activations inside the network.",
    "By patches": "They respect the patches of vision transformers.",
    "On the label's side": "They wrap a mixup with a mask (`base`, or `mixup=` in Python) and change its labels.",
    "Learned": "A Mixer paints the mask.",
    "Without labels": "Methods of `samix pretrain`.",
}


def by_family() -> Iterator[tuple[str, list[str]]]:
    """The families and the names in each, in order; families of other packages come last."""
    kinds = {method.family for method in methods().values()}
    for family in [*FAMILIES, *sorted(kinds - set(FAMILIES))]:
        names = [name for name, method in methods().items() if method.family == family]
        if names:
            yield family, names


def index_block(without_labels: bool) -> str:
    """The tables of all methods."""
    parts = []
    for family, names in by_family():
        views = family == "Without labels"
        if views != without_labels:
            continue
        rows = [f"## {family}\n\n{FAMILIES.get(family, '')}\n"] if not views else []
        rows += [
            "| method | `--method` | needs | step | source |" if views else "| method | name | needs | label | step |"
        ]
        rows += ["|---|---|---|---|---|"]
        for name in names:
            method = methods()[name]
            said = source(name) if views else facts().get(name, {}).get("label", "")
            last = f"{step_price(name)} | {said}" if views else f"{said} | {step_price(name)}"
            link = f"[{title(name)}]({page_name(name)}.md)"
            shown = f"moco --mixup {name.removesuffix('-i')}" if name in LEARNED_VIEWS else name
            rows.append(f"| {link} | `{'mixer:PATH' if name == 'mixer' else shown}` | {needs(method)} | {last} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def navigation() -> str:
    """The part of zensical.toml that lists the cards."""
    lines = []
    extra = {
        "On the label's side": [("DecoupledMix", "decoupledmix"), ("Losses", "losses")],
        "Without labels": [("Overview", "contrastive"), ("Views", "views")],
    }
    for family, names in by_family():
        pages = dict.fromkeys((title(name), page_name(name)) for name in names)
        unique = {page: label for label, page in reversed(list(pages))}
        labels = {"random-choice": "One of several", "learned": "AutoMix and SAMix"}
        entries = [(labels.get(page, label), page) for page, label in reversed(list(unique.items()))]
        entries = extra[family] + entries if family == "Without labels" else entries + extra.get(family, [])
        lines.append(f'    {{ "{family}" = [')
        lines += [f'      {{ "{label}" = "methods/{page}.md" }},' for label, page in entries]
        lines.append("    ] },")
    return "\n".join(lines)


def outputs() -> tuple[dict[Path, str], list[str]]:
    """Every file that is made here and its text, and what prose is missing."""
    texts: dict[Path, str] = {}
    missing = []
    for name in methods():
        path = METHODS_FOLDER / f"{page_name(name)}.md"
        if path not in texts:
            texts[path] = filled(path.read_text(encoding="utf-8") if path.exists() else new_page(name))
        missing += [f"docs/methods/{path.name} ({name}) lacks {what}" for what in missing_prose(name, texts[path])]
    for page, views in (("README", False), ("contrastive", True)):
        path = METHODS_FOLDER / f"{page}.md"
        text = path.read_text(encoding="utf-8")
        texts[path] = INDEX.sub(lambda m, v=views: f"<!-- {m[1]} -->\n{index_block(v)}\n\n<!-- end -->", text)
    path = DOCS.parent / "zensical.toml"
    start, rest = path.read_text(encoding="utf-8").split("    # cards\n")
    end = rest.partition("    # end of cards\n")[2]
    texts[path] = f"{start}    # cards\n{navigation()}\n    # end of cards\n{end}"
    return texts, missing


def main() -> int:
    """Writes the pages, or compares them."""
    texts, missing = outputs()
    old = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    check = "--check" in sys.argv[1:]
    for path in old:
        if check:
            print(f"{path.relative_to(DOCS.parent)} is old; run python docs/make_cards.py", file=sys.stderr)
        else:
            path.write_text(texts[path], encoding="utf-8")
    for line in missing:
        print(f"warning: {line}", file=sys.stderr)
    return bool(missing or (check and old))


if __name__ == "__main__":
    sys.exit(main())
