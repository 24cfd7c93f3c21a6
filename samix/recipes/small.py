"""Our own recipes, of which nothing is published: minutes on a CPU, and anyone's images. Figures: ``docs/results``."""

from __future__ import annotations

import dataclasses

from samix.recipes.recipe import Recipe
from samix.recipes.task import NamedRecipe

SLIM = '{"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128], "stem_type": "deep", "stem_width": 8}'

# A run of some hundred steps: the EMA model must keep up, and the masks must form.
QUICK_MOMENTUM = {"ema_decay": 0.95, "ema_decay_end": 0.999}
QUICK_MIXER = {**QUICK_MOMENTUM, "mask_over_batch": False, "mask_weight": 1.0, "mask_variance": 2.0}
SLIM_MOMENTUM = {**QUICK_MOMENTUM, "ema_decay": 0.98}
SLIM_MIXER = {**QUICK_MIXER, "ema_decay": 0.98}
# Some hundred to some ten thousand steps: the EMA model averages over 100 steps, at the end 1,000, and at most a ninth
# of the steps done.
IMAGES_MOMENTUM = {"ema_decay": 0.99, "ema_decay_end": 0.999, "ema_warmup": True}
IMAGES_MIXER = {**QUICK_MIXER, **IMAGES_MOMENTUM}

QUICK = {"automix": QUICK_MIXER, "samix": QUICK_MIXER, "adautomix": QUICK_MOMENTUM, "score": QUICK_MOMENTUM}
CIFAR_SLIM = {"automix": SLIM_MIXER, "samix": SLIM_MIXER, "adautomix": SLIM_MOMENTUM, "score": SLIM_MOMENTUM}
IMAGES = {"automix": IMAGES_MIXER, "samix": IMAGES_MIXER, "adautomix": IMAGES_MOMENTUM, "score": IMAGES_MOMENTUM}

digits_quick = Recipe(
    name="digits-quick",
    data="digits",
    size=16,
    augment="digits",
    model_args=SLIM,
    stem="small",
    feature=2,
    epochs=30,
    mixer_lr=0.3,  # larger than elsewhere: the masks must form in a few hundred steps
    mixer_lr_end=0.03,
    weight_decay=5e-4,
    schedule="step",
    channels_last=True,
    device_data=True,
    workers=0,
)
cifar_slim = dataclasses.replace(
    digits_quick,
    name="cifar-slim",
    data="cifar10",
    size=32,
    augment="crop-flip",
    stem="half",
    limit=2500,
    eval_every=5,
    epochs=40,
)
images = Recipe(
    name="images",
    data="folder:data/images",
    size=224,
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
finetune = Recipe(
    name="finetune",
    data="folder:data/images",
    size=112,
    augment="crop-flip",
    model="tf_efficientnet_lite0",
    init="lite0",
    freeze="norms",
    probe_head=True,
    model_args='{"drop_rate": 0.2}',
    smoothing=0.1,
    epochs=16,
    batch_size=32,
    optimizer="adamw",
    lr=4e-4,
    mixer_lr=2e-3,
    weight_decay=0.05,
    decay_norms=False,
    warmup_epochs=1.6,
    schedule="step",
    channels_last=True,
)

SMALL = (
    NamedRecipe(
        """The 1,797 scanned digits inside scikit-learn, at 16 pixels, with a slim ResNet: minutes on two cores.""",
        digits_quick,
        QUICK,
        cost="a minute or two, 2 CPU cores",
    ),
    NamedRecipe(
        """CIFAR-10 images with a slim ResNet, for comparisons on a CPU: give ``--data`` and ``--limit``.""",
        cifar_slim,
        CIFAR_SLIM,
        cost="some minutes, 2 CPU cores",
    ),
    NamedRecipe(
        """A thousand CIFAR-10 images for 100 epochs with a slim ResNet, which overfits without mixup.

The quickest of our recipes that tells good mixups from bad ones. Give ``--data``.""",
        dataclasses.replace(cifar_slim, name="cifar-few", limit=1000, epochs=100, eval_every=10),
        CIFAR_SLIM,
        cost="some minutes, 2 CPU cores",
    ),
    NamedRecipe(
        """Photographs of any size with a folder per class: ResNet-18 at 224 pixels, new weights, 100 epochs, SGD 0.05.

Random resized crops and flips (for images of up to 40 pixels: shifts and flips), batch 64, cosine after five epochs of
warm-up. With ``--pretrained`` take a smaller learning rate, ``--lr 0.01``; for images of 64 pixels or less
``--size 64 --stem small``.""",
        images,
        IMAGES,
        cost="by the number of images",
    ),
    NamedRecipe(
        """Few photographs and a pre-trained network: AdamW 4e-4, BatchNorm statistics frozen, 16 epochs at 112 pixels.

The classifier starts from a logistic regression on frozen features (linear probing, then fine-tuning: Kumar et al.
2022, arXiv:2202.10054). Taken for your own images where ``--init`` or ``--pretrained`` is given; alone it takes
``--init lite0``, EfficientNet-Lite0 on ImageNet from a package. 1,000 images of CIFAR-10, vanilla: 81.8 % of
the test images (three seeds), in 8 to 9 minutes on one CPU thread. For fine detail ``--size 224``.""",
        finetune,
        QUICK,
        cost="minutes, 2 CPU cores",
    ),
)
