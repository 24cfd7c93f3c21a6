"""MoCo: its queue, its momentum encoder, its norms, what is contrasted with what, and where gradients go."""

import copy
import dataclasses
import math

import oracles_contrastive as oracles
import pytest
import torch
import torch.nn.functional as F
from mixup_kinds import KINDS, make
from tiny_networks import tiny_cnn, tiny_vit
from torch import nn
from view_networks import Colours, batch_of, check_continued, grads, named_views, sources_of, trunk

from samix.losses.contrastive import info_nce, normalized
from samix.methods.contrastive import mixup as view_mixing
from samix.methods.contrastive.moco import MOCO_PRESETS, MoCo, MoCoOptions
from samix.mixups import MIXUPS
from samix.mixups.grid import GridMix
from samix.mixups.handmade import CutMix, MixUp, NoMixup, RandomChoice
from samix.mixups.hidden import ManifoldMix
from samix.networks.batchnorm import SplitBatchNorm2d, plain_batchnorm, split_batchnorm
from samix.networks.queue import Queue, check_queue

SMALL = MoCoOptions(dim=6, queue=32, groups=2, ema_decay=0.9)


def moco(net: nn.Module | None = None, mixup=None, seed: int = 0, spread: bool = True, **options) -> MoCo:
    """A tiny MoCo; ``spread`` gives its momentum encoder weights of its own."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = trunk() if net is None else net
    method = MoCo(net, dataclasses.replace(SMALL, **options), mixup=mixup, generator=generator)
    if spread:
        with torch.no_grad():
            for parameter in method.ema_encoder.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return method


def replay(method: MoCo) -> torch.Generator:
    """A generator that will draw what the method's will."""
    generator = torch.Generator()
    generator.set_state(method.generator.get_state())
    return generator


# The queue -----------------------------------------------------------------------------------------------------------


def test_the_queue_is_first_in_first_out():
    queue, rows = Queue(12, 3), F.normalize(torch.randn(7 * 4, 3), dim=1)
    pointers = []
    for step in range(7):
        queue.enqueue(rows[4 * step : 4 * step + 4])
        pointers.append(int(queue.pointer))
    assert pointers == [4, 8, 0, 4, 8, 0, 4]
    oldest_first = queue.keys.roll(-int(queue.pointer), 0)
    assert torch.equal(oldest_first, rows[-12:])


def test_a_new_queue_holds_unit_vectors_and_only_enqueue_changes_it():
    queue = Queue(12, 3)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(12), rtol=0, atol=1e-6)
    before = queue.snapshot()
    queue.snapshot().zero_()
    assert torch.equal(queue.keys, before)
    queue.enqueue(torch.eye(3))
    assert torch.equal(queue.keys[:3], torch.eye(3))
    assert torch.equal(queue.keys[3:], before[3:])


def test_queue_and_pointer_survive_the_state_dict():
    queue, other = Queue(12, 3), Queue(12, 3)
    queue.enqueue(torch.eye(3))
    other.enqueue(torch.eye(3))
    other.enqueue(torch.eye(3))
    other.load_state_dict(queue.state_dict())
    for one in (queue, other):
        one.enqueue(-torch.eye(3))
    assert torch.equal(queue.keys, other.keys)
    assert int(other.pointer) == 6


@pytest.mark.parametrize(("rows", "width", "says"), [(5, 3, "multiple of the batch"), (4, 2, r"shape \(B, 3\)")])
def test_a_queue_refuses_keys_that_do_not_fit(rows, width, says):
    queue = Queue(12, 3)
    with pytest.raises(ValueError, match=says):
        queue.enqueue(torch.randn(rows, width))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_empty_queue_is_refused(shape):
    with pytest.raises(ValueError, match="at least 1"):
        Queue(*shape)


def test_a_queue_as_long_as_the_data_is_refused():
    check_queue(99, 100)
    with pytest.raises(ValueError, match="shorter than the data"):
        check_queue(100, 100)
    with pytest.raises(ValueError, match="shorter than the data"):
        MoCo(trunk(), SMALL, images=32)


