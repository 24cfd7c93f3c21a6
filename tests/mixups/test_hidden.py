"""Mixing inside a network: against the network cut in two, then hooks, gradients, layers and errors."""

import functools

import pytest
import torch
from tiny_networks import PlainNet, tiny_cnn, tiny_vit
from torch import nn

from samix.methods.supervised import Supervised
from samix.mixups.handmade import MixUp, cutmix, mixup
from samix.mixups.hidden import ManifoldMix, default_layers, forward_mixed_after, forward_mixed_at

B = 4
INDEX = torch.tensor([1, 2, 3, 0])
LAM = torch.tensor([0.2, 0.5, 0.9, 1.0])


def images_and_labels(size=32):
    return torch.randn(B, 3, size, size), torch.arange(B)


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Twice(nn.Module):
    """Runs one layer two times."""

    def __init__(self):
        super().__init__()
        self.layer, self.fc = nn.Conv2d(3, 3, 1), nn.Linear(3, 5)

    def forward(self, x):
        return self.fc(self.layer(self.layer(x)).mean((2, 3)))


def test_mixing_a_layer_s_input_equals_the_network_cut_in_two():
    net, (images, _) = PlainNet().eval(), images_and_labels()
    hidden = net.stem(images)
    mixed = mixup(hidden, hidden[INDEX], LAM).images
    expected = net.fc(net.late(net.body(mixed)).mean((2, 3)))
    for logits, got in (
        forward_mixed_at(net.body, mixup, net, images, LAM, INDEX),
        forward_mixed_after(net.stem, mixup, net, images, LAM, INDEX),
    ):
        torch.testing.assert_close(logits, expected)
        torch.testing.assert_close(got.images, mixed)
        assert torch.equal(got.lam, LAM)


def test_any_policy_can_be_mixed_at_any_layer():
    net, (images, _) = PlainNet().eval(), images_and_labels()
    policy = functools.partial(cutmix, centre=torch.rand(B, 2))
    _, mixed = forward_mixed_at(net.late, policy, net, images, LAM, INDEX)
    assert mixed.mask.shape == (B, 1, 8, 8)
    torch.testing.assert_close(mixed.lam, mixed.mask.mean((1, 2, 3)))


def test_at_the_model_itself_it_is_the_image_that_is_mixed():
    net, (images, labels) = PlainNet().eval(), images_and_labels()
    logits, _ = forward_mixed_at(net, mixup, net, images, LAM, INDEX)
    torch.testing.assert_close(logits, net(mixup(images, images[INDEX], LAM).images))
    logits, batch = ManifoldMix(layers="input", generator=torch.Generator().manual_seed(1)).forward_through(
        net, images, labels
    )
    same = MixUp(alpha=2.0, generator=torch.Generator().manual_seed(1))(images, labels)
    torch.testing.assert_close(logits, net(same.images))
    torch.testing.assert_close(batch.images, same.images)
    torch.testing.assert_close(batch.weights, same.weights)
    alone = ManifoldMix(generator=torch.Generator().manual_seed(1))(images, labels)
    assert torch.equal(alone.images, same.images)


def test_a_layer_that_runs_twice_is_mixed_once():
    net, (images, _) = Twice(), images_and_labels(4)
    first = mixup(images, images[INDEX], LAM).images
    logits, _ = forward_mixed_at(net.layer, mixup, net, images, LAM, INDEX)
    torch.testing.assert_close(logits, net.fc(net.layer(net.layer(first)).mean((2, 3))))
    hidden = net.layer(images)
    logits, _ = forward_mixed_after(net.layer, mixup, net, images, LAM, INDEX)
    expected = net.fc(net.layer(mixup(hidden, hidden[INDEX], LAM).images).mean((2, 3)))
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("run", [forward_mixed_at, forward_mixed_after])
def test_gradients_reach_both_images_in_lam_s_proportion(run):
    net = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(3 * 4 * 4, 1))
    images = torch.randn(B, 3, 4, 4, requires_grad=True)
    logits, mixed = run(net[0], mixup, net, images, LAM, INDEX)
    assert mixed.images.requires_grad
    (gradient,) = torch.autograd.grad(logits[0].sum(), images)
    weight = net[2].weight.view(3, 4, 4)
    torch.testing.assert_close(gradient[0], LAM[0] * weight)
    torch.testing.assert_close(gradient[1], (1 - LAM[0]) * weight)
    assert not gradient[2:].any()


@pytest.mark.parametrize("run", [forward_mixed_at, forward_mixed_after])
def test_no_hook_is_left_also_when_the_network_raises(run):
    net, (images, labels) = PlainNet(), images_and_labels()
    run(net.body, mixup, net, images, LAM, INDEX)
    assert hooks_of(net) == 0
    net.fc = nn.Linear(7, 5)
    with pytest.raises(RuntimeError):
        run(net.body, mixup, net, images, LAM, INDEX)
    with pytest.raises(RuntimeError):
        ManifoldMix(layers="stem,input").forward_through(net, images, labels)
    assert hooks_of(net) == 0


