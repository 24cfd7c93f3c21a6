"""Feature maps, pooled features and classifiers of timm's networks and of any other; and what is said when they are
not there."""

import re

import pytest
import timm
import torch
from tiny_networks import PlainNet, randomised, tiny_cnn, tiny_vit
from torch import nn

from samix.networks.backbone import HookedBackbone, TimmBackbone, TwoHeads, as_backbone, feature_dim

KINDS = {
    "cnn": lambda: (tiny_cnn(), None, (32, 32)),
    "cnn, not square": lambda: (tiny_cnn(), None, (40, 72)),
    "vit": lambda: (tiny_vit(), None, (32, 32)),
    "vit, not square": lambda: (tiny_vit(img_size=(32, 48)), None, (32, 48)),
    "vit, by hook": lambda: (tiny_vit(img_size=(32, 48)), "patch_embed.proj", (32, 48)),
    "plain": lambda: (PlainNet(), "body", (20, 28)),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def wrapped(request):
    model, feature, size = request.param()
    return as_backbone(randomised(model), 5, feature), torch.randn(4, 3, *size)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module, before):
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def hooks(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


# Feature maps --------------------------------------------------------------------------------------------------------


def test_the_map_of_a_cnn_is_the_third_of_its_four_stages():
    model, x = randomised(tiny_cnn()), torch.randn(4, 3, 40, 72)
    backbone = as_backbone(model, 5)
    stem = model.maxpool(model.act1(model.bn1(model.conv1(x))))
    expected = model.layer3(model.layer2(model.layer1(stem)))
    assert torch.equal(backbone.feature_map(x), expected)
    assert expected.shape == (4, 32, 3, 5)
    assert torch.equal(as_backbone(model, 5, -1).feature_map(x), model.layer4(expected))
    assert torch.equal(as_backbone(model, 5, 1).feature_map(x), model.layer1(stem))


@pytest.mark.parametrize(("size", "grid"), [((32, 32), (4, 4)), ((32, 48), (4, 6))])
@pytest.mark.parametrize("tokens", [{}, {"reg_tokens": 3}, {"class_token": False, "global_pool": "avg"}])
def test_the_map_of_a_vit_is_its_middle_block_without_tokens_laid_out_as_an_image(size, grid, tokens):
    model, x = tiny_vit(img_size=size, **tokens).eval(), torch.randn(2, 3, *size)
    z = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
    for block in model.blocks[:2]:
        z = block(z)
    z = z[:, model.num_prefix_tokens :]  # (B, n, D)
    assert z.shape == (2, grid[0] * grid[1], 48)
    expected = torch.stack([z[:, row * grid[1] : (row + 1) * grid[1]] for row in range(grid[0])], dim=1)  # (B, h, w, D)
    assert torch.allclose(as_backbone(model, 5).feature_map(x), expected.permute(0, 3, 1, 2), atol=1e-6)


def test_the_map_of_any_network_is_the_output_of_the_named_layer():
    model, x = randomised(PlainNet()), torch.randn(4, 3, 20, 28)
    backbone = as_backbone(model, 5, "body.1")
    assert isinstance(backbone, HookedBackbone)
    assert torch.equal(backbone.feature_map(x), model.body[1](model.body[0](model.stem(x))))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_leaving_early_gives_the_same_map_as_the_whole_pass(wrapped, training):
    backbone, x = wrapped
    backbone.train(training)
    assert torch.equal(backbone.feature_map(x), backbone.feature_map(x, whole=True))


def test_layers_that_work_in_place_do_not_reach_the_map_of_a_whole_pass():
    backbone = as_backbone(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 5)), 5, "0"
    )
    x = torch.randn(4, 3, 4, 4)
    z = backbone.feature_map(x, whole=True)
    assert (z < 0).any()
    assert torch.equal(z, backbone.feature_map(x))


