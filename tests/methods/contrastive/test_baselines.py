"""SimCLR, MoCo v3, BYOL, SimSiam, SwAV, Barlow Twins: their losses, clean and mixed, equal plain loops."""

import copy
import dataclasses
import math
from pathlib import Path

import oracles_contrastive as oracles
import pytest
import timm
import torch
import torch.nn.functional as F
from process_groups import work_in_two
from sampling import sampled
from test_moco import LABELLED
from tiny_networks import tiny_cnn, tiny_vit
from torch import Tensor, nn
from view_networks import batch_of, check_continued, grads, trunk

from samix.losses.contrastive import normalized, similarities, sinkhorn
from samix.methods.contrastive.barlow import BARLOW_PRESETS, BarlowTwins, BarlowTwinsOptions
from samix.methods.contrastive.byol import BYOL, BYOLOptions
from samix.methods.contrastive.mixup import for_views
from samix.methods.contrastive.moco import MoCo, MoCoOptions
from samix.methods.contrastive.moco_v3 import MOCO_V3_PRESETS, MoCoV3, MoCoV3Options
from samix.methods.contrastive.simclr import SIMCLR_PRESETS, SimCLR, SimCLROptions
from samix.methods.contrastive.simsiam import SimSiam, SimSiamOptions
from samix.methods.contrastive.swav import SWAV_PRESETS, SwAV, SwAVOptions, check_crops
from samix.mixers.pretrained import Mixer
from samix.mixers.samix import SAMixer
from samix.mixups import MIXUPS
from samix.mixups.base import Augmentation
from samix.mixups.handmade import CutMix, MixUp, NoMixup
from samix.runtime import distributed

METHODS = {
    "simclr": (SimCLR, SimCLROptions(hidden=12, dim=6, temperature=0.2)),
    "mocov3": (MoCoV3, MoCoV3Options(hidden=12, dim=6, temperature=0.2)),
    "byol": (BYOL, BYOLOptions(hidden=12, dim=6)),
    "simsiam": (SimSiam, SimSiamOptions(hidden=5, dim=8)),
    "swav": (SwAV, SwAVOptions(hidden=12, dim=6, prototypes=7, freeze_steps=0)),
    "barlow": (BarlowTwins, BarlowTwinsOptions(dim=8, redundancy=0.1)),
}
every_method = pytest.mark.parametrize("name", METHODS)
MIXED = [name for name in METHODS if name != "barlow"]
every_mixed = pytest.mark.parametrize("name", MIXED)
CLEAN = {"simclr": "nce", "mocov3": "nce"}  # the clean part of the others is "clean"


def build(name: str, mixup: Augmentation | None = None, net: nn.Module | None = None, seed: int = 0, **options):
    """A tiny method whose slow copy and norms have values of their own."""
    torch.manual_seed(seed)
    cls, chosen = METHODS[name]
    generator = torch.Generator().manual_seed(seed)
    net = trunk() if net is None else net
    method = cls(net, dataclasses.replace(chosen, **options), mixup=mixup, generator=generator)
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.dim() > 1:
                parameter.mul_(1.5)
        for parameter in (*getattr(method, "ema_encoder", nn.Identity()).parameters(),):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


# Clean losses --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def clean_by_hand(name: str, method, view_1: Tensor, view_2: Tensor) -> float:
    """The clean loss in plain loops; only networks are run as they are."""
    o, online = method.options, method.encoder
    if name == "simclr":
        z1, z2 = normalized(online(torch.cat([view_1, view_2]))).chunk(2)
        return mean(oracles.nt_xent(z1, z2, o.temperature))
    if name == "barlow":
        return oracles.barlow_twins(online(view_1), online(view_2), o.redundancy, 1e-5)
    if name == "swav":
        z = normalized(method.encoder.projector(method.encoder.features(torch.cat([view_1, view_2]))))
        s1, s2 = (z @ F.normalize(method.prototypes, dim=1).T).chunk(2)
        q1, q2 = (torch.tensor(oracles.sinkhorn(s, o.epsilon, o.iterations)) for s in (s1, s2))
        return mean(oracles.swapped(s1, q2, o.temperature) + oracles.swapped(s2, q1, o.temperature))
    p1, p2 = (normalized(method.predictor(online(view))) for view in (view_1, view_2))
    slow = online if name == "simsiam" else method.ema_encoder
    t1, t2 = (normalized(slow(view)) for view in (view_1, view_2))
    if name == "simsiam":
        return -0.5 * (
            mean([oracles.dot(p, t) for p, t in zip(p1, t2, strict=True)])
            + mean([oracles.dot(p, t) for p, t in zip(p2, t1, strict=True)])
        )
    if name == "byol":
        both = [*zip(p1, t2, strict=True), *zip(p2, t1, strict=True)]
        return 2.0 * mean([oracles.squared_distance(p, t) for p, t in both])
    own, one = [[i] for i in range(len(p1))], [[1.0]] * len(p1)
    both = oracles.in_batch(p1, t2, own, one, o.temperature) + oracles.in_batch(p2, t1, own, one, o.temperature)
    return 2.0 * o.temperature * 2.0 * mean(both)


