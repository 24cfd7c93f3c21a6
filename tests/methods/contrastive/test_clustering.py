"""Online clusters against loops over images and clusters; planted clusters; two processes that agree."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracles_clustering as oracle
import pytest
import torch
import torch.nn.functional as F
from process_groups import work_in_two
from torch import nn

from samix.losses.cluster import weighted_cross_entropy
from samix.losses.supervised import local_cross_entropy
from samix.methods.contrastive.clustering import ClusterOptions, OnlineClusters
from samix.methods.contrastive.kmeans import kmeans

SMALL = ClusterOptions(clusters=4, min_cluster=3, warmup_epochs=1, centroid_every=5, repair_every=2)


def blobs(clusters: int, each: int, dim: int = 16, spread: float = 0.15) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit rows around orthogonal directions, in a random order, and where they belong."""
    generator = torch.Generator().manual_seed(3)
    centres = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0][:clusters]
    labels = torch.arange(clusters).repeat_interleave(each)[torch.randperm(clusters * each, generator=generator)]
    noise = torch.randn(len(labels), dim, generator=generator) * spread
    return F.normalize(centres[labels] + noise, dim=1), labels


def started(images: int = 40, dim: int = 6, **options: object) -> OnlineClusters:
    found = OnlineClusters(images, dim, replace(SMALL, **options))
    found.initialise(torch.randn(images, dim))
    return found


def filled(labels: torch.Tensor, min_cluster: int, dim: int = 6, clusters: int = 4) -> OnlineClusters:
    """A bank of random rows with these labels, and the means of them."""
    found = OnlineClusters(len(labels), dim, replace(SMALL, clusters=clusters, min_cluster=min_cluster))
    found.bank.copy_(F.normalize(torch.randn(len(labels), dim), dim=1))
    found.labels.copy_(labels)
    found.centroids.copy_(torch.randn(clusters, dim))
    found.update_centroids()
    return found


