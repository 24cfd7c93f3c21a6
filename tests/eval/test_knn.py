"""Nearest neighbours against a loop over all pairs, and features that leave no trace."""

import pytest
import torch
from oracles_probing import knn
from tiny_networks import PlainNet, randomised, tiny_cnn, tiny_vit

from samix.eval.features import extract, frozen, headless, stage_features
from samix.eval.knn import TEMPERATURE, knn_accuracy, knn_monitor, nearest, vote


def planted(count, classes=4, width=6, spread=0.6):
    """Features around a random centre for each class, of any length."""
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(count) % classes
    return (centres[labels] + spread * torch.randn(count, width)) * (torch.rand(count, 1) + 0.5), labels


def predict(bank, labels, queries, k, temperature=TEMPERATURE):
    similarity, rows = nearest(bank, queries, k)
    return vote(similarity, labels[rows], temperature, int(labels.max()) + 1).argmax(1)


@pytest.mark.parametrize("k", [1, 5, 20, 50])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_it_is_the_loop_over_all_pairs(k, temperature):
    bank, labels = planted(50)
    queries, _ = planted(31)
    found = predict(bank.double(), labels, queries.double(), k, temperature)
    assert found.tolist() == knn(bank.double(), labels, queries.double(), k, temperature, 4)


def test_the_training_features_themselves_are_known_with_one_neighbour():
    bank, _ = planted(80)
    labels = torch.randint(7, (80,))
    assert torch.equal(predict(bank, labels, bank, k=1), labels)


@pytest.mark.parametrize("chunk", [1, 7, 30, 1000])
def test_chunks_do_not_matter(chunk):
    bank, _ = planted(60)
    queries, _ = planted(30)
    whole = nearest(bank.double(), queries.double(), 10)
    parts = nearest(bank.double(), queries.double(), 10, chunk)
    assert torch.equal(whole[1], parts[1])


def test_lengths_of_features_do_not_matter():
    bank, labels = planted(60)
    queries, _ = planted(20)
    found = predict(bank, labels, queries, 10)
    assert torch.equal(found, predict(bank * 3, labels, queries * torch.rand(20, 1).add(0.1), 10))


def test_a_low_temperature_asks_the_nearest_and_does_not_overflow():
    bank, labels = planted(60)
    queries, _ = planted(20)
    assert torch.equal(predict(bank, labels, queries, 40, 1e-4), predict(bank, labels, queries, 1))
    assert vote(torch.tensor([[1.0, 0.9]]), torch.tensor([[0, 1]]), 1e-4, 2).isfinite().all()


def test_a_high_temperature_counts_heads():
    similarity, labels = torch.tensor([[1.0, 0.1, 0.0]]), torch.tensor([[0, 1, 1]])
    assert vote(similarity, labels, 1e6, 2).argmax(1).tolist() == [1]
    assert vote(similarity, labels, 0.1, 2).argmax(1).tolist() == [0]


def test_several_k_at_once_are_each_alone():
    bank, labels = planted(60, spread=1.5)
    queries, wanted = planted(40, spread=1.5)
    found = knn_accuracy(bank, labels, queries, wanted, ks=(1, 7, 60), num_classes=4)
    for k, value in found.items():
        alone = (predict(bank, labels, queries, k) == wanted).double().mean()
        assert value == pytest.approx(100 * float(alone))
    assert 20 < found[7] < 100  # else it would show nothing


def test_what_is_refused():
    bank, labels = planted(20)
    for k in (0, 21):
        with pytest.raises(ValueError, match=r"k must be in 1..20, the images in the bank"):
            nearest(bank, bank, k)
    with pytest.raises(ValueError, match="must have one width"):
        nearest(bank, bank[:, :3], 5)
    with pytest.raises(ValueError, match="bank_labels must be int64 of shape"):
        knn_accuracy(bank, labels[:5], bank, labels, ks=(5,), num_classes=4)
    with pytest.raises(ValueError, match="temperature must be positive"):
        knn_accuracy(bank, labels, bank, labels, ks=(5,), temperature=0.0, num_classes=4)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        nearest(bank, bank, 5, chunk=0)


def batches(count, size=4):
    """Images whose mean is their class, in short batches."""
    labels = torch.arange(count) % 3
    images = torch.randn(count, 3, 8, 8) * 0.1 + labels.view(-1, 1, 1, 1) - 1.0
    return list(zip(images.split(size), labels.split(size), strict=True))


def test_the_monitor_cuts_k_to_the_bank_and_gives_percent():
    def features(images):
        return torch.stack([images.mean((1, 2, 3)), torch.ones(len(images))], 1)

    found = knn_monitor(features, batches(30), batches(10), 3)
    bank, labels = extract(features, batches(30))
    assert list(found) == ["knn"]
    assert 90 < found["knn"] <= 100
    assert len(bank) == len(labels) == 30


def test_the_monitor_asks_k_neighbours_where_the_bank_has_more():
    bank = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, 0.6]]), torch.tensor([0, 1, 1])
    query = torch.tensor([[1.0, 0.1]]), torch.tensor([0])
    found = {k: knn_monitor(lambda x: x, [bank], [query], 2, k=k, temperature=100.0)["knn"] for k in (1, 3)}
    assert found == {1: 100.0, 3: 0.0}  # the nearest has the class, most of all have another


@pytest.mark.parametrize("network", [tiny_cnn, tiny_vit, PlainNet])
def test_taking_features_leaves_no_trace(network):
    model = randomised(network()).train()
    backbone = model if network is PlainNet else headless(model).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    images = [(torch.randn(4, 3, 32, 32), torch.arange(4))]
    random = torch.get_rng_state()
    features, _ = extract(frozen(backbone), images)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert all(module.training for module in backbone.modules())
    assert torch.equal(random, torch.get_rng_state())


def test_the_mode_is_put_back_when_the_network_raises():
    model = headless(tiny_cnn()).train()
    with pytest.raises(RuntimeError):
        frozen(model)(torch.randn(2, 7, 32, 32))
    assert model.training


def test_a_timm_network_without_its_classifier_gives_the_classifiers_input():
    model = randomised(tiny_cnn()).eval()
    images = torch.randn(3, 3, 32, 32)
    features = frozen(headless(model))(images)
    assert torch.allclose(model.get_classifier()(features), model(images), atol=1e-5)
    with pytest.raises(ValueError, match="not a timm network"):
        headless(PlainNet())


@pytest.mark.parametrize(("stage", "target", "width"), [(-1, 256, 64 * 4), (2, 140, 16 * 9), (0, 4, 8), (1, 72, 8 * 9)])
def test_features_of_a_stage_have_about_the_width_asked_for(stage, target, width):
    model = tiny_cnn()
    features = stage_features(model, stage, target)(torch.randn(2, 3, 64, 64))
    assert features.shape == (2, width)
    with pytest.raises(ValueError, match="stage must be in"):
        stage_features(model, 9)


def test_broken_features_are_refused():
    images = [(torch.zeros(4, 3, 2, 2), torch.arange(4))]
    with pytest.raises(ValueError, match=r"features must be \(4, F\)"):
        extract(lambda x: x, images)
    with pytest.raises(ValueError, match="the features of 4 of 4 images are not finite"):
        extract(lambda x: torch.full((len(x), 2), float("nan")), images)
    with pytest.raises(ValueError, match="nothing to take features of"):
        extract(lambda x: x.flatten(1), [])