@every_method
def test_the_clean_loss_is_the_loop(name):
    method, batch = build(name), batch_of(8)
    wanted = clean_by_hand(name, method, *batch)
    loss, parts = method(batch)
    assert loss.item() == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert set(parts) == {CLEAN.get(name, "clean"), "key_std"}
    assert not any(part.requires_grad for part in parts.values())


@every_method
def test_a_step_trains_every_parameter_but_those_of_the_slow_copy(name):
    method = build(name, None if name == "barlow" else CutMix(), net=tiny_cnn(0))
    method(batch_of(8, 32))[0].backward()
    trained = {n for n, p in method.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in method.named_parameters() if not n.startswith("ema_encoder.")}
    biases = {n for n in trained - grads(method).keys() if not n.endswith("bias")}
    assert not biases  # a bias before a norm has a gradient of 0
    assert all(p.grad is not None for n, p in method.named_parameters() if n in trained)
    assert all(p.grad is None for n, p in method.named_parameters() if n not in trained)


@every_method
def test_the_groups_hold_every_trained_parameter_once(name):
    method = build(name)
    groups = method.parameter_groups(0.3, weight_decay=0.01)
    assert [g["name"] for g in groups] == (["network", "predictor"] if name == "simsiam" else ["network"])
    assert all((g["lr"], g["weight_decay"]) == (0.3, 0.01) for g in groups)
    held = [id(p) for g in groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in method.parameters() if p.requires_grad)
    if name == "simsiam":
        assert {id(p) for p in groups[1]["params"]} == {id(p) for p in method.predictor.parameters()}


@every_method
def test_key_std_is_about_1_for_spread_embeddings_and_0_when_all_are_alike(name):
    method, batch = build(name, net=tiny_cnn(0)), batch_of(32, 32)
    assert 0.5 < float(method(batch)[1]["key_std"]) < 1.1
    same = tuple(view[:1].expand(32, -1, -1, -1) for view in batch)
    assert float(method.eval()(same)[1]["key_std"]) == pytest.approx(0.0, abs=1e-4)


@every_method
def test_features_and_export_are_the_backbone(name):
    method, view = build(name, net=tiny_cnn(0)), batch_of(8, 32)[0]
    method((view, view))
    method.eval()
    assert method.features(view).shape == (8, 64)
    torch.testing.assert_close(method.export()(view), method.features(view))
    assert set(method.export().state_dict()) == set(tiny_cnn(0).state_dict())


def test_losses_have_their_ranges():
    view = batch_of(8)[0]
    for name, low, high in (("simsiam", -1.0, 1.0), ("byol", 0.0, 8.0)):
        method = build(name)
        assert low <= method((view, batch_of(8)[1]))[0].item() <= high
        method.predictor = nn.Identity()  # equal views, and a prediction of what is there: nothing is left to learn
        if name == "byol":
            method.ema_encoder = method.encoder
        assert method((view, view))[0].item() == pytest.approx(low, abs=1e-5)


# Mixed losses --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def mixed_by_hand(name: str, method, views: tuple[Tensor, Tensor], mixup: Augmentation) -> float:
    """The mixed loss in plain loops, from a mixup that draws what the method's will."""
    o, online = method.options, method.encoder
    state = mixup.generator.get_state()
    losses = []
    for number in range(1 if name == "simclr" else 2):
        mixup.generator.set_state(state)  # either view by the same draws
        batch = mixup(views[number], torch.arange(len(views[0])))
        z, other = online(batch.images), views[1 - number]
        rows, weights = batch.index.tolist(), batch.weights.tolist()
        if name == "simclr":
            keys = normalized(online(torch.cat(views))).chunk(2)[1]
            losses += oracles.in_batch(normalized(z), keys, rows, weights, o.temperature)
        elif name == "mocov3":
            keys = normalized(method.ema_encoder(other))
            each = oracles.in_batch(normalized(method.predictor(z)), keys, rows, weights, o.temperature)
            losses += [2 * 2 * o.temperature * value for value in each]
        elif name in ("byol", "simsiam"):
            target = normalized((method.ema_encoder if name == "byol" else online)(other))
            p = normalized(method.predictor(z))
            each = oracles.mixed_regression(p, target[batch.index], batch.weights)
            losses += [2 * value if name == "byol" else value / 2 - 1 for value in each]
        else:
            centres = F.normalize(method.prototypes, dim=1)
            clean = normalized(online.projector(online.features(torch.cat(views)))) @ centres.T
            codes = torch.tensor(oracles.sinkhorn(clean.chunk(2)[1 - number], o.epsilon, o.iterations))
            scores = normalized(z) @ centres.T
            for i in range(len(scores)):
                for r, w in zip(rows[i], weights[i], strict=True):
                    losses.append(
                        len(rows[i]) * w * oracles.swapped(scores[i : i + 1], codes[r : r + 1], o.temperature)[0]
                    )
    return mean(losses)


