"""The clean loss beside any mixup's: against a loop of its equation, wherever a mixup acts, and its refusals."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from runs import fit, rows, small_recipe
from tiny_networks import PlainNet, tiny_cnn
from torch import nn

import samix
from samix.losses.supervised import LOSSES
from samix.methods.averaged import Averaged
from samix.methods.supervised import Supervised
from samix.recipes import Recipe
from samix.recipes.build import build_method
from samix.recipes.pretrain_recipe import PretrainRecipe

B, K, SMOOTHING, WEIGHT = 6, 5, 0.1, 0.7


def batch(size=16):
    torch.manual_seed(0)
    return torch.randn(B, 3, size, size), torch.randint(0, K, (B,))


def supervised(mixup, net=None, **options):
    torch.manual_seed(1)
    net = PlainNet(norm=False) if net is None else net
    return Supervised(net, mixup, num_classes=K, **options)


def seeded(kind, **options):
    return kind(generator=torch.Generator().manual_seed(3), **options)


def test_the_own_terms_of_a_mixup_are_added_to_the_loss():
    class WithTerm(samix.NoMixup):
        def forward_through(self, model, images, labels):
            logits, mixed = super().forward_through(model, images, labels)
            return logits, dataclasses.replace(mixed, extra={"own": torch.tensor(2.5)})

    loss, parts = supervised(seeded(WithTerm))(batch())
    plain, _ = supervised(seeded(samix.NoMixup))(batch())
    assert loss.item() == pytest.approx(plain.item() + 2.5)
    assert float(parts["own"]) == 2.5


def smoothed_cross_entropy(logits, labels):
    """``-mean_i sum_k ((1 - s) [k = y_i] + s / K) log softmax(z_i)_k``, in plain loops."""
    total = 0.0
    for row, label in zip(logits.detach().double(), labels.tolist(), strict=True):
        log_p = row - row.exp().sum().log()
        for k in range(K):
            total -= ((1.0 - SMOOTHING) * (k == label) + SMOOTHING / K) * float(log_p[k])
    return total / len(labels)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (samix.CutMix, {}),
        (samix.ManifoldMix, {"layers": "input,stem,body"}),
        (samix.NoMixup, {}),
        (samix.PuzzleMix, {"saliency": "gradient"}),
    ],
)
def test_the_clean_loss_is_added_with_its_weight(kind, options):
    """The same draws without and with it: the difference is the loop's value, also for mixups inside the network."""
    images, labels = batch(32)
    net = PlainNet(norm=False)
    without, parts = supervised(seeded(kind, **options), net, smoothing=SMOOTHING)((images, labels))
    beside, both = supervised(seeded(kind, **options), net, smoothing=SMOOTHING, clean_weight=WEIGHT)((images, labels))
    clean = smoothed_cross_entropy(net(images), labels)
    assert float(both["clean"]) == pytest.approx(clean, rel=1e-5)
    assert beside.item() == pytest.approx(without.item() + WEIGHT * clean, rel=1e-5)
    assert float(both["mixed"]) == pytest.approx(float(parts["mixed"]), rel=1e-6)
    assert set(parts) == {"mixed"}


@pytest.mark.parametrize("name", LOSSES)
def test_the_clean_loss_is_the_loss_of_a_batch_that_is_not_mixed(name):
    images, labels = batch()
    net = PlainNet(norm=False)
    method = supervised(seeded(samix.CutMix), net, loss=LOSSES[name], clean_weight=WEIGHT)
    alone = supervised(seeded(samix.NoMixup), net, loss=LOSSES[name])
    _, parts = method((images, labels))
    torch.testing.assert_close(parts["clean"], alone((images, labels))[1]["mixed"])


