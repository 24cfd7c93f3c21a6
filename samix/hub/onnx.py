"""A trained Mixer as one ONNX graph: two batches of images and lam to masks, for any batch, at any size or one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from samix.mixers.base import adjust_mask
from samix.mixers.folder import MixerWithEncoder
from samix.mixers.score import ScoreMixer, contest_logit, solve_offset
from samix.runtime.atomic_files import write_whole

ONNX = "model.onnx"
PACKAGES = ("onnx", "onnxscript")


class MaskGraph(nn.Module):
    """What a frozen Mixer does to a pair, without branches on sizes.

    Args:
        network: the Mixer with its encoder.
    """

    def __init__(self, network: MixerWithEncoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_a: Tensor, image_b: Tensor, lam: Tensor) -> Tensor:
        """Predicts masks of pairs, brought to mean lam.

        Args:
            image_a: (B, C, H, W), normalised as in the Mixer's training.
            image_b: (B, C, H, W), the partners.
            lam: (B,) share of image A.

        Returns:
            (B, 1, H, W), 1 where image A shows.
        """
        size = (image_a.shape[-2], image_a.shape[-1])
        mixer = self.network.mixer
        own, partner = (mixer.project(self.network.encode(images)) for images in (image_a, image_b))
        if isinstance(mixer, ScoreMixer):  # its own solver starts from a small copy where images are large
            logit = contest_logit(own, partner, size)
            return adjust_mask(torch.sigmoid(logit + solve_offset(logit, lam)), lam)
        return adjust_mask(mixer.predict_mask(own, partner, lam, size), lam)


def export_onnx(network: MixerWithEncoder, path: Path, size: int = 0) -> Path:
    """Writes a Mixer as an ONNX graph with inputs ``image_a``, ``image_b`` and ``lam``, and the output ``mask``.

    Returns:
        The path.

    Raises:
        ValueError: the packages that write ONNX are missing.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ValueError(f"writing ONNX needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    images = torch.randn(3, len(network.config.mean), size or 80, size or 96)
    free = dict.fromkeys((0,) if size else (0, 2, 3), torch.export.Dim.DYNAMIC)
    shapes = (free, free, {0: torch.export.Dim.DYNAMIC})
    program = torch.onnx.export(
        MaskGraph(network).eval(),
        (images, images.flip(0), torch.tensor([0.3, 0.5, 0.8])),
        dynamo=True,
        dynamic_shapes=shapes,
        input_names=["image_a", "image_b", "lam"],
        output_names=["mask"],
        verbose=False,
    )
    assert program is not None
    write_whole(path, lambda file: program.save(file, external_data=False))
    return path
