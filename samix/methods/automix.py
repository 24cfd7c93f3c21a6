"""AutoMix (Liu et al., ECCV 2022, arXiv:2103.13027): mix by a network that is trained to mix.

A step has two branches with a draw of lam and pairs each. In the *classification* branch the Mixer's masks, cut from
the graph, mix images that train the network. In the *generation* branch the masks keep their graph, and the mixed
images
are judged by the network's momentum copy, which is frozen: its gradient reaches the Mixer through the pixels alone.
One ``backward`` serves both.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, check_images, check_labels, pair_batch
from samix.losses import local_cross_entropy, mask_mean_loss, mask_variance, mixed_cross_entropy
from samix.methods.base import Batch, Method
from samix.mixing import Pairing, as_lam, blend, new_generator, sample_lam, sample_partners, to_device
from samix.mixups.learned import AutoMixer, LearnedMixer, Upsample, adjust_mask, check_choice, margin_mask
from samix.networks.backbone import TwoHeads, as_backbone, feature_dim
from samix.networks.modes import evaluating
from samix.networks.momentum import momentum_at, momentum_copy, untracked_batchnorm, update_momentum

MaskSchedule = Literal["constant", "linear", "cosine", "warmup"]


@dataclass(frozen=True)
class StepOptions:
    """Options of every step with a learned mixup.

    Args:
        preset: name of the preset these values come from.
        alpha: lam ~ Beta(alpha, alpha).
        per_sample: one lam per sample instead of one per batch and branch.
        pairing: ``randperm`` [released code], or ``cycle`` for small batches: no image is paired with itself.
        momentum: coefficient of the momentum copy at the start, in [0, 1].
        momentum_end: at the end; cosine between them.
        momentum_hold: share of the run in which ``momentum`` is held.
        lam_margin: plain MixUp where min(lam, 1 - lam) is at most this [released code]; negative switches it off.
        statistics: ``clean`` keeps the momentum copy's BatchNorm statistics of clean images only, and lets most clean
            passes stop at the feature map; ``both`` averages clean and mixed images [released code].
        smoothing: label smoothing of the classification losses, in [0, 1).
    """

    preset: str = "reference"
    alpha: float = 2.0
    per_sample: bool = False
    pairing: Pairing = "randperm"
    momentum: float = 0.999
    momentum_end: float = 0.999999
    momentum_hold: float = 0.1
    lam_margin: float = 0.08
    statistics: Literal["clean", "both"] = "clean"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(
                f"alpha must be a positive number, got {self.alpha}; learned mixup needs lam inside (0, 1)"
            )
        check_choice("statistics", self.statistics, ("clean", "both"))
        check_choice("pairing", self.pairing, ("randperm", "cycle", "flip", "roll"))
        for name in ("momentum", "momentum_end", "momentum_hold"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing must be in [0, 1), got {self.smoothing}")


@dataclass(frozen=True)
class LearnedOptions(StepOptions):
    """Options of a step whose Mixer has a mask loss; the defaults are those common to all presets.

    Args:
        adjust_prob: probability, per step, that the classification masks are rescaled to mean lam (SAMix).
        mask_weight: weight of the mask loss.
        mask_schedule: its course: ``constant``, ``linear`` to 0 [paper], ``cosine`` to 0, or ``warmup``, which ends
        within 2 % of the run: what the released large-scale runs did in effect.
        mask_margin: deviation of the mask's mean from lam that costs nothing.
        mask_variance: weight, inside the mask loss, of the mask's variance, which is maximised.
        mask_over_batch: mean and variance over the whole batch [released code] instead of per sample [papers].
        eta: None trains the Mixer by mixed cross-entropy [released code]; a number by local + eta * global [SAMix].
        init: a Mixer to start from, see :meth:`samix.Mixer.from_pretrained`; empty starts from new weights.
    """

    adjust_prob: float = 0.0
    mask_weight: float = 0.1
    mask_schedule: MaskSchedule = "constant"
    mask_margin: float = 0.1
    mask_variance: float = 0.0
    mask_over_batch: bool = True
    eta: float | None = None
    init: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mask_schedule", self.mask_schedule, ("constant", "linear", "cosine", "warmup"))
        if not 0.0 <= self.adjust_prob <= 1.0:
            raise ValueError(f"adjust_prob must be in [0, 1], got {self.adjust_prob}")


@dataclass(frozen=True)
class AutoMixOptions(LearnedOptions):
    """Options of AutoMix: those of the step, and its Mix Block's.

    Args:
        lam_channel: lam as a channel of the Mix Block; off on CIFAR and Tiny-ImageNet in the released code.
        upsample: of the mask, ``nearest`` [released code] or ``bilinear``.
    """

    name: ClassVar[str] = "automix"

    lam_channel: bool = True
    upsample: Upsample = "nearest"


AUTOMIX_PRESETS: dict[str, AutoMixOptions] = {
    "reference": AutoMixOptions(),
    "paper": AutoMixOptions(preset="paper", momentum_end=1.0, mask_over_batch=False, mask_schedule="linear"),
}


@dataclass(frozen=True)
class Draw:
    """Draws of one branch: lam (B,) float32 and partner index (B,) int64."""

    lam: Tensor
    index: Tensor


class AutoMix(Method):
    """A network, its momentum copy, and a Mix Block, trained together.

    Args:
        model: a timm network, or any ``nn.Module`` (B, C, H, W) -> (B, num_classes); trained in place.
        num_classes: K.
        options: an :class:`AutoMixOptions`, or the name of a preset: ``reference`` or ``paper``.
        feature: stage that guides the Mixer: an index for timm networks (None: the third of four stages, the middle
            block of a ViT), the dotted name of a layer for others.
        classifier: dotted name of the last linear layer, for networks that are not timm's (None: the last one).
        generator: CPU generator of lam and pairs; None makes one from torch's seed.

    Raises:
        ValueError: unknown preset, a stage or layer the network lacks, another number of classes.
    """

    presets: ClassVar[Any] = AUTOMIX_PRESETS

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        options: Any = "reference",
        *,
        feature: int | str | None = None,
        classifier: str | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.options = self.presets[options] if isinstance(options, str) and options in self.presets else options
        if isinstance(self.options, str):
            raise ValueError(
                f"unknown preset {options!r}; choose one of {', '.join(self.presets)}, or give the options"
            )
        self.num_classes = num_classes
        self.online = TwoHeads(as_backbone(model, num_classes, feature, classifier))
        self.momentum = momentum_copy(self.online)
        self.mixer = self.build_mixer(feature_dim(self.online.backbone))
        if getattr(self.options, "init", ""):
            start_from(self.mixer, self.options.init)
        self.mixer.to(next(model.parameters()).device)
        self.generator = new_generator() if generator is None else generator
        self.train()

    def build_mixer(self, dim: int) -> LearnedMixer:
        """The Mix Block for feature maps of ``dim`` channels."""
        return AutoMixer(dim, lam_channel=self.options.lam_channel, upsample=self.options.upsample)

    # The step ---------------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """One step (arXiv:2103.13027, Eq. 8 and Algorithm 1).

        Args:
            batch: images (B, C, H, W), normalised, and labels (B,) int64.

        Returns:
            Loss, and its parts ``clean``, ``mixed``, ``generation``, ``mask``, with the masks' ``mask_std`` and
            ``mask_error`` (mean distance of a mask's mean from lam).

        Raises:
            ValueError: images or labels of the wrong type, shape or range.
        """
        images, labels = self.checked(batch)
        projected = self.mixer.project(self.guide(images))  # (B, P, h, w), shared by both branches
        clean = self.clean_loss(images, labels)
        mixed = self.classification_loss(images, labels, projected.detach())
        generation, mask, report = self.generation_losses(images, labels, projected)
        loss = clean + mixed + generation + self.mask_weight() * mask
        parts = {"clean": clean, "mixed": mixed, "generation": generation, "mask": mask, **report}
        return loss, {name: part.detach() for name, part in parts.items()}

    def checked(self, batch: Batch) -> Batch:
        """Images and int64 labels.

        Raises:
            ValueError: images or labels of the wrong type, shape or range.
        """
        images, labels = batch
        check_images(images)
        check_labels(labels, len(images), self.num_classes)
        if labels.dim() != 1:
            raise ValueError(f"labels must be ({len(images)},) class ids, got {tuple(labels.shape)}; use .argmax(1)")
        return images, labels.long()

    def clean_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the clean images by the network's own head."""
        return F.cross_entropy(self.online.clean(images).float(), labels, label_smoothing=self.options.smoothing)

    @torch.no_grad()
    def guide(self, images: Tensor) -> Tensor:
        """The momentum copy's feature map of the clean batch, (B, D, h, w), which also keeps its statistics.

        With ``statistics="clean"`` one pass in four runs the whole network, so that the stages behind the feature map
        have statistics of clean images too; the others stop at the map.
        """
        whole = self.options.statistics == "both" or bool(torch.rand((), generator=self.generator) < 0.25)
        return self.momentum.feature_map(images, whole=whole)

    def classification_loss(self, images: Tensor, labels: Tensor, projected: Tensor) -> Tensor:
        """Trains the network on images mixed by masks without a graph: no gradient of this reaches the Mixer."""
        draw = self.draw(len(images), images.device)
        with torch.no_grad():
            mask = self.paint(projected, draw, images)
            mask = torch.where(self.flip(self.options.adjust_prob, images), adjust_mask(mask, draw.lam), mask)
            mask = margin_mask(mask, draw.lam, self.options.lam_margin)
            mixed = blend(images, images[draw.index], mask)
        batch = pair_batch(Mixed(mixed, draw.lam, mask), labels, draw.index)
        return batch.loss(self.online.mixed(mixed), self.options.smoothing)

    def generation_losses(
        self, images: Tensor, labels: Tensor, projected: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Trains the Mixer: the frozen momentum copy must find both labels in the mix, in lam's proportion."""
        draw = self.draw(len(images), images.device)
        mask = self.paint(projected, draw, images)  # (B, 1, H, W), with its graph
        mixed = blend(images, images[draw.index], mask)
        logits = self.judge(mixed)
        generation = self.generator_loss(logits, labels, labels[draw.index], draw.lam)
        over_batch = self.options.mask_over_batch
        mask_loss = mask_mean_loss(mask, draw.lam, self.options.mask_margin, over_batch=over_batch)
        if self.options.mask_variance:
            mask_loss = mask_loss - self.options.mask_variance * mask_variance(mask, over_batch=over_batch)
        report = {
            "mask_std": mask.detach().std(dim=(1, 2, 3)).mean(),
            "mask_error": (mask.detach().mean(dim=(1, 2, 3)) - draw.lam).abs().mean(),
        }
        return generation, mask_loss, report

    def judge(self, images: Tensor) -> Tensor:
        """Logits (B, K) of the momentum copy's head of mixed images; its statistics move only where asked to."""
        if self.options.statistics == "both":
            return self.momentum.mixed(images)
        with untracked_batchnorm(self.momentum):
            return self.momentum.mixed(images)

    def generator_loss(self, logits: Tensor, labels: Tensor, partner_labels: Tensor, lam: Tensor) -> Tensor:
        """Mixed cross-entropy, or SAMix's eta balance ``l_+ + eta l_-`` (arXiv:2111.15454, section 3.2)."""
        if self.options.eta is None:
            return mixed_cross_entropy(logits, labels, partner_labels, lam)
        local = local_cross_entropy(logits, labels, partner_labels, lam)
        eta = float(self.options.eta)
        return local + eta * mixed_cross_entropy(logits, labels, partner_labels, lam)

    # Its parts --------------------------------------------------------------------------------------------------------

    def draw(self, batch_size: int, device: torch.device) -> Draw:
        """A fresh lam and pairing for one branch."""
        lam = sample_lam(self.options.alpha, batch_size, per_sample=self.options.per_sample, generator=self.generator)
        index = sample_partners(batch_size, self.options.pairing, generator=self.generator)
        return Draw(to_device(lam, device), to_device(index, device))

    def flip(self, prob: float, like: Tensor) -> Tensor:
        """A coin, as a boolean tensor () on the images' device."""
        return to_device(torch.rand((), generator=self.generator) < prob, like.device)

    def paint(self, projected: Tensor, draw: Draw, images: Tensor) -> Tensor:
        """Masks (B, 1, H, W) of a draw's pairs."""
        size = (images.shape[-2], images.shape[-1])
        return self.mixer.paint(projected, projected[draw.index], draw.lam, size)

    def mask_weight(self) -> float:
        """Weight of the mask loss at this progress."""
        return float(self.options.mask_weight) * mask_schedule(self.options.mask_schedule, self.progress)

    def after_step(self, progress: float) -> None:
        """Moves the momentum copy towards the network, and keeps the Mixer's parameters in range."""
        self.progress = progress
        momentum = momentum_at(progress, self.options.momentum, self.options.momentum_end, self.options.momentum_hold)
        update_momentum(self.online, self.momentum, momentum)
        self.mixer.after_step()

    def train(self, mode: bool = True) -> AutoMix:
        """Train mode; the momentum copy's dropout and stochastic depth stay off, so that guide and judge are steady.

        Of the copy only the norms that keep statistics are in train mode. Switching off the layers of dropout would not
        do: timm's ResNets and fused attention call dropout as a function, and read the mode of the layer around it.
        """
        super().train(mode)
        for module in self.momentum.modules():
            module.training = mode and hasattr(module, "running_var")
        return self

    # For the loop, the evaluation and the pictures --------------------------------------------------------------------

    def generators(self) -> list[torch.Generator]:
        """The one generator of lam and pairs."""
        return [self.generator]

    def parameter_groups(
        self, lr: float, *, weight_decay: float = 0.0, mixer_lr: float | None = None
    ) -> list[dict[str, Any]]:
        """Two groups, ``network`` and ``mixer``."""
        network = [p for p in self.online.parameters() if p.requires_grad]
        mixer = list(self.mixer.parameters())
        return [
            {"name": "network", "params": network, "lr": lr, "weight_decay": weight_decay},
            {
                "name": "mixer",
                "params": mixer,
                "lr": lr if mixer_lr is None else mixer_lr,
                "weight_decay": weight_decay,
            },
        ]

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (B, K) of four classifiers; the one to report is the momentum copy with the clean head."""
        clean_slow, mixed_slow = self.momentum.both(images)
        clean, mixed = self.online.both(images)
        return {"momentum": clean_slow, "momentum_mixed": mixed_slow, "online": clean, "online_mixed": mixed}

    def preview(self, images: Tensor, labels: Tensor, lam: Tensor | float, index: Tensor) -> MixedBatch:
        """What the Mixer paints for these pairs at this lam, in eval mode, without margin or adjustment."""
        with evaluating(self):
            index = to_device(index, images.device)
            draw = Draw(to_device(as_lam(lam, len(images)), images.device), index)
            mask = self.paint(self.mixer.project(self.momentum.feature_map(images)), draw, images)
            return pair_batch(Mixed(blend(images, images[index], mask), draw.lam, mask), labels, index)

    def export(self) -> nn.Module:
        """The momentum copy with the clean head, as a plain network of the class that was given, in eval mode."""
        model: nn.Module = copy.deepcopy(self.momentum.backbone.model)
        return model.eval().requires_grad_(True)


def start_from(mixer: LearnedMixer, source: str) -> None:
    """Gives a new Mixer the weights of a trained one.

    Args:
        mixer: the new one, of the same kind and options.
        source: a Mixer's folder, file or hub id, or ``default``.

    Raises:
        FileNotFoundError, ValueError: no Mixer there, or one that does not fit.
    """
    from samix.mixups.frozen import DEFAULT
    from samix.networks.mixer_network import MixerNetwork

    trained = MixerNetwork.read(DEFAULT if source == "default" else source).mixer
    own, given = mixer.state_dict(), trained.state_dict()
    if type(trained) is not type(mixer) or {k: v.shape for k, v in own.items()} != {
        k: v.shape for k, v in given.items()
    }:
        raise ValueError(
            f"{source} holds a {type(trained).__name__} for maps of {trained.dim} channels, this run has a "
            f"{type(mixer).__name__} for {mixer.dim}; choose the feature stage and the options it was trained with"
        )
    mixer.load_state_dict(given)


def mask_schedule(schedule: MaskSchedule, progress: float) -> float:
    """Factor of the mask loss's weight, from 1 at progress 0.

    ``warmup`` is the released code's hook in effect: it multiplies the *current* weight by a cosine at every iteration,
    so after p of an ImageNet run of 100 epochs (500,400 iterations) about exp(-(p / 0.0135)^3) is left.

    Raises:
        ValueError: unknown schedule.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "cosine":
        return (1.0 + math.cos(math.pi * progress)) / 2.0
    if schedule == "warmup":
        return math.exp(-((progress / 0.0135) ** 3))
    raise ValueError(f"unknown mask_schedule {schedule!r}; choose constant, linear, cosine or warmup")