def test_a_step_enqueues_the_clean_keys_of_the_second_view_after_its_loss():
    method, (view_q, view_k) = moco(mixup=CutMix(), key_bn="none"), batch_of()
    before, keys = method.queue.snapshot(), method.keys(view_k)
    query = normalized(method.encoder(view_q))
    _, parts = method((view_q, view_k))
    wanted = oracles.info_nce(query, keys, before, 0.2)
    assert float(parts["nce"]) == pytest.approx(sum(wanted) / 8, abs=1e-5)
    assert torch.equal(method.queue.keys[:8], keys)
    assert torch.equal(method.queue.keys[8:], before[8:])
    assert int(method.queue.pointer) == 8


def test_in_eval_mode_nothing_is_enqueued():
    method = moco().eval()
    before = copy.deepcopy(method.state_dict())
    method(batch_of())
    after = method.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_symmetric_step_is_the_mean_of_both_directions_and_enqueues_both():
    method, (view_q, view_k) = moco(symmetric=True, key_bn="none"), batch_of()
    queue, keys, others = method.queue.snapshot(), method.keys(view_k), method.keys(view_q)
    one = oracles.info_nce(normalized(method.encoder(view_q)), keys, queue, 0.2)
    two = oracles.info_nce(normalized(method.encoder(view_k)), others, queue, 0.2)
    assert float(method((view_q, view_k))[0].detach()) == pytest.approx(sum(one + two) / 16, abs=1e-5)
    assert torch.equal(method.queue.keys[:16], torch.cat([keys, others]))


def test_with_a_queue_of_the_networks_own_keys_the_loss_is_near_the_log_of_their_number():
    """At step 0 it is not: the queue is random, and an untrained network's outputs nearly coincide."""
    method = moco(tiny_cnn(0), queue=256, dim=128, key_bn="none", spread=False)
    first = float(method(batch_of(32, 32))[0].detach())
    for _ in range(8):
        method(batch_of(32, 32))
    loss = float(method(batch_of(32, 32))[0].detach())
    assert abs(loss - math.log(257)) < 0.5
    assert first < math.log(257) - 0.5


# The momentum encoder ------------------------------------------------------------------------------------------------


def test_the_momentum_encoder_moves_by_the_closed_form():
    method = moco().double()
    start, theta = copy.deepcopy(method.ema_encoder), copy.deepcopy(method.encoder)
    for _ in range(7):
        method.after_step(0.5)
    for x0, x, t in zip(start.parameters(), method.ema_encoder.parameters(), theta.parameters(), strict=True):
        torch.testing.assert_close(x, t + 0.9**7 * (x0 - t), rtol=0, atol=1e-12)


def test_the_momentum_follows_its_schedule():
    method = moco(ema_decay=0.6, ema_decay_end=1.0)
    kept = copy.deepcopy(method.ema_encoder)
    method.after_step(1.0)
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), method.ema_encoder.parameters(), strict=True))
    method.after_step(0.5)  # half-way in the cosine: 0.8
    for a, b, t in zip(kept.parameters(), method.ema_encoder.parameters(), method.encoder.parameters(), strict=True):
        torch.testing.assert_close(b, 0.8 * a + 0.2 * t)
    assert method.ema_decay(0.05) == pytest.approx(1.0 - 0.2 * (math.cos(0.05 * math.pi) + 1.0))  # from the start on
    assert moco(ema_decay=0.6).ema_decay(0.5) == 0.6


