"""The slow copy: its update in closed form, its schedule's listed values, and BatchNorm that does not keep count."""

import itertools

import pytest
import torch
from timm.layers import BatchNormAct2d
from tiny_networks import randomised, tiny_cnn
from torch import nn

from samix.networks.ema import ema_copy, ema_decay_at, train_norms, untracked_batchnorm, update_ema


def pair():
    net = randomised(tiny_cnn())
    slow = randomised(ema_copy(net))
    return net, slow


def test_a_momentum_copy_is_equal_separate_and_never_trained():
    net = randomised(tiny_cnn())
    slow = ema_copy(net)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), slow.state_dict().values(), strict=True))
    assert not any(p.requires_grad for p in slow.parameters())
    assert all(p.requires_grad for p in net.parameters())
    assert not {p.data_ptr() for p in slow.parameters()} & {p.data_ptr() for p in net.parameters()}


@pytest.mark.parametrize("momentum", [0.3, 0.9, 0.999, 0.999999])
def test_the_update_is_the_weighted_mean_in_place_and_leaves_buffers_alone(momentum):
    net, slow = pair()
    before = {name: value.clone() for name, value in slow.state_dict().items()}
    places = [p.data_ptr() for p in slow.parameters()]
    trained = [p.detach().clone() for p in net.parameters()]
    update_ema(net, slow, momentum)
    for (name, after), now in zip(slow.named_parameters(), net.parameters(), strict=True):
        expected = momentum * before[name].double() + (1 - momentum) * now.detach().double()
        assert torch.allclose(after.double(), expected, atol=1e-7, rtol=1e-6), name
    assert [p.data_ptr() for p in slow.parameters()] == places
    assert all(torch.equal(value, before[name]) for name, value in slow.named_buffers())
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), trained, strict=True))


def test_momentum_one_changes_nothing_and_momentum_zero_copies():
    net, slow = pair()
    before = [p.clone() for p in slow.parameters()]
    update_ema(net, slow, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(slow.parameters(), before, strict=True))
    update_ema(net, slow, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(slow.parameters(), net.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(slow.parameters(), before, strict=True))


def test_the_schedule_has_the_listed_values():
    listed = {0.0: 0.999, 0.0999: 0.999, 0.1: 0.9990244, 0.25: 0.999146, 0.5: 0.9994995, 0.75: 0.999853}
    listed |= {0.9: 0.9999745, 0.99: 0.99999875, 1.0: 0.999999}
    for progress, value in listed.items():
        assert ema_decay_at(progress, 0.999, 0.999999, 0.1) == pytest.approx(value, abs=4e-7), progress


def test_the_schedule_is_held_then_rises_to_its_end():
    for end, hold in [(0.999999, 0.1), (0.99996, 0.25), (1.0, 0.0)]:
        values = [ema_decay_at(step / 1000, 0.999, end, hold) for step in range(1001)]
        assert values[: int(hold * 1000)] == [0.999] * int(hold * 1000)
        rising = values[int(hold * 1000) :]
        assert all(a < b for a, b in itertools.pairwise(rising))
        assert max(values) == pytest.approx(end, abs=1e-12)
        assert max(values) < end + 1e-9


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), BatchNormAct2d(3)], ids=["plain", "timm"])
def test_untracked_batchnorm_normalises_by_the_batch_and_keeps_no_statistics(norm):
    x = torch.randn(8, 3, 4, 4) * 3 + 5
    tracked = norm(x)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with untracked_batchnorm(norm):
        assert torch.equal(norm(x), tracked)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    norm(x)
    assert not torch.equal(norm.running_mean, before["running_mean"])  # tracked again


def test_untracked_batchnorm_still_uses_its_statistics_in_eval_mode():
    norm = randomised(nn.BatchNorm2d(3)).eval()
    x = torch.randn(4, 3, 2, 2)
    with untracked_batchnorm(norm):
        inside = norm(x)
    assert torch.equal(inside, norm(x))


def test_untracked_batchnorm_is_restored_when_the_network_raises():
    never = nn.BatchNorm2d(3, track_running_stats=False)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3), never)
    with untracked_batchnorm(net):
        assert not any(norm.track_running_stats for norm in net)
    with pytest.raises(ValueError, match="expected 4D input"), untracked_batchnorm(net):
        net(torch.zeros(3))
    assert [norm.track_running_stats for norm in net] == [True, True, False]


@pytest.mark.parametrize("mode", [True, False])
def test_of_a_slow_network_only_norms_that_keep_statistics_are_in_train_mode(mode):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.LayerNorm(4))
    train_norms(net, mode)
    assert [module.training for module in (net, *net)] == [False, False, mode, False, False]
