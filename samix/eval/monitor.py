"""The kNN monitor of a run without labels."""

from __future__ import annotations

from samix.data import EvalBatches
from samix.eval.knn import knn_monitor
from samix.methods.contrastive.base import ViewMethod
from samix.recipes.build import build_augment
from samix.train.batches import common_options
from samix.train.pretraining import PretrainRun


def knn_of_run(run: PretrainRun) -> dict[str, float]:
    """Computes top-1 of the held-out images by their nearest neighbours among the training images' features.

    Returns:
        ``{"knn": percent}``; empty for data without labels, without held-out images, or with ``knn`` 0.
    """
    recipe = run.recipe
    data = run.data.with_labels() if recipe.knn else None
    if data is None or data.num_classes < 2 or not len(data.val):
        return {}
    common = common_options(recipe, run.device, on_bad_image=run.options.on_bad_image)
    common["augment"] = build_augment(recipe, data)
    bank = EvalBatches(data, split="train", batch_size=200, **common)
    held_out = EvalBatches(data, batch_size=200, **common)
    assert isinstance(run.method, ViewMethod)
    return knn_monitor(
        run.method.features,
        bank.batches(),
        held_out.batches(),
        data.num_classes,
        k=recipe.knn,
        temperature=recipe.knn_temperature,
    )