def test_updating_after_the_step_gives_the_key_encoders_of_the_official_order():
    """There the copy moves before the keys are made, and its first move does nothing."""
    method, batches = moco(spread=False, key_bn="none").double(), [[v.double() for v in batch_of()] for _ in range(5)]
    online, slow = copy.deepcopy(method.encoder), copy.deepcopy(method.ema_encoder)
    queue = method.queue.snapshot()
    ours, theirs = (torch.optim.SGD(net.parameters(), 0.5) for net in (method.encoder, online))
    for step, (view_q, view_k) in enumerate(batches):
        loss, _ = method((view_q, view_k))
        ours.zero_grad()
        loss.backward()
        ours.step()
        method.after_step(step / 5)

        query = normalized(online(view_q))
        with torch.no_grad():
            for x, t in zip(slow.parameters(), online.parameters(), strict=True):
                x.copy_(0.9 * x + 0.1 * t)
            key = normalized(slow(view_k))
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], dim=1) / 0.2
        official = F.cross_entropy(logits, torch.zeros(8, dtype=torch.int64))
        theirs.zero_grad()
        official.backward()
        theirs.step()
        queue[8 * step % 32 : 8 * step % 32 + 8] = key
        assert loss.item() == pytest.approx(official.item(), abs=1e-10)
    assert not torch.equal(next(slow.parameters()), next(method.ema_encoder.parameters()))  # one update behind
    for x, t in zip(slow.parameters(), online.parameters(), strict=True):
        x.data.copy_(0.9 * x + 0.1 * t)
    for a, b in zip(slow.parameters(), method.ema_encoder.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mixup", [None, "cutmix", "manifoldmix"])
def test_gradients_reach_the_query_encoder_only(mixup):
    options = {"layers": "input,body"} if mixup == "manifoldmix" else {}
    method = moco(mixup=make(mixup, **options) if mixup else None)
    method(batch_of())[0].backward()
    assert grads(method.encoder).keys() == {name for name, _ in method.encoder.named_parameters()}
    assert all(p.grad is None and not p.requires_grad for p in method.ema_encoder.parameters())
    assert method.queue.keys.grad is None


def test_a_loss_of_a_frozen_query_encoder_has_no_graph():
    method = moco(mixup=CutMix())
    method.encoder.requires_grad_(False)
    assert not method(batch_of())[0].requires_grad


def test_parts_are_detached_and_key_std_tells_a_collapse():
    method = moco(key_bn="none")
    _, parts = method(batch_of())
    assert not any(part.requires_grad for part in parts.values())
    key = method.queue.keys[:8]
    assert float(parts["key_std"]) == pytest.approx(float(key.std(0, correction=0).mean()) * 6**0.5, abs=1e-6)
    with torch.no_grad():
        method.ema_encoder.projector[2].weight.zero_()
    assert float(method(batch_of())[1]["key_std"]) == pytest.approx(0.0, abs=1e-6)


# Norms ---------------------------------------------------------------------------------------------------------------


def test_split_batchnorm_of_one_group_is_batchnorm():
    plain, split, x = nn.BatchNorm2d(3), SplitBatchNorm2d(3, 1), torch.randn(6, 3, 4, 5)
    assert torch.equal(split(x), plain(x))
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), split.buffers(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_split_batchnorm_is_a_batchnorm_of_each_part(groups, momentum, dtype):
    split = SplitBatchNorm2d(3, groups, momentum=momentum).to(dtype)
    with torch.no_grad():
        split.weight.normal_()
        split.bias.normal_()
    parts = [copy.deepcopy(plain_batchnorm(copy.deepcopy(split))) for _ in range(groups)]
    for _ in range(3):
        x = torch.randn(6, 3, 4, 5, dtype=dtype)
        wanted = torch.cat([part(rows) for part, rows in zip(parts, x.chunk(groups), strict=True)])
        torch.testing.assert_close(split(x), wanted)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(part, name) for part in parts]).mean(0)
        torch.testing.assert_close(getattr(split, name), mean)
    assert split.running_mean.shape == (3,)
    assert int(split.num_batches_tracked) == 3
    x = torch.randn(5, 3, 2, 2, dtype=dtype)  # in eval mode any batch will do
    plain = nn.BatchNorm2d(3, momentum=momentum).to(dtype)
    plain.load_state_dict(split.state_dict())
    assert torch.equal(split.eval()(x), plain.eval()(x))


def test_split_batchnorm_takes_channels_last_and_half_precision():
    split, x = SplitBatchNorm2d(3, 2), torch.randn(4, 3, 6, 6)
    wanted = copy.deepcopy(split)(x)
    torch.testing.assert_close(split(x.contiguous(memory_format=torch.channels_last)), wanted)
    assert split(x.bfloat16()).dtype == torch.bfloat16


