"""``samix analyse``: each analysis with its options; prints a line, writes a picture and the numbers."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from samix.analysis import pictures
from samix.analysis.calibration import calibration
from samix.analysis.cam import mixed_cam
from samix.analysis.corruptions import CORRUPTIONS
from samix.analysis.cost import StepCost, network_cost, step_cost
from samix.analysis.information import information_curve
from samix.analysis.landscape import between, filter_direction, mixing_line, weight_line
from samix.analysis.localisation import (
    fitted_box,
    max_box_acc,
    plant,
    read_cub_boxes,
    read_tiny_boxes,
    shrink,
)
from samix.analysis.masks import mask_history, mask_numbers
from samix.analysis.occlusion import cell_saliency, drop_patches, occlusion_curve
from samix.analysis.prediction import lambda_curve
from samix.analysis.robustness import attack_curve, corruption_table, pgd_curve
from samix.analysis.subject import Subject, checkpoints, epoch_of, load_subject, read_source
from samix.analysis.tsne import feature_map
from samix.checkpoint import load_checkpoint, without_labels, write_text, write_whole
from samix.data import denormalize
from samix.evaluate import BINS
from samix.probing.features import headless
from samix.saliency import class_activation

LAMS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Analysis:
    """What every analysis is given.

    Args:
        source: a run's folder, a checkpoint (.pt), or an export's folder.
        out: the PNG to write; the numbers go beside it as JSON. Empty is analysis-NAME.png.
        data: data set with the network's classes; empty takes the one it was trained on.
        data_root: where torchvision's data sets lie.
        images: held-out images, of all classes alike; 0 takes all.
        batch_size: images in a pass.
        seed: of images, pairs and draws.
        device: auto, cpu or cuda.
    """

    name: ClassVar[str] = ""

    source: Annotated[Path, "positional"]
    out: str = ""
    data: str = ""
    data_root: str = "data"
    images: int = 500
    batch_size: int = 100
    seed: int = 0
    device: str = "auto"

    def run(self) -> str:
        """Does the analysis; the line to print.

        Raises:
            FileNotFoundError, ValueError: wrong source, data or options.
        """
        self.check()
        path = Path(self.out or f"analysis-{self.name}.png")
        if path.suffix != ".png":
            raise ValueError(f"--out must end in .png, got {path}")
        subject = load_subject(
            self.source, self.data, self.data_root, self.images, self.batch_size, self.seed, self.device
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        line, results = self.analyse(subject, path)
        options = {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "out"}
        told = {"analysis": self.name, "images": len(subject.images), "options": options, **plain(results)}
        write_text(path.with_suffix(".json"), json.dumps(told, indent=1, allow_nan=False) + "\n")
        return f"{path}: {line}"

    def check(self) -> None:
        """Raises ValueError for options that are out of range."""

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """Writes the picture; the line, and the results by name."""
        raise NotImplementedError


def plain(value: Any) -> Any:
    """Results as JSON has them: NaN becomes null, paths text; tensors, which are for pictures, are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if not_tensor(value, f.name)}
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def not_tensor(owner: Any, name: str) -> bool:
    """Whether a field is no tensor."""
    return not isinstance(getattr(owner, name), Tensor)


def pixels_of(subject: Subject, images: Tensor) -> Tensor:
    """Images for a picture: in [0, 1], on the CPU."""
    return denormalize(images, subject.mean, subject.std).cpu()


