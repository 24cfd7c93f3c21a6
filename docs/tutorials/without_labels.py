# %% [markdown]
# # Pre-train without labels, then fine-tune
#
# You have many images and few labels. This tutorial learns features from 1,438 scanned digits without their labels, and then trains a
# classifier on 50 of them with labels: five for each class.

# %% [markdown]
# ## Pre-train
#
# `samix.pretrain` does what `samix pretrain` does. SimCLR compares two random views of each image: views of one image should have similar
# features, views of different images dissimilar ones. The labels are not read, except for the accuracy of nearest neighbours that is logged.

# %%
import samix

small = '{"layers": [1, 1, 1, 1], "channels": [16, 24, 32, 64], "stem_type": "deep", "stem_width": 8}'
features = samix.pretrain(method="simclr", train="digits", model_args=small, epochs=8, quiet=True)

# %% [markdown]
# Two views of some images, as SimCLR sees them:

# %%
import matplotlib.pyplot as plt
from PIL import Image

plt.figure(figsize=(9, 3))
plt.imshow(Image.open(features.folder / "views.png"))
_ = plt.axis("off")

# %% [markdown]
# ## Are the features useful?
#
# A test image gets the class that its nearest training images vote for. On digits the features of an untrained network are already good at that, so
# compare with the first value, after one epoch. More epochs raise it further.

# %%
accuracy = [row["knn"] for row in features.history if "knn" in row]
figure, axis = plt.subplots(figsize=(6, 2.6))
axis.plot(accuracy, marker="o")
axis.set_xlabel("evaluation")
axis.set_ylabel("kNN accuracy, %")
axis.grid(alpha=0.3)
print(f"from {accuracy[0]:.1f} % to {accuracy[-1]:.1f} %")

# %% [markdown]
# ## Fine-tune on 50 labels
#
# `init=` takes the folder of the run. `limit=50` uses five images of each class. The same training from new weights is the comparison.

# %%
options = dict(
    mixup="vanilla", train="digits", limit=50, model_args=small, stem="small", size=16, batch_size=10, quiet=True
)
results = {
    "new weights": samix.fit(epochs=10, run="scratch", **options),
    "pre-trained": samix.fit(epochs=10, run="tuned", init=str(features.folder), lr=0.02, **options),
}

# %%
figure, axis = plt.subplots(figsize=(6, 1.8))
bars = axis.barh(list(results), [result.summary["top1"] for result in results.values()])
axis.bar_label(bars, fmt="%.1f", padding=3)
axis.set_xlim(0, 105)
_ = axis.set_xlabel("top-1 of 359 test images, %")

# %% [markdown]
# ## A Mixer beside MoCo
#
# `mixup="samix"`, the default beside MoCo, is SAMix-I: a Mixer that learns without labels. It costs 2.5 times a step of MoCo. In our short
# runs it did not improve the features, so compare it with `mixup="vanilla"` on your data before you pay for it.
#
# ```python
# samix.pretrain(method="moco", mixup="samix", train="images:DIR")
# ```

# %% [markdown]
# ## Next
#
# - [Without labels](../without-labels.md): all frameworks and mixups.
# - [Evaluation](../evaluation.md): linear probes, SVMs, detection.