def test_leaving_early_touches_no_statistics_behind_the_map():
    for backbone, late in [(as_backbone(tiny_cnn(), 5), "layer4"), (as_backbone(PlainNet(), 5, "body"), "late")]:
        backbone.train()
        before = state(backbone)
        backbone.feature_map(torch.randn(4, 3, 64, 64))
        early = changed(backbone, before)
        assert early
        assert not [name for name in early if late in name]
        before = state(backbone)
        backbone.feature_map(torch.randn(4, 3, 64, 64), whole=True)
        assert changed(backbone, before) == {name for name in before if re.search("running|tracked", name)}


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_byobnet", "mobilenetv4_conv_small"])
def test_a_whole_pass_updates_every_batchnorm_also_behind_the_last_stage(name):
    backbone = as_backbone(timm.create_model(name, num_classes=5), 5).train()
    backbone.feature_map(torch.randn(2, 3, 64, 64), whole=True)
    counts = {name: int(count) for name, count in backbone.named_buffers() if name.endswith("num_batches_tracked")}
    assert counts
    assert set(counts.values()) == {1}, counts


# Classifiers ---------------------------------------------------------------------------------------------------------


def test_the_linear_layer_of_the_pooled_features_gives_the_networks_logits(wrapped):
    backbone, x = wrapped
    backbone.eval()
    assert torch.allclose(backbone.linear(backbone.pooled(x)), backbone.model(x), atol=1e-6)
    heads = TwoHeads(backbone).eval()
    clean, mixed = heads.both(x)
    assert torch.equal(clean, heads.clean(x))
    assert torch.equal(mixed, heads.mixed(x))
    assert torch.allclose(clean, backbone.model(x), atol=1e-6)
    assert torch.allclose(mixed, backbone.pooled(x) @ heads.mixed_head.weight.T, atol=1e-6)  # its bias starts at 0
    assert not torch.equal(clean, mixed)


def test_the_head_of_mixed_images_is_a_new_one_of_the_same_shape():
    backbone = as_backbone(randomised(tiny_cnn()), 5)
    weight = backbone.linear.weight.detach().clone()
    heads = TwoHeads(backbone)
    assert heads.mixed_head.weight.shape == weight.shape
    assert torch.equal(backbone.linear.weight, weight)
    assert heads.mixed_head.weight.std() < 0.02
    assert (heads.mixed_head.bias == 0).all()


def test_the_last_linear_layer_is_the_classifier_unless_another_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), nn.Linear(5, 7))
    assert as_backbone(model, 7, "0").linear is model[4]
    assert as_backbone(model, 5, "0", "3").linear is model[3]


@pytest.mark.parametrize(
    "make", [lambda: (tiny_cnn(), None), lambda: (tiny_vit(img_size=224), None), lambda: (PlainNet(), "body")]
)
def test_the_width_is_that_of_the_map_and_asking_changes_nothing(make):
    model, feature = make()
    backbone = as_backbone(randomised(model), 5, feature).train()
    next(backbone.model.children()).eval()  # modes are mixed, as when a part is frozen
    modes, before, rng = [m.training for m in backbone.modules()], state(backbone), torch.get_rng_state()
    width = feature_dim(backbone)
    assert [m.training for m in backbone.modules()] == modes
    assert not changed(backbone, before)
    assert torch.equal(torch.get_rng_state(), rng)
    assert hooks(backbone) == 0
    assert width == backbone.feature_map(torch.randn(2, 3, 224, 224)).shape[1]


def test_the_width_of_networks_for_grey_images_or_one_size_is_found():
    assert feature_dim(as_backbone(PlainNet(in_chans=1), 5, "body")) == 12
    vit = as_backbone(tiny_vit(img_size=64), 5, "patch_embed.proj")
    assert feature_dim(vit, torch.zeros(1, 3, 64, 64)) == 48


@pytest.mark.parametrize(
    "name",
    ["test_convnext", "test_efficientnet", "test_maxvit", "test_mambaout", "test_nfnet", "test_resnet", "test_vit2"],
)
def test_timms_families_work_without_being_named(name):
    model = timm.create_model(name, num_classes=5).eval()
    backbone, x = as_backbone(model, 5), torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        z = backbone.feature_map(x)
        assert z.shape == (2, feature_dim(backbone), 10, 10)
        assert torch.equal(z, backbone.feature_map(x, whole=True))
        assert torch.allclose(backbone.linear(backbone.pooled(x)), model(x), atol=1e-5)


