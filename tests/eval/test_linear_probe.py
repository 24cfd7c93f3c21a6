"""The linear probe against torch's own layer and optimiser, its protocols' schedules, and a backbone that stays."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import randomised, tiny_cnn
from torch import nn

from samix.data import Augment, TrainBatches, load_data
from samix.data.order import epoch_order
from samix.eval.features import frozen, headless
from samix.eval.linear import PROTOCOLS, LinearProbe, LinearProtocol, probe_augmented, probe_features
from samix.eval.protocol import named_protocol


def test_the_rate_of_the_60_80_protocol():
    protocol = PROTOCOLS["moco-small"]
    rates = [protocol.learning_rate(epoch) for epoch in range(protocol.epochs)]
    assert rates == pytest.approx([0.1] * 60 + [0.01] * 20 + [0.001] * 20)
    assert PROTOCOLS["moco"].learning_rate(0) == 30.0


@pytest.mark.parametrize(
    ("name", "rate"),
    [("mocov3", 0.4), ("samix-vits", 12.0), ("simsiam", 1.6), ("simclr", 1.6), ("swav", 0.3), ("barlow", 0.3)],
)
def test_the_rates_of_the_cosine_protocols(name, rate):
    protocol = PROTOCOLS[name]
    assert protocol.learning_rate(0) == pytest.approx(rate)
    half = protocol.epochs // 2
    assert protocol.learning_rate(half) == pytest.approx(rate / 2)
    last = 0.5 * (1 + math.cos(math.pi * (protocol.epochs - 1) / protocol.epochs))
    assert protocol.learning_rate(protocol.epochs - 1) == pytest.approx(rate * last)


def test_the_steps_of_imix():
    rates = [PROTOCOLS["imix"].learning_rate(epoch) for epoch in (0, 79, 80, 89, 90, 94, 95, 99)]
    assert rates == pytest.approx([10, 10, 2, 2, 0.4, 0.4, 0.08, 0.08])


def data(count=50, width=6, classes=4):
    centres = torch.randn(classes, width)
    labels = torch.arange(count) % classes
    return centres[labels] + torch.randn(count, width), labels


def torch_layer(features, labels, classes, protocol, seed, optimizer, lr):
    """nn.Linear, a graph and an optimiser, from the same first weights and in the same order."""
    start = LinearProbe(features.shape[1], classes, protocol, seed=seed)
    layer = nn.Linear(features.shape[1], classes)
    with torch.no_grad():
        layer.weight.copy_(start.weight[:, 0].T)
        layer.bias.zero_()
    batch_size = min(protocol.batch_size, len(features))
    steps = optimizer(layer.parameters())
    for epoch in range(protocol.epochs):
        scale = protocol.learning_rate(epoch, batch_size) / protocol.lr
        for group in steps.param_groups:
            group["lr"] = lr * scale
        for rows in epoch_order(len(features), seed, epoch).split(batch_size):
            loss = F.cross_entropy(layer(features[rows]), labels[rows], label_smoothing=protocol.smoothing)
            steps.zero_grad()
            loss.backward()
            steps.step()
    return layer


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_each_of_several_layers_is_the_one_torch_would_train_alone(nesterov, smoothing):
    features, labels = data()
    protocol = LinearProtocol(
        batch_size=16, epochs=4, nesterov=nesterov, weight_decay=1e-3, smoothing=smoothing, schedule="cosine"
    )
    lrs = (0.01, 0.3, 2.0)
    probe = probe_features(features, labels, 4, protocol, lrs=lrs, seed=5)
    for number, lr in enumerate(lrs):

        def sgd(parameters):
            return torch.optim.SGD(parameters, lr=1.0, momentum=0.9, nesterov=nesterov, weight_decay=1e-3)

        layer = torch_layer(features, labels, 4, protocol, 5, sgd, lr)
        assert torch.allclose(probe.weight[:, number].T, layer.weight, atol=1e-5)
        assert torch.allclose(probe.bias[number], layer.bias, atol=1e-5)


def test_lars_adapts_every_tensor_although_nothing_is_decayed():
    """SimSiam's code: lr * 0.001 * |p| / |grad|, and the plain rate while a tensor is zero."""
    features, labels = data()
    protocol = LinearProtocol(optimizer="lars", lr=0.1, batch_size=64, epochs=3, momentum=0.0)
    probe = probe_features(features, labels, 4, protocol, seed=2)
    start = LinearProbe(6, 4, protocol, seed=2)
    weight, bias = start.weight[:, 0].clone(), start.bias[0].clone()
    for epoch in range(3):
        lr = protocol.learning_rate(epoch)
        weight.requires_grad_()
        bias.requires_grad_()
        grads = torch.autograd.grad(F.cross_entropy(features @ weight + bias, labels), (weight, bias))
        moved = []
        for tensor, grad in zip((weight, bias), grads, strict=True):
            size, slope = tensor.detach().norm(), grad.norm()
            trust = 0.001 * size / slope if size > 0 else torch.tensor(1.0)
            moved.append((tensor - lr * trust * grad).detach())
        weight, bias = moved
    assert torch.allclose(probe.weight[:, 0], weight, atol=1e-6)
    assert torch.allclose(probe.bias[0], bias, atol=1e-6)


