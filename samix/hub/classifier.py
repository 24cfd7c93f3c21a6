"""A trained network ready to use: it prepares images, classifies them and names the classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, get_args

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import InterpolationMode

from samix.data import normalize, open_image
from samix.data.decode import UnreadableImage, to_rgb
from samix.data.images import fit_square, to_uint8
from samix.data.replacements import OnBadImage
from samix.hub.network_config import NetworkConfig
from samix.networks.inference import evaluating, plain_errors
from samix.runtime.checks import check_choice, check_number

ImageLike = str | Path | Image.Image | Tensor


class Prediction(NamedTuple):
    """The most probable classes of one image, the most probable first.

    Attributes:
        names: of the classes.
        probabilities: of the classes, in [0, 1].
        path: of the image; empty for an image that did not come from a file.

    Example:
        >>> prediction = samix.Prediction(names=("cat", "dog"), probabilities=(0.9, 0.1), path="new.jpg")
        >>> prediction.name, prediction.probability
        ('cat', 0.9)
    """

    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    path: str = ""

    @property
    def name(self) -> str:
        """The most probable class."""
        return self.names[0]

    @property
    def probability(self) -> float:
        """Its probability."""
        return self.probabilities[0]


@dataclass(frozen=True)
class ImageTransform:
    """Prepares an image as the network's training evaluated it: resize, centre crop, normalise."""

    config: NetworkConfig

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """Returns an RGB PIL image or a uint8 tensor (3, H, W) to a float32 tensor (3, size, size)."""
        c = self.config
        if isinstance(image, Image.Image):
            image = to_rgb(image)  # as files are read: 16 bit, transparency
        elif (
            not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.dim() != 3 or len(image) not in (1, 3)
        ):
            got = f"{getattr(image, 'dtype', type(image).__name__)} {tuple(getattr(image, 'shape', ()))}"
            raise ValueError(f"an image must be a path, a PIL image or a uint8 tensor (3, H, W), got {got}")
        square = to_uint8(fit_square(image, c.size, c.resize, InterpolationMode(c.interpolation)))
        return normalize(square, *c.normalization())


class Classifier(nn.Module):
    """A trained network, with the names of its classes and the preparation of its images.

    Args:
        network: (B, C, H, W) -> logits (B, K), or features (B, F) for a network without classes.
        config: of the network.

    Attributes:
        network: the plain network.
        class_names: K names, in the order of the outputs; empty for a network without classes.
        transform: an image to what the network takes.

    Example:
        >>> net = samix.load("runs/images-samix-s0")
        >>> len(net.class_names), net(images).shape
        (10, torch.Size([4, 10]))
    """

    def __init__(self, network: nn.Module, config: NetworkConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.class_names: tuple[str, ...] = config.class_names
        self.transform = ImageTransform(config)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Maps (B, C, H, W), prepared by ``transform``, to logits (B, K)."""
        with plain_errors(images, self.network):
            return self.network(images)  # type: ignore[no-any-return]

    def predict(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        top: int = 1,
        batch_size: int = 64,
        on_bad_image: OnBadImage = "stop",
    ) -> list[Prediction]:
        """Classifies images.

        Args:
            images: one image or several: paths, PIL images or uint8 tensors (3, H, W).
            top: number of classes to give of each image.
            batch_size: images in one pass.
            on_bad_image: ``stop`` raises at a file that cannot be read, ``skip`` leaves it out.

        Returns:
            One prediction for each image that was read, in order.

        Raises:
            FileNotFoundError: a missing file.
            ValueError: a network without classes, or an option out of range.
            samix.data.UnreadableImage: a file that is not an image.
        """
        return list(self.predictions(images, top=top, batch_size=batch_size, on_bad_image=on_bad_image))

    def predictions(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        top: int = 1,
        batch_size: int = 64,
        on_bad_image: OnBadImage = "stop",
    ) -> Iterator[Prediction]:
        """Yields the predictions of :meth:`predict` one by one, for collections that do not fit in memory."""
        check_choice("on_bad_image", on_bad_image, get_args(OnBadImage))
        check_number("batch_size", batch_size, 1, integer=True)
        check_number("top", top, 1, integer=True)
        if self.config.num_classes == 0 and not self.class_names:
            raise ValueError("this network gives features and names no classes; call net(images) for the features")
        given = iter([images] if isinstance(images, str | Path | Image.Image | Tensor) else images)
        while chunk := list(islice(given, batch_size)):
            yield from self._predict_chunk(chunk, top, on_bad_image)

    def _predict_chunk(self, chunk: Sequence[ImageLike], top: int, on_bad_image: OnBadImage) -> Iterator[Prediction]:
        tensors, paths = [], []
        for image in chunk:
            try:
                tensors.append(self.transform(open_image(Path(image)) if isinstance(image, str | Path) else image))
            except (FileNotFoundError, UnreadableImage):
                if on_bad_image == "stop":
                    raise
                continue
            paths.append(str(image) if isinstance(image, str | Path) else "")
        if not tensors:
            return
        with torch.no_grad(), evaluating(self.network):
            probabilities = self(torch.stack(tensors).to(self._device())).float().softmax(1).cpu()
        best, index = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
        for path, values, classes in zip(paths, best.tolist(), index.tolist(), strict=True):
            yield Prediction(tuple(self._name(k) for k in classes), tuple(values), path)

    def _name(self, index: int) -> str:
        return self.class_names[index] if self.class_names else str(index)

    def _device(self) -> torch.device:
        return next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))
