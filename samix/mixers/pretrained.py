"""A pre-trained Mixer as a mixup: SAMix^P and AutoMix^P.

SAMix (Li et al. 2022, arXiv:2111.15454) observes that masks learned at different stages and with different encoders
look alike, so that a Mixer trained once and frozen serves any network at nearly the price of CutMix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from samix.batch import Mixed, MixedBatch, pair_batch
from samix.mixers.base import MaskGenerator, adjust_mask, margin_mask
from samix.mixups.base import Augmentation, Guides, Requirements, as_lam, blend, take_rows
from samix.runtime.checks import Range
from samix.runtime.typed_options import CountOr0, PositiveShare, Share, Weight

if TYPE_CHECKING:
    from samix.mixers.folder import MixerWithEncoder

SHIPPED = {name: Path(__file__).parent / name for name in ("default", "slim")}  # those that come with the package
DEFAULT = SHIPPED["default"]


@dataclass
class Mixer(Augmentation):
    """Mixes by a trained, frozen Mixer, called as every mixup: ``batch = mix(images, labels)``.

    The network in training may be any, and so may the size of its images: the encoder sees a copy at the size it was
    trained at, and the mask is predicted at the images' size. It has no state of its own for a checkpoint.

    Args:
        alpha: lam ~ Beta(alpha, alpha); 2 in the papers.
        adjust: rescale each mask so that its mean is lam. A frozen Mixer cannot answer for its masks, so this is on;
            the label is then the exact share of pixels.
        lam_margin: plain MixUp where min(lam, 1 - lam) is at most this; negative switches it off.
        softness: how far each mask is drawn towards lam, in [0, 1]. 1 holds every mask at lam: MixUp with the same lam
            and pairs, the control that says what the masks are worth.
        encode_size: short side in pixels of what the encoder sees; 0 is twice the side of the images, at least 64, and
            at most the size it was trained at. Half of it costs a quarter.
        encode_precision: ``bf16`` runs the encoder under autocast.
        share: part of the batch that the Mixer predicts masks for, in (0, 1]; the rest is plain MixUp.
        clean_weight: weight of a cross-entropy on the clean batch beside the mixed one, in training through samix; 1 is
            the papers' step, 0 the cheap one.

    Example:
        >>> mix = samix.Mixer.from_pretrained("default")
        >>> batch = mix(torch.randn(4, 3, 64, 64), torch.tensor([3, 1, 4, 1]), lam=0.3)
        >>> batch.mask.shape
        torch.Size([4, 1, 64, 64])
    """

    name: ClassVar[str] = "mixer"
    family: ClassVar[str] = "Learned"

    alpha: float = 2.0
    adjust: bool = True
    lam_margin: Annotated[float, Range(high=0.5)] = 0.08
    softness: Share = 0.0
    encode_size: CountOr0 = 0
    encode_precision: Literal["no", "bf16"] = "no"
    share: PositiveShare = 1.0
    clean_weight: Weight = 0.0
    network: nn.Module | None = field(default=None, kw_only=True, repr=False, compare=False)  # a MixerWithEncoder
    mean: tuple[float, ...] | None = field(default=None, kw_only=True)
    std: tuple[float, ...] | None = field(default=None, kw_only=True)

    @property
    def requirements(self) -> Requirements:
        return Requirements(own_losses=("clean",) if self.clean_weight else ())

    def describe(self) -> str:
        return f"a trained Mixer ({self.loaded.config.kind}), frozen"

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Mixer:
        """Reads a Mixer.

        Args:
            source: the folder of a run or of a Mixer, its ``model.safetensors``, a hub id ``owner/name``, or
                ``default`` or ``slim``: those that come with samix.
            options: of this class.

        Raises:
            FileNotFoundError, ValueError: nothing there, or not a Mixer; says why.
        """
        from samix.mixers.folder import MixerWithEncoder

        network = MixerWithEncoder.read(SHIPPED.get(str(source), source))
        return cls(network=network, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes weights, config and card into a folder."""
        self.loaded.save_pretrained(folder)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Shares it on the hub, and returns the address of the commit; options are ``huggingface_hub``'s."""
        return str(self.loaded.push_to_hub(repo_id, **options))

    @property
    def loaded(self) -> MixerWithEncoder:
        """The networks.

        Raises:
            ValueError: made without.
        """
        if self.network is None:
            raise ValueError('this Mixer has no network; make it by samix.Mixer.from_pretrained("runs/NAME/mixer")')
        return cast("MixerWithEncoder", self.network)

    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """How the images to be mixed are normalised, where it was not said; without, as the Mixer's own were."""
        if self.mean is None:
            self.mean, self.std = tuple(mean), tuple(std)

    def compile_parts(self, **options: object) -> None:
        self.loaded.compile(**options)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """The feature maps (B, D, h, w) that guide the masks: one clean pass, stopped at the feature stage.

        Args:
            images: (B, C, H, W), normalised as the learner's are.
        """
        network = self.loaded
        if next(network.parameters()).device != images.device:
            network.to(images.device)
        bf16 = self.encode_precision == "bf16"
        with torch.autocast(images.device.type, torch.bfloat16) if bf16 else nullcontext():
            pixels = images if torch.is_autocast_enabled(images.device.type) else images.float()
            return network.encode(self.renormalized(pixels), self.encode_size)

    def renormalized(self, images: Tensor) -> Tensor:
        """The images as the encoder knows them."""
        config = self.loaded.config
        if self.mean is None or (self.mean, self.std) == (config.mean, config.std):
            return images
        if not len(self.mean) == len(self.std or ()) == len(config.mean) == images.shape[1]:
            raise ValueError(
                f"mean and std must have one value for each of {len(config.mean)} channels, got {self.mean}, {self.std}"
            )
        mean, std, own_mean, own_std = (
            torch.tensor(v, device=images.device).view(1, -1, 1, 1)
            for v in (self.mean, self.std, config.mean, config.std)
        )
        scale, shift = std / own_std, (mean - own_mean) / own_std
        return images * scale.to(images.dtype) + shift.to(images.dtype)

    def apply(self, x: Tensor, partner: Tensor, lam: Tensor, guides: Guides | None = None, **extras: Tensor) -> Mixed:
        """The policy; guides are the feature maps of :meth:`encode`, made here when they are not given."""
        z, other = (self.encode(x), self.encode(partner)) if guides is None else guides
        mask = self.predict_mask(z, other, lam, (x.shape[-2], x.shape[-1]))
        return Mixed(blend(x, partner, mask), lam, mask)

    @torch.no_grad()
    def predict_mask(self, z: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """Masks (B, 1, H, W) float32: predicted, brought to mean lam, and plain MixUp where that was asked for.

        Args:
            z: (B, D, h, w) own feature maps.
            partner: (B, D, h, w) the partners'.
            lam: (B,) share of the own image.
            size: (H, W).
        """
        count = max(int(len(lam) * self.share), 1)
        own, other = self.loaded.mixer.check_guides((z[:count], partner[:count]), count)
        mask = self.loaded(own, other, lam[:count], size)
        if self.adjust:
            mask = adjust_mask(mask, lam[:count])
        if self.softness:
            mask = torch.lerp(mask, lam[:count].view(-1, 1, 1, 1), self.softness)
        mask = margin_mask(mask, lam[:count], max(self.lam_margin, 0.0))
        if count == len(lam):
            return mask
        return torch.cat([mask, lam[count:].view(-1, 1, 1, 1).expand(-1, 1, *size)])

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        lam: Tensor | float | None = None,
        index: Tensor | None = None,
        model: nn.Module | None = None,
        features: Tensor | None = None,
    ) -> MixedBatch:
        """Mixes a batch; a batch that is not to be mixed (``prob``) is not looked at.

        Args:
            model: not needed.
            features: (B, D, h, w) of these images by :meth:`encode`, where the caller has them.

        Returns:
            MixedBatch with k = 2; the label's lam is lam as drawn, and the mask's mean with ``adjust``.
        """
        self.check_batch(images, labels)
        lam = self.draw_lam(len(images)) if lam is None else as_lam(lam, len(images))
        idle = lam.device.type == "cpu" and bool((lam == 1).all())
        lam, index = self.draw(images, lam, index)
        if idle or len(images) == 1:
            ones = torch.ones(len(images), device=images.device)
            mask = ones.view(-1, 1, 1, 1).expand(-1, 1, *images.shape[2:])
            return pair_batch(Mixed(images.clone(), ones, mask), labels, index, self.targets)
        z = self.encode(images) if features is None else features
        mixed = self.apply(images, take_rows(images, index), lam, (z, z[index]))
        return pair_batch(mixed, labels, index, self.targets)

    def ahead(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches with their feature maps, which are encoded while the step on the batch before runs.

        ``for images, labels, z in mix.ahead(loader): batch = mix(images, labels, features=z)``. On a GPU the encoder
        runs on a stream of its own, on the CPU in turn with the steps. One batch more is held than without.

        Args:
            batches: of images (B, C, H, W) on the device they are trained on, and labels.

        Yields:
            images, labels, and (B, D, h, w) feature maps, in the order they came.
        """
        waiting: tuple[Tensor, Tensor, Tensor] | None = None
        side: torch.cuda.Stream | None = None
        for images, labels in batches:
            if images.is_cuda:
                side = side or torch.cuda.Stream(images.device)  # type: ignore[no-untyped-call]
                side.wait_stream(torch.cuda.current_stream(images.device))  # the images are there
                with torch.cuda.stream(side):
                    z = self.encode(images)
                images.record_stream(side)
            else:
                z = self.encode(images)
            if waiting is not None:
                yield waiting
            if side is not None:
                torch.cuda.current_stream(images.device).wait_stream(side)
                z.record_stream(torch.cuda.current_stream(images.device))
            waiting = images, labels, z
        if waiting is not None:
            yield waiting

    def forward_through(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, MixedBatch]:
        batch = self(images, labels, model=model)
        logits = model(batch.images)
        return logits, self.with_clean_loss(batch, model, images, labels, self.clean_weight)


def start_from(mixer: MaskGenerator, source: str) -> None:
    """Gives a new Mixer the weights of a trained one.

    Args:
        mixer: the new one, of the same kind and options.
        source: a Mixer's folder, file or hub id, ``default`` or ``slim``.
    """
    from samix.mixers.folder import MixerWithEncoder

    trained = MixerWithEncoder.read(SHIPPED.get(source, source)).mixer
    own, given = mixer.state_dict(), trained.state_dict()
    if type(trained) is not type(mixer) or {k: v.shape for k, v in own.items()} != {
        k: v.shape for k, v in given.items()
    }:
        raise ValueError(
            f"{source} holds a {type(trained).__name__} for maps of {trained.dim} channels, this run has a "
            f"{type(mixer).__name__} for {mixer.dim}; choose the feature stage and the options it was trained with"
        )
    mixer.load_state_dict(given)