def paint(path: Path, draw: Any) -> None:
    """Writes a picture, whole or not at all."""
    write_whole(path, draw)


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lambda(Analysis):
    """Prediction against lambda: does a mixed image carry both labels in proportion?

    Args:
        mixup: by which images are mixed, by name or mixer:PATH; empty takes the run's own, or mixup.
        lams: shares of the own image.
    """

    name: ClassVar[str] = "lambda"

    mixup: str = ""
    lams: tuple[float, ...] = LAMS

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """Mixes each image with one of another class where there is one."""
        mix, name = subject.classified().mixing(self.mixup, subject.partners(self.seed), self.seed)
        found = lambda_curve(subject.predict, mix, self.lams)
        classes = subject.predict(subject.images[:1]).shape[1]
        paint(path, lambda p: pictures.draw_lambda(p, found, classes, f"{subject.title}; mixed by {name}"))
        middle = min(range(len(found.lams)), key=lambda n: abs(found.lams[n] - 0.5))
        line = (
            f"mixed by {name}, at lambda {found.lams[middle]:g} top-1 in {{a, b}} {found.either[middle]:.1f} %, "
            f"top-2 = {{a, b}} {found.both[middle]:.1f} %; share of a off by {found.error:.3f} over all lambdas"
        )
        return line, {"mixup": name, "result": found}


@dataclass(frozen=True)
class CalibrationAnalysis(Analysis):
    """Calibration: expected calibration error, reliability diagram, overconfidence.

    Args:
        bins: of equal width.
    """

    name: ClassVar[str] = "calibration"

    images: int = 0
    bins: int = BINS

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """On unmixed images."""
        logits = subject.classified().predict(subject.images)
        found = calibration(logits.softmax(1), subject.labels, self.bins)
        paint(path, lambda p: pictures.draw_calibration(p, found, subject.title))
        line = (
            f"ECE {found.ece:.2f} % in {self.bins} bins, largest gap {found.mce:.2f} %, overconfidence "
            f"{found.overconfidence:+.2f} %, overconfidence error {found.overconfidence_error:.2f} %"
        )
        return line, {"result": found}


@dataclass(frozen=True)
class Robustness(Analysis):
    """Accuracy under FGSM and PGD, and under common corruptions.

    Args:
        epsilons: largest change of a pixel, in 1/255.
        pgd_steps: of projected gradient descent, each as much work as FGSM; 0 leaves it out.
        corruptions: by name; empty takes all.
    """

    name: ClassVar[str] = "robustness"

    epsilons: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
    pgd_steps: int = 10
    corruptions: tuple[str, ...] = ()

    def check(self) -> None:
        """Names before the work."""
        unknown = [name for name in self.corruptions if name not in CORRUPTIONS]
        if self.pgd_steps < 0:
            raise ValueError(f"--pgd-steps must be at least 0, got {self.pgd_steps}")
        if unknown or not self.epsilons or min(self.epsilons) < 0:
            raise ValueError(
                f"--epsilons must be at least 0 and --corruptions among {', '.join(CORRUPTIONS)}; got {self.epsilons} "
                f"and {', '.join(self.corruptions)}"
            )

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """All on the same images."""
        given = (subject.classified().network, subject.images, subject.labels)
        scale = (subject.mean, subject.std)
        epsilons = [epsilon / 255.0 for epsilon in self.epsilons]
        attack = attack_curve(*given, epsilons, *scale, batch_size=self.batch_size)
        seed, batch, descent = self.seed, self.batch_size, None
        if self.pgd_steps:
            descent = pgd_curve(*given, epsilons, *scale, steps=self.pgd_steps, seed=seed, batch_size=batch)
        table = corruption_table(*given, *scale, self.corruptions, seed=seed, batch_size=batch)
        classes = subject.predict(subject.images[:1]).shape[1]
        paint(path, lambda p: pictures.draw_robustness(p, attack, descent, table, classes, subject.title))
        by_descent = f", PGD-{self.pgd_steps} {descent.accuracy[-1]:.1f} %" if descent else ""
        line = (
            f"clean {table.clean:.1f} %, FGSM {self.epsilons[-1]:g}/255 {attack.accuracy[-1]:.1f} %{by_descent}, "
            f"mean of {len(table.names)} corruptions {table.mean:.1f} %"
        )
        return line, {"fgsm": attack, **({"pgd": descent} if descent else {}), "corruptions": table}


