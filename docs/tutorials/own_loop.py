# %% [markdown]
# # SAMix in my loop
#
# You have a training loop in plain PyTorch and want to keep it. This tutorial puts SAMix into one, watches its loss, looks at what
# the Mixer learns to paint, and takes out a plain network. The data are the 1,797 scanned digits that come with scikit-learn.

# %%
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1  # (1797, 1, 8, 8) in [-1, 1]
images = torch.nn.functional.interpolate(images, size=(16, 16), mode="bilinear").repeat(1, 3, 1, 1)
labels = torch.tensor(digits.target)
train, test = TensorDataset(images[:1400], labels[:1400]), (images[1400:], labels[1400:])
torch.manual_seed(0)
loader = DataLoader(train, batch_size=50, shuffle=True, drop_last=True)
images.shape, labels.shape

# %% [markdown]
# ## The network
#
# Any `nn.Module` that maps `(B, C, H, W)` to logits will do. Here it is a small CNN.

# %%
from collections import OrderedDict

from torch import nn


def block(inputs, outputs, stride):
    """A convolution, a norm and a ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())


layers = OrderedDict(early=block(3, 16, 1), middle=block(16, 32, 2), late=block(32, 64, 2))
model = nn.Sequential(OrderedDict(**layers, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(64, 10)))
print(sum(p.numel() for p in model.parameters()), "parameters")

# %% [markdown]
# ## The method
#
# `samix.SAMix` holds the network, its running average (EMA) and the Mixer. `feature` is the layer whose feature maps the Mixer reads. For
# networks of timm it can be left out. A run of a few hundred steps needs other options than a long one: an average that follows the network
# quickly (`ema_decay`), and a stronger mask loss, so that masks form early.

# %%
import samix

options = samix.SAMixOptions(
    ema_decay=0.95, ema_decay_end=0.99, mask_weight=1.0, mask_variance=2.0, mask_over_batch=False
)
method = samix.SAMix(model, num_classes=10, options=options, feature="middle")
method.loss_parts

# %% [markdown]
# ## The loop
#
# Three lines differ from your loop: the optimiser gets `method.parameter_groups`, as the Mixer is trained too; `method(batch)`
# returns the loss; and `method.after_step` moves the averages after each step.

# %%
optimizer = torch.optim.SGD(method.parameter_groups(lr=0.1, mixer_lr=0.3), momentum=0.9)
epochs, step, history = 12, 0, []
total = epochs * len(loader)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
for epoch in range(epochs):
    for batch in loader:
        loss, parts = method(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        step += 1
        method.after_step(step / total)
        history.append({name: float(value) for name, value in parts.items()})
    if epoch % 3 == 2:
        print(epoch + 1, {name: round(value, 2) for name, value in history[-1].items()})

# %% [markdown]
# ## The parts of the loss
#
# The network learns from the clean and the mixed images. The Mixer learns from the mixed images too (the generation loss), and from a
# mask loss that ties the mean of a mask to lambda.

# %%
import matplotlib.pyplot as plt

figure, axis = plt.subplots(figsize=(7, 3))
for name in ("clean", "mixed", "generation", "mask"):
    values = torch.tensor([row.get(name, float("nan")) for row in history])
    axis.plot(values.unfold(0, 9, 1).nanmean(dim=1), label=name)
axis.set_xlabel("step")
axis.legend()
axis.grid(alpha=0.3)

# %% [markdown]
# ## Test it
#
# `method.export()` returns a plain network of the class that you gave, with the averaged weights. Nothing of samix is left in it.

# %%
network = method.export().eval()
with torch.no_grad():
    accuracy = (network(test[0]).argmax(dim=1) == test[1]).float().mean()
print(type(network).__name__, f"{accuracy:.1%} of {len(test[1])} test images")

# %% [markdown]
# ## Look at the masks
#
# `method.preview` mixes pairs of your choice at a lambda of your choice. White shows the pixels of image A, black those of image B.

# %%
pair = test[0][[3, 7]]
figure, axes = plt.subplots(2, 6, figsize=(9, 3.2))
for column, lam in enumerate((1.0, 0.9, 0.7, 0.5, 0.3, 0.1)):
    batch = method.preview(pair, torch.tensor([0, 1]), lam=lam, index=torch.tensor([1, 0]))
    axes[0, column].imshow(batch.images[0, 0], cmap="gray")
    axes[1, column].imshow(batch.mask[0, 0], cmap="gray", vmin=0, vmax=1)
    axes[0, column].set_title(f"lambda {lam}")
for axis in axes.flat:
    axis.axis("off")

# %% [markdown]
# ## Next
#
# - [Your own loop](../own-loop.md): mixups without a method, several processes, resuming.
# - [AutoMix and SAMix](../methods/learned.md): the equations, presets, and cheaper steps.
# - [Adapters](../methods/adapters.md) for timm's script, Lightning and Hugging Face's `Trainer`.
