# %% [markdown]
# # What does the Mixer see?
#
# A Mixer is a small network that looks at two images and paints a mask: which pixels of the blend come from which image. This tutorial
# looks at `mixer:default`, which comes with samix, on two photographs that come with scikit-learn.

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_sample_images

photos = [torch.from_numpy(photo.copy()).permute(2, 0, 1).float() / 255 for photo in load_sample_images().images]
side = 160
photos = [
    torch.nn.functional.interpolate(p[None, :, :, 106:533], size=(side, side), antialias=True, mode="bilinear")
    for p in photos
]
pixels = torch.cat(photos).clamp(0, 1)  # a temple, a flower
figure, axes = plt.subplots(1, 2, figsize=(5, 2.5))
for axis, picture in zip(axes, pixels):
    axis.imshow(picture.permute(1, 2, 0))
    axis.axis("off")

# %% [markdown]
# ## A mixup like any other
#
# The Mixer is called like CutMix. Tell it how your images are normalised; then it takes any size.

# %%
import samix

mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
images = (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
labels, partner = torch.tensor([0, 1]), torch.tensor([1, 0])
mix = samix.Mixer.from_pretrained("default")
mix.set_normalization(mean, std)
batch = mix(images, labels, lam=0.5, index=partner)
batch.images.shape, batch.mask.shape, batch.lam

# %% [markdown]
# ## Masks over lambda
#
# Lambda is the share of image A, here the flower: its share of the label, and the mean of its mask. White shows the flower. For
# comparison, CutMix pastes a box wherever chance puts it.

# %%
lams = (0.1, 0.3, 0.5, 0.7, 0.9)


def show(mixup, title):
    figure, axes = plt.subplots(2, len(lams), figsize=(10, 4.2))
    figure.suptitle(title)
    for column, lam in enumerate(lams):
        torch.manual_seed(3)
        batch = mixup(images, labels, lam=lam, index=partner)
        blend = batch.images[1] * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
        axes[0, column].imshow(blend.clamp(0, 1).permute(1, 2, 0))
        axes[0, column].set_title(f"lambda {lam}", fontsize=9)
        axes[1, column].imshow(batch.mask[1, 0], cmap="gray", vmin=0, vmax=1)
        axes[1, column].set_title(f"mean {float(batch.mask[1].mean()):.2f}", fontsize=9)
    for axis in axes.flat:
        axis.axis("off")


show(mix, "mixer:default")
show(samix.CutMix(generator=torch.Generator().manual_seed(3)), "CutMix")

# %% [markdown]
# ## One map for each image
#
# `mixer:default` is a score generator: it gives each image one map of scores, and the mask of a pair compares the two maps. So the map
# shows what the Mixer finds worth keeping, before any partner is known.

# %%
network = mix.loaded
with torch.no_grad():
    scores = network.mixer.project(mix.encode(images))
figure, axes = plt.subplots(1, 4, figsize=(10, 2.6))
for k in range(2):
    axes[2 * k].imshow(pixels[k].permute(1, 2, 0))
    axes[2 * k + 1].imshow(scores[k, 0], cmap="magma")
for axis in axes:
    axis.axis("off")
scores.shape

# %% [markdown]
# ## Does the mask follow lambda?
#
# It must, because lambda is also the label. `adjust` (on by default) moves the scores' threshold until the mean of the mask is lambda. Close to 0 and
# 1 the Mixer leaves the job to MixUp (`lam_margin`), which shows as a spread of zero within the mask.

# %%
grid = torch.linspace(0.02, 0.98, 25)
masks = [mix(images, labels, lam=float(lam), index=partner).mask[1] for lam in grid]
figure, axis = plt.subplots(figsize=(5, 3))
axis.plot(grid, [mask.mean() for mask in masks], label="mean of the mask")
axis.plot(grid, [mask.std() for mask in masks], label="spread within the mask")
axis.set_xlabel("lambda")
axis.legend()
axis.grid(alpha=0.3)
largest = max(abs(float(mask.mean()) - float(lam)) for mask, lam in zip(masks, grid))
print(f"largest difference between the mean of a mask and lambda: {largest:.3f}")

# %% [markdown]
# ## Does it help?
#
# A mask that keeps the object is not yet a better classifier. In our short runs learned masks are level with the same training step with
# constant masks ([what learning the mix is worth](../results/worth.md)). Look at your own pairs first: `samix show mixer:default a.jpg b.jpg`.
#
# ## Next
#
# - [Share a Mixer](../share-a-mixer.md): use, check and publish one.
# - [A trained Mixer](../methods/mixer.md): how it works, its cost, its options.
