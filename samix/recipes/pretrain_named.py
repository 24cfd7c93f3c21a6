"""The named recipes without labels.

Published settings: MoCo's CIFAR demo, MoCo v2 (arXiv:2003.04297), MoCo v3 (arXiv:2104.02057), and what SAMix
(arXiv:2111.15454) says of STL-10, Tiny-ImageNet and ImageNet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from samix.methods.contrastive.moco import MoCoOptions
from samix.recipes.build_pretraining import LEARNED, METHOD_GROUP, MIXUP_GROUP
from samix.recipes.pretrain_recipe import PretrainRecipe
from samix.recipes.small import SLIM
from samix.recipes.task import NamedRecipe, Names, Task
from samix.runtime.checks import Options
from samix.runtime.registry import Registry


@dataclass(frozen=True)
class NamedPretrainRecipe(NamedRecipe[PretrainRecipe]):
    """A recipe without labels by name.

    Args:
        moco: options of MoCo, and of the methods derived from it.
        method_options: options by method, for others.
    """

    moco: Options = field(default_factory=dict)
    method_options: Mapping[str, Options] = field(default_factory=dict)

    def build(self, names: Names) -> PretrainRecipe:
        method = names["method"]
        derived = issubclass(METHOD_GROUP.owner(method), MoCoOptions)
        options = self.moco if derived else self.method_options.get(method, {})
        return dataclasses.replace(super().build(names), method_options=dict(options))


# What a run of some hundred steps needs to learn anything (LOG.md): keys that differ from the first step on, by norms
# in the projector and a queue without random vectors, and an EMA encoder that keeps up. The mask loss is stronger, as
# in the recipes with labels.
SHORT_QUEUE = {
    "preset": "cifar",
    "dim": 64,
    "projector": "mlp-bn",
    "random_start": False,
    "temperature": 0.2,
    "ema_decay": 0.95,
}
SHORT_MIXER = {mixup: {"mask_weight": 1.0, "mask_schedule": "constant"} for mixup in LEARNED}


def mixer_lr(lr: float) -> dict[str, Options]:
    """Returns the Mixer's learning rate, for the mixups that train one."""
    return {mixup: {"mixer_lr": lr} for mixup in LEARNED}


digits = PretrainRecipe(
    name="digits-moco",
    data="digits",
    size=16,
    augment="digits",
    model_args=SLIM,
    stem="small",
    feature=2,
    views="cifar",
    min_scale=0.5,
    epochs=20,
    batch_size=64,
    lr=0.2,
    mixer_lr=0.1,
    weight_decay=5e-4,
    channels_last=True,
    device_data=True,
    workers=0,
    knn=20,
)
cifar10 = PretrainRecipe(
    name="cifar10-moco",
    data="cifar10",
    size=32,
    augment="none",
    stem="small",
    views="cifar",
    epochs=200,
    batch_size=512,
    lr=0.06,
    weight_decay=5e-4,
    device_data=True,
    workers=0,
    eval_every=5,
)
cifar_slim = dataclasses.replace(
    cifar10,
    name="cifar-slim-moco",
    limit=5000,
    model_args=SLIM,
    stem="half",
    feature=2,
    min_scale=0.2,
    epochs=20,
    batch_size=128,
    lr=0.2,
    mixer_lr=0.1,
    channels_last=True,
)
stl10 = PretrainRecipe(
    name="stl10-moco",
    data="stl10-unlabeled",
    size=96,
    augment="none",
    epochs=400,
    batch_size=256,
    lr=0.03,
    workers=8,
    eval_every=10,
)
tiny = dataclasses.replace(stl10, name="tiny-moco", data="tiny-imagenet:data/tiny-imagenet-200")
large = dataclasses.replace(stl10, size=224, augment="resized-crop", epochs=200)
images = dataclasses.replace(large, name="images-moco", data="images:data/images", batch_size=64, lr=0.0075, workers=4)
in1k = dataclasses.replace(large, name="in1k-moco", data="imagenet:data/imagenet", model="resnet50")
in1k_vits = PretrainRecipe(
    name="in1k-mocov3-vits",
    data="imagenet:data/imagenet",
    size=224,
    augment="resized-crop",
    model="vit_small_patch16_224",
    model_args='{"num_heads": 12, "weight_init": "moco"}',
    method="mocov3",
    views="byol",
    epochs=300,
    batch_size=4096,
    optimizer="adamw",
    lr=1.5e-4 * 16,  # 1.5e-4 x B / 256
    weight_decay=0.1,
    warmup_epochs=40,
    schedule="step",
    workers=16,
    eval_every=10,
)

PRETRAIN_RECIPES: Registry[NamedRecipe[PretrainRecipe]] = Registry(
    "pretrain_recipes",
    {
        entry.recipe.name: entry
        for entry in (
            NamedPretrainRecipe(
                "scikit-learn's digits without their labels, a slim network: a minute or two on two cores.",
                digits,
                SHORT_MIXER,
                moco={**SHORT_QUEUE, "queue": 640, "groups": 2},
            ),
            NamedPretrainRecipe(
                "CIFAR-10 at 32 pixels, a slim ResNet, MoCo's CIFAR settings: minutes on a CPU. Not published.",
                cifar_slim,
                SHORT_MIXER,
                moco={**SHORT_QUEUE, "queue": 1024, "groups": 4},
            ),
            NamedPretrainRecipe(
                """CIFAR-10, ResNet-18 with a 3x3 stem, MoCo's CIFAR demo: batch 512, SGD 0.06, queue 4096, t 0.1.

About 82 % kNN is recollected for 200 epochs, 89.11 is published for 1000.""",
                cifar10,
                changes=mixer_lr(0.02),
                moco={"preset": "cifar"},
            ),
            NamedPretrainRecipe(
                """Your own images at 224 pixels, ResNet-18, MoCo v2 with a queue of 1024, batch 64, 200 epochs.

Not published. The learning rate is MoCo's 0.03 per 256 images, the EMA decay 0.99, for runs of some ten thousand steps.
For images of 96 pixels or less take ``stl10-moco`` or ``cifar10-moco``.""",
                images,
                changes=mixer_lr(0.0025),
                moco={"queue": 1024, "random_start": False, "ema_decay": 0.99},
            ),
            NamedPretrainRecipe(
                "STL-10's unlabelled images at 96 pixels, ResNet-18, MoCo v2, queue 16384, as the authors' SAMix run.",
                stl10,
                changes=mixer_lr(0.01),
                moco={"queue": 16384},
            ),
            NamedPretrainRecipe(
                "Tiny-ImageNet at 96 pixels as in SAMix's tables, ResNet-18, MoCo v2; the 400 epochs are ours.",
                tiny,
                changes=mixer_lr(0.01),
                moco={"queue": 16384},
            ),
            NamedPretrainRecipe(
                "ImageNet-1k, ResNet-50, MoCo v2, batch 256, 200 epochs, queue 65536: linear top-1 67.5 [published].",
                in1k,
                changes=mixer_lr(0.01),
            ),
            NamedPretrainRecipe(
                "ImageNet-1k, ViT-S/16, MoCo v3, batch 4096, AdamW, 300 epochs: linear top-1 73.2 [published].",
                in1k_vits,
                method_options={"mocov3": {"preset": "vit"}},
            ),
        )
    },
)
PRETRAINING: Task[PretrainRecipe] = Task(
    PretrainRecipe,
    PRETRAIN_RECIPES,
    lambda dataset: dataset.pretrain_recipe,
    {"method": METHOD_GROUP, "mixup": MIXUP_GROUP},
)
