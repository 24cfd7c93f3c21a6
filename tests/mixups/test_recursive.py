"""RecursiveMix: its picture and its box features by loops, its memory, and its second head."""

import copy

import oracles_recursive as oracles
import pytest
import torch
import torch.nn.functional as F
from runs import fit, run_differences, small_recipe
from tiny_networks import PlainNet, tiny_cnn, tiny_vit
from torch import nn

from samix.methods.supervised import Supervised
from samix.mixups.recursive import RecursiveMix, box_features, box_of, recursivemix
from samix.networks.last_map import catch_last_map, last_width
from samix.train import Interrupted, Run

NETWORKS = {
    "cnn": (tiny_cnn, "", (64, 64)),
    "vit": (lambda: tiny_vit(img_size=(32, 48)), "", (32, 48)),
    "plain": (PlainNet, "late", (28, 20)),
}


def make(seed=0, **options):
    return RecursiveMix(generator=torch.Generator().manual_seed(seed), **options)


def batch_of(size=4, shape=(3, 24, 40), seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, *shape, generator=generator).to(dtype), torch.arange(size) % 5


def trained(kind="cnn", **options):
    net, layer, size = NETWORKS[kind]
    torch.manual_seed(0)
    return Supervised(net(), make(layer=layer, **options), num_classes=5), size


# The picture ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (33, 17), (7, 7)], ids=str)
@pytest.mark.parametrize("other", [None, (11, 50)])
def test_the_picture_equals_its_loop(size, other):
    x, earlier = torch.randn(12, 3, *size), torch.randn(12, 3, *(other or size))
    lam, centre = torch.rand(12), torch.rand(12, 2)
    lam[0], lam[1], centre[2] = 0.0, 1.0, torch.tensor([0.0, 0.999])
    mixed = recursivemix(x, earlier, lam, centre)
    for i in range(12):
        box = oracles.recursive_box(size, float(lam[i]), centre[i].tolist())
        assert [int(side[i]) for side in box_of(lam, centre, size)] == list(box)
        image, mask = oracles.recursive_image(x[i].numpy(), earlier[i].numpy(), box)
        assert torch.equal(mixed.images[i], torch.from_numpy(image))
        assert torch.equal(mixed.mask[i, 0], torch.from_numpy(mask).float())
        assert float(mixed.lam[i]) == pytest.approx(mask.mean(), abs=1e-6)


def test_lam_one_is_the_image_and_lam_zero_the_earlier_one_bit_by_bit():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x, earlier = torch.randn(2, 3, 9, 14).to(dtype), torch.randn(2, 3, 9, 14).to(dtype)
        mixed = recursivemix(x, earlier, torch.tensor([1.0, 0.0]), torch.rand(2, 2))
        assert torch.equal(mixed.images, torch.stack([x[0], earlier[1]]))
        assert mixed.images.dtype == dtype
        assert mixed.lam.tolist() == [1, 0]


def test_the_picture_compiles_as_one_graph():
    x, earlier, lam, centre = torch.randn(3, 3, 8, 8), torch.randn(3, 3, 8, 8), torch.rand(3), torch.rand(3, 2)
    compiled = torch.compile(recursivemix, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, earlier, lam, centre).images, recursivemix(x, earlier, lam, centre).images)


def test_the_layout_in_memory_is_kept():
    x, earlier = torch.randn(3, 3, 8, 8).to(memory_format=torch.channels_last), torch.randn(3, 3, 8, 8)
    mixed = recursivemix(x, earlier, torch.full((3,), 0.5), torch.rand(3, 2))
    assert mixed.images.is_contiguous(memory_format=torch.channels_last)


def test_another_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="as many earlier images and channels"):
        recursivemix(torch.randn(2, 3, 8, 8), torch.randn(2, 1, 8, 8), torch.rand(2), torch.rand(2, 2))


def test_box_features_equal_their_loop_and_have_gradients():
    maps, size = torch.randn(6, 4, 5, 7, requires_grad=True), (40, 56)
    box = box_of(torch.tensor([0.9, 0.7, 0.5, 0.2, 0.0, 1.0]), torch.rand(6, 2), size)
    found = box_features(maps, box, size)
    for i in range(6):
        expected = oracles.box_features(maps[i].detach().numpy(), [int(side[i]) for side in box], size)
        torch.testing.assert_close(found[i].detach().double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-4)
    assert not found[5].any()  # an empty box
    found.sum().backward()
    assert maps.grad[:5].abs().sum((1, 2, 3)).min() > 0