def test_split_batchnorm_refuses_a_batch_that_does_not_divide():
    with pytest.raises(ValueError, match="divisible by its 4 groups, got 6"):
        SplitBatchNorm2d(3, 4)(torch.randn(6, 3, 2, 2))
    with pytest.raises(ValueError, match="over 4 groups has one value per channel in each: 4 images with maps of"):
        SplitBatchNorm2d(3, 4)(torch.randn(4, 3, 1, 1))
    assert SplitBatchNorm2d(3, 4)(torch.randn(4, 3, 1, 2)).shape == (4, 3, 1, 2)
    with pytest.raises(ValueError, match="at least 1"):
        SplitBatchNorm2d(3, 0)


def test_a_network_goes_to_split_batchnorm_and_back():
    net = tiny_cnn(0)
    state = copy.deepcopy(net.state_dict())
    split_batchnorm(net, 4)
    assert {type(m) for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {SplitBatchNorm2d}
    net.load_state_dict(state)
    plain_batchnorm(net)
    assert {type(m) for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {nn.BatchNorm2d}
    assert net.state_dict().keys() == state.keys()


def test_norms_of_another_class_cannot_be_split():
    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(ValueError, match='key_bn="none"'):
        split_batchnorm(nn.Sequential(Own(3)), 2)


@pytest.mark.parametrize("policy", ["split", "shuffle", "eman", "none"])
def test_every_policy_trains_the_network(policy):
    method = moco(tiny_cnn(0), key_bn=policy)
    before = {n: b.clone() for n, b in method.ema_encoder.named_buffers() if n.endswith("running_mean")}
    loss, _ = method(batch_of(8, 32))
    loss.backward()
    assert loss.isfinite()
    moved = any(not torch.equal(b, before[n]) for n, b in method.ema_encoder.named_buffers() if n in before)
    assert moved == (policy != "eman")
    split = [m for m in method.modules() if isinstance(m, SplitBatchNorm2d)]
    assert bool(split) == (policy == "split")


def test_split_keys_are_those_of_the_batch_in_another_order_by_groups():
    method, (_, view) = moco(tiny_cnn(0)), batch_of(8, 32)
    order = torch.randperm(8, generator=replay(method))
    net = plain_batchnorm(copy.deepcopy(method.ema_encoder))
    wanted = torch.empty(8, 6)
    for rows in order.chunk(2):
        wanted[rows] = normalized(net(view[rows]))
    found = method.keys(view)
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found, torch.cat([normalized(net(part)) for part in view.chunk(2)]))


def test_with_eman_the_copys_statistics_are_averages_and_it_runs_in_eval_mode():
    method = moco(tiny_cnn(0), key_bn="eman")
    assert not any(m.training for m in method.ema_encoder.modules())
    assert method.encoder.training
    view_q, view_k = batch_of(8, 32)
    method((view_q, view_k))
    kept = {n: b.clone() for n, b in method.ema_encoder.named_buffers()}
    method.after_step(0.0)
    for name, own in method.encoder.named_buffers():
        now = dict(method.ema_encoder.named_buffers())[name]
        torch.testing.assert_close(now, 0.9 * kept[name] + 0.1 * own if own.is_floating_point() else own)


def test_without_eman_the_copys_statistics_are_its_own():
    method = moco(tiny_cnn(0), key_bn="none")
    method(batch_of(8, 32))
    kept = {n: b.clone() for n, b in method.ema_encoder.named_buffers()}
    method.after_step(0.0)
    assert all(torch.equal(kept[n], b) for n, b in method.ema_encoder.named_buffers())


def test_only_norms_of_the_copy_are_in_train_mode():
    method = moco(tiny_vit(0, proj_drop_rate=0.5), key_bn="none")
    assert not any(m.training for m in method.ema_encoder.modules())
    assert torch.equal(*(method.keys(batch_of(4, 32)[0] * 0 + 1) for _ in range(2)))
    method = moco(tiny_cnn(0), key_bn="none")
    training = {type(m) for m in method.ema_encoder.modules() if m.training}
    assert training == {nn.BatchNorm2d}
    method.eval()
    assert not any(m.training for m in method.modules())


# Who is contrasted with whom -----------------------------------------------------------------------------------------


def named_moco(size: int, mixup=None, **options) -> MoCo:
    """A MoCo whose embeddings name image and view, see Colours."""
    method = moco(
        Colours(2 * size), mixup=mixup, spread=False, dim=2 * size, queue=4 * size, projector="linear", **options
    )
    method.encoder.projector = method.ema_encoder.projector = nn.Identity()
    return method


@pytest.mark.parametrize("policy", ["split", "none"])
def test_the_key_of_an_image_is_made_from_its_second_view_whatever_the_order(policy):
    method, (view_q, view_k) = named_moco(8, key_bn=policy), named_views(8)
    for _ in range(3):
        method((view_q, view_k))
    assert torch.equal(method.queue.keys[:24], torch.eye(16)[8:].repeat(3, 1))


SHARED = [kind for kind in KINDS if make(kind).requirements.images_only]
EXACT = {
    "mixup",
    "cutmix",
    "cutmix_whole",
    "gridmix_holes",
    "gridmix_cells",
    "fmix",
}  # the label is the share of pixels


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("kind", SHARED)
def test_each_source_of_a_mix_is_contrasted_with_its_other_view_in_its_share(kind, per_sample, monkeypatch):
    size, calls = 8, []
    real = view_mixing.mixed_info_nce

    def caught(*args):
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(view_mixing, "mixed_info_nce", caught)
    method = named_moco(size, make(kind, per_sample=per_sample, alpha=1.0))
    for _ in range(4):
        method(named_views(size))
    assert len(calls) == 4
    for z, keys, weights, _, _ in calls:
        first, second = sources_of(z, size)
        assert torch.equal(second, torch.zeros(size, size))  # all that is mixed is a first view
        own, partner = keys[:, 0].argmax(1), keys[:, 1].argmax(1)
        assert torch.equal(own, torch.arange(size) + size)  # all keys are second views
        assert (partner >= size).all()
        assert (partner != own).all()  # nobody is paired with itself
        told = torch.zeros(size, size).scatter_add(1, torch.stack([own, partner], 1) - size, weights)
        assert ((first > 1e-6) == (told > 1e-6))[weights.min(1).values > 0.02].all()
        if kind in EXACT:
            torch.testing.assert_close(first, told)


def test_the_mixed_loss_is_the_loop():
    method, (view_q, view_k) = moco(mixup=CutMix(per_sample=True), key_bn="none"), batch_of()
    mixup = view_mixing.for_views(CutMix(per_sample=True), replay(method))
    batch = mixup(view_q, torch.arange(8))
    z, keys, queue = normalized(method.encoder(batch.images)), method.keys(view_k), method.queue.snapshot()
    wanted = oracles.mixed_info_nce(z, keys[batch.index], batch.weights, queue, 0.2)
    loss, parts = method((view_q, view_k))
    assert float(parts["mixed"]) == pytest.approx(sum(wanted) / 8, abs=1e-5)
    assert loss.item() == pytest.approx(float(parts["nce"] + parts["mixed"]), abs=1e-5)


def test_the_mixed_weight_weighs_the_mixed_loss():
    found = [moco(mixup=CutMix(), mixed_weight=w)(batch) for batch in [batch_of()] for w in (1.0, 3.0)]
    (one, parts), (three, same) = found
    assert parts == same
    assert (three - one).item() == pytest.approx(2.0 * float(parts["mixed"]), abs=1e-5)


@pytest.mark.parametrize("off", [None, NoMixup()])
def test_without_a_mixup_there_is_no_mixed_loss(off):
    method = moco(mixup=off)
    assert method.mixup is None
    assert set(method(batch_of())[1]) == {"nce", "key_std"}
    assert method.preview(batch_of()[0], torch.arange(8), 0.5, torch.arange(8).flip(0)) is None


def test_at_lam_1_the_mixed_loss_is_the_clean_one():
    method = moco(mixup=CutMix(alpha=0.0))
    _, parts = method(batch_of())
    assert torch.equal(parts["mixed"], parts["nce"])


# Of all mixups, those that need labels, or a network that was trained with them.
LABELLED = {"recursivemix", "saliency_grafting", "attentivemix", "snapmix", "puzzlemix", "comixup", "tokenmix", "smmix"}
LABELLED |= {"transmix", "mixpro", "tla", "sumix", "interintra"}


@pytest.mark.parametrize("name", sorted(set(MIXUPS) - LABELLED))
def test_every_mixup_that_needs_no_labels_runs(name):
    method = moco(tiny_cnn(0), MIXUPS[name](), key_bn="none")
    loss, parts = method(batch_of(8, 32))
    assert loss.isfinite()
    assert ("mixed" in parts) == (name != "vanilla")
    loss.backward()
    assert grads(method.encoder)


@pytest.mark.parametrize("name", sorted(LABELLED & set(MIXUPS)))
def test_mixups_that_need_labels_are_refused(name):
    with pytest.raises(ValueError, match=r"label|class"):
        moco(tiny_cnn(0), MIXUPS[name]())


@pytest.mark.parametrize(
    "mixup", [GridMix(style="cells", cell_weight=0.5), RandomChoice([MixUp(), GridMix(style="cells", cell_weight=0.5)])]
)
def test_a_mixup_with_a_loss_of_class_labels_is_refused(mixup):
    with pytest.raises(ValueError, match=r"adds losses of class labels \(cells\)"):
        moco(mixup=mixup)


def test_the_callers_mixup_is_left_as_it_was():
    mixup = RandomChoice([MixUp(), CutMix()])
    generators = [mixup.generator, *(choice.generator for choice in mixup.choices)]
    states = [g.get_state() for g in generators]
    method = moco(mixup=mixup)
    method(batch_of())
    assert mixup.pairing == "randperm"
    assert [mixup.generator, *(choice.generator for choice in mixup.choices)] == generators
    assert all(torch.equal(g.get_state(), s) for g, s in zip(generators, states, strict=True))


# For the loop --------------------------------------------------------------------------------------------------------


def test_a_step_is_a_function_of_its_generator():
    batch = batch_of()
    losses = []
    for seed in (3, 3, 4):
        method = moco(mixup=CutMix())
        (generator,) = method.generators()
        generator.manual_seed(seed)
        losses.append(float(method(batch)[1]["mixed"]))
    assert losses[0] == losses[1] != losses[2]


def test_a_run_continued_from_its_state_is_the_run():
    check_continued(moco(mixup=CutMix()), moco(mixup=CutMix(), seed=5), [batch_of() for _ in range(12)])


def test_the_only_group_is_the_query_encoder():
    method = moco(mixup=CutMix())
    (group,) = method.parameter_groups(0.1, weight_decay=0.01)
    assert group["name"] == "network"
    assert {id(p) for p in group["params"]} == {id(p) for p in method.encoder.parameters()}


def test_a_preview_leaves_generator_and_modes_alone():
    method, images = moco(mixup=CutMix()), batch_of()[0]
    state, modes = method.generator.get_state(), [m.training for m in method.modules()]
    batch = method.preview(images, torch.arange(8), 0.5, torch.arange(8).flip(0))
    assert batch.images.shape == images.shape
    assert torch.equal(method.generator.get_state(), state)
    assert [m.training for m in method.modules()] == modes


def test_features_and_export_are_the_query_encoders_backbone():
    net = tiny_cnn(0)
    names = set(net.state_dict())
    method, view = moco(net), batch_of(8, 32)[0]
    method((view, view))
    method.eval()
    exported = method.export()
    assert set(exported.state_dict()) == names
    assert not any(isinstance(m, SplitBatchNorm2d) for m in exported.modules())
    assert not exported.training
    torch.testing.assert_close(exported(view), method.features(view))
    assert method.features(view).shape == (8, 64)
    assert any(isinstance(m, SplitBatchNorm2d) for m in method.encoder.modules())  # the method keeps its own


def test_presets_are_the_papers():
    v1, v2, cifar = (MOCO_PRESETS[name] for name in ("v1", "v2", "cifar"))
    assert (v1.projector, v1.temperature, v1.ema_decay, v1.queue) == ("linear", 0.07, 0.999, 65536)
    assert (v2.projector, v2.temperature, v2.ema_decay, v2.queue) == ("mlp", 0.2, 0.999, 65536)
    assert (cifar.projector, cifar.temperature, cifar.ema_decay, cifar.queue) == ("linear", 0.1, 0.99, 4096)
    assert all(preset.preset == name for name, preset in MOCO_PRESETS.items())


# Wrong input ---------------------------------------------------------------------------------------------------------

X = torch.zeros(8, 3, 16, 16)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (X, "got Tensor"),
        ((X,), "got 1 parts"),
        ((X, X[:, :, :8]), "must have the first's shape"),
        ((X, [1]), "got list"),
        ((X.long(), X.long()), "floating point"),
        ((X, X.long()), "floating point"),
        ((X[0], X[0]), "shape"),
        ((X, X, torch.zeros(8)), "row numbers must be"),
        ((X, X, torch.zeros(7, dtype=torch.int64)), "row numbers must be"),
    ],
)
def test_batches_that_are_not_two_views_are_refused(batch, says):
    with pytest.raises(ValueError, match=says):
        moco()(batch)


