"""AlignMix: the transport by loops and by what must be true of it, the two coins, and any network."""

import oracles_recursive as oracles
import pytest
import torch
from tiny_networks import PlainNet, tiny_cnn, tiny_vit
from torch import nn

from samix.methods.supervised import Supervised
from samix.mixups.align import AlignMix, align_activations, alignment, alignmix, sinkhorn, squared_distances
from samix.mixups.handmade import mixup

B = 4
INDEX = torch.tensor([1, 2, 3, 0])
LAM = torch.tensor([0.2, 0.5, 0.9, 0.4])
NETWORKS = {"cnn": (tiny_cnn, "", 64), "vit": (tiny_vit, "", 32), "plain": (PlainNet, "late", 32)}


def make(seed=0, **options):
    return AlignMix(generator=torch.Generator().manual_seed(seed), **options)


def maps(h=3, w=2, channels=5, scale=0.3):
    return torch.randn(B, channels, h, w) * scale, torch.randn(B, channels, h, w) * scale


# The transport -------------------------------------------------------------------------------------------------------


def test_the_plan_equals_the_scaling_of_rows_and_columns():
    x, y = (m.flatten(2).double() for m in maps())
    for epsilon, iterations in ((0.1, 100), (0.5, 7)):
        plan = alignment(x, y, epsilon, iterations)
        for i in range(B):
            expected = oracles.transport(x[i].numpy(), y[i].numpy(), epsilon, iterations)
            torch.testing.assert_close(plan[i], torch.from_numpy(expected), atol=1e-9, rtol=1e-7)