def test_features_of_a_constant_map_are_the_constant():
    maps = torch.arange(3.0).view(1, 3, 1, 1).expand(2, 3, 4, 6).contiguous()
    box = box_of(torch.tensor([0.4, 0.0]), torch.full((2, 2), 0.5), (16, 24))
    torch.testing.assert_close(box_features(maps.bfloat16(), box, (16, 24)), torch.arange(3.0).expand(2, 3))


# The memory ----------------------------------------------------------------------------------------------------------


def test_the_first_batch_is_not_mixed_and_the_second_is_with_the_first():
    mix, (images, labels) = make(), batch_of()
    first = mix(images, labels)
    assert torch.equal(first.images, images)
    assert torch.equal(first.lam, torch.ones(4))
    assert torch.equal(first.target, F.one_hot(labels, 4).float())
    more, names = batch_of(seed=1)[0], torch.tensor([3, 3, 1, 0])
    second = mix(more, names, lam=0.5)
    assert (second.lam < 1).all()
    own = second.mask.bool().expand_as(more)
    assert torch.equal(second.images[own], more[own])
    shown = set(images[0].flatten().tolist())
    assert {v in shown for v in second.images[0][~own[0]].tolist()} == {True}
    lam = second.lam[:, None]
    torch.testing.assert_close(
        second.target, lam * F.one_hot(names, 4).float() + (1 - lam) * F.one_hot(labels, 4).float()
    )


def test_the_share_of_an_old_label_is_the_product_of_the_shares_since():
    mix, lams = make(), []
    for step in range(5):  # each step has one class of its own
        batch = mix(batch_of(seed=step)[0], torch.full((4,), step), lam=0.6)
        lams.append(batch.lam)
        torch.testing.assert_close(batch.target.sum(1), torch.ones(4))
    share = torch.ones(4)
    for step in range(4, -1, -1):
        torch.testing.assert_close(batch.target[:, step], share * lams[step])
        share = share * (1 - lams[step])
    assert (batch.target > 0).all()


def test_reset_makes_the_next_batch_the_first_again():
    mix, (images, labels) = make(), batch_of()
    mix(images, labels)
    mix.reset()
    assert mix.state_dict() == {}
    assert torch.equal(mix(images * 2, labels, lam=0.2).images, images * 2)


def test_the_memory_shares_no_tensor_with_input_or_output():
    mix, (images, labels) = make(), batch_of()
    out = mix(images, labels)
    kept = {name: value.clone() for name, value in mix.state_dict().items()}
    images.zero_()
    assert out.images.any()
    out.images.zero_()
    out.target.zero_()
    assert all(torch.equal(mix.state_dict()[name], value) for name, value in kept.items())
    before = batch_of(seed=3)[0]
    mix(before, labels, lam=0.3)
    assert torch.equal(before, batch_of(seed=3)[0])


@pytest.mark.parametrize(("first", "second"), [(6, 3), (3, 6), (4, 1), (1, 4)])
def test_rows_without_an_earlier_image_stay_unmixed_when_the_batch_changes(first, second):
    mix = make()
    mix(*batch_of(first))
    images, labels = batch_of(second, seed=1)
    batch = mix(images, labels, lam=0.5)
    rows = min(first, second)
    assert (batch.lam[:rows] < 1).all()
    assert torch.equal(batch.images[rows:], images[rows:])
    assert (batch.lam[rows:] == 1).all()
    torch.testing.assert_close(batch.target.sum(1), torch.ones(second))


def test_images_of_another_size_take_the_earlier_ones_resized():
    mix = make()
    images, labels = batch_of()
    mix(images, labels)
    batch = mix(torch.zeros(4, 3, 30, 18), labels, lam=0.5)
    assert (batch.lam < 1).all()
    assert batch.images.shape == (4, 3, 30, 18)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_images_keep_their_type_and_shares_are_float32(dtype):
    mix = make()
    for seed in range(2):
        batch = mix(*batch_of(seed=seed, dtype=dtype))
        assert batch.images.dtype == dtype
        assert batch.target.dtype == batch.lam.dtype == torch.float32
    assert mix.state_dict()["images"].dtype == dtype


