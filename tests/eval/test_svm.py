"""Average precision against a loop, planted classes that a linear SVM finds, and draws of a few images."""

import numpy as np
import pytest
import torch
from oracles_probing import envelope_area
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from samix.eval.svm import (
    COSTS,
    Fit,
    average_precision,
    low_shot_map,
    low_shot_rows,
    low_shot_targets,
    one_hot_targets,
    svm_accuracy,
    svm_features,
    svm_map,
)


def planted(count=60, classes=3, width=8, noise=0.0):
    """Images that each show one or two of the classes; each class has a direction of its own."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.zeros(count, classes, dtype=torch.int64)
    targets[torch.arange(count), torch.arange(count) % classes] = 1
    targets[::4, 0] = 1
    features = targets.float() @ torch.eye(classes, width) + 0.5
    return features + noise * torch.randn(count, width, generator=generator), targets


QUICK = (0.5, 10.0)


def test_there_are_the_nineteen_costs():
    assert len(COSTS) == 19
    assert max(COSTS) == 100
    assert min(COSTS) == 0.5**19


def test_average_precision_is_the_loop():
    generator = np.random.default_rng(0)
    for _ in range(20):
        targets, scores = generator.random(30) < 0.3, generator.normal(size=30)
        targets[0] = True
        assert average_precision(targets, scores) == pytest.approx(envelope_area(targets, scores))


def test_average_precision_by_hand():
    # ranks: hit, miss, hit; precisions 1, 1/2, 2/3
    assert average_precision(np.array([1, 0, 1]), np.array([3.0, 2.0, 1.0])) == pytest.approx((1 + 2 / 3) / 2)
    # the envelope lifts the second hit's 2/4 to the third one's 3/5
    targets = np.array([1, 0, 0, 1, 1])
    assert average_precision(targets, -np.arange(5.0)) == pytest.approx((1 + 3 / 5 + 3 / 5) / 3)


def test_images_of_one_score_enter_together():
    targets = np.array([1, 0, 0, 1])
    assert average_precision(targets, np.zeros(4)) == average_precision(targets[::-1], np.zeros(4)) == 0.5
    with pytest.raises(ValueError, match="at least one positive"):
        average_precision(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        average_precision(np.ones(2), np.array([0.0, np.nan]))


def test_features_are_divided_by_their_length():
    rows = svm_features(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert rows.dtype == np.float64
    assert rows[0] == pytest.approx(np.array([3, 4]) / (5 + 1e-5))
    assert not rows[1].any()


def test_separable_classes_are_found():
    features, targets = planted()
    found = svm_map(features, targets, features, targets, Fit(costs=QUICK))
    assert found == {"map": 100.0, "unconverged": 0.0}


def test_noise_lowers_the_precision():
    train, targets = planted(noise=1.5)
    test, wanted = planted(count=90, noise=1.5)
    assert 40 < svm_map(train, targets, test, wanted, Fit(costs=QUICK))["map"] < 95


def test_difficult_images_change_nothing():
    """An image that shows a class only as a difficult object is as if it were not there, for that class."""
    features, targets = planted(noise=1.0)
    test, wanted = planted(count=45, noise=1.0)
    plain = svm_map(features, targets, test, wanted, Fit(costs=QUICK))
    odd = torch.randn(7, 8) * 5
    hard = torch.full((7, 3), -1)
    more = svm_map(
        torch.cat([features, odd]),
        torch.cat([targets, hard]),
        torch.cat([test, odd]),
        torch.cat([wanted, hard]),
        Fit(costs=QUICK),
    )
    assert more == plain
    counted = svm_map(torch.cat([features, odd]), torch.cat([targets, hard.abs()]), test, wanted, Fit(costs=QUICK))
    assert counted != plain


def test_a_difficult_class_leaves_the_others_of_its_image():
    features, targets = planted(noise=1.0)
    changed = targets.clone()
    changed[5, 0] = -1
    alone = [svm_map(features, t[:, 1:], features, t[:, 1:], Fit(costs=QUICK))["map"] for t in (targets, changed)]
    assert alone[0] == alone[1]


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")  # of the loop; ours counts them
@pytest.mark.parametrize("seed", range(4))
def test_the_cost_is_chosen_by_cross_validation(seed):
    """Against scikit-learn's folds and the loop's precision, on noisy labels that no cost fits."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(90, 20, generator=generator)
    labels = (features[:, 0] + 0.8 * torch.randn(90, generator=generator) > 0).long().numpy() * 2 - 1
    rows, costs, scores = svm_features(features), (30.0, 1.0, 0.5**6), []
    for cost in costs:
        found = []
        for train, test in StratifiedKFold(3).split(rows, labels):
            svm = LinearSVC(C=cost, class_weight={1: 2, -1: 1}, max_iter=2000, random_state=0, dual=True)
            svm.fit(rows[train], labels[train])
            found.append(envelope_area(labels[test] == 1, svm.decision_function(rows[test])))
        scores.append(np.mean(found))
    assert len(set(scores)) == 3
    assert Fit(costs=costs).best_cost(rows, labels, weighted=True) == costs[int(np.argmax(scores))]
    assert Fit(costs=(7.0,)).best_cost(rows, labels, weighted=True) == 7.0