@pytest.mark.parametrize(
    "options",
    [
        {"projector": "none"},
        {"key_bn": "sync"},
        {"dim": 0},
        {"queue": 0},
        {"groups": 0},
        {"temperature": 0.0},
        {"ema_decay": 1.1},
        {"ema_decay_end": -0.1},
    ],
)
def test_wrong_options_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        MoCoOptions(**options)


def test_what_cannot_be_used_is_refused():
    with pytest.raises(ValueError, match="unknown preset 'v9'; choose one of v2, v1, cifar"):
        MoCo(trunk(), "v9")
    with pytest.raises(TypeError, match="mixup must be"):
        moco(mixup="cutmix")
    with pytest.raises(ValueError, match="num_classes=0"):
        moco(tiny_cnn(5))
    with pytest.raises(ValueError, match="a multiple of the batch"):
        moco()(batch_of(6))
    with pytest.raises(ValueError, match="divisible by its 2 groups"):
        moco(trunk(norm=True))(batch_of(7))


def test_hidden_mixups_act_inside_the_query_encoder_only():
    method = moco(mixup=ManifoldMix(layers="body"))
    seen = []
    method.ema_encoder.model.body.register_forward_hook(lambda *_: seen.append("slow"))
    method.encoder.model.body.register_forward_hook(lambda *_: seen.append("encoder"))
    method(batch_of())
    assert sorted(seen) == ["encoder", "encoder", "slow"]


