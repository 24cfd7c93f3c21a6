"""The state that your own loop saves beside the weights, so that training resumes exactly."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from samix.methods.base import Method
from samix.mixups.base import Augmentation
from samix.runtime.checks import Options, Values

State = Values  # tensors, numbers, and dicts and lists of them: torch.load(weights_only=True) reads it


def mixup_state(mixup: Augmentation) -> State:
    """Returns the state of a mixup: its generator's, and what it remembers of earlier batches."""
    return {"generator": mixup.generator.get_state(), "memory": mixup.state_dict()}


def load_mixup_state(mixup: Augmentation, state: Options) -> None:
    """Restores what :func:`mixup_state` returned."""
    mixup.generator.set_state(state["generator"].cpu())
    mixup.load_state_dict(state["memory"])


def method_state(method: Method) -> State:
    """Returns what a method needs beyond its ``state_dict``: generators, remembered batches, and progress."""
    return {
        "generators": [generator.get_state() for generator in method.generators()],
        "extra": method.extra_state(),
        "progress": method.progress,
    }


def load_method_state(method: Method, state: Options) -> None:
    """Restores what :func:`method_state` returned; call ``load_state_dict`` first.

    Raises:
        ValueError: the state of another method.
    """
    generators = method.generators()
    if len(generators) != len(state["generators"]):
        raise ValueError(
            f"this state has {len(state['generators'])} generators and {type(method).__name__} has {len(generators)}; "
            "build the method that was saved"
        )
    for generator, value in zip(generators, state["generators"], strict=True):
        generator.set_state(torch.as_tensor(value).cpu())
    method.load_extra_state(state["extra"])
    method.progress = float(state["progress"])


def check_method(method: object) -> None:
    """Raises TypeError unless this is a method."""
    if not isinstance(method, Method):
        raise TypeError(
            f"method must be a samix method, such as samix.SAMix(model, 10) or samix.Supervised(model, samix.CutMix(), "
            f"num_classes=10), got {type(method).__name__}"
        )


def images_and_labels(batch: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the images and labels of a batch: a pair, or a dict as Hugging Face's data sets give.

    Raises:
        ValueError: neither; the message lists the keys looked for.
    """
    if isinstance(batch, tuple | list) and len(batch) >= 2:
        return batch[0], batch[1]
    if isinstance(batch, Mapping):
        images = next((batch[key] for key in ("pixel_values", "images", "image") if key in batch), None)
        labels = next((batch[key] for key in ("labels", "label") if key in batch), None)
        if images is not None and labels is not None:
            return images, labels
        got = f"a dict with keys {', '.join(map(str, batch))}"
    else:
        got = type(batch).__name__
    raise ValueError(
        f"a batch must be (images, labels) or a dict with pixel_values, images or image and labels or label, got {got}"
    )