# Errors --------------------------------------------------------------------------------------------------------------


class NoLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (
            tiny_cnn,
            {"feature": 5},
            r"feature stage 5 is not there.*5 stages, 0 to 4 \(act1, layer1, layer2, layer3, layer4",
        ),
        (tiny_cnn, {"feature": -6}, "feature stage -6 is not there"),
        (tiny_cnn, {"feature": "layer9"}, "feature layer 'layer9' is not in the network; its top layers are: conv1"),
        (tiny_cnn, {"num_classes": 6}, "num_classes is 6, but the network's classifier gives 5"),
        (lambda: tiny_cnn(0), {}, "must be one nn.Linear, this network has Identity"),
        (PlainNet, {}, r"PlainNet is not a timm network: give feature=.*stem, body, late"),
        (PlainNet, {"feature": 2}, "PlainNet is not a timm network"),
        (PlainNet, {"feature": "body.7"}, "feature layer 'body.7' is not in the network"),
        (PlainNet, {"feature": "body", "classifier": "head"}, "classifier layer 'head' is not in the network"),
        (
            PlainNet,
            {"feature": "body", "classifier": "stem"},
            r"'stem' must be an nn.Linear; the linear layers are \['aside', 'fc'",
        ),
        (PlainNet, {"feature": "body", "num_classes": 4}, "num_classes is 4, but"),
        (NoLinear, {"feature": "conv"}, "no nn.Linear to use as its classifier"),
    ],
)
def test_what_a_network_lacks_is_said(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        as_backbone(make(), **{"num_classes": 5} | arguments)


class Returns(nn.Module):
    """Gives whatever is asked for, in the middle of a network."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value(x)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("model", "feature", "message"),
    [
        (PlainNet(), "aside", "'aside' is not run by the network's forward"),
        (tiny_vit(), "blocks.1", r"must give a map \(B, D, h, w\), got \(2, 17, 48\)"),
        (
            nn.Sequential(Returns(lambda x: (x, x)), Returns(lambda x: x[0]), nn.Flatten(), nn.Linear(3072, 5)),
            "0",
            "got tuple",
        ),
    ],
    ids=["not run", "3-D", "tuple"],
)
def test_layers_that_give_no_map_are_named(model, feature, message, whole):
    backbone = as_backbone(model, 5, feature)
    with pytest.raises(ValueError, match=message):
        backbone.feature_map(torch.randn(2, 3, 32, 32), whole=whole)
    assert hooks(backbone) == 0


@pytest.mark.parametrize("model", [nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(8, 5)), PlainNet()])
def test_a_classifier_that_is_not_run_on_vectors_is_named(model):
    classifier = "aside" if isinstance(model, PlainNet) else "1"
    backbone = HookedBackbone(model, "0" if classifier == "1" else "body", classifier)
    with pytest.raises(ValueError, match="must be run once"):
        backbone.pooled(torch.randn(2, 3, 8, 8))


def test_hooks_are_removed_also_when_the_network_raises(wrapped):
    backbone, x = wrapped
    backbone.feature_map(x)
    backbone.pooled(x)
    assert hooks(backbone) == 0
    for call in (backbone.feature_map, backbone.pooled):
        with pytest.raises(RuntimeError):
            call(torch.randn(2, 7, *x.shape[2:]))
        assert hooks(backbone) == 0


def test_timm_networks_are_read_by_stage_and_by_layer_alike():
    model, x = randomised(tiny_cnn()).eval(), torch.randn(2, 3, 64, 64)
    by_stage, by_layer = as_backbone(model, 5, 3), as_backbone(model, 5, "layer3")
    assert isinstance(by_stage, TimmBackbone)
    assert isinstance(by_layer, HookedBackbone)
    assert torch.equal(by_stage.feature_map(x), by_layer.feature_map(x))
    assert torch.equal(by_stage.pooled(x), by_layer.pooled(x))
    assert by_stage.linear is by_layer.linear
