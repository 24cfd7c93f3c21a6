"""Writes the pages of the API reference, one for each group of public names.

``python docs/make_api.py`` writes docs/api/*.md. With ``--check`` the exit status is 1 if a page is missing or old, or
a public name is in no group.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import samix

FOLDER = Path(__file__).parent / "api"
NOT_OBJECTS = {"__version__"}
METHOD = ("forward", "after_step", "parameter_groups", "predict", "export")
MEMBERS = {  # what users call; all other names show no members
    "MixedBatch": ("lam", "partner_labels", "values", "loss", "accuracy", "soft_targets", "to", "pin_memory"),
    "Augmentation": ("__call__", "forward_through", "mix", "attach", "set_normalization", "apply", "requirements"),
    "SAMix": METHOD,
    "MoCo": METHOD,
    "Mixer": ("from_pretrained", "__call__", "set_normalization", "encode", "ahead", "save_pretrained", "push_to_hub"),
    "Classifier": ("forward", "predict", "predictions"),
}


@dataclass(frozen=True)
class Group:
    """A page: its title, a line about it, and the names on it."""

    title: str
    about: str
    names: tuple[str, ...]


FRAMEWORKS = ("MoCo", "MoCoV3", "SimCLR", "BYOL", "SimSiam", "SwAV", "BarlowTwins")
MIXING = ("IMix", "UnMix", "MixCo", "MoCHi", "BSIM", "DACL", "SDMP")
GROUPS = {
    "batch": Group(
        "Mixed batches",
        "What a mixup returns, and the interface that all mixups share.",
        ("MixedBatch", "Augmentation", "Mixed", "blend", "sample_lam", "sample_partners"),
    ),
    "mixups": Group(
        "Mixups",
        "They share the arguments of [`Augmentation`](batch.md). See [all mixups](../methods/README.md) for costs.",
        (
            *(
                "NoMixup",
                "MixUp",
                "CutMix",
                "ResizeMix",
                "FMix",
                "GridMix",
                "SmoothMix",
                "RandomChoice",
                "RecursiveMix",
            ),
            *("SaliencyMix", "GuidedMixup", "SaliencyGrafting", "AttentiveMix", "SnapMix", "PuzzleMix", "CoMixup"),
            *("ManifoldMix", "AlignMix", "PatchCutMix", "MaskMix", "TokenMix", "SMMix"),
            *("TransMix", "MixPro", "TokenLabelAlign", "SUMix"),
        ),
    ),
    "learned": Group(
        "Learned mixup",
        "Methods that train a Mixer beside the network, and trained Mixers.",
        (
            *("SAMix", "Mixer"),
            *("SAMixOptions", "AutoMix", "AutoMixOptions", "AdAutoMix", "AdAutoMixOptions"),
            *("ScoreMix", "ScoreMixOptions", "Supervised"),
            *("SAMixer", "AutoMixer", "AdversarialMixer", "ScoreMixer"),
        ),
    ),
    "without-labels": Group(
        "Without labels",
        "Called as `loss, parts = method(view_1, view_2)`; see [the methods](../methods/contrastive.md).",
        (
            *("MoCo", "MoCoOptions"),
            *(name for method in FRAMEWORKS[1:] + MIXING for name in (method, f"{method}Options")),
            *("SAMixIOptions", "SAMixCOptions", "PseudoLabelOptions", "SSL_METHODS"),
        ),
    ),
    "running": Group(
        "Training and loading",
        "Whole runs, and networks that were trained.",
        ("fit", "pretrain", "FitResult", "load", "Classifier", "Prediction", "load_init", "allow"),
    ),
}


def page_of(group: Group) -> str:
    """The Markdown of a page."""
    parts = [f"# {group.title}\n\n{group.about}\n"]
    for name in group.names:
        shown = ", ".join(MEMBERS.get(name, ()))
        options = f"members: [{shown}]\n      inherited_members: [{shown}]" if shown else "members: false"
        parts.append(f"::: samix.{name}\n    options:\n      {options}\n")
    return "\n".join(parts)


def pages() -> dict[Path, str]:
    """Every page and its text.

    Raises:
        ValueError: a public name in no group, or one that does not exist.
    """
    grouped = [name for group in GROUPS.values() for name in group.names]
    public = set(samix.__all__) - NOT_OBJECTS
    if missing := sorted(public - set(grouped)):
        raise ValueError(f"public names in no group of docs/make_api.py: {', '.join(missing)}")
    if unknown := sorted(set(grouped) - public):
        raise ValueError(f"docs/make_api.py names what samix does not have: {', '.join(unknown)}")
    lines = [
        f"- [{group.title}]({name}.md): {', '.join(f'`{one}`' for one in group.names)}"
        for name, group in GROUPS.items()
    ]
    index = "# API\n\nAll names can be imported from `samix`.\n\n" + "\n".join(lines) + "\n"
    return {FOLDER / "index.md": index, **{FOLDER / f"{name}.md": page_of(group) for name, group in GROUPS.items()}}


def main() -> int:
    """Writes the pages, or compares them."""
    try:
        wanted = pages()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    old = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" not in sys.argv[1:]:
        for path in old:
            path.write_text(wanted[path], encoding="utf-8")
        return 0
    for path in old:
        print(f"{path.name} is old; run python docs/make_api.py", file=sys.stderr)
    return bool(old)


if __name__ == "__main__":
    sys.exit(main())