def test_the_losses_of_a_step_are_those_before_it():
    features, labels = data()
    probe = LinearProbe(6, 4, PROTOCOLS["moco"], lrs=(1.0, 5.0))
    probe.start_epoch(0)
    for _ in range(3):
        wanted = [F.cross_entropy(logits, labels) for logits in probe.logits(features).unbind(1)]
        assert torch.allclose(probe.step(features, labels), torch.stack(wanted))
    assert probe.logits(features)[:, 0].ne(probe.logits(features)[:, 1]).any()


def test_it_starts_small_and_alike():
    probe = LinearProbe(500, 100, PROTOCOLS["moco"], lrs=(1.0, 2.0))
    assert probe.weight.std() == pytest.approx(0.01, rel=0.02)
    assert torch.equal(probe.weight[:, 0], probe.weight[:, 1])
    assert not probe.bias.any()


def test_separable_features_are_learned_and_counted():
    labels = torch.arange(60) % 6
    features = torch.eye(6)[labels]
    probe = probe_features(features, labels, 6, LinearProtocol(lr=5.0, epochs=30), lrs=(1e-6, 5.0))
    found = probe.accuracy(features, labels, chunk=7)
    assert found[5.0] == {"top1": 100.0, "top5": 100.0}
    assert found[1e-6]["top1"] < 100
    logits = probe.logits(features)[:, 0]
    assert found[1e-6]["top1"] == pytest.approx(100 * float((logits.argmax(1) == labels).double().mean()))
    ranked = logits.argsort(1, descending=True)[:, :5]
    assert found[1e-6]["top5"] == pytest.approx(100 * float((ranked == labels[:, None]).any(1).double().mean()))


def test_the_same_seed_gives_the_same_layer():
    features, labels = data()
    protocol = LinearProtocol(batch_size=16, epochs=3)
    first, again, other = (probe_features(features, labels, 4, protocol, seed=seed).weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def digits(limit=60):
    return load_data("digits", limit=limit)


def train_batches(size=8, **options):
    return TrainBatches(digits(), batch_size=20, size=size, augment=Augment("digits"), seed=3, **options)


def test_the_augmented_form_leaves_the_backbone_as_it_was():
    backbone = headless(randomised(tiny_cnn(), 0.1)).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    grads = [p.requires_grad for p in backbone.parameters()]
    probe_augmented(frozen(backbone), train_batches(32), 10, LinearProtocol(epochs=2))
    after = backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.grad is None for p in backbone.parameters())
    assert grads == [p.requires_grad for p in backbone.parameters()]
    assert all(module.training for module in backbone.modules())


def test_the_augmented_form_sees_new_images_each_epoch_and_scales_its_rate_by_its_batch():
    seen = []

    def features(images):
        seen.append(images)
        return images.flatten(1)

    batches = train_batches()
    protocol = LinearProtocol(lr=2.56, scaled=True, epochs=2)
    probe = probe_augmented(features, batches, 10, protocol, seed=4)
    assert probe.optimizer.param_groups[0]["lr"] == pytest.approx(2.56 * 20 / 256 * 0.5)
    fed = [images for epoch in range(2) for images, _ in batches.epoch(epoch)]
    assert all(torch.equal(a, b) for a, b in zip(seen, fed, strict=True))
    assert not torch.equal(seen[0].mean(0), seen[3].mean(0))


def test_what_is_refused():
    features, labels = data()
    with pytest.raises(ValueError, match=r"protocol must be one of moco, .*; got 'mocov9'"):
        named_protocol(PROTOCOLS, "mocov9")
    with pytest.raises(ValueError, match="learning rates must be positive"):
        probe_features(features, labels, 4, PROTOCOLS["moco"], lrs=(1.0, 0.0))
    with pytest.raises(ValueError, match=r"expected features \(N, F\), labels \(N,\)"):
        probe_features(features, labels[:3], 4, PROTOCOLS["moco"])
    with pytest.raises(ValueError, match="optimizer must be one of sgd, lars; got 'adam'"):
        LinearProtocol(optimizer="adam")
    with pytest.raises(ValueError, match=r"lr must be in \(0, inf\)"):
        LinearProtocol(lr=0.0)
    with pytest.raises(ValueError, match="the split is empty"):
        probe_features(features, labels, 4, LinearProtocol(epochs=1)).accuracy(features[:0], labels[:0])