def test_lam_one_changes_nothing():
    net, (images, labels) = PlainNet().eval(), images_and_labels()
    for layers in ("input", "stem", "body"):
        logits, batch = ManifoldMix(prob=0.0, layers=layers).forward_through(net, images, labels)
        torch.testing.assert_close(logits, net(images), atol=0, rtol=0)
        assert torch.equal(batch.lam, torch.ones(B))
    logits, batch = ManifoldMix(layers="stem").forward_through(net, images[:1], labels[:1])
    torch.testing.assert_close(logits, net(images[:1]), atol=0, rtol=0)
    assert batch.lam.item() == 1


def test_default_layers_are_the_input_and_the_first_stages():
    assert default_layers(tiny_cnn()) == ["input", "layer1", "layer2"]
    assert default_layers(tiny_vit(depth=6)) == ["input", "blocks.0", "blocks.1"]


@pytest.mark.parametrize("make", [tiny_cnn, tiny_vit], ids=["cnn", "vit"])
def test_every_default_layer_of_a_timm_network_is_drawn_and_trains(make):
    net, (images, labels) = make(), images_and_labels()
    mix = ManifoldMix(generator=torch.Generator().manual_seed(0))
    shapes = set()
    for _ in range(25):
        logits, batch = mix.forward_through(net, images, labels)
        shapes.add(tuple(batch.images.shape))
        assert logits.shape == (B, 5)
        assert batch.mask.shape == (B, 1, 32, 32)
        assert torch.equal(batch.mask[:, 0, 0, 0], batch.mask.flatten(1).amin(1))
    assert len(shapes) == len(mix.candidates(net))
    batch.loss(logits).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert not batch.images.requires_grad
    assert hooks_of(net) == 0


@pytest.mark.parametrize(
    "name", ["convnext_atto", "efficientnet_b0", "swin_tiny_patch4_window7_224", "mobilenetv3_small_100"]
)
@pytest.mark.slow
def test_default_layers_work_in_other_families(name):
    import timm

    kwargs = {"img_size": 64} if "swin" in name else {}
    net, (images, _) = timm.create_model(name, num_classes=5, **kwargs).eval(), images_and_labels(64)
    names = default_layers(net)
    assert len(names) == 3
    with torch.no_grad():
        for layer in names[1:]:
            logits, mixed = forward_mixed_after(net.get_submodule(layer), mixup, net, images, LAM, INDEX)
            assert logits.shape == (B, 5)
            assert len(mixed.images) == B


def test_same_seed_same_layers_and_the_mixup_trains_in_the_supervised_method():
    images, labels = images_and_labels()
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        method = Supervised(PlainNet(), ManifoldMix(layers="input, stem , body"), num_classes=5)
        optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
        run = []
        for _ in range(8):
            loss, _ = method((images, labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.append(loss.item())
        losses.append(run)
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 8


def test_wrong_layers_are_named():
    net, (images, labels) = PlainNet(), images_and_labels()
    cases = [
        ("", "PlainNet is not a timm network: name the layers .* top layers are: stem, body, late, aside, fc"),
        ("nowhere", "mixed layer 'nowhere' is not in the network; its top layers are: stem"),
        ("aside", "forward does not run this Linear; name another layer"),
    ]
    for layers, message in cases:
        with pytest.raises(ValueError, match=message):
            ManifoldMix(layers=layers).forward_through(net, images, labels)
    with pytest.raises(ValueError, match='layers must be names with commas between, as "input,layer1", got'):
        ManifoldMix(layers="input,,stem")
    with pytest.raises(ValueError, match="images must be floating point"):
        ManifoldMix(layers="stem").forward_through(net, images.byte(), labels)


@pytest.mark.parametrize(
    ("output", "got"),
    [(lambda x: (x,), "tuple"), (lambda x: x[:1], r"\(1, 3, 32, 32\)"), (lambda x: x[:, 0, 0, 0], r"\(4,\)")],
)
def test_a_layer_that_does_not_give_one_row_per_image_is_named(output, got):
    class Odd(nn.Module):
        def forward(self, x):
            return output(x)

    net, (images, labels) = nn.Sequential(Odd()), images_and_labels()
    with pytest.raises(ValueError, match=f"float activations with 4 rows, got {got}; name another layer"):
        ManifoldMix(layers="0", pairing="roll").forward_through(net, images, labels)
    assert hooks_of(net) == 0


def test_a_network_in_ddp_is_mixed_at_the_layers_of_the_network_inside():
    class Wrapped(torch.nn.parallel.DistributedDataParallel):  # without a process group
        def __init__(self, module):
            nn.Module.__init__(self)
            self.module = module

        def forward(self, x):
            return self.module(x)

    images, labels = images_and_labels()
    logits, _ = ManifoldMix(layers="stem").forward_through(Wrapped(PlainNet()), images, labels)
    assert logits.shape == (B, 5)
