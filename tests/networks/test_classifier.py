"""Two heads on one trunk: clean logits are the network's own, mixed ones the same pass with other parameters."""

import copy

import pytest
import timm
import torch
from tiny_networks import PlainNet, randomised, tiny_cnn, tiny_vit
from torch import nn

from samix.networks.backbone import as_backbone
from samix.networks.classifier import Classifier


class Behind(nn.Module):
    """Work behind the last linear layer, which must not be lost."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, 2, 1)
        self.fc = nn.Linear(8, 5)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return torch.tanh(self.fc(self.body(x).mean((2, 3)))) * self.scale


def timm_network(name, **options):
    return lambda: timm.create_model(name, num_classes=5, **options)


NETWORKS = {
    "cnn": (tiny_cnn, None),
    "vit": (tiny_vit, None),
    "plain": (PlainNet, "body"),
    "behind": (Behind, "body"),
    "distilled pair": (timm_network("deit_tiny_distilled_patch16_224", img_size=32, depth=2), None),
    "norm in the head": (timm_network("efficientvit_m0"), None),
    "convolution": (timm_network("dla46_c"), None),
    "mlp": (timm_network("caformer_s18"), None),
    "list of heads": (timm_network("crossvit_9_240", img_size=120), None),
    "averaged heads": (timm_network("repvit_m0_9"), None),
}


def build(kind, spread=True):
    torch.manual_seed(0)
    make, feature = NETWORKS[kind]
    model = randomised(make(), 0.1) if spread else make()
    return Classifier(as_backbone(model, feature), 5)


def images(kind):
    side = 120 if kind == "list of heads" else 32
    return torch.randn(3, 3, side, side)


@pytest.mark.parametrize("kind", NETWORKS)
def test_clean_logits_are_the_networks_and_mixed_ones_those_with_the_other_parameters(kind):
    classifier = build(kind)
    x = images(kind)
    classifier.eval()
    with torch.no_grad():
        for parameter in classifier.mixed_head.parameters():
            parameter.normal_(std=0.3)
        other = copy.deepcopy(classifier.model)
        for name in classifier.names:
            other.get_parameter(name).copy_(classifier.mixed_head[name.replace(".", "/")])
        clean, mixed = classifier.both(x)
        assert torch.equal(clean, classifier.model(x))
        assert torch.equal(clean, classifier.clean(x))
        torch.testing.assert_close(mixed, other(x))
        assert torch.equal(mixed, classifier.mixed(x))
    assert not torch.allclose(clean, mixed)


@pytest.mark.parametrize("kind", NETWORKS)
def test_each_head_learns_from_its_own_logits_and_the_trunk_from_both(kind):
    classifier = build(kind)
    x, own = images(kind), {name: classifier.model.get_parameter(name) for name in classifier.names}
    for run, learns, rests in (
        (classifier.clean, own, classifier.mixed_head),
        (classifier.mixed, classifier.mixed_head, own),
    ):
        classifier.zero_grad()
        (run(x) * torch.randn(3, 5)).sum().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in dict(learns.items()).values())
        assert all(p.grad is None for p in dict(rests.items()).values())
        assert next(classifier.model.parameters()).grad is not None


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_mixed_head_starts_as_released_and_the_clean_one_as_it_came(kind):
    make, feature = NETWORKS[kind]
    torch.manual_seed(0)
    model = make()
    before = copy.deepcopy(model.state_dict())
    classifier = Classifier(as_backbone(model, feature), 5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    last = [(n, p) for n, p in classifier.mixed_head.items() if len(p) == 5]
    assert last
    for name, parameter in last:
        assert parameter.std() < 0.02
        assert (parameter == 0).all() == name.endswith("bias")


def test_a_pass_in_eval_mode_gives_both_logits_by_one_run_of_the_trunk():
    classifier = build("cnn")
    x, runs = images("cnn"), []
    classifier.eval()
    classifier.model.layer1.register_forward_hook(lambda *_: runs.append(1))
    classifier.both(x)
    assert len(runs) == 1
    assert "forward_features" not in vars(classifier.model)


def test_heads_that_work_in_place_do_not_reach_the_other():
    class InPlace(type(tiny_cnn())):
        def forward_head(self, x, pre_logits=False):
            return super().forward_head(x.add_(1.0), pre_logits)

    torch.manual_seed(0)
    model = tiny_cnn()
    model.__class__ = InPlace
    classifier = Classifier(as_backbone(model), 5).eval()
    x = images("cnn")
    clean, mixed = classifier.both(x)
    torch.testing.assert_close(clean, classifier.clean(x))
    torch.testing.assert_close(mixed, classifier.mixed(x))


def test_the_last_linear_layer_is_the_classifier_unless_another_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), nn.Linear(5, 7))
    assert Classifier(as_backbone(model, "0"), 7).layers == ["4"]
    assert Classifier(as_backbone(model, "0"), 7, ("3", "4")).layers == ["3", "4"]
    convolutional = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert Classifier(as_backbone(convolutional, "0"), 5).layers == ["1"]


class Gives(nn.Module):
    """A network with an output of its own choice."""

    def __init__(self, output):
        super().__init__()
        self.body, self.fc, self.output = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), output

    def forward(self, x):
        return self.output(self.fc(self.body(x).mean((2, 3))))


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (tiny_cnn, {"num_classes": 6}, "num_classes is 6, but the network's classifier gives 5; create the network"),
        (lambda: tiny_cnn(0), {"num_classes": 0}, "says its classifier is Identity, which has no weights; create it"),
        (PlainNet, {"classifier": "head"}, "classifier layer 'head' is not in the network; its top layers are"),
        (PlainNet, {"classifier": "body.2"}, "classifier 'body.2' has no parameters; name the network's last layer"),
        (PlainNet, {"num_classes": 4}, "num_classes is 4, but the network's last layer 'fc' gives 5"),
        (lambda: nn.Sequential(nn.Identity(), nn.BatchNorm2d(3)), {"feature": "0"}, "no linear layer or convolution"),
    ],
)
def test_what_a_network_lacks_is_said(make, arguments, message):
    model = make()
    feature = arguments.pop("feature", None if hasattr(model, "get_classifier") else "body")
    with pytest.raises(ValueError, match=message):
        Classifier(as_backbone(model, feature), **{"num_classes": 5} | arguments)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda z: (z, z), r"must give one tensor of logits, got tuple; switch its auxiliary outputs off"),
        (lambda z: z[:, :3], r"must give logits \(2, 5\), got \(2, 3\); create it with num_classes=5"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(output, message):
    classifier = Classifier(as_backbone(Gives(output), "body"), 5)
    for run in (classifier.clean, classifier.mixed):
        with pytest.raises(ValueError, match=message):
            run(torch.randn(2, 3, 8, 8))


def test_a_classifier_that_is_not_run_is_named():
    classifier = Classifier(as_backbone(PlainNet(), "body"), 5, "aside")
    with pytest.raises(ValueError, match=r"the classifier 'aside' is not run .* name its last layer, classifier="):
        classifier.mixed(torch.randn(2, 3, 32, 32))