def test_soft_labels_and_labels_at_each_pixel_have_a_clean_loss_too():
    images, labels = batch()
    net = PlainNet(norm=False)
    soft = torch.rand(B, K).softmax(1)
    _, parts = supervised(seeded(samix.MixUp), net, clean_weight=1.0)((images, soft))
    torch.testing.assert_close(parts["clean"], F.cross_entropy(net(images), soft).detach())
    at_pixels, dense = nn.Conv2d(3, K, 1), labels[:, None, None].expand(B, 16, 16).clone()
    _, parts = supervised(seeded(samix.CutMix), at_pixels, clean_weight=1.0)((images, dense))
    torch.testing.assert_close(parts["clean"], F.cross_entropy(at_pixels(images), dense).detach())


def test_the_network_learns_from_both_losses():
    """The gradient is that of the two losses apart, by their weights."""
    images, labels = batch()
    net = PlainNet(norm=False)

    def gradient(mixup, **options):
        net.zero_grad()
        supervised(mixup, net, **options)((images, labels))[0].backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    mixed, clean = gradient(seeded(samix.CutMix)), gradient(seeded(samix.NoMixup))
    both = gradient(seeded(samix.CutMix), clean_weight=WEIGHT)
    for a, b, c in zip(both, mixed, clean, strict=True):
        torch.testing.assert_close(a, b + WEIGHT * c)


def test_without_a_weight_there_is_one_pass():
    for weight, passes in ((0.0, 1), (0.5, 2)):
        net, seen = tiny_cnn(K), []
        net.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        supervised(seeded(samix.CutMix), net, clean_weight=weight)(batch(32))
        assert len(seen) == passes


def test_a_clean_loss_is_never_counted_twice():
    """CoMixup has one by default; the message tells the way out, and the way out works."""
    with pytest.raises(ValueError, match=r"count twice: clean_weight is 0.5, and comixup has one of its own"):
        supervised(samix.CoMixup(), clean_weight=0.5)
    with pytest.raises(ValueError, match="count twice"):
        supervised(samix.RandomChoice([samix.CutMix(), samix.PuzzleMix(clean_weight=0.2)]), clean_weight=0.5)
    supervised(samix.CoMixup(clean_weight=0.0), clean_weight=0.5)
    supervised(samix.CoMixup(), clean_weight=0.0)
    with pytest.raises(ValueError, match="automix has a clean loss of its own, so clean_weight must be 0"):
        build_method(small_recipe("automix", clean_weight=1.0), 10)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_clean_weight_is_a_number_of_at_least_0(weight):
    for make in (lambda: supervised(samix.CutMix(), clean_weight=weight), lambda: Recipe(clean_weight=weight)):
        with pytest.raises(ValueError, match="clean_weight must be in"):
            make()


def test_learning_without_labels_refuses_a_clean_weight():
    with pytest.raises(ValueError, match="clean_weight is for learning with labels"):
        PretrainRecipe(clean_weight=1.0)


def test_a_recipe_s_clean_weight_reaches_the_run(tmp_path, monkeypatch):
    recipe = small_recipe("manifoldmix", clean_weight=0.5, epochs=1)
    for row in rows(fit(recipe, tmp_path)):
        assert row["loss"] == pytest.approx(row["mixed"] + 0.5 * row["clean"], rel=1e-5)
    plain = rows(fit(dataclasses.replace(recipe, clean_weight=0.0), tmp_path, "plain"))
    assert all("clean" not in row for row in plain)


# The running average --------------------------------------------------------------------------------------------------


def averaged(net, **options):
    return Averaged(net, seeded(samix.MixUp), num_classes=5, **options)


