"""What all learned mixups share: the networks, the draws, the averaged copy, and what is kept after training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, TargetKind, check_images, check_labels, labelled_batch, pair_batch, unmixed
from samix.methods.base import Batch, Method, ParameterGroups, choose_options, detached, settled_kind, version_of
from samix.methods.options import StepOptions
from samix.mixers import MASK_GENERATORS
from samix.mixers.base import MaskGenerator
from samix.mixers.pretrained import start_from
from samix.mixups.base import as_lam, blend, new_generator, sample_lam, sample_partners, to_device
from samix.networks.backbone import HookedBackbone, as_backbone
from samix.networks.classifier import Classifier
from samix.networks.compile import compile_methods
from samix.networks.ema import ema_copy, ema_decay_at, train_norms, untracked_batchnorm, update_ema, warmed_up
from samix.networks.inference import evaluating
from samix.runtime.checks import check_choice

WHOLE_EVERY = 4  # of the clean passes that keep statistics, one in so many runs the whole network

Options = TypeVar("Options", bound=StepOptions)


@dataclass(frozen=True)
class Draw:
    """Draws of one branch: lam (n,) float32, partner index (n,) int64 into the batch, and the rows they are for."""

    lam: Tensor
    index: Tensor
    rows: slice = field(default_factory=lambda: slice(None))

    def part(self, rows: slice) -> Draw:
        """Returns the draws of these rows."""
        return Draw(self.lam[rows], self.index[rows], rows)


class LearnedMixup(Method, Generic[Options]):
    """Base of the methods that train a network together with a Mixer; a subclass writes :meth:`losses`.

    Args:
        model: a timm network, or any ``nn.Module`` (B, C, H, W) -> (B, num_classes); trained in place.
        num_classes: K.
        options: of the method, or the name of a preset.
        feature: stage that guides the Mixer: an index for timm networks (None: the third of four stages, the middle
            block of a ViT), the dotted name of a layer for others.
        classifier: dotted name of the classifier's layer, or names of several, see :class:`Classifier`.
        generator: CPU generator of lam and pairs; None makes one from torch's seed.
        image_size: side, or height and width, of the images, for networks that take one size and do not say which.
        targets: kind of the labels, ``class``, ``soft`` or ``multilabel``; None reads it from the first batch.

    Raises:
        ValueError: unknown preset, a stage or layer the network lacks, another number of classes.
    """

    presets: ClassVar[Mapping[str, Any]] = {}  # options by name; the first one is the default
    options: Options

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        options: Options | str = "reference",
        *,
        feature: int | str | None = None,
        classifier: str | Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        image_size: int | tuple[int, int] | None = None,
        targets: Literal["class", "soft", "multilabel"] | None = None,
    ) -> None:
        super().__init__()
        check_choice("targets", targets, (None, "class", "soft", "multilabel"))
        self.kind: TargetKind | None = targets  # of (B, K) labels, settled by the first batch
        self.options = choose_options(options, self.presets)
        self.num_classes = num_classes
        self.model = Classifier(as_backbone(model, feature, image_size), num_classes, classifier)
        self.ema_model = ema_copy(self.model)
        self.mixer = self.build_mixer(self.model.backbone.dim)
        if self.options.init:
            start_from(self.mixer, self.options.init)
        self.mixer.to(next(model.parameters()).device)
        self.generator = generator or new_generator()
        self.mixer_seen = -1  # its version when a step began
        self.train()

    def build_mixer(self, dim: int) -> MaskGenerator:
        """Builds the mask generator that the options are of, for feature maps of ``dim`` channels."""
        network = MASK_GENERATORS.get(self.options.name)
        return network(dim, network.config_class.of(self.options))

    # The step ---------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs one step.

        Args:
            batch: images (B, C, H, W), normalised, and labels: (B,) class ids; (B, K) rows that sum to 1, trained by
                cross-entropy; or (B, K) multi-hot rows, trained by binary cross-entropy.

        Raises:
            ValueError: images or labels of the wrong type, shape or range.
        """
        images, labels = self.checked(batch)
        self.mixer_seen = version_of(self.mixer)
        loss, parts = self.losses(images, labels)
        return loss, detached(parts)

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the step's loss, a scalar, and its parts, from images and labels that were checked."""
        raise NotImplementedError

    def checked(self, batch: Batch) -> Batch:
        """Returns images, and labels (B,) int64 or (B, K) float32; integer one-hot rows become class ids."""
        images, labels = labelled_batch(batch)
        check_images(images)
        check_labels(labels, len(images), self.num_classes)
        if labels.dim() == 1:
            return images, labels.long()
        self.kind = settled_kind(self.kind, labels)
        if self.kind == "value":
            raise ValueError("a learned mixup trains a classifier: give class ids, or rows in [0, 1], not values")
        if self.kind == "soft" and not labels.is_floating_point():
            return images, labels.argmax(1)
        return images, labels.float()

    @property
    def trains_mixer(self) -> bool:
        """Whether this step trains the Mixer."""
        return True

    def project(self, images: Tensor) -> Tensor:
        """Returns the Mixer's projections (B, P, h, w) of the clean batch, shared by both branches."""
        z = self.feature_map(images)
        with torch.set_grad_enabled(self.trains_mixer and torch.is_grad_enabled()):
            return self.mixer.project(z)

    @torch.no_grad()
    def feature_map(self, images: Tensor) -> Tensor:
        """Returns the averaged copy's map (B, D, h, w) of the clean batch; the pass also keeps its statistics.

        With ``bn_statistics="clean"`` one pass in four runs the whole network, so that the stages behind the feature
        map have statistics of clean images too; the others stop at the map.
        """
        whole = self.options.bn_statistics == "both" or self.step % WHOLE_EVERY == 0
        return self.ema_model.feature_map(images, whole=whole)

    def cross_entropy(self, images: Tensor, labels: Tensor) -> Tensor:
        """Returns the loss of images as they are: cross-entropy, or binary cross-entropy of multi-hot labels."""
        logits = self.model.clean(images).float()
        if labels.dim() == 1:
            return F.cross_entropy(logits, labels, label_smoothing=self.options.smoothing)
        return unmixed(images, labels, self.kind).loss(logits, self.options.smoothing)

    def teacher_logits(self, images: Tensor) -> Tensor:
        """Returns logits (B, K) of the averaged copy's head of mixed images; its statistics move only with ``both``."""
        if self.options.bn_statistics == "both":
            return self.ema_model.mixed(images)
        with untracked_batchnorm(self.ema_model):
            return self.ema_model.mixed(images)

    def draw(self, batch_size: int, device: torch.device) -> Draw:
        """Draws lam and pairs for one branch."""
        lam = sample_lam(self.options.alpha, batch_size, per_sample=self.options.per_sample, generator=self.generator)
        index = sample_partners(batch_size, self.options.pairing, generator=self.generator)
        return Draw(to_device(lam, device), to_device(index, device))

    def predict_mask(self, projected: Tensor, draw: Draw, images: Tensor) -> Tensor:
        """Returns masks (B, 1, H, W) of a draw's pairs; constant ones stay on a graph that gives a gradient of zero."""
        size = (images.shape[-2], images.shape[-1])
        mask = self.mixer.predict_mask(projected[draw.rows], projected[draw.index], draw.lam, size)
        return draw.lam.view(-1, 1, 1, 1) + 0.0 * mask if self.options.constant_masks else mask

    # Between the steps ------------------------------------------------------------------------------------------------

    def after_step(self, progress: float) -> None:
        """Moves the averaged copy towards the network, and keeps the Mixer's parameters in range.

        The decay is that of the step that follows; the released code takes that of the step that is done.
        """
        moved = self.parameter_version() != self.last_seen
        if moved and self.trains_mixer and version_of(self.mixer) == self.mixer_seen:
            self.warn_once("the optimiser changes the network but not the Mixer: give it method.parameter_groups(lr)")
        super().after_step(progress)
        o = self.options
        decay = ema_decay_at(progress, o.ema_decay, o.ema_decay_end, o.ema_hold)
        update_ema(self.model, self.ema_model, warmed_up(decay, self.step) if o.ema_warmup else decay)
        self.mixer.after_step()

    def train(self, mode: bool = True) -> LearnedMixup[Options]:
        """Sets train mode; the averaged copy's dropout and stochastic depth stay off, so that what it says is steady.

        Of the copy only the norms that keep statistics are in train mode. Switching off the layers of dropout would not
        do: timm's ResNets and fused attention call dropout as a function, and read the mode of the layer around it.
        """
        super().train(mode)
        train_norms(self.ema_model, mode)
        return self

    def compile_parts(self, **options: object) -> None:
        """Compiles the passes of the network, its copy and the Mixer.

        Raises:
            ValueError: a network that is read by hooks, which a compiled pass does not run.
        """
        if isinstance(self.model.backbone, HookedBackbone):
            raise ValueError(
                f"{type(self.model.model).__name__} is read by hooks, which a compiled pass does not run; "
                "take a network of timm, or run it without --compile"
            )
        self.model.compile_passes(**options)
        self.ema_model.compile_passes(**options)
        compile_methods(self.mixer, ("project", "predict_mask", "predict_masks"), options)

    # For the loop, the evaluation and the pictures --------------------------------------------------------------------

    def generators(self) -> list[torch.Generator]:
        return [self.generator]

    def parameter_groups(
        self, lr: float, *, weight_decay: float = 0.0, mixer_lr: float | None = None
    ) -> ParameterGroups:
        network = [p for p in self.model.parameters() if p.requires_grad]
        mixer = list(self.mixer.parameters())
        mixer_lr = lr if mixer_lr is None else mixer_lr
        return [
            {"name": "network", "params": network, "lr": lr, "weight_decay": weight_decay},
            {"name": "mixer", "params": mixer, "lr": mixer_lr, "weight_decay": weight_decay},
        ]

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Returns logits (B, K) of four classifiers; the one to report is the averaged copy with the clean head."""
        ema, ema_mixed = self.ema_model.both(images)
        model, model_mixed = self.model.both(images)
        return {"ema": ema, "ema_mixed_head": ema_mixed, "model": model, "model_mixed_head": model_mixed}

    def preview(self, images: Tensor, labels: Tensor, lam: Tensor | float, index: Tensor) -> MixedBatch:
        """Returns what the Mixer makes of these pairs at this lam, in eval mode, without margin or adjustment."""
        with evaluating(self):
            index = to_device(index, images.device)
            draw = Draw(to_device(as_lam(lam, len(images)), images.device), index)
            z = self.ema_model.feature_map(images)
            mask = self.predict_mask(self.mixer.project(z), draw, images)
            return pair_batch(Mixed(blend(images, images[index], mask), draw.lam, mask), labels, index)

    def export(self) -> nn.Module:
        """Returns the averaged copy with the clean head, of the class that was given, in eval mode.

        Raises:
            ValueError: the network was trained without ``after_step``, so its averaged copy never moved.
        """
        self.check_average(self.model, self.ema_model)
        return copy.deepcopy(self.ema_model.model).eval().requires_grad_(True)


def mask_report(masks: Tensor, lam: Tensor) -> dict[str, Tensor]:
    """Returns the spread within masks (B, S, H, W), and the mean distance of their means from lam (B, S)."""
    masks = masks.detach()
    return {"mask_std": masks.std(dim=(2, 3)).mean(), "mask_error": (masks.mean(dim=(2, 3)) - lam).abs().mean()}
