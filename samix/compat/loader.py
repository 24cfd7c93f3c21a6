"""Mixups in a DataLoader, and as a transform that is called as torchvision's ``v2.MixUp`` and ``v2.CutMix`` are.

Only mixups of images alone can run there: the network is elsewhere. In worker processes each worker draws for itself,
anew in each epoch; the draws follow from ``torch.manual_seed``, as the loader's own do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import default_collate, get_worker_info
from torchvision import tv_tensors

from samix.batch import MixedBatch, check_images, check_labels, check_smoothing
from samix.mixups.base import Augmentation
from samix.runtime import distributed


def check_input_stage(mixup: Augmentation) -> None:
    """Raises unless this mixup acts on images alone, before the network."""
    if not isinstance(mixup, Augmentation):
        raise TypeError(f"mixup must be a samix mixup, as samix.CutMix(), got {type(mixup).__name__}")
    bad = next((member for member in mixup.members if not member.requirements.images_only), None)
    if bad is None:
        return
    name = type(bad).__name__
    if bad.requirements.model:
        raise ValueError(
            f"{name} looks at the network in training, which is not available here; call mix(images, labels, "
            "model=model) or mix.forward_through(model, images, labels) in the training step"
        )
    raise ValueError(
        f"{name} acts inside or after the forward pass, so it cannot run before the network; call "
        "mix.forward_through(model, images, labels) in the training step"
    )


class InputStage:
    """The base of the adapters: a mixup of images alone, and the form of its targets."""

    def __init__(self, mixup: Augmentation, num_classes: int | None = None, smoothing: float = 0.0) -> None:
        check_input_stage(mixup)
        check_smoothing(smoothing)
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.mixup, self.num_classes, self.smoothing = mixup, num_classes, smoothing
        self._salt = mixup.generator.initial_seed() + 7919 * distributed.rank()
        self._worker_seed: int | None = None

    def check(self, images: Tensor, labels: Tensor) -> None:
        """Raises unless these can be mixed, and made targets of."""
        check_images(images)
        size = tuple(images.shape[2:]) if self.num_classes is None else None
        check_labels(labels, len(images), self.num_classes, size=size)

    def mix(self, images: Tensor, labels: Tensor) -> MixedBatch:
        """Mixes a batch, with draws of this worker's own."""
        self.check(images, labels)
        self._seed_worker()
        return self.mixup(images, labels)

    def _seed_worker(self) -> None:
        """Seeds the mixup once in each worker: workers start with equal copies of its generator, in every epoch."""
        worker = get_worker_info()
        if worker is None or worker.seed == self._worker_seed:
            return
        self._worker_seed = worker.seed
        self.mixup.generator.manual_seed((worker.seed * 6364136223846793005 + self._salt) % 2**63)


class MixCollate(InputStage):
    """A ``collate_fn`` that collates and mixes: ``DataLoader(data, 128, collate_fn=MixCollate(CutMix()))``.

    Make it after ``torch.distributed`` is set up, so that the ranks draw for themselves.

    Args:
        mixup: a mixup of images alone.
        num_classes: None gives a MixedBatch, which can be pinned and moved as a tensor; a number gives
            ``(images, soft targets (B, K))``.
        smoothing: label smoothing of the soft targets, in [0, 1).
        collate: makes ``(images, labels)`` of the samples.
    """

    def __init__(
        self,
        mixup: Augmentation,
        num_classes: int | None = None,
        smoothing: float = 0.0,
        *,
        collate: Callable[[list[object]], object] = default_collate,
    ) -> None:
        super().__init__(mixup, num_classes, smoothing)
        if num_classes is None and smoothing:
            raise ValueError(
                "smoothing is for soft targets: give num_classes, or smooth in batch.loss(logits, smoothing)"
            )
        self.collate = collate

    def __call__(self, samples: list[object]) -> MixedBatch | tuple[Tensor, Tensor]:
        """Collates the samples and mixes them.

        Raises:
            ValueError: samples that are not pairs of an image and a label.
            TypeError, ValueError: images or labels that cannot be mixed.
        """
        batch = self.collate(samples)
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            got = f"{len(batch)} parts" if isinstance(batch, list | tuple) else type(batch).__name__
            raise ValueError(
                f"samples must be (image, label) pairs, got {got}; give collate=, which makes such of them"
            )
        mixed = self.mix(*batch)
        if self.num_classes is None:
            return mixed
        return mixed.images, mixed.soft_targets(self.num_classes, self.smoothing)


