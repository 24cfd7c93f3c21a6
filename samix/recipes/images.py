"""The recipe for anyone's images, taken where the data have none of their own."""

from __future__ import annotations

from samix.recipes.recipe import Recipe
from samix.recipes.small import QUICK_MIXER, options_of

# Some thousand to some ten thousand steps: the momentum copy must keep up (its memory is 100 steps, at the end 1,000),
# and the masks must form, with the stronger mask loss of the quick recipes.
MOMENTUM = {"ema_decay": 0.99, "ema_decay_end": 0.999}
MIXER = {**QUICK_MIXER, **MOMENTUM}


def images(mixup: str) -> Recipe:
    """Photographs of any size with a folder per class: ResNet-18 at 224 pixels from new weights, 100 epochs, SGD 0.05.

    Random resized crops and flips (for images of up to 40 pixels: shifts and flips), batch 64, cosine after five epochs
    of warm-up. With ``--pretrained`` take a smaller learning rate, ``--lr 0.01``; for images of 64 pixels or less
    ``--size 64 --stem small``. Not published.
    """
    return Recipe(
        name="images",
        data="folder:data/images",
        size=224,
        mixup=mixup,
        mixup_options=options_of(mixup, automix=MIXER, samix=MIXER, adautomix=MOMENTUM),
        epochs=100,
        batch_size=64,
        lr=0.05,
        mixer_lr=0.1,
        mixer_lr_end=1e-3,
        weight_decay=5e-4,
        warmup_epochs=5,
        schedule="step",
        channels_last=True,
    )