def test_a_queue_that_begins_empty_grows_to_its_length_and_survives_a_state_dict():
    queue = Queue(6, 3, random_start=False)
    assert queue.snapshot().shape == (0, 3)
    rows = F.normalize(torch.randn(8, 3), dim=1)
    for step, filled in ((0, 2), (1, 4), (2, 6), (3, 6)):
        queue.enqueue(rows[2 * step : 2 * step + 2])
        assert len(queue.snapshot()) == filled
    torch.testing.assert_close(queue.snapshot(), torch.cat([rows[6:8], rows[2:6]]))
    half = Queue(6, 3, random_start=False)
    half.enqueue(rows[:4][:2])
    again = Queue(6, 3, random_start=False)
    again.load_state_dict(half.state_dict())
    assert torch.equal(again.snapshot(), rows[:2])
    again.enqueue(rows[2:4])
    assert torch.equal(again.snapshot(), rows[:4])


def test_without_negatives_the_loss_is_zero_and_its_gradient_finite():
    query = F.normalize(torch.randn(3, 4), dim=1).requires_grad_()
    loss = info_nce(query, query.detach(), torch.empty(0, 4), 0.1)
    assert torch.equal(loss, torch.zeros(3))
    loss.sum().backward()
    assert query.grad.abs().sum() == 0