def test_columns_of_the_plan_sum_to_one_also_for_large_features():
    for scale in (0.1, 1.0, 100.0, 1e6):
        x, y = (m.flatten(2) for m in maps(4, 4, scale=scale))
        plan = alignment(x, y)
        assert plan.isfinite().all()
        assert plan.min() >= 0
        torch.testing.assert_close(plan.sum(1), torch.ones(B, 16), atol=1e-5, rtol=0)
    plan = sinkhorn(torch.rand(B, 16, 16).double())
    torch.testing.assert_close(plan.sum(1), torch.ones(B, 16).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(plan.sum(2), torch.ones(B, 16).double(), atol=1e-2, rtol=0)


def test_the_plan_recovers_a_permutation():
    x = torch.randn(B, 8, 9)
    order = torch.randperm(9)
    plan = alignment(x, x[:, :, order], epsilon=0.01)
    expected = nn.functional.one_hot(order, 9).T.float()  # x's cell order[j] is the partner's cell j
    torch.testing.assert_close(plan, expected.expand(B, 9, 9), atol=1e-4, rtol=0)


def test_distances_are_those_of_the_differences_also_far_from_zero():
    for shift in (0.0, 1000.0):
        x, y = torch.randn(B, 6, 5) + shift, torch.randn(B, 6, 5) + shift
        expected = (x.double().unsqueeze(3) - y.double().unsqueeze(2)).square().sum(1).float()
        torch.testing.assert_close(squared_distances(x, y), expected, atol=1e-3, rtol=1e-4)
    assert squared_distances(x, x).min() >= 0


# The policy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_own", [True, False])
def test_the_mix_equals_its_loop(keep_own):
    x, y = maps()
    mixed = alignmix(x, y, LAM, torch.tensor(keep_own))
    plan = alignment(x.flatten(2), y.flatten(2))
    for i in range(B):
        cells = (t[i].flatten(1).double().numpy() for t in (x, y))
        expected = oracles.aligned(*cells, float(LAM[i]), plan[i].double().numpy(), keep_own)
        torch.testing.assert_close(mixed.images[i].flatten(1).double(), torch.from_numpy(expected), atol=1e-5, rtol=0)
    assert torch.equal(mixed.lam, LAM)
    assert torch.equal(mixed.mask, LAM.view(-1, 1, 1, 1).expand(-1, 1, 3, 2))


def test_the_mean_over_places_is_as_without_alignment_where_the_own_is_kept():
    x, y = maps()
    mixed = alignmix(x, y, LAM, torch.tensor(True)).images.mean((2, 3))
    torch.testing.assert_close(mixed, mixup(x, y, LAM).images.mean((2, 3)), atol=1e-5, rtol=0)


def test_a_moved_partner_is_moved_back():
    x = torch.randn(B, 8, 3, 3)
    order = torch.randperm(9)
    moved = x.flatten(2)[:, :, order].view_as(x)
    for keep_own, kept in ((True, x), (False, moved)):
        mixed = alignmix(x, moved, LAM, torch.tensor(keep_own), epsilon=0.01)
        torch.testing.assert_close(mixed.images, kept, atol=1e-3, rtol=0)


def test_the_ends_are_bit_by_bit_and_one_cell_is_plain_mixup():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x, y = (m.to(dtype) for m in maps())
        lam = torch.tensor([1.0, 0.0, 1.0, 0.0])
        keep = torch.tensor([True, True, False, False])
        mixed = alignmix(x, y, lam, keep).images
        assert torch.equal(mixed, torch.stack([x[0], y[1], x[2], y[3]]))
        assert mixed.dtype == dtype
    x, y = maps(1, 1)
    torch.testing.assert_close(alignmix(x, y, LAM, torch.tensor(False)).images, mixup(x, y, LAM).images)


def test_gradients_reach_both_maps_as_if_the_plan_were_constant():
    x, y = (m.double().requires_grad_() for m in maps())
    plan = alignment(x.flatten(2), y.flatten(2)).detach()
    assert not alignment(x.flatten(2), y.flatten(2)).requires_grad
    lam = LAM.double().view(-1, 1, 1)
    expected = lam * x.flatten(2) + (1 - lam) * y.flatten(2) @ plan.transpose(1, 2)
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((weight * expected).sum(), (x, y))
    found = torch.autograd.grad((weight * alignmix(x, y, LAM, torch.tensor(True)).images.flatten(2)).sum(), (x, y))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
        assert one.abs().max() > 0


def test_the_mix_compiles_as_one_graph():
    x, y = maps()
    compiled = torch.compile(alignmix, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(x, y, LAM, torch.tensor(True), iterations=3).images,
        alignmix(x, y, LAM, torch.tensor(True), iterations=3).images,
    )


def test_tokens_and_maps_with_channels_last_are_matched_alike():
    def policy(x, y, lam):
        return alignmix(x, y, lam, torch.tensor(True))

    x, y = maps()
    expected = policy(x, y, LAM).images
    last = align_activations(x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1), LAM, prefix=0, last=True, policy=policy)
    torch.testing.assert_close(last.images.permute(0, 3, 1, 2), expected)
    front = torch.randn(2, B, 1, 5)
    tokens = [torch.cat([f, m.flatten(2).transpose(1, 2)], dim=1) for f, m in zip(front, (x, y), strict=True)]
    mixed = align_activations(*tokens, LAM, prefix=1, last=False, policy=policy).images
    torch.testing.assert_close(mixed[:, 1:].transpose(1, 2).reshape_as(x), expected)
    lam = LAM.view(-1, 1, 1)
    torch.testing.assert_close(mixed[:, :1], lam * front[0] + (1 - lam) * front[1])
    with pytest.raises(ValueError, match="matches the cells of a map"):
        align_activations(torch.zeros(B, 5), torch.zeros(B, 5), LAM, prefix=0, last=False, policy=policy)


# In a network --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_trains(kind):
    build, layer, size = NETWORKS[kind]
    torch.manual_seed(0)
    method = Supervised(build(), make(layer=layer), num_classes=5)
    for _ in range(4):
        loss, _ = method((torch.randn(B, 3, size, size), torch.arange(B)))
        loss.backward()
        assert loss.isfinite()
    assert all(p.grad is not None for name, p in method.model.named_parameters() if "aside" not in name)