def test_targets_of_several_classes_add_up_too():
    mix, labels = make(), torch.rand(4, 6).softmax(1)
    mix(batch_of()[0], labels)
    batch = mix(batch_of(seed=1)[0], labels.flip(0), lam=0.5)
    lam = batch.lam[:, None]
    torch.testing.assert_close(batch.target, lam * labels.flip(0) + (1 - lam) * labels)
    with pytest.raises(ValueError, match="class ids or"):
        mix(batch_of()[0], torch.rand(4))


def test_areas_are_uniform_up_to_alpha():
    mix = make(alpha=0.4, per_sample=True)
    area = 1 - mix.draw_lam(4000)
    assert 0 <= area.min()
    assert area.max() < 0.4
    assert float(area.mean()) == pytest.approx(0.2, abs=0.01)
    assert len(set(make().draw_lam(5).tolist())) == 1
    assert (make(alpha=0.0).draw_lam(3) == 1).all()
    assert (make(prob=0.0).draw_lam(3) == 1).all()
    for wrong in ({"alpha": 1.5}, {"weight": -1.0}, {"alpha": float("nan")}):
        with pytest.raises(ValueError, match=r"alpha|weight"):
            make(**wrong)


def test_pairs_that_are_given_are_mixed_and_nothing_is_remembered():
    mix, (images, labels) = make(), batch_of()
    index = torch.tensor([1, 2, 0, 3])
    batch = mix(images, labels, lam=0.0, index=index)
    assert torch.equal(batch.images, images[index])
    assert batch.lam.tolist() == [0, 0, 0, 1]
    assert mix.state_dict() == {}
    assert torch.equal(batch.partner_labels[:3], labels[index][:3])


# Training ------------------------------------------------------------------------------------------------------------


def steps_of(method, size, count=3):
    losses = []
    for step in range(count):
        images, labels = batch_of(4, (3, *size), seed=step)
        losses.append(method((images, labels)))
    return losses


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_second_head_learns_what_the_network_said_a_step_before(kind):
    method, size = trained(kind)
    (_, first), (loss, second), _ = steps_of(method, size)
    assert first["consistency"] == 0
    assert second["consistency"] > 0
    assert float(loss.detach()) == pytest.approx(float(second["mixed"] + second["consistency"]), rel=1e-5)
    loss.backward()
    assert method.heads.weight.grad.abs().max() > 0
    grouped = {id(p) for group in method.parameter_groups(0.1) for p in group["params"]}
    assert id(method.heads.weight) in grouped


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_consistency_term_equals_the_equation(kind):
    method, size = trained(kind, weight=0.5)
    method.eval()  # so that the pass can be repeated
    net, mix = method.model, method.mixup
    images, labels = batch_of(4, (3, *size))
    before, _ = mix.forward_through(net, images, labels)
    state = mix.generator.get_state()
    logits, batch = mix.forward_through(net, batch_of(4, (3, *size), seed=1)[0], labels)
    mix.generator.set_state(state)
    lam = mix.draw_lam(4)
    box = box_of(lam, mix.draw_extras(batch.images.shape)["centre"], size)
    with catch_last_map(net, mix.layer) as caught:
        again = net(batch.images)
    assert torch.equal(again, logits)
    log_p = F.log_softmax(mix.head(box_features(caught.read(net), box, size)), dim=1)
    term = -(F.softmax(before, dim=1) * log_p).sum(1)
    expected = 0.5 * ((1 - batch.lam) * term).mean()
    torch.testing.assert_close(batch.extra["consistency"], expected)
    assert expected > 0
    torch.testing.assert_close(batch.loss(logits), F.cross_entropy(logits, batch.soft_targets(5)) + expected)


def test_no_part_of_the_earlier_pass_gets_a_gradient():
    method, size = trained()
    steps_of(method, size, 1)
    kept = method.mixup.memory
    assert not kept.images.requires_grad
    assert not kept.probs.requires_grad
    torch.testing.assert_close(kept.probs.sum(1), torch.ones(4))


def test_lam_one_has_no_consistency_term():
    method, size = trained(prob=0.0)
    assert all(parts["consistency"] == 0 for _, parts in steps_of(method, size))


def test_without_its_weight_there_is_no_head_and_with_it_attach_is_needed():
    method, size = trained(weight=0.0)
    assert method.heads is None
    assert all(set(parts) == {"mixed"} for _, parts in steps_of(method, size))
    images, labels = batch_of()
    with pytest.raises(ValueError, match=r"call attach\(model, num_classes\) before training"):
        make().forward_through(tiny_cnn(), images, labels)
    with pytest.raises(ValueError, match=r'layer="layer\.name"'):
        make().attach(PlainNet(), 5)
    with pytest.raises(ValueError, match="layer 'nowhere' is not in the network"):
        make(layer="nowhere").attach(PlainNet(), 5)


