"""Small labelled parts, rates of backbone and head, and a copy that learns while the original stays."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_networks import PlainNet, randomised, tiny_cnn
from torch import nn

from samix.data import Augment, EvalBatches, FileImages, TrainBatches, load_data
from samix.data.images import file_names
from samix.eval.features import headless
from samix.eval.finetune import (
    FINETUNE_PROTOCOLS,
    FinetuneProtocol,
    WithHead,
    build_finetune_optimizer,
    fine_tune,
    finetune_metrics,
    fraction_rows,
    labelled_part,
    listed_rows,
    toolbox_grid,
)
from samix.eval.protocol import named_protocol


def test_a_share_has_as_many_images_of_each_class_as_can_be():
    labels = torch.arange(1000) % 10
    for fraction, each in ((0.1, 10), (0.01, 1), (0.001, 1)):
        rows = fraction_rows(labels, 10, fraction, seed=1)
        assert labels[rows].bincount().tolist() == [each] * 10
        assert torch.equal(rows, rows.unique())
    assert torch.equal(fraction_rows(labels, 10, 0.1, 1), fraction_rows(labels, 10, 0.1, 1))
    assert not torch.equal(fraction_rows(labels, 10, 0.1, 1), fraction_rows(labels, 10, 0.1, 2))
    for fraction in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\]"):
            fraction_rows(labels, 10, fraction)


def files(tmp_path):
    names = ["train/n01/n01_3.JPEG", "train/n01/n01_7.JPEG", "train/n02/n02_1.JPEG", "train/n02/same.JPEG"]
    names.append("train/n03/same.JPEG")
    return FileImages(tmp_path, file_names(names), torch.tensor([0, 0, 1, 1, 2]))


def test_a_list_of_names_is_found_with_and_without_folders(tmp_path):
    images = files(tmp_path)
    assert listed_rows(images, ["n02_1.JPEG", "n01_3.JPEG"]).tolist() == [2, 0]
    assert listed_rows(images, ["train/n03/same.JPEG"]).tolist() == [4]


def test_names_that_do_not_fit_are_refused(tmp_path):
    images = files(tmp_path)
    with pytest.raises(ValueError, match=r"'n09_1.JPEG' of the list is in the data set 0 times"):
        listed_rows(images, ["n01_3.JPEG", "n09_1.JPEG"])
    with pytest.raises(ValueError, match=r"'same.JPEG' of the list is in the data set 2 times"):
        listed_rows(images, ["same.JPEG"])
    with pytest.raises(ValueError, match=r"'n01_3.JPEG' more than once"):
        listed_rows(images, ["n01_3.JPEG"] * 2)
    with pytest.raises(ValueError, match="is empty"):
        listed_rows(images, [])


def test_the_labelled_part_keeps_the_held_out_images(tmp_path):
    data = load_data("digits")
    part = labelled_part(data, fraction=0.05, seed=3)
    assert len(part.train) == round(0.05 * len(data.train))
    assert part.val is data.val
    in_files = replace(data, train=FileImages(tmp_path, file_names(list("abcdefghij")), torch.arange(10)))
    with pytest.raises(FileNotFoundError, match="no list of file names"):
        labelled_part(in_files, names=tmp_path / "none.txt")
    (tmp_path / "list.txt").write_text("j\n\nb\n")
    with pytest.raises(ValueError, match="has no training image"):
        labelled_part(in_files, names=tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("\n".join("jihgfedcba"))
    assert labelled_part(in_files, names=tmp_path / "list.txt").train.labels.tolist() == list(range(9, -1, -1))
    with pytest.raises(ValueError, match="has no image files"):
        labelled_part(data, names=tmp_path / "list.txt")


def test_the_rates_of_the_protocols():
    swav = FINETUNE_PROTOCOLS["swav-1"]
    assert [swav.factor(epoch, 256) for epoch in (0, 11, 12, 15, 16, 19)] == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04])
    assert (swav.backbone_lr, swav.head_lr, swav.epochs) == (0.02, 5.0, 20)
    simclr = FINETUNE_PROTOCOLS["simclr-1"]
    assert simclr.backbone_lr * simclr.factor(0, 1024) == pytest.approx(0.16)
    barlow = FINETUNE_PROTOCOLS["barlow-1"]
    assert barlow.factor(5, 256) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    grid = toolbox_grid(FINETUNE_PROTOCOLS["toolbox-10"])
    assert len({(p.backbone_lr, p.head_lr) for p in grid}) == 9
    assert {round(p.head_lr / p.backbone_lr) for p in grid} == {1, 10, 100}
    assert {p.weight_decay for p in grid} == {1e-4}
    with pytest.raises(ValueError, match=r"protocol must be one of toolbox-1, .*; got 'x'"):
        named_protocol(FINETUNE_PROTOCOLS, "x")
    with pytest.raises(ValueError, match="head_lr must be in"):
        FinetuneProtocol(0.1, 0.0)


def digits(size=8, batch_size=40):
    data = labelled_part(load_data("digits"), fraction=0.06)
    train = TrainBatches(data, batch_size=batch_size, size=size, augment=Augment("digits"), seed=1)
    return train, EvalBatches(data, batch_size=200, size=size, augment=Augment("digits"))


class Narrow(nn.Module):
    """Pooled features (B, 16) of a network without batch statistics."""

    def __init__(self):
        super().__init__()
        self.net = PlainNet(norm=False)
        self.net.fc = nn.Identity()

    def forward(self, x):
        return self.net(x)


def test_one_step_moves_backbone_and_head_by_their_own_rates():
    torch.manual_seed(1)
    backbone = randomised(Narrow())
    train, _ = digits(batch_size=86)
    protocol = FinetuneProtocol(0.01, 0.5, epochs=1, momentum=0.0)
    trained = fine_tune(backbone, train, 10, protocol, seed=2)
    start = WithHead(backbone, 16, 10, seed=2)
    images, labels = next(train.epoch(0))
    loss = nn.functional.cross_entropy(start(images), labels)
    names = [name for name, _ in start.named_parameters() if "aside" not in name]
    grads = torch.autograd.grad(loss, [start.get_parameter(name) for name in names])
    for name, grad in zip(names, grads, strict=True):
        rate = 0.5 if name.startswith("head") else 0.01
        moved = start.get_parameter(name) - rate * grad
        assert torch.allclose(trained.get_parameter(name), moved, atol=1e-6), name


def test_the_original_stays_and_random_numbers_too():
    backbone = headless(randomised(tiny_cnn(), 0.2)).requires_grad_(False)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    train, _ = digits(32)
    random = torch.get_rng_state()
    trained = fine_tune(backbone, train, 10, FinetuneProtocol(0.01, 0.1, epochs=1))
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert not any(p.requires_grad for p in backbone.parameters())
    changed = [not torch.equal(value, before[name]) for name, value in trained.backbone.state_dict().items()]
    assert sum(changed) > 0.9 * len(changed)
    assert not trained.training


def test_it_learns_digits_from_a_few_and_repeats_itself():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Dropout(0.1))
    train, test = digits()
    protocol = FinetuneProtocol(0.05, 0.1, steps=(15,))
    first, again = (fine_tune(backbone, train, 10, protocol, seed=5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    found = finetune_metrics(first, test, 10)
    assert found["top1"] > 50  # chance is 10
    assert set(found) == {"top1", "top5", "nll", "ece"}


def test_lars_adapts_the_kernels_of_the_backbone_only():
    network = randomised(WithHead(Narrow(), 16, 10))
    protocol = replace(FINETUNE_PROTOCOLS["simclr-1"], head_lr=0.01)
    optimizer = build_finetune_optimizer(network, protocol)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for name, value in network.named_parameters():
        trust = 1.0
        if name.startswith("backbone") and value.ndim > 1:
            trust = 0.001 * before[name].norm() / value.grad.norm()
        rate = 0.005 if name.startswith("backbone") else 0.01
        assert torch.allclose(value, before[name] - rate * trust * value.grad, atol=1e-6), name
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before)


def test_what_is_refused():
    train, _ = digits()
    with pytest.raises(ValueError, match=r"the backbone must give \(B, F\)"):
        fine_tune(nn.Conv2d(3, 4, 3), train, 10, FinetuneProtocol(0.1, 0.1))
    with pytest.raises(RuntimeError, match="the loss of epoch 0 is not finite; lower the learning rates"):
        fine_tune(randomised(Narrow()), train, 10, FinetuneProtocol(1e30, 1e30, epochs=1))