def test_what_does_not_converge_is_counted():
    features, targets = planted(noise=2.0)
    found = svm_map(features, targets, features, targets, Fit(costs=(100.0,), max_iter=1))
    assert found["unconverged"] == 3.0


def test_a_multi_class_svm_finds_planted_classes():
    labels = torch.arange(60) % 4
    features = torch.eye(4, 6)[labels] + 0.1
    found = svm_accuracy(features, labels, features, labels, Fit(costs=QUICK))
    assert found["top1"] == 100.0
    assert found["cost"] in QUICK
    with pytest.raises(ValueError, match="3-fold cross-validation needs 3 images of each class, one has 1"):
        svm_accuracy(features[:5], labels[:5], features, labels, Fit(costs=QUICK))


def test_a_draw_has_as_many_positives_as_asked_and_is_part_of_a_larger_one():
    _, targets = planted()
    small, large = low_shot_rows(targets, 4), low_shot_rows(targets, 9)
    assert small.shape == (3, 4)
    assert torch.equal(large[:, :4], small)
    for number, rows in enumerate(large):
        assert (targets[rows, number] == 1).all()
        assert len(set(rows.tolist())) == 9


def test_the_same_seed_gives_the_same_draw():
    _, targets = planted()
    assert torch.equal(low_shot_rows(targets, 5, 1, 2), low_shot_rows(targets, 5, 1, 2))
    assert not torch.equal(low_shot_rows(targets, 5, 1, 2), low_shot_rows(targets, 5, 2, 2))
    assert not torch.equal(low_shot_rows(targets, 5, 1, 2), low_shot_rows(targets, 5, 1, 3))


@pytest.mark.parametrize("shots", [1, 5])
def test_the_negatives_are_the_other_classes_images(shots):
    _, targets = planted()
    targets[7, 2] = -1
    rows = low_shot_rows(targets, shots)
    few = low_shot_targets(targets, shots)
    assert ((few == 1).sum(0) == shots).all()
    for number in range(3):
        for image in range(len(targets)):
            drawn = image in rows[number].tolist()
            other = image in rows.flatten().tolist() and targets[image, number] == 0
            assert few[image, number] == (1 if drawn else 0 if other else -1)


def test_few_images_of_separable_classes_are_enough():
    features, targets = planted()
    found = low_shot_map(features, targets, features, targets, shots=(1, 4), draws=2, fit=Fit(costs=(10.0, 0.001)))
    assert found[4]["map"] == 100.0
    assert list(found) == [1, 4]
    assert found == low_shot_map(
        features, targets, features, targets, shots=(1, 4), draws=2, fit=Fit(costs=(10.0, 0.001))
    )


def test_the_spread_is_that_of_the_draws():
    train, targets = planted(noise=1.0)
    test, wanted = planted(count=45, noise=1.0)
    costs = (1.0,)
    both = low_shot_map(train, targets, test, wanted, shots=(2,), draws=3, seed=4, fit=Fit(costs=costs))[2]
    alone = []
    for draw in range(3):
        few = low_shot_targets(targets, 2, draw, 4)
        alone.append(svm_map(train, few, test, wanted, Fit(costs=costs))["map"])
    assert both["map"] == pytest.approx(np.mean(alone))
    assert both["std"] == pytest.approx(np.std(alone, ddof=1))
    assert both["std"] > 0


def test_what_is_refused():
    features, targets = planted()
    with pytest.raises(ValueError, match="class 0 has 30 positives, 31 shots were asked for"):
        low_shot_rows(targets, 31)
    with pytest.raises(ValueError, match="shots must be at least 1"):
        low_shot_rows(targets, 0)
    with pytest.raises(ValueError, match="class 1 has no positive image in the train split"):
        svm_map(features, targets * torch.tensor([1, 0, 1]), features, targets)
    with pytest.raises(ValueError, match=r"test targets must be \(60, K\) of 1, 0 and -1"):
        svm_map(features, targets, features, targets * 2)
    with pytest.raises(ValueError, match="costs must be positive"):
        Fit(costs=())
    with pytest.raises(ValueError, match="draws must be at least 1"):
        low_shot_map(features, targets, features, targets, draws=0)
    assert one_hot_targets(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