@pytest.mark.parametrize("mixup", [MixUp(per_sample=True), CutMix()], ids=["mixup", "cutmix"])
@every_mixed
def test_the_mixed_loss_is_the_loop(name, mixup):
    method, batch = build(name, mixup), batch_of(8)
    generator = torch.Generator()
    generator.set_state(method.generator.get_state())
    wanted = mixed_by_hand(name, method, batch, for_views(mixup, generator))
    loss, parts = method(batch)
    assert float(parts["mixed"]) == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    clean = parts[CLEAN.get(name, "clean")]
    assert loss.item() == pytest.approx(float(clean + parts["mixed"]), abs=1e-5)
    assert torch.equal(method.generator.get_state(), generator.get_state())


@every_mixed
def test_the_mixed_weight_weighs_the_mixed_loss(name):
    batch = batch_of(8)
    (one, parts), (three, _) = (build(name, CutMix(), mixed_weight=w)(batch) for w in (1.0, 3.0))
    assert (three - one).item() == pytest.approx(2.0 * float(parts["mixed"]), rel=1e-4, abs=1e-5)


@every_mixed
def test_at_lam_1_the_mixed_loss_is_the_clean_one(name):
    """SimCLR's is N-way, without the vectors of its own view, so it is that form of the clean loss."""
    method, (view_1, view_2) = build(name, CutMix(alpha=0.0)).eval(), batch_of(8)
    loss, parts = method((view_1, view_2))
    if name == "simclr":
        z1, z2 = (normalized(method.encoder(view)).detach() for view in (view_1, view_2))
        wanted = mean(oracles.in_batch(z1, z2, [[i] for i in range(8)], [[1.0]] * 8, 0.2))
        assert float(parts["mixed"]) == pytest.approx(wanted, abs=1e-5)
    else:
        torch.testing.assert_close(parts["mixed"], parts[CLEAN.get(name, "clean")])
        assert loss.item() == pytest.approx(2.0 * float(parts["mixed"]), rel=1e-5)


@every_mixed
def test_both_views_are_mixed_by_the_same_draws(name):
    if name == "simclr":
        pytest.skip("mixes the first view only")
    method = build(name, CutMix(per_sample=True))
    view = batch_of(8)[0]
    (z1, first), (z2, second) = method.mix_both(view, view)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.index, second.index)
    assert torch.equal(first.weights, second.weights)
    torch.testing.assert_close(z1, z2)
    assert not torch.equal(method.mix_both(view, view)[0][1].index, first.index)  # the next ones are others


@pytest.mark.parametrize(("name", "mixup"), sampled(MIXED, sorted(set(MIXUPS) - LABELLED), each=2))
def test_every_mixup_that_needs_no_labels_runs_in_every_method(name, mixup):
    method = build(name, MIXUPS[mixup](), net=tiny_cnn(0))
    loss, parts = method(batch_of(8, 32))
    assert loss.isfinite()
    assert ("mixed" in parts) == (mixup != "vanilla")
    loss.backward()
    assert grads(method.encoder)
    method.after_step(0.5)


@pytest.mark.parametrize("off", [None, NoMixup()])
@every_method
def test_without_a_mixup_there_is_no_mixed_loss(name, off):
    method = build(name, off)
    assert method.mixup is None
    assert "mixed" not in method(batch_of(8))[1]


@every_mixed
def test_a_mixer_that_is_to_be_trained_is_refused(name):
    with pytest.raises(ValueError, match=r"trains no Mixer.*use MoCo, or a Mixer trained before: samix\.Mixer"):
        build(name, SAMixer(12))


@every_mixed
def test_what_is_no_mixup_or_needs_labels_is_refused(name):
    with pytest.raises(TypeError, match="mixup must be None or an augmentation object, got str"):
        build(name, "cutmix")
    with pytest.raises(ValueError, match="trained with labels"):
        build(name, MIXUPS["snapmix"]())