@dataclass(frozen=True)
class Occlusion(Analysis):
    """Accuracy against the share of patches dropped: by chance, most or least salient first.

    Args:
        shares: of the patches dropped.
        grid: cells per side for networks that are no plain ViT.
    """

    name: ClassVar[str] = "occlusion"

    shares: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    grid: int = 8

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """A plain ViT's patches, or cells of a grid."""
        images, labels = subject.classified().images, subject.labels
        guide, kind = cell_saliency(subject.network, images, labels, self.grid, self.batch_size)
        found = occlusion_curve(subject.predict, images, labels, guide, self.shares, seed=self.seed)
        random = torch.rand(guide[:1].shape, generator=torch.Generator().manual_seed(self.seed)).to(guide.device)
        scores = ((random, 0.0), (random, 0.5), (guide[:1], 0.25), (-guide[:1], 0.25))
        examples = [pixels_of(subject, drop_patches(images[:1], score, share))[0] for score, share in scores]
        heads = ("whole", "random 50 %", "salient 25 %", "non-salient 25 %")
        paint(path, lambda p: pictures.draw_occlusion(p, found, examples, heads, kind, subject.title))
        near = min(range(len(found.shares)), key=lambda n: abs(found.shares[n] - 0.5))
        line = (
            f"top-1 with {100 * found.shares[near]:g} % of {guide.shape[1]} x {guide.shape[2]} patches dropped: random "
            f"{found.random[near]:.1f} %, salient {found.salient[near]:.1f} %, non-salient "
            f"{found.non_salient[near]:.1f} %; mean of the random curve {found.area:.1f} %"
        )
        return line, {"salience": kind, "grid": list(guide.shape[1:]), "result": found}


@dataclass(frozen=True)
class LocalisationAnalysis(Analysis):
    """Weakly supervised localisation: MaxBoxAcc of the true class's activation map, at IoU 0.3, 0.5 and 0.7.

    Boxes are known of tiny-imagenet:DIR and cub:DIR. Of other data each image is put at a random place of a canvas
    twice as wide and high, and has to be found there.

    Args:
        steps: thresholds of the maps, evenly spaced.
        planted: put images on a canvas where boxes are known too.
        feature: dotted name of the layer that gives the map; empty for timm's networks.
    """

    name: ClassVar[str] = "localisation"

    images: int = 200
    steps: int = 100
    planted: bool = False
    feature: str = ""

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """The class activation map against the box."""
        images, boxes, told = self.boxes(subject.classified())
        parts = zip(torch.split(images, self.batch_size), torch.split(subject.labels, self.batch_size), strict=True)
        maps = torch.cat([class_activation(subject.network, x, y, feature=self.feature) for x, y in parts])
        size = (images.shape[2], images.shape[3])
        found = max_box_acc(maps, boxes, size, steps=self.steps)
        rows = torch.linspace(0, len(images) - 1, min(6, len(images))).long()
        shown = pixels_of(subject, images[rows.to(images.device)])
        title = f"{subject.title}; {told}"
        paint(
            path,
            lambda p: pictures.draw_localisation(p, found, shown, maps[rows.to(maps.device)], boxes[rows], title),
        )
        scores = ", ".join(f"{a:.1f} % at {o:g}" for o, a in zip(found.overlaps, found.max_box_acc, strict=True))
        floors = ", ".join(f"{floor:.1f}" for floor in found.whole)
        line = f"MaxBoxAcc {scores} of IoU (whole image: {floors}), {told}"
        return line, {"boxes": told, "result": found}

    def boxes(self, subject: Subject) -> tuple[Tensor, Tensor, str]:
        """Images, their boxes (N, 4), and where these come from."""
        kind, _, place = (self.data or subject.recipe.data).partition(":")
        readers = {"tiny-imagenet": read_tiny_boxes, "cub": read_cub_boxes}
        if kind in readers and not self.planted:
            known, size, short = readers[kind](Path(place).expanduser()), *subject.fit
            top = subject.files()[0].parents[0 if kind == "tiny-imagenet" else 1]
            boxes = [fitted_box(known[str(f.relative_to(top))], f, size, short) for f in subject.files()]
            return subject.images, torch.tensor(boxes), f"boxes of {kind}"
        images, boxes_ = plant(subject.images, torch.Generator().manual_seed(self.seed))
        if hasattr(subject.network, "patch_embed"):
            images, boxes_ = shrink(images, boxes_)
        return images, boxes_, "objects planted on a canvas"