def test_the_average_is_that_of_the_weights_after_each_step_and_is_reported_and_exported():
    method = averaged(tiny_cnn(), ema_decay=0.5)
    images, labels = batch(32)
    first = {name: value.clone() for name, value in method.model.state_dict().items()}
    expected = {name: value.clone() for name, value in first.items()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for step, decay in enumerate((2 / 11, 3 / 12, 4 / 13)):  # (1 + t) / (10 + t), below 0.5
        method(images, labels)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step((step + 1) / 3)
        now = method.model.state_dict()
        for name, value in expected.items():
            expected[name] = decay * value + (1 - decay) * now[name] if value.is_floating_point() else now[name]
    found = method.ema_model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
        assert not value.is_floating_point() or not torch.equal(value, first[name])
    exported = method.eval().export()
    logits = method.predict(images)
    assert list(logits) == ["ema", "network"]
    assert torch.equal(exported(images), logits["ema"])
    assert not torch.equal(logits["ema"], logits["network"])
    assert all(parameter.requires_grad for parameter in exported.parameters())


def test_the_average_stays_in_eval_mode_and_trains_as_without_it():
    plain, with_average = (make(tiny_cnn()) for make in (lambda net: supervised(seeded(samix.MixUp), net), averaged))
    with_average.model.load_state_dict(plain.model.state_dict())
    assert with_average.train().ema_model.training is False
    assert torch.equal(with_average(batch(32))[0], plain(batch(32))[0])


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_decay_that_averages_nothing_is_refused(decay):
    with pytest.raises(ValueError, match="ema_decay must be"):
        averaged(tiny_cnn(), ema_decay=decay)


def test_a_recipe_with_a_decay_trains_the_average_and_learned_mixups_refuse_it():
    method = build_method(small_recipe("mixup", ema_decay=0.9), 10)
    assert (type(method), method.ema_decay) == (Averaged, 0.9)
    with pytest.raises(ValueError, match=r"samix averages its network by its own options .*must be 0, got 0.9"):
        build_method(small_recipe("samix", ema_decay=0.9), 10)
    with pytest.raises(ValueError, match=r"ema_decay is for learning with labels, got 0\.9"):
        PretrainRecipe(ema_decay=0.9)


# Each image once ------------------------------------------------------------------------------------------------------


def test_a_clean_share_shows_each_image_once_and_adds_the_loss_of_each_part():
    images, labels = batch(32)
    net = PlainNet(norm=False)
    seen = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method = supervised(seeded(samix.MixUp), net, clean_weight=WEIGHT, clean_share=0.34)  # 2 of 6
    loss, parts = method(images, labels)
    mixed, clean = seen
    assert torch.equal(clean, images[:2])
    assert mixed.shape == images[2:].shape
    expected, _ = supervised(seeded(samix.MixUp), net)(images[2:], labels[2:])
    assert torch.equal(parts["mixed"], expected.detach())
    torch.testing.assert_close(parts["clean"], F.cross_entropy(net(images[:2]), labels[:2]).detach())
    torch.testing.assert_close(loss.detach(), parts["mixed"] + WEIGHT * parts["clean"])


def test_a_clean_share_needs_a_clean_loss_and_is_not_for_learned_mixups():
    with pytest.raises(ValueError, match="set clean_weight=1, too"):
        supervised(samix.MixUp(), clean_share=0.5)
    method = build_method(small_recipe("mixup", clean_weight=1.0, clean_share=0.5), 10)
    assert method.clean_share == 0.5
    with pytest.raises(ValueError, match="samix has a clean share of its own"):
        build_method(small_recipe("samix", clean_share=0.5), 10)


def test_statistics_are_of_the_clean_share():
    images, labels = batch(32)
    torch.manual_seed(0)
    net = tiny_cnn()
    expected = copy.deepcopy(net).train()
    supervised(seeded(samix.MixUp), net, clean_weight=1.0, clean_share=0.5)(images, labels)
    expected(images[:3])
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), expected.buffers(), strict=True))


def test_statistics_of_the_average_are_of_clean_images_where_there_is_a_clean_loss():
    images, labels = batch(32)
    means = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        net = tiny_cnn()
        expected = copy.deepcopy(net).train()
        averaged(net, clean_weight=weight)(images, labels)
        expected(images)
        means.append([torch.equal(a, b) for a, b in zip(net.buffers(), expected.buffers(), strict=True)])
    assert all(means[1])
    assert not all(means[0])