@pytest.mark.parametrize("mixup", [CutMix(), SAMixer(12)], ids=["cutmix", "samixer"])
def test_barlow_twins_refuses_every_mixup(mixup):
    with pytest.raises(ValueError, match="Barlow Twins takes no mixup, as its loss compares columns"):
        build("barlow", mixup)


class Painted(Mixer):
    """A frozen Mixer without a network: half of the image is the partner's."""

    def encode(self, images: Tensor) -> Tensor:
        return images

    def predict_mask(self, z: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        mask = torch.zeros(len(lam), 1, *size)
        mask[..., : size[1] // 2] = 1.0
        return mask


@every_mixed
def test_a_frozen_mixer_serves_as_any_mixup(name):
    loss, parts = build(name, Painted())(batch_of(8))
    assert loss.isfinite()
    assert "mixed" in parts
    with pytest.raises(ValueError, match=r"Painted adds losses of class labels \(clean\)"):
        build(name, Painted(clean_weight=1.0))


# Where gradients stop ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixup", [None, CutMix()], ids=["clean", "mixed"])
@pytest.mark.parametrize("name", ["byol", "simsiam", "mocov3"])
def test_targets_carry_no_gradient(name, mixup, monkeypatch):
    """With the predictions detached, nothing is left to differentiate."""
    method = build(name, mixup)
    predict = method.predictor.forward
    monkeypatch.setattr(method.predictor, "forward", lambda z: predict(z).detach())
    assert not method(batch_of(8))[0].requires_grad


def test_simsiams_gradient_is_that_of_targets_that_are_constants():
    method, (view_1, view_2) = build("simsiam", CutMix()), batch_of(8)
    state = method.generator.get_state()
    method((view_1, view_2))[0].backward()
    found = grads(method)
    method.zero_grad()
    method.generator.set_state(state)
    (m1, b1), (m2, b2) = method.mix_both(view_1, view_2)
    z1, z2 = method.encoder(view_1), method.encoder(view_2)
    t1, t2 = (torch.tensor(normalized(z).tolist()) for z in (z1, z2))
    loss = 0.0
    for z, target, m, batch in ((z1, t2, m1, b1), (z2, t1, m2, b2)):
        blended = (batch.weights.unsqueeze(2) * target[batch.index]).sum(1)
        loss = loss - 0.5 * F.cosine_similarity(method.predictor(z), target).mean()
        loss = loss - 0.5 * (normalized(method.predictor(m)) * blended).sum(1).mean()
    loss.backward()
    for key, grad in found.items():
        torch.testing.assert_close(grads(method)[key], grad, rtol=1e-3, atol=1e-6, msg=key)


def test_swavs_codes_have_no_graph():
    method = build("swav", CutMix())
    z = normalized(torch.randn(8, 6)).requires_grad_()
    scores = similarities(z, method.centres())
    assert scores.requires_grad
    assert not method.codes(0, scores, method.centres()).requires_grad


def test_simclrs_mixed_loss_sends_gradients_to_both_sides():
    method, (view_1, view_2) = build("simclr", CutMix(), mixed_weight=1.0), batch_of(8)
    clean = build("simclr")
    sides = []
    for m in (method, clean):
        one, two = view_1.clone().requires_grad_(), view_2.clone().requires_grad_()
        m((one, two))[0].backward()
        sides.append((one.grad, two.grad))
    assert all(grad.abs().sum() > 0 for side in sides for grad in side)
    assert (sides[0][1] - sides[1][1]).abs().max() > 1e-6  # the mixed loss moves the second views too


# The slow copies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["byol", "mocov3"])
def test_the_slow_copy_moves_by_the_closed_form_along_its_schedule(name):
    method = build(name, ema_decay=0.9, ema_decay_end=0.9).double()
    start = copy.deepcopy(method.ema_encoder)
    for _ in range(5):
        method.after_step(0.3)
    for x0, x, t in zip(start.parameters(), method.ema_encoder.parameters(), method.encoder.parameters(), strict=True):
        torch.testing.assert_close(x, t + 0.9**5 * (x0 - t), rtol=0, atol=1e-12)
    method = build(name, ema_decay=0.2, ema_decay_end=1.0)
    kept = copy.deepcopy(method.ema_encoder)
    method.after_step(1.0)
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), method.ema_encoder.parameters(), strict=True))
    method.after_step(0.5)  # 0.6 half-way
    for a, b, t in zip(kept.parameters(), method.ema_encoder.parameters(), method.encoder.parameters(), strict=True):
        torch.testing.assert_close(b, 0.6 * a + 0.4 * t)


