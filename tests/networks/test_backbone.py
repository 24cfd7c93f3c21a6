"""Feature maps of timm's networks and of any other; and what is said when they are not there."""

import re

import pytest
import timm
import torch
from tiny_networks import PlainNet, randomised, tiny_cnn, tiny_vit
from torch import nn

from samix.networks.backbone import HookedBackbone, TimmBackbone, as_backbone

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
    return as_backbone(randomised(model), feature), torch.randn(4, 3, *size)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module, before):
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def hooks(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


# Feature maps --------------------------------------------------------------------------------------------------------


def test_the_map_of_a_cnn_is_the_third_of_its_four_stages():
    model, x = randomised(tiny_cnn()), torch.randn(4, 3, 40, 72)
    backbone = as_backbone(model)
    stem = model.maxpool(model.act1(model.bn1(model.conv1(x))))
    expected = model.layer3(model.layer2(model.layer1(stem)))
    assert torch.equal(backbone.feature_map(x), expected)
    assert expected.shape == (4, 32, 3, 5)
    assert torch.equal(as_backbone(model, -1).feature_map(x), model.layer4(expected))
    assert torch.equal(as_backbone(model, 1).feature_map(x), model.layer1(stem))


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
    assert torch.allclose(as_backbone(model).feature_map(x), expected.permute(0, 3, 1, 2), atol=1e-6)


def test_the_map_of_any_network_is_the_output_of_the_named_layer():
    model, x = randomised(PlainNet()), torch.randn(4, 3, 20, 28)
    backbone = as_backbone(model, "body.1")
    assert isinstance(backbone, HookedBackbone)
    assert torch.equal(backbone.feature_map(x), model.body[1](model.body[0](model.stem(x))))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_leaving_early_gives_the_same_map_as_the_whole_pass(wrapped, training):
    backbone, x = wrapped
    backbone.train(training)
    assert torch.equal(backbone.feature_map(x), backbone.feature_map(x, whole=True))


def test_layers_that_work_in_place_do_not_reach_the_map_of_a_whole_pass():
    backbone = as_backbone(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 5)), "0"
    )
    x = torch.randn(4, 3, 4, 4)
    z = backbone.feature_map(x, whole=True)
    assert (z < 0).any()
    assert torch.equal(z, backbone.feature_map(x))


def test_leaving_early_touches_no_statistics_behind_the_map():
    for backbone, late in [(as_backbone(tiny_cnn()), "layer4"), (as_backbone(PlainNet(), "body"), "late")]:
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
    backbone = as_backbone(timm.create_model(name, num_classes=5)).train()
    backbone.feature_map(torch.randn(2, 3, 64, 64), whole=True)
    counts = {name: int(count) for name, count in backbone.named_buffers() if name.endswith("num_batches_tracked")}
    assert counts
    assert set(counts.values()) == {1}, counts


@pytest.mark.parametrize(
    "make", [lambda: (tiny_cnn(), None), lambda: (tiny_vit(img_size=224), None), lambda: (PlainNet(), "body")]
)
def test_the_width_is_that_of_the_map_and_asking_changes_nothing(make):
    model, feature = make()
    backbone = as_backbone(randomised(model), feature).train()
    next(backbone.model.children()).eval()  # modes are mixed, as when a part is frozen
    modes, before, rng = [m.training for m in backbone.modules()], state(backbone), torch.get_rng_state()
    width = backbone.dim
    assert [m.training for m in backbone.modules()] == modes
    assert not changed(backbone, before)
    assert torch.equal(torch.get_rng_state(), rng)
    assert hooks(backbone) == 0
    assert width == backbone.feature_map(torch.randn(2, 3, 224, 224)).shape[1]


def test_the_width_of_networks_for_grey_images_or_one_size_is_found():
    assert as_backbone(PlainNet(in_chans=1), "body").dim == 12
    assert as_backbone(tiny_vit(img_size=(32, 56)), "patch_embed.proj").dim == 48


@pytest.mark.parametrize(
    "name",
    ["test_convnext", "test_efficientnet", "test_maxvit", "test_mambaout", "test_nfnet", "test_resnet", "test_vit2"],
)
def test_timms_families_work_without_being_named(name):
    model = timm.create_model(name, num_classes=5).eval()
    backbone, x = as_backbone(model), torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        z = backbone.feature_map(x)
        assert z.shape == (2, backbone.dim, 10, 10)
        assert torch.equal(z, backbone.feature_map(x, whole=True))


# Layouts of any layer's output ---------------------------------------------------------------------------------------