def test_state_saved_in_the_middle_gives_the_same_run():
    method, size = trained()
    steps_of(method, size, 2)
    state = copy.deepcopy(method.extra_state())
    assert {k: v.dtype for k, v in state.items()} == dict.fromkeys(("images", "target", "probs"), torch.float32)
    other = copy.deepcopy(method)
    other.start_epoch()
    other.load_extra_state(state)
    for m in (method, other):
        m.mixup.generator.manual_seed(5)
        torch.manual_seed(5)
    images, labels = batch_of(4, (3, *size), seed=9)
    assert torch.equal(method((images, labels))[0], other((images, labels))[0])
    other.load_extra_state({})
    assert other.mixup.memory is None
    with pytest.raises(ValueError, match="remembers images, target and probs"):
        other.load_extra_state({"images": images, "colour": labels})


def test_a_run_stopped_in_the_middle_of_an_epoch_ends_as_one_that_never_was(tmp_path, monkeypatch):
    recipe = small_recipe("recursivemix", device_data=True, workers=0)
    whole = fit(recipe, tmp_path / "whole")
    train_step = Run.train_step

    def stopped_at_seven(run, batch):
        train_step(run, batch)
        run.stopping = run.step == 7

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_step", stopped_at_seven)
        with pytest.raises(Interrupted):
            fit(recipe, tmp_path / "cut")
    assert set(torch.load(tmp_path / "cut/run/last.pt", weights_only=True)["extra"]) == {"images", "target", "probs"}
    assert run_differences(whole, fit(recipe, tmp_path / "cut", resume=True)) == []


def test_a_start_of_an_epoch_forgets():
    method, size = trained()
    steps_of(method, size, 1)
    method.start_epoch()
    assert method.extra_state() == {}


def test_a_preview_changes_nothing():
    method, size = trained()
    steps_of(method, size, 2)
    kept = copy.deepcopy(method.extra_state())
    images, labels = batch_of(4, (3, *size))
    batch = method.preview(images, labels, 0.5, torch.tensor([1, 2, 3, 0]))
    assert (batch.lam < 1).all()
    assert all(torch.equal(method.extra_state()[name], value) for name, value in kept.items())


def test_a_step_under_bfloat16_is_finite():
    method, size = trained()
    with torch.autocast("cpu", torch.bfloat16):
        results = steps_of(method, size)
    assert all(loss.isfinite() for loss, _ in results)
    assert results[-1][1]["consistency"].dtype == torch.float32


# The last map --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_last_map_is_read_without_a_trace_also_when_the_network_raises(kind):
    make_net, layer, size = NETWORKS[kind]
    net = make_net()
    before = dict(net.__dict__)
    images = torch.randn(2, 3, *size)
    with catch_last_map(net, layer) as caught:
        net(images)
    found = caught.read(net)
    assert found.shape[:2] == (2, last_width(net, layer))
    with pytest.raises(RuntimeError), catch_last_map(net, layer):
        net(torch.randn(2, 7, *size))
    assert dict(net.__dict__) == before
    assert sum(len(m._forward_hooks) for m in net.modules()) == 0
    with catch_last_map(net, layer) as caught:
        pass
    with pytest.raises(ValueError, match="got nothing; name its layer"):
        caught.read(net)


def test_tokens_lie_as_their_patches_do():
    net = tiny_vit(img_size=(32, 48)).eval()
    net.forward_features = lambda x: torch.cat([torch.zeros(1, 1, 1), torch.arange(24.0).view(1, 24, 1)], dim=1)
    with catch_last_map(net) as caught:
        net.forward_features(torch.zeros(1))
    assert torch.equal(caught.read(net)[0, 0], torch.arange(24.0).view(4, 6))
    assert net.forward_features(torch.zeros(1)).shape == (1, 25, 1)  # what somebody put there is still there


def test_channels_that_come_last_are_put_first():
    net = nn.Module()
    net.output_fmt, net.num_features = "NHWC", 6
    net.forward_features = lambda x: x
    with catch_last_map(net) as caught:
        net.forward_features(torch.zeros(2, 3, 4, 6))
    assert caught.read(net).shape == (2, 6, 3, 4)
