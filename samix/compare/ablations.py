"""Ablations of the papers as named rows of a comparison: ``samix compare ablation:NAME``.

What is taken away or varied, and what the papers conclude from it. Their tables' figures are in no source that we could
check, so only the conclusions stand here (SAMix, arXiv:2111.15454, sections 4.4 and A; AutoMix, arXiv:2103.13027).
"""

from __future__ import annotations

from dataclasses import dataclass

ABLATION = "ablation:"  # and a name, in place of a mixup


@dataclass(frozen=True)
class Variant:
    """A row of a comparison."""

    label: str  # as tables name it
    spec: str  # a mixup with options as on the command line; ``recipe.FIELD=value`` changes a field of the recipe
    # label of the row whose Mixer, frozen, is this one's mixup; ``spec`` is then ``mixer`` with options
    mixer_of: str = ""
    at: float = 1.0  # share of that run's epochs after which its Mixer is taken; 1 is its end


@dataclass(frozen=True)
class Ablation:
    """A question and the rows that answer it."""

    question: str  # what is varied
    published: str  # what the papers conclude
    variants: tuple[Variant, ...]  # rows; vanilla comes first, where there is a gain to measure
    recipe: str = "digits-quick"  # the one that is taken where none is named


VANILLA, SAMIX, AUTOMIX = Variant("vanilla", "vanilla"), Variant("samix", "samix"), Variant("automix", "automix")


def varied(name: str, template: str, values: tuple[str, ...]) -> tuple[Variant, ...]:
    """Makes a row for each value: ``NAME VALUE``."""
    return tuple(Variant(f"{name} {value}", template.format(value)) for value in values)


ABLATIONS: dict[str, Ablation] = {
    "modules": Ablation(
        "From AutoMix's Mix Block to SAMix's Mixer, a module at a time; the mask loss is the same in all rows.",
        "Lam encoding, mixing attention and non-linear content let the Mixer model relations of a pair; what follows "
        "enhances it (SAMix, Table 10).",
        (
            VANILLA,
            Variant("mix block", "samix:attention=cross,content=linear,gamma=0,upsample=nearest"),
            Variant("and lam encoding", "samix:attention=cross,content=linear,upsample=nearest"),
            Variant("and mixing attention", "samix:content=linear,upsample=nearest"),
            Variant("and non-linear content", "samix:upsample=nearest"),
            SAMIX,  # with bilinear up-sampling
            Variant("and lam adjusting", "samix:adjust_prob=0.25"),
        ),
    ),
    "without": Ablation(
        "SAMix with one part left out.",
        "Each module helps (SAMix, Table 10); variance and mean of the mask's loss keep masks discriminative and near "
        "lam.",
        (
            VANILLA,
            SAMIX,
            Variant("no lam encoding", "samix:gamma=0"),
            Variant("no mixing attention", "samix:attention=cross"),
            Variant("no non-linear content", "samix:content=linear"),
            Variant("no bilinear mask", "samix:upsample=nearest"),
            Variant("no mask variance", "samix:mask_variance=0"),
            Variant("no mask loss", "samix:mask_weight=0"),
            Variant("no lam margin", "samix:lam_margin=-1"),
        ),
    ),
    "objective": Ablation(
        "What the Mixer learns from: the global term (cross-entropy), the local one (pBCE), or both.",
        "Cross-entropy is better than pBCE alone, local + eta global best: eta 0.5 on small data, 0.1 on large (SAMix, "
        "Table 9).",
        (
            VANILLA,
            Variant("CE", "samix:eta=none"),
            Variant("pBCE", "samix:eta=0"),
            *varied("pBCE + CE, eta", "samix:eta={}", ("0.1", "0.5", "1")),
        ),
    ),
    "alpha": Ablation(
        "lam ~ Beta(alpha, alpha).",
        "alpha = 2 is best (SAMix, section A; AutoMix takes 2 too).",
        (VANILLA, *varied("alpha", "samix:alpha={}", ("0.2", "0.5", "1", "2", "4"))),
    ),
    "feature": Ablation(
        "The stage of a ResNet whose feature map guides the Mixer.",
        "The third of four stages is best (SAMix, section A).",
        (VANILLA, *varied("stage", "samix:recipe.feature={}", ("1", "2", "3", "4"))),  # timm's 0 is the stem
    ),
    "online": Ablation(
        "A Mixer that learns beside the network, or one that was trained before and is frozen.",
        "Online is better on small data, SAMix^P as good or better on large; SAMix^P transfers better than AutoMix^P "
        "(SAMix, section 4.4).",
        (
            VANILLA,
            SAMIX,
            Variant("samix frozen", "mixer:clean_weight=1", mixer_of="samix"),
            Variant("samix frozen, mixed loss", "mixer", mixer_of="samix"),
            AUTOMIX,
            Variant("automix frozen", "mixer:clean_weight=1", mixer_of="automix"),
            Variant("of other data", "mixer:default:clean_weight=1"),
        ),
    ),
    "early": Ablation(
        "A frozen Mixer of an early or late time of a run, with clean and mixed loss as that run has.",
        "Masks learned at different times look alike, so a Mixer can be frozen (SAMix, Fig. 7).",
        (
            VANILLA,
            SAMIX,
            *[
                Variant(f"Mixer after {round(100 * at)} percent", "mixer:clean_weight=1", mixer_of="samix", at=at)
                for at in (0.1, 0.25, 0.5, 1.0)
            ],
        ),
    ),
    "objective-ssl": Ablation(
        "What SAMix-I's Mixer learns from, without labels: infoNCE, the local BCE, or both.",
        "BCE alone collapses to fixed patterns; local + 0.5 global is best (SAMix, Table 9).",
        (
            VANILLA,
            Variant("infoNCE", "samix:local_weight=0,global_weight=1"),
            Variant("BCE", "samix:global_weight=0"),
            *varied("BCE + infoNCE, eta", "samix:global_weight={}", ("0.1", "0.5", "1")),
        ),
        "digits-moco",
    ),
    "clusters": Ablation(
        "The number C of clusters from which SAMix-C's Mixer learns, without labels.",
        "C = 200 is best on STL-10, Tiny-ImageNet and ImageNet (SAMix, section A).",
        (VANILLA, SAMIX, *varied("C", "samix-c:clusters={}", ("10", "50", "100", "200", "500"))),
        "digits-moco",
    ),
}


def expand(name: str) -> Ablation:
    """Returns the ablation of that name."""
    if name not in ABLATIONS:
        raise ValueError(f"unknown ablation {name!r}; choose one of {', '.join(ABLATIONS)}")
    return ABLATIONS[name]