@dataclass(frozen=True)
class Cam(Analysis):
    """Grad-CAM of mixed images for both of their classes.

    Args:
        mixup: by which images are mixed, by name or mixer:PATH; empty takes the run's own, or mixup.
        lam: share of the own image.
        rows: pairs in the picture.
        layer: dotted name of the layer that gives the map; empty for timm's networks.
    """

    name: ClassVar[str] = "cam"

    images: int = 100
    mixup: str = ""
    lam: float = 0.5
    rows: int = 4
    layer: str = ""

    def check(self) -> None:
        """Ranges."""
        if not 0.0 <= self.lam <= 1.0 or self.rows < 1:
            raise ValueError(f"--lam must be in [0, 1] and --rows at least 1, got {self.lam} and {self.rows}")

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """Pairs of two classes; the number is over all, the picture shows the first."""
        index = subject.classified().partners(self.seed)
        mix, name = subject.mixing(self.mixup, index, self.seed)
        batch = mix(self.lam)
        kept = (batch.labels[:, 0] != batch.labels[:, 1]).nonzero().flatten()
        if len(kept) == 0:
            raise ValueError("no pair has two classes; take more images, or images of several classes")
        mask = None if batch.mask is None else batch.mask[kept]
        batch = dataclasses.replace(
            batch,
            images=batch.images[kept],
            labels=batch.labels[kept],
            weights=batch.weights[kept],
            index=batch.index[kept],
            mask=mask,
        )
        found = mixed_cam(subject.network, batch, self.layer)
        few = torch.linspace(0, len(kept) - 1, min(self.rows, len(kept))).long().to(kept.device)
        sources = tuple(pixels_of(subject, subject.images[batch.index[few, k]]) for k in (0, 1))
        known = subject.class_names
        names = [(known[int(a)], known[int(b)]) for a, b in batch.labels[few, :2].tolist()]
        shown = pixels_of(subject, batch.images[few])
        masks = None if mask is None else mask[few]
        title = f"{subject.title}; mixed by {name} at λ = {self.lam:g}"
        cams = dataclasses.replace(found, own=found.own[few], partner=found.partner[few])
        paint(path, lambda p: pictures.draw_cam(p, (sources[0], sources[1]), shown, masks, cams, names, title))
        nowhere = float(((found.own.amax((1, 2)) <= 0) | (found.partner.amax((1, 2)) <= 0)).float().mean())
        told = "no masks to compare with"
        if not math.isnan(found.inside):
            told = (
                f"{100 * found.inside:.1f} % of the maps lie on pixels of their class (a flat map: "
                f"{100 * found.chance:.1f} %)"
            )
        line = f"mixed by {name} at lambda {self.lam:g}, {len(kept)} pairs: {told}; a class unseen in {nowhere:.1%}"
        return line, {"mixup": name, "pairs": len(kept), "unseen": nowhere, "result": found}