@pytest.mark.parametrize("name", ["byol", "mocov3"])
def test_only_norms_of_the_slow_copy_are_in_train_mode(name):
    method = build(name, net=tiny_cnn(0))
    assert {type(m) for m in method.ema_encoder.modules() if m.training} == {nn.BatchNorm2d, nn.BatchNorm1d}
    method.eval()
    assert not any(m.training for m in method.modules())
    method.train()
    assert method.encoder.training
    assert method.ema_encoder.projector[1].training


@pytest.mark.parametrize("name", ["byol", "mocov3"])
def test_a_new_slow_copy_is_equal_and_separate(name):
    cls, options = METHODS[name]
    method = cls(trunk(), options)
    for a, b in zip(method.encoder.parameters(), method.ema_encoder.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a is not b


# SwAV ----------------------------------------------------------------------------------------------------------------


def crops_of(*sides: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(8, 3, side, side) for side in sides)


@pytest.mark.parametrize("ids", [(), (None,), (torch.arange(8),)], ids=["none", "None", "ids"])
def test_small_views_predict_the_codes_of_large_ones_and_give_none(ids):
    method, large, small = build("swav"), batch_of(8, 24), crops_of(16, 16, 12)
    o, views = method.options, [*large, *small]
    with torch.no_grad():
        groups = [torch.cat(views[:2]), torch.cat(views[2:4]), views[4]]  # neighbours of one size go together
        features = torch.cat([method.encoder.features(group) for group in groups])
        z = normalized(method.encoder.projector(features)).chunk(5)
        scores = [row @ F.normalize(method.prototypes, dim=1).T for row in z]
        codes = [torch.tensor(oracles.sinkhorn(s, o.epsilon, o.iterations)) for s in scores[:2]]
    wanted = mean(
        [mean(oracles.swapped(scores[v], codes[a], o.temperature)) for a in (0, 1) for v in range(5) if v != a]
    )
    assert method((*large, *ids, small))[0].item() == pytest.approx(wanted, rel=1e-5)


def test_prototypes_are_of_unit_length_at_the_start_of_every_step():
    method = build("swav")  # its prototypes were stretched
    assert (method.prototypes.norm(dim=1) - 1.0).abs().min() > 0.1
    method.eval()(batch_of(8))
    assert (method.prototypes.norm(dim=1) - 1.0).abs().min() > 0.1  # but only in training
    method.train()(batch_of(8))
    torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(7))


def test_prototypes_are_frozen_in_the_first_steps():
    method = build("swav", freeze_steps=2)
    method(batch_of(8))
    start = method.prototypes.detach().clone()
    optimizer = torch.optim.SGD(method.parameters(), 0.5, momentum=0.9, weight_decay=0.1)
    for step in range(4):
        optimizer.zero_grad()
        method(batch_of(8))[0].backward()
        assert method.prototypes.grad is not None  # as DistributedDataParallel asks
        assert bool((method.prototypes.grad != 0).any()) == (step >= 2)
        optimizer.step()
        method.after_step(step / 4)
        same = torch.allclose(F.normalize(method.prototypes, dim=1), start, atol=1e-5)
        assert same == (step < 2)


def test_the_steps_done_are_part_of_the_state():
    method, other = build("swav"), build("swav")
    for _ in range(3):
        method.after_step(0.1)
    state = method.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    other.load_state_dict(state)
    assert other.step == 3


def test_the_queue_takes_part_when_it_is_full_and_the_run_is_far_enough():
    method = build("swav", queue=16, queue_from=0.5)
    batches = [batch_of(8) for _ in range(5)]
    losses, used = [], []
    for step, batch in enumerate(batches):
        plain = copy.deepcopy(method)
        plain.queues = nn.ModuleList()
        queues = [q.snapshot() for q in method.queues]
        loss = method(batch)[0].item()
        used.append(abs(loss - plain(batch)[0].item()) > 1e-6)
        losses.append(loss)
        method.after_step(step / 4)
    # steps 0 and 1 fill it, step 2 comes at progress 0.25, step 3 at 0.5
    assert used == [False, False, False, True, True]
    # by hand, for the last step
    with torch.no_grad():
        z = normalized(method.encoder(torch.cat(batches[-1]))).chunk(2)
        codes, scores = [], [row @ method.prototypes.T for row in z]
        for s, queue in zip(scores, queues, strict=True):
            both = torch.cat([queue @ method.prototypes.T, s])
            codes.append(torch.tensor(oracles.sinkhorn(both, 0.05, 3))[-8:])
    wanted = mean(oracles.swapped(scores[0], codes[1], 0.1) + oracles.swapped(scores[1], codes[0], 0.1))
    assert losses[-1] == pytest.approx(wanted, rel=1e-4)