def test_the_network_sees_aligned_maps_behind_the_layer():
    net, images = PlainNet(norm=False).eval(), torch.randn(B, 3, 32, 32)
    logits, batch = make(layer="late", input_prob=0.0).forward_through(net, images, torch.arange(B))
    hidden = net.late(net.body(net.stem(images)))
    both = [alignmix(hidden, hidden[batch.index[:, 1]], batch.lam, torch.tensor(keep)).images for keep in (True, False)]
    found = [torch.allclose(batch.images, one, atol=1e-5) for one in both]
    assert sorted(found) == [False, True]
    torch.testing.assert_close(logits, net.fc(batch.images.mean((2, 3))), atol=1e-5, rtol=1e-4)
    assert not batch.images.requires_grad


def test_images_are_mixed_as_often_as_asked_and_both_places_are_kept():
    net, images = PlainNet(), torch.randn(B, 3, 16, 16)
    for prob, low, high in ((0.0, 0, 0), (0.5, 0.35, 0.65), (1.0, 1, 1)):
        mix = make(layer="late", input_prob=prob, iterations=1)
        shapes = [mix.forward_through(net, images, torch.arange(B))[1].images.shape for _ in range(80)]
        assert low <= sum(shape == images.shape for shape in shapes) / 80 <= high


def test_steps_draw_from_the_mixup_s_generator_only():
    net, images = PlainNet().eval(), torch.randn(B, 3, 16, 16)
    results = []
    for seed in (3, 3, 4):
        before = torch.get_rng_state()
        mix = make(seed, layer="late")
        results.append([mix.forward_through(net, images, torch.arange(B))[0] for _ in range(3)])
        assert torch.equal(torch.get_rng_state(), before)
    for one, same, other in zip(*results, strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


def test_a_batch_that_is_not_mixed_goes_through_as_it_is():
    net, images = PlainNet().eval(), torch.randn(B, 3, 16, 16)
    for options in ({"prob": 0.0}, {"alpha": 0.0}):
        logits, batch = make(layer="late", input_prob=0.0, **options).forward_through(net, images, torch.arange(B))
        assert torch.equal(logits, net(images))
        assert torch.equal(batch.lam, torch.ones(B))
    logits, batch = make(layer="late", input_prob=0.0).forward_through(net, images[:1], torch.arange(1))
    assert torch.equal(logits, net(images[:1]))
    assert batch.lam.item() == 1


def test_no_hook_is_left_also_when_the_network_raises():
    net = PlainNet()
    net.fc = nn.Linear(7, 5)
    with pytest.raises(RuntimeError):
        make(layer="late", input_prob=0.0).forward_through(net, torch.randn(B, 3, 16, 16), torch.arange(B))
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()) == 0


def test_under_bfloat16_the_transport_is_float32():
    net, images = tiny_cnn(), torch.randn(B, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = make(input_prob=0.0).forward_through(net, images, torch.arange(B))
        assert alignment(torch.randn(B, 5, 6).bfloat16(), torch.randn(B, 5, 6).bfloat16()).dtype == torch.float32
    assert logits.isfinite().all()


def test_wrong_options_and_layers_are_refused():
    for wrong in ({"epsilon": 0.0}, {"iterations": 0}, {"input_prob": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            make(**wrong)
    images, labels = torch.randn(B, 3, 16, 16), torch.arange(B)
    with pytest.raises(ValueError, match=r'layer="layer\.name"; its top layers are: stem, body'):
        make().forward_through(PlainNet(), images, labels)
    with pytest.raises(ValueError, match="aligned layer 'nowhere' is not in the network"):
        make(layer="nowhere").forward_through(PlainNet(), images, labels)


def test_on_images_alone_it_is_mixup():
    images = torch.randn(B, 3, 16, 16)
    batch = make()(images, torch.arange(B), lam=LAM, index=INDEX)
    assert torch.equal(batch.images, mixup(images, images[INDEX], LAM).images)