@dataclass(frozen=True)
class InformationAnalysis(Analysis):
    """Mutual information between mixed and source images, by MINE.

    Args:
        mixup: by which images are mixed, by name or mixer:PATH; empty takes the run's own, or mixup.
        lams: shares of the own image.
        rounds: how often each image is mixed, each time with another partner.
        side: images are averaged to this many cells per side.
        steps: of each critic.
    """

    name: ClassVar[str] = "information"

    images: int = 1000
    mixup: str = ""
    lams: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    rounds: int = 4
    side: int = 8
    steps: int = 300

    def check(self) -> None:
        """Ranges."""
        if self.rounds < 1 or self.side < 1 or self.steps < 1 or not self.lams:
            raise ValueError("--rounds, --side and --steps must be at least 1, and --lams one or more numbers")

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """Mixes all images several times, so that the critic sees many pairs."""
        indices = [subject.partners(self.seed + n) for n in range(self.rounds)]
        mixes = [subject.mixing(self.mixup, index, self.seed + n) for n, index in enumerate(indices)]

        def mixed(lam: float) -> tuple[Tensor, Tensor, Tensor]:
            # image by image, so that the pairs tested on are of images that were not trained on
            images = torch.stack([mix(lam).images for mix, _ in mixes], 1).flatten(0, 1)
            partners = torch.stack([subject.images[index] for index in indices], 1).flatten(0, 1)
            return images, subject.images.repeat_interleave(self.rounds, 0), partners

        found = information_curve(mixed, self.lams, side=self.side, steps=self.steps, seed=self.seed)
        name = mixes[0][1]
        paint(path, lambda p: pictures.draw_information(p, found, f"{subject.data.name}; mixed by {name}"))
        near = min(range(len(found.lams)), key=lambda n: abs(found.lams[n] - 0.5))
        line = (
            f"mixed by {name}, at lambda {found.lams[near]:g}: at least {found.own[near]:.2f} nats of the own image, "
            f"{found.partner[near]:.2f} of the partner"
        )
        return line, {"mixup": name, "result": found}


@dataclass(frozen=True)
class Landscape(Analysis):
    """Loss along the mixing line between two images, between two checkpoints, or along a random direction.

    Args:
        other: a second run, checkpoint or export of the same architecture.
        direction: walk along a random direction of the weights, each filter as long as the network's own.
        reach: how far that walk goes on both sides.
        points: on each line.
    """

    name: ClassVar[str] = "landscape"

    other: str = ""
    direction: bool = False
    reach: float = 1.0
    points: int = 11

    def check(self) -> None:
        """Ranges."""
        if self.points < 3 or self.reach <= 0:
            raise ValueError(f"--points must be at least 3 and --reach above 0, got {self.points} and {self.reach}")

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """The mixing line always, lines of weights where asked for."""
        images, labels, index = subject.classified().images, subject.labels, subject.partners(self.seed)
        lams = torch.linspace(0, 1, self.points).tolist()
        line = mixing_line(subject.predict, images, images[index], labels, labels[index], lams)
        start = subject.network.state_dict()
        walks: list[tuple[str, dict[str, Tensor], list[float]]] = []
        if self.other:
            end = {k: v.to(images.device) for k, v in read_source(Path(self.other))[0].state_dict().items()}
            walks.append(("to the other network", between(start, end), lams))
        if self.direction:
            places = [self.reach * (2.0 * lam - 1.0) for lam in lams]
            walks.append(("random direction", filter_direction(subject.network, self.seed), places))
        lines = [
            (name, weight_line(subject.network, start, step, places, images, labels, self.batch_size))
            for name, step, places in walks
        ]
        paint(path, lambda p: pictures.draw_landscape(p, line, lines, subject.title))
        middle = min(range(len(lams)), key=lambda n: abs(lams[n] - 0.5))
        told = (
            f"mixing line: {line.excess[middle]:.3f} nats above the label's entropy at 0.5, roughness "
            f"{line.roughness:.4f}"
        )
        for name, found in lines:
            told += f"; {name}: barrier {found.barrier:.3f}, rise {found.rise:.3f} nats"
        return told, {"mixing_line": line, **{name.replace(" ", "_"): found for name, found in lines}}


