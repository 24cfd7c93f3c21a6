"""BatchNorm folded into convolutions: same numbers and gradients, nothing left behind, nothing folded that differs."""

import copy

import pytest
import torch
from test_automix import build, close, gradients, state
from tiny_networks import PlainNet, randomised, tiny_cnn, tiny_vit
from torch import nn

import samix
from samix.methods.automix import AutoMix
from samix.methods.samix import SAMix
from samix.networks.backbone import as_backbone
from samix.networks.folding import Pair, foldable, folded, folded_weights

IMAGES = (3, 32, 32)


def timm_net(name):
    import timm

    return timm.create_model(name, num_classes=5)


NETWORKS = {  # maker, the feature layer, how many norms it has and how many follow a convolution
    "resnet": (tiny_cnn, None, 14, 14),
    "plain": (PlainNet, "body", 3, 3),
    "norms with an activation": (lambda: timm_net("mobilenetv3_small_050"), None, 34, 34),
    "norms before convolutions": (lambda: timm_net("densenet121"), None, 121, 59),
    "branches that are norms": (lambda: timm_net("repvgg_a0"), None, 61, 44),
}


def wrapped(make, feature=None, num_classes=5):
    torch.manual_seed(0)
    backbone = as_backbone(make(), num_classes, feature).double().eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            randomised(module)
    return backbone


def images(count=2):
    return torch.randn(count, *IMAGES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# The mathematics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_the_folded_weights_are_those_of_the_formula(bias, affine):
    conv, norm = nn.Conv2d(4, 6, 3, groups=2, bias=bias), nn.BatchNorm2d(6, affine=affine, eps=0.1).eval()
    randomised(conv), randomised(norm)
    weight, shift = folded_weights(conv, norm)
    for o in range(6):
        mean, std = norm.running_mean[o].item(), (norm.running_var[o].item() + 0.1) ** 0.5
        gamma, beta = (norm.weight[o].item(), norm.bias[o].item()) if affine else (1.0, 0.0)
        assert torch.allclose(weight[o], conv.weight[o] * gamma / std, atol=1e-6)
        before = conv.bias[o].item() if bias else 0.0
        assert shift[o].item() == pytest.approx(beta + gamma * (before - mean) / std, abs=1e-5)


@pytest.mark.parametrize(("make", "feature", "norms", "count"), NETWORKS.values(), ids=NETWORKS)
def test_a_folded_network_gives_the_same_numbers_and_the_same_gradient_of_its_input(make, feature, norms, count):
    backbone = wrapped(make, feature)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules()) == norms
    pairs = foldable(backbone, images())
    assert len(pairs) == len({pair.conv for pair in pairs}) == len({pair.norm for pair in pairs}) == count
    results = []
    for inside in ([], pairs):
        x = images().requires_grad_()
        with folded(backbone, inside):
            z, out = backbone.feature_map(x), backbone.pooled(x)
        (out.square().sum() + z.sin().sum()).backward()  # outside: what was folded is in the graph
        results.append((z, out, x.grad))
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9 * float(one.detach().abs().max()))


def test_a_norm_is_not_run_inside():
    backbone = wrapped(tiny_cnn)
    pairs = foldable(backbone, images())
    runs = []
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda *_: runs.append(1))
    with folded(backbone, pairs):
        backbone.pooled(images())
    assert not runs
    backbone.pooled(images())
    assert len(runs) == 14


# Nothing stays behind -------------------------------------------------------------------------------------------------


def test_the_network_is_as_before_afterwards_also_when_it_raises():
    backbone = wrapped(tiny_cnn)
    before, modules, modes = state(backbone), dict(backbone.named_modules()), [m.training for m in backbone.modules()]
    parameters = dict(backbone.named_parameters())
    random = torch.get_rng_state()
    pairs = foldable(backbone, images())
    with pytest.raises(RuntimeError), folded(backbone, pairs):
        backbone.pooled(torch.zeros(1, 7, 32, 32, dtype=torch.float64))
    with pytest.raises(AttributeError), folded(backbone, [*pairs, Pair("model.conv1.0", "model.nowhere")]):
        raise AssertionError("not reached")
    after = state(backbone)
    assert list(after) == list(before)
    assert close(before, after, rtol=0, atol=0)
    assert all(one is modules[name] for name, one in backbone.named_modules())
    assert all(one is parameters[name] for name, one in backbone.named_parameters())
    assert [m.training for m in backbone.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)


