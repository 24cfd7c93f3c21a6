"""Networks small enough for a step in milliseconds: a CNN and a ViT of timm, and two that are not timm's."""

import timm
import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn


def tiny_cnn(num_classes: int = 5, **options: object) -> nn.Module:
    """A ResNet of four stages with 8, 16, 32, 64 channels and strides 4, 8, 16, 32."""
    return ResNet(
        BasicBlock,
        layers=(1, 1, 1, 1),
        channels=(8, 16, 32, 64),
        num_classes=num_classes,
        stem_type="deep",
        stem_width=4,
        zero_init_last=False,  # else the residual branches have no gradient in the first step
        **options,
    )


def tiny_vit(num_classes: int = 5, img_size: int | tuple[int, int] = 32, **options: object) -> nn.Module:
    """A ViT of four blocks with 48 channels and patches of 8 pixels."""
    options = {"patch_size": 8, "depth": 4, "embed_dim": 48, "num_heads": 3} | options
    return timm.create_model("vit_tiny_patch16_224", img_size=img_size, num_classes=num_classes, **options)


class PlainNet(nn.Module):
    """A network that timm knows nothing of; ``norm=False`` makes it independent of the batch."""

    def __init__(self, num_classes: int = 5, in_chans: int = 3, norm: bool = True) -> None:
        super().__init__()
        normed = nn.BatchNorm2d if norm else nn.Identity
        self.stem = nn.Sequential(nn.Conv2d(in_chans, 8, 3, 2, 1), normed(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), normed(12), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(12, 16, 3, 2, 1), normed(16), nn.ReLU())
        self.aside = nn.Linear(4, 4)  # not run by forward
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.late(self.body(self.stem(x))).mean((2, 3)))


def randomised(module: nn.Module, std: float = 0.3) -> nn.Module:
    """Draws every parameter and running statistic anew, so that nothing is at a special value."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.rand_like(parameter) if parameter.dim() == 0 else torch.randn_like(parameter) * std)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn_like(buffer))
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return module