def test_each_large_view_has_a_queue_of_its_own_clean_embeddings():
    method, batch = build("swav", CutMix(), queue=16), batch_of(8)
    method(batch)
    with torch.no_grad():
        wanted = normalized(method.encoder(torch.cat(batch))).chunk(2)
    for queue, z in zip(method.queues, wanted, strict=True):
        torch.testing.assert_close(queue.keys[:8], z)
    before = [q.snapshot() for q in method.queues]
    method.eval()(batch)
    assert all(torch.equal(q.keys, kept) for q, kept in zip(method.queues, before, strict=True))


@pytest.mark.parametrize(
    ("small", "says"),
    [
        ((torch.zeros(7, 3, 8, 8),), "same 8 images"),
        ((torch.zeros(8, 1, 8, 8),), "same 8 images"),
        ((torch.zeros(8, 3, 8),), "shape"),
    ],
)
def test_small_views_of_other_images_are_refused(small, says):
    with pytest.raises(ValueError, match=says):
        check_crops((*batch_of(8), small))


# MoCo v3 -------------------------------------------------------------------------------------------------------------


def test_a_vit_has_sine_positions_and_a_frozen_random_patch_projection():
    net = tiny_vit(0, img_size=(24, 40))  # 3 x 5 patches of 8, width 48
    before = net.patch_embed.proj.weight.detach().clone()
    method = build_vit(net)
    positions = net.pos_embed.detach()
    assert torch.equal(positions[0, 0], torch.zeros(48))
    for row in range(3):
        for column in range(5):
            for q in range(12):
                omega = 1.0 / 10000 ** (q / 12)
                wanted = [
                    math.sin(column * omega),
                    math.cos(column * omega),
                    math.sin(row * omega),
                    math.cos(row * omega),
                ]
                found = positions[0, 1 + 5 * row + column, [q, 12 + q, 24 + q, 36 + q]].tolist()
                assert found == pytest.approx(wanted, abs=1e-6)
    projection = net.patch_embed.proj
    bound = math.sqrt(6.0 / (3 * 8 * 8 + 48))
    assert not torch.equal(projection.weight, before)
    assert 0.9 * bound < projection.weight.abs().max() <= bound
    assert torch.equal(projection.bias, torch.zeros(48))
    kept = {n: p.detach().clone() for n, p in net.named_parameters() if not p.requires_grad}
    assert set(kept) == {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    optimizer = torch.optim.AdamW([g for group in method.parameter_groups(0.1) for g in group["params"]], 0.1)
    views = torch.randn(2, 4, 3, 24, 40)
    method((views[0], views[1]))[0].backward()
    optimizer.step()
    method.after_step(0.0)
    state = dict(net.named_parameters())
    assert all(torch.equal(state[n], p) for n, p in kept.items())
    assert all(p.requires_grad for p in method.export().parameters())


def build_vit(net: nn.Module, **options) -> MoCoV3:
    torch.manual_seed(0)
    return MoCoV3(net, dataclasses.replace(MOCO_V3_PRESETS["vit"], hidden=12, dim=6, **options))


def test_a_vit_is_left_alone_where_that_is_asked_for():
    net = tiny_vit(0)
    before = copy.deepcopy(net.state_dict())
    build_vit(net, fixed_positions=False, frozen_patches=False)
    assert all(torch.equal(before[n], p) for n, p in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())


def test_a_vit_without_a_position_for_its_class_token_is_served_too():
    net = tiny_vit(0, no_embed_class=True)
    build_vit(net)
    assert net.pos_embed.shape[1] == 16
    assert float(net.pos_embed[0, 0, :12].abs().sum()) == 0.0  # the first patch: sine of column 0
    assert torch.equal(net.pos_embed[0, 0, 12:24], torch.ones(12))


def test_positions_need_a_width_that_is_a_multiple_of_4():
    with pytest.raises(ValueError, match="multiple of 4, got 50"):
        build_vit(tiny_vit(0, embed_dim=50, num_heads=2))


def test_the_papers_vit_is_a_timm_model_with_12_heads():
    net = timm.create_model("vit_small_patch16_224", num_classes=0, num_heads=12, weight_init="moco", depth=1)
    assert net.blocks[0].attn.num_heads == 12
    assert net.norm.eps == 1e-6
    q = net.blocks[0].attn.qkv.weight
    assert float(q.detach().abs().max()) <= math.sqrt(6 / (384 + 384))  # q, k and v as three matrices
    assert not any(p.requires_grad for p in build_vit(net).encoder.model.patch_embed.parameters())


# Heads ---------------------------------------------------------------------------------------------------------------


def shape_of(head: nn.Module) -> list[str]:
    """Layers in short: ``64-128`` linear, ``b`` with bias, ``N`` norm, ``n`` without scale and shift, ``R`` ReLU."""
    names = []
    for layer in head:
        if isinstance(layer, nn.Linear):
            names.append(f"{layer.in_features}-{layer.out_features}" + "b" * (layer.bias is not None))
        elif isinstance(layer, nn.BatchNorm1d):
            names.append("N" if layer.affine else "n")
        else:
            assert isinstance(layer, nn.ReLU)
            names.append("R")
    return names


def test_heads_are_the_papers():
    net = trunk()
    assert shape_of(SimCLR(net).encoder.projector) == ["16-16", "N", "R", "16-128", "N"]
    byol = BYOL(net)
    assert shape_of(byol.encoder.projector) == ["16-4096", "N", "R", "4096-256"]
    assert shape_of(byol.predictor) == ["256-4096", "N", "R", "4096-256"]
    simsiam = SimSiam(net)
    assert shape_of(simsiam.encoder.projector) == ["16-2048", "N", "R", "2048-2048", "N", "R", "2048-2048", "n"]
    assert shape_of(simsiam.predictor) == ["2048-512", "N", "R", "512-2048b"]
    assert shape_of(SwAV(net).encoder.projector) == ["16-2048b", "N", "R", "2048-128b"]
    barlow = BarlowTwins(net, BarlowTwinsOptions(dim=64))
    assert shape_of(barlow.encoder.projector) == ["16-64", "N", "R", "64-64", "N", "R", "64-64"]
    resnet, vit = MoCoV3(net, "resnet"), MoCoV3(net, "vit")
    assert shape_of(resnet.encoder.projector) == ["16-4096", "N", "R", "4096-256", "n"]
    assert shape_of(resnet.predictor) == ["256-4096", "N", "R", "4096-256"]
    assert shape_of(vit.encoder.projector) == ["16-4096", "N", "R", "4096-4096", "N", "R", "4096-256", "n"]
    assert shape_of(vit.predictor) == ["256-4096", "N", "R", "4096-256", "n"]


def test_presets_are_the_papers():
    assert (MOCO_V3_PRESETS["resnet"].temperature, MOCO_V3_PRESETS["vit"].temperature) == (1.0, 0.2)
    assert (SIMCLR_PRESETS["imagenet"].temperature, SIMCLR_PRESETS["cifar"].temperature) == (0.1, 0.5)
    assert (SWAV_PRESETS["imagenet"].queue, SWAV_PRESETS["small-batch"].queue) == (0, 3840)
    assert (SWAV_PRESETS["imagenet"].freeze_steps, SWAV_PRESETS["small-batch"].freeze_steps) == (313, 5005)
    assert BARLOW_PRESETS["imagenet"].redundancy == 0.0051
    for cls, _ in METHODS.values():
        assert all(preset.preset == name for name, preset in cls.presets.items())


# For the loop --------------------------------------------------------------------------------------------------------


@every_method
def test_a_run_continued_from_its_state_is_the_run(name):
    mixup = None if name == "barlow" else CutMix()
    options = {"queue": 16, "queue_from": 0.0, "freeze_steps": 3} if name == "swav" else {}
    batches = [batch_of(8) for _ in range(8)]
    check_continued(build(name, mixup, **options), build(name, mixup, seed=5, **options), batches)


@every_mixed
def test_a_preview_is_the_mixup_and_leaves_no_trace(name):
    method, images = build(name, CutMix()), batch_of(8)[0]
    state, modes = method.generator.get_state(), [m.training for m in method.modules()]
    batch = method.preview(images, torch.arange(8), 0.5, torch.arange(8).flip(0))
    assert torch.equal(batch.index[:, 1], torch.arange(8).flip(0))
    assert torch.equal(method.generator.get_state(), state)
    assert [m.training for m in method.modules()] == modes
    assert build(name).preview(images, torch.arange(8), 0.5, torch.arange(8)) is None


# Wrong input ---------------------------------------------------------------------------------------------------------


@every_method
def test_batches_that_are_not_two_views_are_refused(name):
    view = torch.zeros(8, 3, 16, 16)
    for batch, says in (((view,), "got 1 parts"), (view, "got Tensor"), ((view, view[:4]), "the first's shape")):
        with pytest.raises(ValueError, match=says):
            build(name)(batch)


@every_method
def test_unknown_presets_and_networks_with_a_classifier_are_refused(name):
    cls, options = METHODS[name]
    with pytest.raises(ValueError, match="unknown preset 'v9'; choose one of"):
        cls(trunk(), "v9")
    with pytest.raises(ValueError, match="num_classes=0"):
        cls(tiny_cnn(5), options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("simclr", {"temperature": 0.0}),
        ("simclr", {"hidden": 0}),
        ("mocov3", {"layers": 0}),
        ("mocov3", {"ema_decay": 1.5}),
        ("byol", {"ema_decay_end": -0.1}),
        ("byol", {"dim": 0}),
        ("simsiam", {"hidden": 0}),
        ("swav", {"epsilon": 0.0}),
        ("swav", {"iterations": 0}),
        ("swav", {"queue": -1}),
        ("swav", {"queue_from": 1.5}),
        ("barlow", {"dim": 1}),
        ("barlow", {"redundancy": 0.0}),
    ],
)
def test_wrong_options_are_refused(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        dataclasses.replace(METHODS[name][1], **options)


# Two processes -------------------------------------------------------------------------------------------------------

HALF = 4


class Halves(MixUp):
    """MixUp of pairs within each half of the batch: what two processes draw, also on one."""

    def draw(self, images, lam=None, index=None):
        rows = torch.arange(len(images))
        return torch.full((len(images),), 0.3), rows // HALF * HALF + (rows + 1) % HALF


def steady(method: nn.Module) -> nn.Module:
    """In train mode, but for its norms, which then do not look at the batch."""
    for module in method.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    return method


def distributed_cases() -> dict[str, nn.Module]:
    cases = {name: build(name, Halves() if name in MIXED else None) for name in METHODS}
    cases["swav-queue"] = build("swav", queue=16, queue_from=0.0)
    cases["swav-queue"].steps = 9
    options = MoCoOptions(dim=6, queue=16, key_bn="shuffle")
    torch.manual_seed(0)
    cases["moco"] = MoCo(trunk(norm=True), options, mixup=Halves(), generator=torch.Generator().manual_seed(0))
    return {name: steady(method) for name, method in cases.items()}


def joined_batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return batch_of(2 * HALF)


def work(out: Path) -> None:
    """What each process does: its half of the batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = distributed.rank()
    mine = slice(rank * HALF, (rank + 1) * HALF)
    view_1, view_2 = (view[mine] for view in joined_batch())
    results = {}
    for name, method in distributed_cases().items():
        seen = []
        if name == "moco":
            method.generator.manual_seed(rank)  # each has its own: the order is the first one's
            method.ema_encoder.model.register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[0]))
        loss, _ = method((view_1, view_2))
        loss.backward()
        found = {"loss": loss.detach(), **grads(method)}
        if name == "moco":
            found |= {"keys": method.queue.keys.clone(), "encoded": seen[0]}
        results[name] = found
    torch.save(results, out / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes with half a batch each have found."""
    folder = work_in_two(work, tmp_path_factory.mktemp("two"))
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", [*METHODS, "swav-queue", "moco"])
def test_two_processes_have_the_loss_and_gradients_of_one(name, ranks):
    method = distributed_cases()[name]
    loss, _ = method(joined_batch())
    loss.backward()
    first, second = (rank[name] for rank in ranks)
    torch.testing.assert_close((first["loss"] + second["loss"]) / 2, loss.detach())
    whole = grads(method)
    assert whole.keys() == first.keys() - {"loss", "keys", "encoded"}
    for key, grad in whole.items():
        rounding = 1e-5 * float(grad.abs().max())  # of entries that nearly cancel
        torch.testing.assert_close((first[key] + second[key]) / 2, grad, rtol=1e-4, atol=rounding, msg=key)


def test_shuffled_keys_come_back_in_order_on_every_process(ranks):
    method, (_, view) = distributed_cases()["moco"], joined_batch()
    first, second = (rank["moco"] for rank in ranks)
    torch.testing.assert_close(first["keys"][: 2 * HALF], method.keys(view))
    assert torch.equal(first["keys"][: 2 * HALF], second["keys"][: 2 * HALF])
    encoded = torch.cat([first["encoded"], second["encoded"]])
    assert not torch.equal(encoded, view)  # each process has worked on images of both
    assert torch.equal(encoded.flatten(1).sum(1).sort().values, view.flatten(1).sum(1).sort().values)


def test_sinkhorn_over_processes_is_that_of_the_joined_batch():
    scores = torch.randn(8, 5)
    joined = sinkhorn(scores)
    assert not torch.allclose(sinkhorn(scores[:4]), joined[:4], atol=1e-3)


def test_barlow_twins_trains_on_a_share_of_its_loss_and_reports_the_whole():
    torch.manual_seed(0)
    loss, parts = BarlowTwins(trunk(), BarlowTwinsOptions(dim=8, scale=0.1))(batch_of())
    assert loss.item() == pytest.approx(0.1 * float(parts["clean"]))