# What must not be folded ----------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """A network with one convolution and one norm that cannot be folded as ``kind`` says."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        if kind == "no statistics":
            self.norm = nn.BatchNorm2d(8, track_running_stats=False)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        y = self.stem(x)
        if self.kind == "changed in place":
            y.mul_(2.0)
        if self.kind == "changed between":
            y = y.relu()
        z = self.norm(y)
        if self.kind == "read twice":
            z = z + y
        if self.kind == "norm run twice":
            z = self.norm(z)
        if self.kind == "convolution run twice":
            z = z + self.stem(x.flip(0))
        return self.fc(z.relu().mean((2, 3)))


KINDS = ["changed in place", "changed between", "read twice", "norm run twice", "convolution run twice"]


@pytest.mark.parametrize("kind", [*KINDS, "no statistics"])
def test_what_would_change_the_numbers_is_not_folded(kind):
    assert foldable(wrapped(lambda: Odd(kind), "norm"), images()) == []
    assert len(foldable(wrapped(lambda: Odd("plain"), "norm"), images())) == 1


def test_a_convolution_that_is_the_feature_layer_is_not_folded():
    assert foldable(wrapped(PlainNet, "body.0"), images()) == []  # the Mixer reads it before the norm


def test_a_convolution_of_another_kind_is_not_folded():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return self._conv_forward(x, weight, self.bias)

    net = PlainNet()
    net.body[0] = Standardised(8, 12, 3, 2, 1)
    assert [pair.norm for pair in foldable(wrapped(lambda: net, "body"), images())] == ["model.stem.1", "model.late.1"]


def test_a_network_without_norms_is_not_even_run():
    backbone = wrapped(tiny_vit)
    backbone.model.forward = None
    assert foldable(backbone, images()) == []


# In a step ------------------------------------------------------------------------------------------------------------


STEPS = [(cls, kind, {}) for cls in (SAMix, AutoMix, samix.AdAutoMix) for kind in ("cnn", "plain", "vit")]
STEPS += [(SAMix, "cnn", options) for options in ({"sequential": True}, {"guide": "online"}, {"guide_scale": 0.5})]


@pytest.mark.parametrize(("cls", "kind", "options"), STEPS)
def test_steps_with_averaged_statistics_are_those_without_folding(cls, kind, options):
    results = []
    for fold in (False, True):
        method, batch = build(kind, cls, statistics="averaged", momentum=0.5, momentum_hold=1.0, **options)
        method.pairs = None if fold else []
        losses = []
        for step in range(3):  # the weights and statistics of the copy move in between
            loss, _ = method(batch)
            loss.backward()
            losses.append(loss.item())
            with torch.no_grad():
                for parameter in method.online.parameters():
                    parameter.add_(parameter.sign(), alpha=0.01)
            method.after_step(step / 3)
        assert len(method.pairs) == {"cnn": 14, "plain": 3, "vit": 0}[kind] * fold
        assert all(p.grad is None for p in method.momentum.parameters())
        results.append((losses, gradients(method), state(method)))
    (losses, grads, states), (folded_losses, folded_grads, folded_states) = results
    assert losses == pytest.approx(folded_losses, rel=1e-5)
    assert close(grads, folded_grads, rtol=1e-3, atol=1e-4)
    assert close(states, folded_states, rtol=1e-5, atol=1e-6)


def test_other_statistics_fold_nothing():
    for statistics in ("clean", "both"):
        method, batch = build(statistics=statistics)
        method(batch)
        assert method.pairs is None


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
def test_a_compiled_copy_is_folded_too_and_compiled_once():
    torch._dynamo.reset()
    results, graphs = [], []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    for compiled in (False, True):
        method, batch = build(statistics="averaged", momentum=0.5)
        if compiled:
            method.compile_parts(backend=backend, fullgraph=True)
        losses, counts = [], []
        for step in range(4):
            loss, _ = method(batch)
            loss.backward()
            losses.append(loss.item())
            method.after_step(step / 4)
            counts.append(len(graphs))
        results.append(losses)
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    assert counts[0] == counts[-1] > 0
    norms = [node for graph in graphs for node in graph.graph.nodes if "batch_norm" in str(node.target)]
    assert norms  # the network's own
    assert len(method.pairs) == 14
    copied = copy.deepcopy(method)
    assert copied.pairs == method.pairs