def work(out: Path) -> None:
    """What each of two processes does: half of every batch is its own."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(run(rank, 2), out / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


def run(rank: int = 0, world: int = 1) -> dict[str, torch.Tensor]:
    """30 steps of batches of 8, from an empty bank on; images may come twice in a batch."""
    features, _ = blobs(4, 10)
    found = OnlineClusters(40, 16, SMALL)
    generator = torch.Generator().manual_seed(5)
    for step in range(30):
        ids = torch.randperm(40, generator=generator)[:8] if step > 5 else torch.arange(8) + 8 * (step % 5)
        if step > 10:
            ids[5] = ids[2]
        seen = F.normalize(features[ids] + 0.3 * torch.randn(8, 16, generator=generator), dim=1)
        mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
        found.step(ids[mine], seen[mine])
    return found.state_dict()


# The bank -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.5, 1.0])
def test_samples_are_updated_as_in_a_loop(momentum):
    found = started(bank_momentum=momentum)
    before = {key: value.clone() for key, value in found.state_dict().items()}
    ids, features = torch.tensor([3, 17, 3, 39, 0, 17]), torch.randn(6, 6)
    changed = found.update_samples(ids, features)
    bank, labels = oracle.update_samples(
        *(before[name].numpy() for name in ("bank", "labels", "centroids")), ids.tolist(), features.numpy(), momentum
    )
    assert np.allclose(found.bank.numpy(), bank, atol=1e-6)
    assert found.labels.tolist() == labels.tolist()
    assert float(changed) == pytest.approx(np.mean(labels[ids] != before["labels"].numpy()[ids]))
    oracle.check(found)
    others = torch.tensor([i for i in range(40) if i not in ids.tolist()])
    assert torch.equal(found.bank[others], before["bank"][others])
    assert torch.equal(found.labels[others], before["labels"][others])
    assert torch.equal(found.centroids, before["centroids"])


def test_momentum_1_replaces_a_row_and_momentum_0_leaves_it():
    feature = F.normalize(torch.randn(1, 6), dim=1)
    for momentum, wanted in ((1.0, lambda row: feature[0]), (0.0, lambda row: row)):
        found = started(bank_momentum=momentum)
        row = found.bank[7].clone()
        found.update_samples(torch.tensor([7]), feature)
        torch.testing.assert_close(found.bank[7], wanted(row), atol=1e-6, rtol=0)


def test_of_an_image_that_comes_twice_the_last_one_counts():
    found, features = started(), F.normalize(torch.randn(5, 6), dim=1)
    found.update_samples(torch.tensor([2, 9, 2, 9, 2]), features)
    torch.testing.assert_close(found.bank[[2, 9]], features[[4, 3]])


def test_opposite_features_leave_a_unit_row():
    found = started(bank_momentum=0.5)
    feature = -found.bank[4:5]
    found.update_samples(torch.tensor([4]), feature)
    torch.testing.assert_close(found.bank[4], feature[0])


def test_an_image_seen_for_the_first_time_fills_its_row_at_any_momentum():
    found, features = OnlineClusters(40, 6, replace(SMALL, bank_momentum=0.2)), torch.randn(3, 6)
    assert float(found.update_samples(torch.tensor([1, 5, 7]), features)) == 0.0
    torch.testing.assert_close(found.bank[[1, 5, 7]], F.normalize(features, dim=1))
    assert int((found.bank != 0).any(1).sum()) == 3


# Centroids, small clusters, weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [7, 65_536])
def test_centroids_are_the_means_of_members_and_empty_clusters_keep_theirs(chunk, monkeypatch):
    monkeypatch.setattr("samix.methods.contrastive.kmeans.CHUNK", chunk)
    labels = torch.tensor([0] * 13 + [1] * 6 + [3] * 5)
    found = filled(labels, min_cluster=1)
    found.centroids.copy_(torch.randn(4, 6))
    before = found.centroids.clone()
    found.update_centroids()
    wanted = oracle.centroids_of(found.bank.numpy(), labels.tolist(), before.numpy())
    assert np.allclose(found.centroids.numpy(), wanted, atol=1e-6)
    assert torch.equal(found.centroids[2], before[2])


def test_sums_do_not_hang_on_the_order_of_rows():
    """So that processes, and a device that adds in any order, agree to the last bit."""
    found = filled(torch.randint(4, (200,)), min_cluster=1)
    centroids, order = found.centroids.clone(), torch.randperm(200)
    found.bank.copy_(found.bank[order])
    found.labels.copy_(found.labels[order])
    found.update_centroids()
    assert torch.equal(found.centroids, centroids)


def test_small_clusters_are_given_up_and_refilled_from_the_largest():
    labels = torch.tensor([0] * 20 + [1] * 2 + [2] * 14 + [4] * 4)  # 1 is small, 3 is empty
    found = filled(labels, min_cluster=3, clusters=5)
    bank, centroids = found.bank.clone(), found.centroids.clone()
    reassigned, small = oracle.emptied(bank.numpy(), labels.tolist(), centroids.numpy(), 3)
    assert small == [1, 3]
    found.repair()
    oracle.check(found)
    now, before = found.labels.numpy(), np.array(reassigned)
    assert set(now.tolist()) == set(range(5))  # none is empty
    for empty in small:
        came_from = set(before[now == empty].tolist())
        assert len(came_from) == 1
        source = came_from.pop()
        counts = np.bincount(before, minlength=5)
        assert counts[source] == counts.max()  # the largest at that moment
        part = (before == source) & (now == empty)
        assert 0 < part.sum() < counts[source]
        before[part] = empty
    assert (before == now).all()  # and nothing else has moved
    assert torch.equal(found.bank, bank)
    for c in (1, 3):
        torch.testing.assert_close(found.centroids[c], found.bank[found.labels == c].mean(0), atol=1e-6, rtol=0)


def test_without_a_small_cluster_nothing_changes():
    found = filled(torch.arange(40) % 4, min_cluster=5)
    before = {key: value.clone() for key, value in found.state_dict().items()}
    found.repair()
    assert all(torch.equal(value, before[key]) for key, value in found.state_dict().items())


def test_a_cluster_of_equal_rows_is_cut_at_random_into_halves():
    labels = torch.tensor([0] * 33 + [1] * 4 + [2] * 3)
    found = filled(labels, min_cluster=1)
    found.bank.copy_(F.normalize(torch.ones(40, 6), dim=1))
    found.update_centroids()
    found.repair()
    assert found.counts().tolist() == [17, 4, 3, 16]
    oracle.check(found)


def test_class_weights_are_as_in_a_loop_and_equal_for_equal_clusters():
    labels = torch.tensor([0] * 20 + [1] * 9 + [2] * 10 + [3])
    found = filled(labels, min_cluster=1)
    found.update_weights()
    assert found.weights.tolist() == pytest.approx(oracle.class_weights(labels.tolist(), 4, 0.5), rel=1e-5)
    assert float(found.weights.sum()) == pytest.approx(1.0, abs=1e-6)
    assert float(found.weights[3] / found.weights[0]) == pytest.approx(20**0.5, rel=1e-4)
    found.labels.copy_(torch.arange(40) % 4)
    found.update_weights()
    assert found.weights.tolist() == pytest.approx([0.25] * 4)


# Losses of clusters ---------------------------------------------------------------------------------------------------


def test_the_weighted_loss_equals_a_loop_and_for_one_source_torch():
    logits, weights = torch.randn(7, 4, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.1
    labels, lam = torch.randint(4, (7, 2)), torch.rand(7, dtype=torch.float64)
    shares = torch.stack([lam, 1 - lam], dim=1)
    wanted = oracle.weighted_mixed_ce(logits.tolist(), labels.tolist(), shares.tolist(), weights.tolist())
    assert float(weighted_cross_entropy(logits, labels, shares, weights)) == pytest.approx(wanted, abs=1e-12)
    one = weighted_cross_entropy(logits, labels[:, :1], torch.ones(7, 1), weights)
    torch.testing.assert_close(one, F.cross_entropy(logits, labels[:, 0], weight=weights))
    torch.testing.assert_close(one, weighted_cross_entropy(logits, labels[:, :1], torch.ones(7, 1), 200.0 * weights))


def test_the_clusters_bce_equals_a_loop_and_leaves_pairs_of_one_cluster_out():
    logits, lam = torch.randn(6, 4, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    labels, partners = torch.tensor([0, 1, 2, 3, 1, 0]), torch.tensor([1, 1, 0, 3, 2, 3])
    wanted = oracle.pair_bce(logits.tolist(), labels.tolist(), partners.tolist(), lam.tolist())
    assert float(local_cross_entropy(logits, labels, partners, lam)) == pytest.approx(wanted, abs=1e-12)
    logits.requires_grad_()
    local_cross_entropy(logits, labels, partners, lam).backward()
    assert torch.equal(logits.grad.abs().sum(1) > 0, labels != partners)
    assert float(local_cross_entropy(logits, labels, labels, lam).detach()) == 0.0


def test_the_clusters_bce_is_least_where_the_sigmoid_is_lam():
    lam = torch.tensor([0.3], dtype=torch.float64)
    logits = torch.tensor([[torch.logit(lam[0]), 0.0, 5.0]], dtype=torch.float64, requires_grad=True)
    loss = local_cross_entropy(logits, torch.tensor([0]), torch.tensor([1]), lam)
    entropy = -(lam * lam.log() + (1 - lam) * (1 - lam).log())
    assert float(loss.detach()) == pytest.approx(float(entropy), abs=1e-12)
    loss.backward()
    assert float(logits.grad.abs().max()) < 1e-12


@pytest.mark.parametrize("which", ["ce", "bce"])
def test_cluster_losses_pass_gradcheck(which):
    logits, lam = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.rand(5, dtype=torch.float64)
    labels, partners = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1, 1, 0, 2, 0])
    weights, shares = torch.tensor([0.2, 0.5, 0.3]), torch.stack([lam, 1 - lam], 1)

    def loss(z):
        if which == "ce":
            return weighted_cross_entropy(z, torch.stack([labels, partners], 1), shares, weights)
        return local_cross_entropy(z, labels, partners, lam)

    assert torch.autograd.gradcheck(loss, logits)


# As a whole -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minibatch", [False, True])
def test_planted_clusters_are_recovered(minibatch, monkeypatch):
    """By k-means, and kept through 100 steps of noisy features."""
    from sklearn.metrics import normalized_mutual_info_score

    if minibatch:
        monkeypatch.setattr("samix.methods.contrastive.kmeans.LLOYD_UP_TO", 10)
    features, labels = blobs(8, 60)
    assert normalized_mutual_info_score(labels, kmeans(features, 8).labels) > 0.95
    found = OnlineClusters(480, 16, ClusterOptions(clusters=8, bank_momentum=0.5, centroid_every=10, repair_every=1))
    found.initialise(features)
    for _ in range(100):
        ids = torch.randperm(480)[:32]
        found.step(ids, F.normalize(features[ids] + 0.1 * torch.randn(32, 16), dim=1))
    oracle.check(found)
    assert normalized_mutual_info_score(labels, found.labels) > 0.95


def test_k_means_gives_the_same_from_a_seed_and_needs_as_many_rows_as_clusters():
    rows = torch.randn(900, 8)
    first, second = kmeans(rows, 5, seed=4), kmeans(rows, 5, seed=4)
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.centres, second.centres)
    with pytest.raises(ValueError, match="5 clusters need at least as many rows, got 3"):
        kmeans(rows[:3], 5)


def test_the_first_clusters_come_when_the_warm_up_is_over_and_everything_holds_from_then_on():
    features, _ = blobs(4, 10)
    found = OnlineClusters(40, 16, SMALL)
    for step in range(12):
        assert found.running == (step >= 5)
        if step < 5:
            assert int(found.labels.sum()) == 0
        ids = (torch.arange(8) + 8 * step) % 40
        found.step(ids, features[ids])
    oracle.check(found)
    assert found.counts().tolist() == [10] * 4
    assert int(found.steps) == 12


def test_images_not_seen_stand_for_one_that_was():
    features, _ = blobs(4, 10)
    found = OnlineClusters(40, 16, SMALL)
    found.update_samples(torch.arange(30), features[:30])
    found.initialise()
    oracle.check(found)
    for row, label in zip(found.bank[30:], found.labels[30:], strict=True):
        same = (found.bank[:30] == row).all(1)
        assert int(same.sum()) == 1
        assert label == found.labels[:30][same]


def test_maintenance_is_due_when_the_options_say_and_no_other_step_reads_a_number(monkeypatch):
    """A number that is read waits for the device."""
    found, calls = started(centroid_every=5, repair_every=3), []
    for name in ("update_centroids", "repair", "update_weights"):
        monkeypatch.setattr(found, name, lambda name=name: calls.append(name))
    for method in ("item", "tolist", "nonzero", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, method, lambda self, *args, method=method: pytest.fail(method))
    ids = torch.arange(8)
    for _ in range(15):
        found.step(ids, found.bank[ids])
    assert calls.count("update_centroids") == 3
    assert calls.count("repair") == calls.count("update_weights") == 5


def test_left_to_themselves_the_intervals_are_shares_of_an_epoch(monkeypatch):
    found, calls = OnlineClusters(1600, 4, replace(SMALL, centroid_every=0, repair_every=0)), []
    found.initialise(torch.randn(1600, 4))
    for name in ("update_centroids", "repair"):
        monkeypatch.setattr(found, name, lambda name=name: calls.append(name))
    for _ in range(200):  # an epoch of batches of 8
        found.step(torch.arange(8), found.bank[:8])
    assert calls.count("update_centroids") == 20
    assert calls.count("repair") == 100


def test_first_clusters_from_a_pass_over_the_data_leave_the_encoder_as_it_was():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8)).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    images, found = torch.randn(40, 3, 2, 2), OnlineClusters(40, 8, replace(SMALL, warmup_epochs=0))
    order = torch.randperm(40)
    found.initialise_from(encoder, [(images[rows], rows) for rows in order.split(7)])
    assert encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    torch.testing.assert_close(found.bank, F.normalize(encoder.eval()(images), dim=1).detach())
    assert found.running
    oracle.check(found)


# State and processes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [3, 17])
def test_state_is_in_the_state_dict_and_a_resumed_run_is_the_unbroken_one(stop, monkeypatch):
    wanted, step, saved = run(), OnlineClusters.step, {}

    def resumed(self, ids, features):
        if int(self.steps) == stop:
            other = OnlineClusters(40, 16, SMALL)
            other.step(torch.arange(8), torch.randn(8, 16))  # has been used for something else
            other.load_state_dict(self.state_dict())
            saved["other"] = other
        if "other" in saved:
            return step(saved["other"], ids, features) + 0.0 * step(self, ids, features)
        return step(self, ids, features)

    monkeypatch.setattr(OnlineClusters, "step", resumed)
    run()
    for key, value in saved["other"].state_dict().items():
        assert torch.equal(value, wanted[key]), key
    assert {"bank", "labels", "centroids", "weights", "steps", "started"} == set(wanted)


def test_two_processes_keep_the_bank_of_one(tmp_path):
    work_in_two(work, tmp_path)
    wanted = run()
    for rank in "01":
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert set(found) == set(wanted)
        for key, value in found.items():
            assert torch.equal(value, wanted[key]), (rank, key)


# What is refused ------------------------------------------------------------------------------------------------------


def test_more_clusters_than_half_the_images_are_refused():
    with pytest.raises(ValueError, match="200 clusters need at least 400 training images, got 300"):
        OnlineClusters(300, 8)
    assert OnlineClusters(400, 8).min_cluster == 1
    assert OnlineClusters(100_000, 2).min_cluster == 150


def test_clusters_that_would_bind_more_than_half_of_the_images_are_refused():
    with pytest.raises(ValueError, match="more than half of the 40 images; take min_cluster of at most 5"):
        OnlineClusters(40, 8, ClusterOptions(clusters=4, min_cluster=6))
    OnlineClusters(40, 8, ClusterOptions(clusters=4, min_cluster=5))


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (None, "give batches"),
        (torch.tensor([0, 40, 1]), "rows 0 to 39 of the 40 training images, got values from 0 to 40"),
        (torch.tensor([0, -1, 1]), "got values from -1 to 1"),
        (torch.tensor([0, 1]), r"ids must be \(3,\) integers"),
        (torch.tensor([0.0, 1.0, 2.0]), "integers, got torch.float32"),
    ],
)
def test_ids_that_are_missing_or_out_of_range_are_refused(ids, words):
    with pytest.raises(ValueError, match=words):
        OnlineClusters(40, 8, SMALL).rows(ids, 3)


def test_too_few_images_seen_or_features_that_do_not_fit_are_refused():
    found = OnlineClusters(40, 8, SMALL)
    found.update_samples(torch.arange(7), torch.randn(7, 8))
    with pytest.raises(ValueError, match="need 8 images, of which 7 have been seen"):
        found.initialise()
    with pytest.raises(ValueError, match="a row for each training image"):
        found.initialise(torch.randn(30, 8))
    with pytest.raises(ValueError, match="must be finite"):
        found.initialise(torch.full((40, 8), torch.nan))


def test_without_a_warm_up_the_first_clusters_must_be_there():
    found = OnlineClusters(40, 8, replace(SMALL, warmup_epochs=0))
    with pytest.raises(ValueError, match="before the first step"):
        found.step(torch.arange(8), torch.randn(8, 8))
    found.initialise(torch.randn(40, 8))
    found.step(torch.arange(8), torch.randn(8, 8))


@pytest.mark.parametrize(
    "options",
    [{"clusters": 1}, {"bank_momentum": 1.5}, {"min_cluster": 0}, {"centroid_every": -1}, {"warmup_epochs": -1}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ClusterOptions(**options)


def test_one_image_is_a_batch():
    found = started()
    assert 0.0 <= float(found.step(torch.tensor([5]), torch.randn(1, 6))) <= 1.0
    oracle.check(found)