class MixTransform(InputStage):
    """A transform of batches, called as torchvision's ``v2.MixUp`` and ``v2.CutMix`` are; also in ``v2.RandomChoice``.

        transform = MixTransform(FMix(), num_classes=10)
        images, targets = transform(images, labels)

    Unlike theirs it makes one draw per sample where the mixup does, pairs at random, and leaves torch's global
    generator alone.

    Args:
        mixup: a mixup of images alone.
        num_classes: K; may be None where labels are (B, K).
        smoothing: label smoothing in [0, 1).
        labels_getter: ``default`` finds the labels as torchvision does, see :func:`find_labels`; or a function of the
            inputs that returns them, the very tensor.
    """

    def __init__(
        self,
        mixup: Augmentation,
        num_classes: int | None = None,
        smoothing: float = 0.0,
        *,
        labels_getter: str | Callable[[object], Tensor] = "default",
    ) -> None:
        super().__init__(mixup, num_classes, smoothing)
        if labels_getter != "default" and not callable(labels_getter):
            raise ValueError(f'labels_getter must be "default" or a function, got {labels_getter!r}')
        self.labels_getter = labels_getter

    def __call__(self, *inputs: object) -> Any:
        """Mixes the images of the inputs and makes soft targets (B, K) float32 of their labels; keeps the rest.

        Args:
            inputs: ``images, labels``, or a tuple or dict with both. Not modified.

        Returns:
            As the inputs.

        Raises:
            TypeError, ValueError: inputs without images and labels, or such that cannot be mixed.
        """
        given = inputs[0] if len(inputs) == 1 else inputs
        labels = find_labels(given) if self.labels_getter == "default" else self.labels_getter(given)  # type: ignore[operator]
        leaves, form = tree_flatten(given)
        at_labels = next((i for i, leaf in enumerate(leaves) if leaf is labels), None)
        at_images = find_images(leaves, at_labels)
        if at_labels is None:
            raise ValueError("labels_getter must return a tensor of the inputs itself, not a copy of it")
        if labels.dim() > 2:
            raise ValueError(
                f"labels must be class ids (B,) or targets (B, K), got {tuple(labels.shape)}; for labels at each pixel "
                "call the mixup itself: batch = samix.CutMix()(images, labels)"
            )
        images = leaves[at_images]
        batch = self.mix(images.as_subclass(Tensor), labels.as_subclass(Tensor))
        if batch.labels.dim() == 2 and self.num_classes is None:
            raise ValueError("num_classes must be given for labels that are class ids (B,)")
        mixed = tv_tensors.wrap(batch.images, like=images) if isinstance(images, tv_tensors.TVTensor) else batch.images
        leaves[at_images] = mixed
        leaves[at_labels] = batch.soft_targets(self.num_classes or labels.shape[1], self.smoothing)
        return tree_unflatten(leaves, form)

    def __repr__(self) -> str:
        return f"MixTransform({self.mixup!r}, num_classes={self.num_classes}, smoothing={self.smoothing})"


def find_images(leaves: Sequence[object], at_labels: int | None) -> int:
    """Returns the place of the images among the parts of a sample, found as torchvision's ``v2.MixUp`` finds them.

    The ``tv_tensors.Image``; or, without any, the first tensor (B, C, H, W).

    Raises:
        ValueError: no such tensor, several batches of images, or masks, boxes or key points, which would stay unmixed.
    """
    others = [
        leaf for leaf in leaves if isinstance(leaf, tv_tensors.TVTensor) and not isinstance(leaf, tv_tensors.Image)
    ]
    if others:
        raise ValueError(
            f"MixTransform mixes images and labels; {type(others[0]).__name__} would stay as it is. Leave it out, or "
            "call the mixup itself: samix.CutMix()(images, masks) mixes labels at each pixel, too"
        )
    tensors = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and i != at_labels}
    images = [i for i, tensor in tensors.items() if isinstance(tensor, tv_tensors.Image)]
    if len(images) > 1:
        raise ValueError(f"inputs hold {len(images)} tv_tensors.Image; give each with its labels to a call of its own")
    images = images or [i for i, tensor in tensors.items() if tensor.dim() == 4]
    if not images or tensors[images[0]].dim() != 4:
        raise ValueError(
            "inputs need images (B, C, H, W), as transform(images, labels) on a whole batch; got these tensors beside "
            f"the labels: {', '.join(str(tuple(tensor.shape)) for tensor in tensors.values()) or 'none'}"
        )
    return images[0]


def find_labels(inputs: object) -> Tensor:
    """Returns the labels of a sample, found as torchvision's ``v2.MixUp`` finds them.

    The second entry of a tuple or list, where that is a tensor; or, of a dict in that place or of a dict alone, the
    entry ``labels``, or else the first one with "label" in its key, in capitals or not.
    """
    labels: object = None
    if isinstance(inputs, Mapping):
        keys = [key for key in inputs if isinstance(key, str) and "label" in key.lower()]
        exact = [key for key in keys if key.lower() == "labels"]
        labels = inputs[(exact or keys)[0]] if keys else None
        where = f"a dict with keys {', '.join(map(str, inputs))}"
    elif isinstance(inputs, tuple | list) and len(inputs) > 1:
        labels = find_labels(inputs[1]) if isinstance(inputs[1], Mapping) else inputs[1]
        where = f"a {type(inputs).__name__} whose second entry is {type(inputs[1]).__name__}"
    else:
        where = type(inputs).__name__
    if not isinstance(labels, torch.Tensor):
        raise ValueError(f"no labels found in {where}; call transform(images, labels), or give labels_getter")
    return labels
