"""AutoMix (Liu et al., ECCV 2022, arXiv:2103.13027): mix by a network that is trained to mix.

A step has two branches with a draw of lam and pairs each. In the *classification* branch the Mixer's masks, cut from
the graph, mix images that train the network. In the *generation* branch the masks keep their graph, and the mixed
images are judged by the network's momentum copy, which is frozen: its gradient reaches the Mixer through the pixels
alone. One ``backward`` serves both.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, check_images, check_labels, pair_batch
from samix.losses.supervised import local_cross_entropy, mask_mean_loss, mask_variance, mixed_cross_entropy
from samix.methods.base import Batch, Method
from samix.methods.branch import Draw, part_of, scaled
from samix.methods.options import LearnedOptions, mask_schedule
from samix.methods.step_count import count_steps
from samix.mixers.learned import AutoMixer, MaskGenerator, Upsample, adjust_mask, margin_mask
from samix.mixers.pretrained import start_from
from samix.mixups.base import as_lam, blend, new_generator, sample_lam, sample_partners, to_device
from samix.networks.backbone import TimmBackbone, TwoHeads, as_backbone, feature_dim
from samix.networks.compile import compile_methods
from samix.networks.early_backward import gradients_now
from samix.networks.ema import (
    average_buffers,
    momentum_at,
    momentum_copy,
    train_norms,
    untracked_batchnorm,
    update_momentum,
)
from samix.networks.folding import Pair, foldable, folded
from samix.networks.inference import evaluating

WHOLE_EVERY = 4  # of the clean passes that keep statistics, one in so many runs the whole network


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
    "fast": AutoMixOptions(preset="fast", mixed_share=0.5, generator_share=0.5, generator_every=2),
}


class AutoMix(Method):
    """A network, its momentum copy, and a Mix Block, trained together.

    Args:
        model: a timm network, or any ``nn.Module`` (B, C, H, W) -> (B, num_classes); trained in place.
        num_classes: K.
        options: an :class:`AutoMixOptions`, or the name of a preset: ``reference``, ``paper`` or ``fast``.
        feature: stage that guides the Mixer: an index for timm networks (None: the third of four stages, the middle
            block of a ViT), the dotted name of a layer for others.
        classifier: dotted name of the last linear layer, for networks that are not timm's (None: the last one).
        generator: CPU generator of lam and pairs; None makes one from torch's seed.

    Raises:
        ValueError: unknown preset, a stage or layer the network lacks, another number of classes, images to be shrunk
            for a network that takes one size.
    """

    presets: ClassVar[Any] = AUTOMIX_PRESETS
    loss_parts = ("clean", "mixed", "generation", "mask", "mask_std", "mask_error")
    steps: Tensor  # optimiser steps done, see count_steps
    step: int

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
        self.check_scales()
        self.generator = new_generator() if generator is None else generator
        self.pairs: list[Pair] | None = None  # of the momentum copy's layers that are folded; found when first needed
        count_steps(self)
        self.train()

    def check_scales(self) -> None:
        """Raises ValueError where images are to be shrunk for a network that takes images of one size only."""
        embedding = getattr(getattr(self.online.backbone, "model", None), "patch_embed", None)
        for name in ("guide_scale", "generator_scale"):
            scale = getattr(self.options, name, 1.0)
            if scale != 1.0 and getattr(embedding, "strict_img_size", False):
                raise ValueError(
                    f"{name} must be 1, got {scale}: this network takes images of one size only; with another, make "
                    "it with dynamic_img_size=True (--model-args '{\"dynamic_img_size\": true}')"
                )

    def build_mixer(self, dim: int) -> MaskGenerator:
        """The Mix Block for feature maps of ``dim`` channels."""
        return AutoMixer(dim, lam_channel=self.options.lam_channel, upsample=self.options.upsample)

    # The step ---------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """One step (arXiv:2103.13027, Eq. 8 and Algorithm 1).

        Args:
            batch: images (B, C, H, W), normalised, and labels (B,) int64.

        Returns:
            Loss, and its parts ``clean``, ``mixed``, ``generation``, ``mask``, with the masks' ``mask_std`` and
            ``mask_error`` (mean distance of a mask's mean from lam); the last four only in steps that train the Mixer.

        Raises:
            ValueError: images or labels of the wrong type, shape or range.
        """
        images, labels = self.checked(batch)
        clean, z = self.clean_loss_and_guide(images, labels)
        with torch.set_grad_enabled(self.trains_mixer and torch.is_grad_enabled()):
            projected = self.mixer.project(z)  # (B, P, h, w), shared by both branches
        mixed = self.early(self.classification_loss(images, labels, projected.detach()), self.online)
        loss, parts = clean + mixed, {"clean": clean, "mixed": mixed}
        if self.trains_mixer:
            generation, mask, report = self.generation_losses(images, labels, projected)
            loss = loss + generation + self.mask_weight() * mask
            parts |= {"generation": generation, "mask": mask, **report}
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

    def clean_loss_and_guide(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The clean images' loss, and the feature map (B, D, h, w) that the Mixer reads, without a graph."""
        if self.options.guide == "online":
            logits, z = self.online.clean_and_map(images)
            clean = F.cross_entropy(logits.float(), labels, label_smoothing=self.options.smoothing)
            if self.whole_pass_due:
                self.guide(images)
            return self.early(clean, self.online), z.detach()
        z = self.guide(images)
        rows = slice(0, part_of(len(images), self.options.clean_share))
        return self.early(self.clean_loss(images[rows], labels[rows]), self.online), z

    def early(self, loss: Tensor, network: nn.Module) -> Tensor:
        """The loss; with ``sequential`` its graph is used now, and gone."""
        return gradients_now(loss, network.parameters()) if self.options.sequential else loss

    @property
    def whole_pass_due(self) -> bool:
        """Whether this step's clean pass of the momentum copy must run to the end, for the late layers' statistics."""
        return self.options.statistics == "both" or (
            self.options.statistics == "clean" and self.step % WHOLE_EVERY == 0
        )

    @property
    def trains_mixer(self) -> bool:
        """Whether this step trains the Mixer."""
        o = self.options
        return bool(self.step % o.generator_every == 0 and self.progress < o.generator_until)

    @property
    def may_leave_out(self) -> bool:
        """Whether some steps give the Mixer no gradient."""
        return bool(getattr(self.options, "rests", False))

    @torch.no_grad()
    def guide(self, images: Tensor) -> Tensor:
        """The momentum copy's feature map of the clean batch, (B, D, h, w), which also keeps its statistics.

        With ``statistics="clean"`` one pass in four runs the whole network, so that the stages behind the feature map
        have statistics of clean images too; the others stop at the map. Statistics of shrunk images would not do at
        test time: with a ``guide_scale`` the passes that keep them are further ones, on images as they are.
        """
        if self.guide_scale == 1.0 and self.options.statistics != "averaged":
            return self.momentum.feature_map(images, whole=self.whole_pass_due)
        if self.whole_pass_due:
            self.momentum.feature_map(images, whole=True)
        with self.copy_left_alone(images):
            return self.momentum.feature_map(scaled(images, self.guide_scale))

    @property
    def guide_scale(self) -> float:
        """Scale of the images that the guide is read from."""
        return float(getattr(self.options, "guide_scale", 1.0))  # not every subclass's step has the option

    def classification_loss(self, images: Tensor, labels: Tensor, projected: Tensor) -> Tensor:
        """Trains the network on images mixed by masks without a graph: no gradient of this reaches the Mixer."""
        count = len(images)
        draw = self.draw(count, images.device)
        draw = draw.part(slice(count - part_of(count, self.options.mixed_share), count))
        with torch.no_grad():
            mask = self.paint(projected, draw, images)
            mask = torch.where(self.flip(self.options.adjust_prob, images), adjust_mask(mask, draw.lam), mask)
            mask = margin_mask(mask, draw.lam, self.options.lam_margin)
            mixed = blend(images[draw.rows], images[draw.index], mask)
        labels = torch.stack([labels[draw.rows], labels[draw.index]], dim=1)
        weights = torch.stack([draw.lam, 1.0 - draw.lam], dim=1)
        batch = MixedBatch(mixed, labels, weights, draw.index, mask)
        return batch.loss(self.online_mixed(mixed), self.options.smoothing)

    def online_mixed(self, images: Tensor) -> Tensor:
        """Logits (B, K) of the network's head of mixed images; see ``statistics`` for what its norms remember."""
        if self.options.statistics != "averaged":
            return self.online.mixed(images)
        with untracked_batchnorm(self.online):
            return self.online.mixed(images)

    def generation_losses(
        self, images: Tensor, labels: Tensor, projected: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Trains the Mixer: the frozen momentum copy must find both labels in the mix, in lam's proportion."""
        o = self.options
        draw = self.draw(len(images), images.device)
        draw = draw.part(slice(0, part_of(len(images), o.generator_share)))
        images = scaled(images, o.generator_scale)
        mask = self.paint(projected, draw, images)  # (B, 1, H, W), with its graph
        mixed = blend(images[draw.rows], images[draw.index], mask)
        generation = self.generator_loss(self.judge(mixed), labels[draw.rows], labels[draw.index], draw.lam)
        if o.sequential:
            generation = gradients_now(generation, [mask])
        mask_loss = mask_mean_loss(mask, draw.lam, o.mask_margin, over_batch=o.mask_over_batch)
        if o.mask_variance:
            mask_loss = mask_loss - o.mask_variance * mask_variance(mask, over_batch=o.mask_over_batch)
        report = {
            "mask_std": mask.detach().std(dim=(1, 2, 3)).mean(),
            "mask_error": (mask.detach().mean(dim=(1, 2, 3)) - draw.lam).abs().mean(),
        }
        return generation, mask_loss, report

    def judge(self, images: Tensor) -> Tensor:
        """Logits (B, K) of the momentum copy's head of mixed images; its statistics move only where asked to."""
        if self.options.statistics == "both":
            return self.momentum.mixed(images)
        with self.copy_left_alone(images):
            return self.momentum.mixed(images)

    @contextmanager
    def copy_left_alone(self, images: Tensor) -> Iterator[None]:
        """Inside, passes of the momentum copy leave its statistics as they are.

        With ``statistics="averaged"`` its norms are constants, and folded into the convolutions before them.
        """
        if self.options.statistics != "averaged":
            with untracked_batchnorm(self.momentum):
                yield
            return
        if self.pairs is None:
            self.pairs = foldable(self.momentum.backbone, images.detach())
        with folded(self.momentum.backbone, self.pairs):
            yield

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
        return self.mixer.paint(projected[draw.rows], projected[draw.index], draw.lam, size)

    def mask_weight(self) -> float:
        """Weight of the mask loss at this progress."""
        return float(self.options.mask_weight) * mask_schedule(self.options.mask_schedule, self.progress)

    def after_step(self, progress: float) -> None:
        """Moves the momentum copy towards the network, and keeps the Mixer's parameters in range."""
        super().after_step(progress)
        momentum = momentum_at(progress, self.options.momentum, self.options.momentum_end, self.options.momentum_hold)
        update_momentum(self.online, self.momentum, momentum)
        if self.options.statistics == "averaged":  # the first averages are short: new statistics mean nothing
            average_buffers(self.online, self.momentum, min(momentum, (self.step + 1) / (self.step + 10)))
        self.mixer.after_step()
        self.step += 1
        self.steps += 1

    def train(self, mode: bool = True) -> AutoMix:
        """Train mode; the momentum copy's dropout and stochastic depth stay off, so that guide and judge are steady.

        Of the copy only the norms that keep statistics are in train mode. Switching off the layers of dropout would not
        do: timm's ResNets and fused attention call dropout as a function, and read the mode of the layer around it.
        """
        super().train(mode)
        train_norms(self.momentum, mode and self.options.statistics != "averaged")
        return self

    def compile_parts(self, **options: Any) -> None:
        """Compiles the passes of the network, its copy and the Mixer.

        Raises:
            ValueError: a network that timm does not know: it is read by hooks, which a compiled pass does not run.
        """
        if not isinstance(self.online.backbone, TimmBackbone):
            raise ValueError(
                f"{type(self.online.backbone.model).__name__} is read by hooks, which a compiled pass does not run; "
                "take a network of timm, or run it without --compile"
            )
        compile_methods(self.online.backbone, ("pooled", "feature_map", "pooled_and_map"), options)
        compile_methods(self.momentum.backbone, ("pooled", "feature_map"), options)
        compile_methods(self.mixer, ("project", "paint", "paint_all"), options)

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
            z = self.momentum.feature_map(scaled(images, self.guide_scale))
            mask = self.paint(self.mixer.project(z), draw, images)
            return pair_batch(Mixed(blend(images, images[index], mask), draw.lam, mask), labels, index)

    def export(self) -> nn.Module:
        """The momentum copy with the clean head, as a plain network of the class that was given, in eval mode.

        Raises:
            ValueError: the network was trained without ``after_step``, so its averaged copy never moved.
        """
        pairs = zip(self.online.parameters(), self.momentum.parameters(), strict=True)
        if self.step == 0 and not all(torch.equal(new, old) for new, old in pairs):
            raise ValueError(
                "the network was trained, but its averaged copy, which is exported, never moved: call "
                "method.after_step(step / total_steps) after each optimizer.step()"
            )
        model: nn.Module = copy.deepcopy(self.momentum.backbone.model)
        return model.eval().requires_grad_(True)