class Returns(nn.Module):
    """Gives whatever is asked for, in the middle of a network."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value(x)


def patches(x, side=8):
    """Tokens (B, N, D) of a grid of patches, each token its patch's pixels in order."""
    batch, channels, height, width = x.shape
    grid = x.reshape(batch, channels, height // side, side, width // side, side)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * side * side)


def cells(x, side=8):
    """The same patches as a map (B, D, h, w)."""
    tokens = patches(x, side)
    return tokens.mT.reshape(len(x), -1, x.shape[2] // side, x.shape[3] // side)


def with_prefix(x, count):
    return torch.cat([torch.full((len(x), count, 192), 7.0), patches(x)], dim=1)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("size", [(32, 32), (32, 64), (64, 24)])
@pytest.mark.parametrize(
    "value",
    [cells, lambda x: cells(x).permute(0, 2, 3, 1), patches, *(lambda x, n=n: with_prefix(x, n) for n in (1, 2, 5))],
    ids=["NCHW", "NHWC", "tokens", "class token", "distilled", "registers"],
)
def test_maps_are_read_from_channels_first_and_last_and_from_tokens(value, size, whole):
    model = nn.Sequential(Returns(value), Returns(lambda x: x.flatten(1)[:, :192]), nn.Linear(192, 5))
    backbone, x = as_backbone(model, "0"), torch.randn(2, 3, *size)
    assert torch.equal(backbone.feature_map(x, whole=whole), cells(x))
    assert backbone.dim == 192


def one_size(side, value):
    def only(x):
        if x.shape[2:] != (side, side):
            raise Wrong("wrong size")
        return value(x)

    return nn.Sequential(Returns(only), nn.Linear(192, 5))


class Wrong(Exception):
    pass


@pytest.mark.parametrize("error", [AssertionError, ValueError, RuntimeError, IndexError])
def test_a_network_of_one_size_is_read_at_the_size_that_is_given(monkeypatch, error):
    monkeypatch.setitem(globals(), "Wrong", error)
    x = torch.randn(2, 3, 40, 40)
    for value in (cells, lambda x: cells(x).permute(0, 2, 3, 1), patches, lambda x: with_prefix(x, 1)):
        with pytest.raises(ValueError, match=r"does not run at 64 x 64, .* pixels \(wrong size\); give image_size="):
            as_backbone(one_size(40, value), "0")
        backbone = as_backbone(one_size(40, value), "0", image_size=40)
        assert torch.equal(backbone.feature_map(x), cells(x))
        model = one_size(40, value)
        model.image_size = 40  # as torchvision's VisionTransformer says it
        assert torch.equal(as_backbone(model, "0").feature_map(x), cells(x))


def test_torchvisions_swin_and_vision_transformer_are_read_right():
    torchvision = pytest.importorskip("torchvision")
    x = torch.randn(2, 3, 32, 32)
    swin = torchvision.models.swin_t(num_classes=5).eval()
    expected = swin.features[:4](x).permute(0, 3, 1, 2)
    assert torch.equal(as_backbone(swin, "features.3").feature_map(x), expected)
    vit = torchvision.models.VisionTransformer(32, 8, 2, 3, 48, 96, num_classes=5).eval()
    tokens = torch.cat([vit.class_token.expand(2, -1, -1), vit._process_input(x)], dim=1)
    for layer in vit.encoder.layers[:1]:
        tokens = layer(tokens + vit.encoder.pos_embedding)
    found = as_backbone(vit, "encoder.layers.encoder_layer_0").feature_map(x)
    torch.testing.assert_close(found, tokens[:, 1:].mT.reshape(2, 48, 4, 4))


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "feature", "message"),
    [
        (tiny_cnn, 5, r"feature stage 5 is not there.*5 stages, 0 to 4 \(act1, layer1, layer2, layer3, layer4"),
        (tiny_cnn, -6, "feature stage -6 is not there"),
        (tiny_cnn, "layer9", "feature layer 'layer9' is not in the network; its top layers are: conv1"),
        (PlainNet, None, r"PlainNet is not a timm network: give feature=.*stem, body, late"),
        (PlainNet, 2, "PlainNet is not a timm network"),
        (PlainNet, "body.7", "feature layer 'body.7' is not in the network"),
        (PlainNet, "aside", "'aside' is not run by the network's forward; name another"),
        (lambda: nn.Sequential(Returns(lambda x: (x, x)), nn.Conv2d(3, 5, 1)), "0", "got tuple; name another"),
        (lambda: nn.Sequential(Returns(lambda x: x.flatten(1)), nn.Linear(3072, 5)), "0", r"got \(1, \d+\)"),
        (lambda: nn.Sequential(Returns(lambda x: x.mT.flatten(2)), nn.Conv1d(3, 5, 1)), "0", "channels from positions"),
    ],
)
def test_what_a_network_lacks_is_said(make, feature, message):
    model = make()
    with pytest.raises(ValueError, match=message):
        as_backbone(model, feature)
    assert hooks(model) == 0


def test_hooks_are_removed_also_when_the_network_raises(wrapped):
    backbone, x = wrapped
    backbone.feature_map(x)
    assert hooks(backbone) == 0
    with pytest.raises(RuntimeError):
        backbone.feature_map(torch.randn(2, 7, *x.shape[2:]))
    assert hooks(backbone) == 0


def test_timm_networks_are_read_by_stage_and_by_layer_alike():
    model, x = randomised(tiny_cnn()).eval(), torch.randn(2, 3, 64, 64)
    by_stage, by_layer = as_backbone(model, 3), as_backbone(model, "layer3")
    assert isinstance(by_stage, TimmBackbone)
    assert isinstance(by_layer, HookedBackbone)
    assert torch.equal(by_stage.feature_map(x), by_layer.feature_map(x))
