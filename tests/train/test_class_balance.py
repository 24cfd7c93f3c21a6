"""Early stopping, and classes of different size: balanced sampling and class weights."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from runs import differences, fit, new_run, rows, small_recipe

from samix.batch import unmixed
from samix.data.order import balanced_order
from samix.losses.class_weights import class_weights, weighted_cross_entropy
from samix.mixups import MIXUPS
from samix.train import Run
from samix.train.checkpoint import load_checkpoint

LABELS = torch.tensor([0] * 90 + [1] * 9 + [2] * 2)


def test_every_class_is_visited_equally_often_and_rare_images_in_turn():
    for epoch in range(3):
        order = balanced_order(LABELS, seed=1, epoch=epoch)
        assert len(order) == len(LABELS)
        assert sorted(LABELS[order].bincount().tolist()) == [33, 34, 34]
        for one, count in ((1, 9), (2, 2)):
            times = order[LABELS[order] == one].bincount(minlength=len(LABELS))[LABELS == one]
            assert len(times) == count
            assert int(times.max() - times.min()) <= 1
    assert torch.equal(balanced_order(LABELS, 1, 0), balanced_order(LABELS, 1, 0))
    orders = [balanced_order(LABELS, seed, epoch) for seed, epoch in ((1, 0), (1, 1), (2, 0), (2, 1))]
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)  # both the seed and the epoch decide
    often = order[LABELS[order] == 0]
    assert len(often.unique()) == len(often)  # a part of the large class, none twice


def test_class_weights_are_inverse_to_the_counts_with_mean_one():
    weights = class_weights(LABELS, 4)
    torch.testing.assert_close(weights[:3] * LABELS.bincount(), torch.full((3,), len(LABELS) / 4))
    assert weights[3] == 0
    torch.testing.assert_close(class_weights(LABELS, 3)[LABELS].mean(), torch.tensor(1.0))


def test_the_weighted_loss_is_torchs_for_class_ids_and_mixes_by_shares():
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(8, 3), torch.randint(3, (8,)), torch.tensor([0.5, 1.0, 4.0])
    plain = unmixed(torch.rand(8, 3, 4, 4), labels)
    torch.testing.assert_close(
        weighted_cross_entropy(logits, plain, weights), F.cross_entropy(logits, labels, weight=weights)
    )
    mixed = MIXUPS["mixup"](generator=torch.Generator().manual_seed(0))(torch.rand(8, 3, 4, 4), labels)
    targets = mixed.soft_targets(3)
    total = sum(weights[k] * targets[i, k] * -logits[i].log_softmax(0)[k] for i in range(8) for k in range(3))
    torch.testing.assert_close(weighted_cross_entropy(logits, mixed, weights), total / (targets @ weights).sum())


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_a_balanced_run_stops_and_resumes_exactly(balance, tmp_path):
    recipe = small_recipe("cutmix", class_balance=balance, device_data=False, workers=0)
    whole = fit(recipe, tmp_path, "whole")
    run = new_run(recipe, tmp_path, "cut", save_every=3)
    train_step = run.train_step

    def stops(batch):
        train_step(batch)
        run.stopping = run.step == 6

    run.train_step = stops
    with pytest.raises(RuntimeError, match="stopped at step 7"):
        run.fit()
    cut = fit(recipe, tmp_path, "cut", resume=True)
    assert differences(*(load_checkpoint(folder / "last.pt") for folder in (whole, cut))) == []
    if balance == "sampling":  # the digits are balanced already: their weights are 1
        plain = fit(dataclasses.replace(recipe, class_balance="none"), tmp_path, "plain")
        assert rows(plain)[0]["loss"] != rows(whole)[0]["loss"]
    else:
        torch.testing.assert_close(run.method.loss.keywords["weights"], torch.ones(10))


def test_class_weights_are_refused_where_a_method_has_losses_of_its_own(tmp_path):
    with pytest.raises(ValueError, match=r"class_balance weights is for mixups .* take --class-balance sampling"):
        new_run(small_recipe("samix", class_balance="weights"), tmp_path)
    fit(small_recipe("samix", class_balance="sampling", epochs=1), tmp_path)


def test_a_run_stops_once_it_gets_no_better_and_a_resumed_one_stays_stopped(tmp_path, monkeypatch):
    scores = iter([10.0, 30.0, 20.0, 30.0, 40.0, 50.0])
    monkeypatch.setattr(Run, "evaluate", lambda run: {"top1": next(scores), "nll": 1.0})
    recipe = small_recipe("cutmix", epochs=6, patience=2)
    folder = fit(recipe, tmp_path)
    assert [row["top1"] for row in rows(folder)] == [10.0, 30.0, 20.0, 30.0]
    assert load_checkpoint(folder / "best.pt")["rows"][-1]["epoch"] == 2
    assert (folder / "export").is_dir()
    fit(recipe, tmp_path, resume=True)
    assert len(rows(folder)) == 4
