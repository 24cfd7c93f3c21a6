"""The recipe for anyone's images, taken where the data have none of their own."""

from __future__ import annotations

from samix.recipes.recipe import Recipe
from samix.recipes.small import QUICK_MIXER, QUICK_MOMENTUM, options_of

# Some hundred to some ten thousand steps: the averaged copy must keep up (its memory is 100 steps, at the end 1,000,
# and at most a ninth of the steps done), and the masks must form, with the stronger mask loss of the quick recipes.
MOMENTUM = {"ema_decay": 0.99, "ema_decay_end": 0.999, "ema_warmup": True}
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


def finetune(mixup: str) -> Recipe:
    """Few photographs and a pre-trained network: AdamW 3e-4, BatchNorm statistics frozen, 8 epochs at 112 pixels.

    The classifier starts from a logistic regression on frozen features (linear probing, then fine-tuning: Kumar et al.
    2022, arXiv:2202.10054). Taken for your own images where ``--init`` or ``--pretrained`` is given; alone it takes
    ``--init lite0``, EfficientNet-Lite0 on ImageNet from a package. 1,000 images of CIFAR-10, vanilla: 79.2 % of the
    10,000 test images, in 200 CPU seconds (one seed). For fine detail ``--size 224``.
    """
    return Recipe(
        name="finetune",
        data="folder:data/images",
        size=112,
        augment="crop-flip",
        model="tf_efficientnet_lite0",
        init="lite0",
        freeze="norms",
        probe_head=True,
        mixup=mixup,
        mixup_options=options_of(mixup, automix=QUICK_MIXER, samix=QUICK_MIXER, adautomix=QUICK_MOMENTUM),
        smoothing=0.1,
        epochs=8,
        batch_size=32,
        optimizer="adamw",
        lr=3e-4,
        mixer_lr=2e-3,
        weight_decay=0.05,
        decay_norms=False,
        warmup_epochs=0.8,
        schedule="step",
        channels_last=True,
    )