@dataclass(frozen=True)
class Tsne(Analysis):
    """Features in the plane by t-SNE, coloured by class, with silhouettes.

    Args:
        perplexity: of t-SNE.
    """

    name: ClassVar[str] = "tsne"

    perplexity: float = 30.0

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """The input of the last layer, or the features of a run without labels."""
        plain_network = not getattr(subject.network, "num_classes", 0)
        backbone = subject.network if plain_network else headless(subject.network)
        features = dataclasses.replace(subject, network=backbone).predict(subject.images)
        found = feature_map(features, subject.labels, perplexity=self.perplexity, seed=self.seed)
        paint(path, lambda p: pictures.draw_tsne(p, found, subject.labels, subject.class_names, subject.title))
        line = (
            f"silhouette of {features.shape[1]} features {found.silhouette:.3f}, of the map {found.silhouette_map:.3f}"
        )
        points = [[round(float(v), 3) for v in point] for point in found.points]
        return line, {"result": found, "points": points, "labels": subject.labels.tolist()}


@dataclass(frozen=True)
class Masks(Analysis):
    """Mask statistics through training: spread, correlation with lambda, error.

    Args:
        more: further runs or checkpoints; of a run's folder each checkpoint in it is measured.
        mixup: measure this mixup instead, by name or mixer:PATH.
        lams: shares of the own image.
    """

    name: ClassVar[str] = "masks"

    images: int = 100
    more: Annotated[tuple[Path, ...], "positional"] = ()
    mixup: str = ""
    lams: tuple[float, ...] = LAMS

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """Every checkpoint on the same pairs, and the log of the first."""
        index = subject.partners(self.seed)
        places = [one for source in (self.source, *self.more) for one in checkpoints(source)]
        found = []
        for place in places:
            method = read_source(place)[1]
            at = dataclasses.replace(
                subject, source=place, method=None if method is None else method.to(subject.images.device)
            )
            mix, _ = at.mixing(self.mixup, index, self.seed)
            name = place.stem if len(places) == len(checkpoints(self.source)) else f"{place.parent.name}/{place.stem}"
            found.append((name, epoch_of(place), mask_numbers(mix, self.lams)))
        history = mask_history(load_checkpoint(checkpoints(self.source)[-1])["rows"])
        paint(path, lambda p: pictures.draw_masks(p, found, history, subject.title))
        told = found[-1][2]
        line = (
            f"{found[-1][0]}: spread within a mask {told.spread:.3f}, correlation of its mean with lambda "
            f"{told.correlation:.3f}, |mean - lambda| {told.error:.3f}"
        )
        measured = [{"name": name, "epoch": epoch, **plain(numbers)} for name, epoch, numbers in found]
        return line, {"checkpoints": measured, "history": history}


@dataclass(frozen=True)
class CostAnalysis(Analysis):
    """Parameters, operations and throughput of a network and of one training step.

    Args:
        repeats: timed passes, of which the median counts.
    """

    name: ClassVar[str] = "cost"

    images: int = 100
    repeats: int = 5

    def analyse(self, subject: Subject, path: Path) -> tuple[str, dict[str, Any]]:
        """Times say something on a quiet machine only; an export has no training step."""
        images, labels = subject.images[: self.batch_size], subject.labels[: self.batch_size]
        network = network_cost(subject.network, images, self.repeats)
        step: StepCost | None = None
        if subject.method is not None and not without_labels(subject.recipe):
            step = step_cost(subject.method, images, labels, self.repeats)
        paint(path, lambda p: pictures.draw_cost(p, network, step, f"{subject.title}, on {images.device}"))
        line = (
            f"{network.parameters / 1e6:.3f} M parameters, {network.flops / 1e9:.4f} GFLOPs an image, "
            f"{network.images_per_second:.0f} images/s at batch {network.batch_size}"
        )
        if step is not None:
            line += f"; training step {step.flops / 1e9:.4f} GFLOPs an image, {step.images_per_second:.0f} images/s"
        return line, {"network": network, "step": step}


KINDS: dict[str, type[Analysis]] = {
    kind.name: kind
    for kind in (
        Lambda,
        CalibrationAnalysis,
        Robustness,
        Occlusion,
        LocalisationAnalysis,
        Cam,
        InformationAnalysis,
        Landscape,
        Tsne,
        Masks,
        CostAnalysis,
    )
}
