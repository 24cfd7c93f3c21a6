"""The methods that mix by themselves in contrastive learning: against plain loops, and their closed forms."""

import dataclasses

import oracles_contrastive as base
import oracles_contrastive_mix as oracles
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from view_networks import Colours, batch_of, grads, named_views, sources_of, trunk

from samix import (
    BSIM,
    DACL,
    SDMP,
    SSL_METHODS,
    BSIMOptions,
    DACLOptions,
    IMix,
    IMixOptions,
    MixCo,
    MixCoOptions,
    MoCHi,
    MoCHiOptions,
    SDMPOptions,
    UnMix,
    UnMixOptions,
)
from samix.cli.train import parse_pretrain
from samix.losses.contrastive import info_nce, mixture_info_nce, normalized
from samix.methods.contrastive import imix, mixco, sdmp
from samix.methods.contrastive import mixup as view_mixing
from samix.methods.contrastive import queue_mix as own_mixing
from samix.methods.contrastive.mochi import mixed_negatives
from samix.methods.contrastive.moco import MoCo, MoCoOptions
from samix.methods.contrastive.simclr import SimCLR, SimCLROptions
from samix.mixers.samix import SAMixer
from samix.mixups.base import sample_partners
from samix.mixups.handmade import CutMix, NoMixup, RandomChoice, ResizeMix
from samix.recipes.build_pretraining import build_pretraining
from samix.recipes.pretrain_named import PRETRAIN_RECIPES

QUEUED = (IMix, UnMix, MixCo, MoCHi, BSIM)
SMALL = {
    MoCo: MoCoOptions(dim=6, queue=32, key_bn="none"),
    IMix: IMixOptions(dim=6, queue=32, key_bn="none", image_mix="mixup"),
    UnMix: UnMixOptions(dim=6, queue=32, key_bn="none", global_share=1.0),
    MixCo: MixCoOptions(dim=6, queue=32, key_bn="none", mixed_temperature=0.5),
    MoCHi: MoCHiOptions(dim=6, queue=32, key_bn="none", hardest=8, pairs=5, with_query=3, start=0.0),
    BSIM: BSIMOptions(dim=6, queue=32, key_bn="none"),
    SimCLR: SimCLROptions(dim=6, hidden=10),
    DACL: DACLOptions(dim=6, hidden=10),
    SDMP: SDMPOptions(dim=6, hidden=10),
}
MIX_METHODS = {name: SSL_METHODS[name] for name in ("imix", "unmix", "mixco", "mochi", "bsim", "dacl", "sdmp")}
MIX_PRESETS = {name: cls.presets for name, cls in MIX_METHODS.items()}
ALL = list(MIX_METHODS.values())


def make(kind, net=None, seed=0, spread=True, mixup=None, **options):
    """A tiny method; ``spread`` gives its momentum encoder weights of its own."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    given = {} if mixup is None else {"mixup": mixup}
    method = kind(
        trunk() if net is None else net, dataclasses.replace(SMALL[kind], **options), generator=generator, **given
    )
    if spread and hasattr(method, "ema_encoder"):
        with torch.no_grad():
            for parameter in method.ema_encoder.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return method


def named(kind, size, **options):
    """A method whose embeddings name image and view, see Colours."""
    more = {"queue": 4 * size, "projector": "linear"} if kind in QUEUED else {}
    method = make(kind, Colours(2 * size), spread=False, dim=2 * size, **more, **options)
    method.encoder.projector = nn.Identity()
    if hasattr(method, "ema_encoder"):
        method.ema_encoder.projector = nn.Identity()
    if hasattr(method, "predictor"):
        method.predictor = nn.Identity()
    return method


def replay(method):
    """A generator that will draw what the method's will."""
    generator = torch.Generator()
    generator.set_state(method.generator.get_state())
    return generator


def catch(monkeypatch, module, name):
    """The arguments of every call of a module's function, which is called all the same."""
    calls, real = [], getattr(module, name)

    def caught(*args):
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(module, name, caught)
    return calls


def moco_loss(method, batch):
    """MoCo's loss with this method's networks and queue."""
    view_q, view_k = batch
    return MoCo.contrast(method, view_q, method.keys(view_k), method.queue.snapshot())


def told(targets, weights, size):
    """(B, size) shares that a loss gives to the rows of a batch."""
    return torch.zeros(len(targets), size).scatter_add(1, targets, weights)


# i-Mix ---------------------------------------------------------------------------------------------------------------


def test_imix_is_the_loop():
    method, (view_q, view_k) = make(IMix), batch_of()
    g = replay(method)
    lam = torch.rand(8, generator=g)
    torch.rand(1, generator=g)  # whether the batch is mixed at all
    partner = sample_partners(8, "cycle", generator=g)
    lam = torch.maximum(lam, 1 - lam)
    z = normalized(method.encoder(oracles.noisy(view_q, partner.tolist(), lam.tolist())))
    wanted = oracles.imix(z, method.keys(view_k), method.queue.snapshot(), partner.tolist(), lam.tolist(), 0.2)
    loss, parts = method((view_q, view_k))
    assert loss.item() == pytest.approx(wanted, abs=1e-5)
    assert set(parts) == {"mixed", "key_std"}  # no clean term


@pytest.mark.parametrize("image_mix", ["mixup", "cutmix", "manifoldmix"])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_in_imix_the_own_image_has_the_larger_share_each_image_its_own(image_mix, alpha, monkeypatch):
    calls = catch(monkeypatch, imix, "in_batch_info_nce")
    method = make(IMix, image_mix=image_mix, alpha=alpha, layers="input,body" if image_mix == "manifoldmix" else "")
    for _ in range(20):
        method(batch_of())
    shares = torch.stack([call[4][:, 0] for call in calls])
    assert shares.min() >= 0.5
    assert shares.min() < 0.65
    assert (shares.std(1) > 0).all()


@pytest.mark.parametrize("image_mix", ["mixup", "cutmix"])
def test_imix_contrasts_each_source_with_its_other_view_in_its_share(image_mix, monkeypatch):
    calls = catch(monkeypatch, imix, "in_batch_info_nce")
    method = named(IMix, 8, image_mix=image_mix)
    for _ in range(4):
        method(named_views(8))
    for z, keys, targets, t, weights, negatives in calls:
        first, second = sources_of(z, 8)
        assert torch.equal(second, torch.zeros(8, 8))
        assert torch.equal(keys, torch.eye(16)[8:])
        assert (t, len(negatives)) == (0.2, 32)
        torch.testing.assert_close(first, told(targets, weights, 8))
        assert (targets[:, 0] != targets[:, 1]).all()


def test_a_clean_weight_adds_the_clean_loss_to_imix_and_bsim():
    for kind in (IMix, BSIM):
        batch = batch_of()
        without, beside = make(kind), make(kind, clean_weight=2.0, mixed_weight=3.0)
        nce, mixed = moco_loss(beside, batch), without(batch)[1]["mixed"]
        loss, parts = beside(batch)
        assert float(parts["mixed"]) == float(mixed)
        assert float(parts["nce"]) == pytest.approx(nce.item(), abs=1e-6)
        assert loss.item() == pytest.approx(3 * float(mixed) + 2 * nce.item(), abs=1e-5)


# Un-Mix --------------------------------------------------------------------------------------------------------------


def test_unmix_is_the_loop():
    method, (view_q, view_k) = make(UnMix), batch_of()
    g = replay(method)
    torch.multinomial(torch.tensor([1.0, 0.0], dtype=torch.float64), 1, generator=g)
    lam = float(torch.rand(1, generator=g))
    images = oracles.noisy(view_q, list(range(7, -1, -1)), [lam] * 8)
    clean, z = normalized(method.encoder(view_q)), normalized(method.encoder(images))
    wanted = oracles.unmix(clean, z, method.keys(view_k), method.queue.snapshot(), lam, 0.2)
    assert method((view_q, view_k))[0].item() == pytest.approx(wanted, abs=1e-5)


def test_at_lam_1_unmix_is_twice_moco():
    for share in (0.0, 1.0):
        method, batch = make(UnMix, alpha=0.0, global_share=share), batch_of()
        wanted = moco_loss(method, batch)
        assert torch.equal(method(batch)[0], wanted + wanted)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_unmix_pairs_with_the_reversed_batch_whole_or_by_region_as_often_as_told(share, monkeypatch):
    calls = catch(monkeypatch, own_mixing, "mixed_info_nce")
    method = named(UnMix, 8, global_share=share)
    found = []
    monkeypatch.setattr(method.mixup, "augmentation", spy(method.mixup.augmentation, found))
    for _ in range(60):
        method(named_views(8))
    for z, keys, weights, _, _ in calls:
        first, _ = sources_of(z, 8)
        partner = keys[:, 1].argmax(1) - 8
        assert torch.equal(partner, torch.arange(7, -1, -1))
        torch.testing.assert_close(first, told(torch.stack([torch.arange(8), partner], 1), weights, 8))
    whole = [bool(((batch.mask > 0) & (batch.mask < 1)).any()) for batch in found]
    assert sum(whole) / 60 == pytest.approx(share, abs=0.2 if share == 0.5 else 0)
    assert all(len(set(b.lam.tolist())) == 1 for b, all_of_it in zip(found, whole, strict=True) if all_of_it)


def spy(mixup, found):
    def called(*args, **kwargs):
        found.append(mixup(*args, **kwargs))
        return found[-1]

    return called


@pytest.mark.parametrize(("kind", "says"), [(UnMix, "Un-Mix pairs"), (MixCo, "halves"), (SDMP, "SDMP pairs")])
def test_what_pairs_the_batch_with_itself_refuses_an_odd_one(kind, says):
    with pytest.raises(ValueError, match=f"{says}.*even batch, got 7"):
        make(kind)(batch_of(7))


# MixCo ---------------------------------------------------------------------------------------------------------------


def test_mixco_is_the_loop():
    method, (view_q, view_k) = make(MixCo, mixed_weight=1.5), batch_of()
    lam = torch.rand(4, generator=replay(method))
    mixes = torch.stack([a * view_q[b] + (1 - a) * view_q[b + 4] for b, a in enumerate(lam)])
    keys, queue = method.keys(view_k), method.queue.snapshot()
    wanted = oracles.mixco(normalized(method.encoder(mixes)), keys, queue, lam.tolist(), 0.5)
    clean = moco_loss(method, (view_q, view_k)).item()
    loss, parts = method((view_q, view_k))
    assert float(parts["mixed"]) == pytest.approx(wanted, abs=1e-5)
    assert loss.item() == pytest.approx(clean + 1.5 * wanted, abs=1e-5)


def test_mixco_makes_half_as_many_mixes_as_images_of_pairs_across_the_halves(monkeypatch):
    calls = catch(monkeypatch, mixco, "in_batch_info_nce")
    named(MixCo, 8)(named_views(8))
    ((z, keys, targets, _, weights, _),) = calls
    assert z.shape == (4, 16)
    assert torch.equal(keys, torch.eye(16)[8:])
    assert torch.equal(targets, torch.tensor([[0, 4], [1, 5], [2, 6], [3, 7]]))
    torch.testing.assert_close(sources_of(z, 8)[0], told(targets, weights, 8))
    assert len(set(weights[:, 0].tolist())) == 4  # a lam for each


# MoCHi ---------------------------------------------------------------------------------------------------------------


def mochi_draws(size=4, hardest=6, s=5, more=3):
    return (
        torch.randint(hardest, (size, s, 2)),
        torch.rand(size, s),
        torch.randint(hardest, (size, more)),
        0.5 * torch.rand(size, more),
    )


def test_mixed_negatives_are_the_loop_and_unit_vectors():
    query, queue, draws = normalized(torch.randn(4, 7)), normalized(torch.randn(20, 7)), mochi_draws()
    found = mixed_negatives(query, queue, 6, *draws)
    wanted = oracles.mixed_negatives(query, queue, 6, *draws)
    assert found.shape == (4, 8, 7)
    torch.testing.assert_close(found, torch.stack([torch.stack(own) for own in wanted]), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.norm(dim=2), torch.ones(4, 8))
    # nearer to the query than any negative they are made of
    hard = torch.einsum("bd,kd->bk", query, queue).topk(6).values
    nearest = torch.einsum("bd,bsd->bs", query, found[:, 5:])
    assert (nearest >= hard.gather(1, draws[2]) - 1e-6).all()


def test_mochi_is_the_loop():
    method, (view_q, view_k) = make(MoCHi), batch_of()
    g, query = replay(method), normalized(method.encoder(view_q))
    draws = (
        torch.randint(8, (8, 5, 2), generator=g),
        torch.rand(8, 5, generator=g),
        torch.randint(8, (8, 3), generator=g),
        torch.rand(8, 3, generator=g) / 2,
    )
    keys, queue = method.keys(view_k), method.queue.snapshot()
    own = oracles.mixed_negatives(query, queue, 8, *draws)
    wanted = oracles.mochi(query, keys, queue, own, 0.2)
    loss, parts = method((view_q, view_k))
    assert loss.item() == pytest.approx(wanted, abs=1e-5)
    assert loss.item() > moco_loss(make(MoCHi), (view_q, view_k)).item()  # more negatives
    assert set(parts) == {"nce", "key_std"}


@pytest.mark.parametrize("options", [{"pairs": 0, "with_query": 0}, {"start": 0.5}, {"hardest": 1, "pairs": 0}])
def test_without_synthetic_negatives_mochi_is_moco(options):
    method, batch = make(MoCHi, **options), batch_of()
    same = torch.equal(method(batch)[0], make(MoCo)(batch)[0])
    assert same == ("hardest" not in options)


def test_mochi_begins_at_its_start():
    method, query = make(MoCHi, start=0.5), normalized(torch.randn(8, 6))
    assert method.synthetic(query, method.queue.snapshot()) is None
    method.after_step(0.5)
    assert method.synthetic(query, method.queue.snapshot()).shape == (8, 8, 6)


def test_no_gradient_reaches_the_query_through_synthetic_negatives():
    torch.manual_seed(0)
    raw, queue, key = torch.randn(4, 7, requires_grad=True), normalized(torch.randn(20, 7)), torch.randn(4, 7)
    draws, query = mochi_draws(), normalized(raw)
    own = mixed_negatives(query, queue, 6, *draws)
    assert not own.requires_grad
    info_nce(query, normalized(key), queue, 0.2, own).sum().backward()
    constant, found = own.clone(), raw.grad
    raw.grad = None
    candidates = torch.cat([normalized(key).unsqueeze(1), queue.expand(4, -1, -1), constant], 1)
    logits = torch.einsum("bd,bnd->bn", normalized(raw), candidates) / 0.2
    F.cross_entropy(logits, torch.zeros(4, dtype=torch.int64), reduction="sum").backward()
    torch.testing.assert_close(found, raw.grad, atol=1e-5, rtol=1e-4)


def test_mochi_takes_a_mixup_beside_it():
    method = make(MoCHi, mixup=CutMix())
    assert set(method(batch_of())[1]) == {"nce", "mixed", "key_std"}
    with pytest.raises(ValueError, match="MoCHi trains no Mixer"):
        make(MoCHi, mixup=SAMixer(16))


# BSIM ----------------------------------------------------------------------------------------------------------------


def test_bsim_is_the_loop():
    method, (view_q, view_k) = make(BSIM), batch_of()
    batch = view_mixing.for_views(CutMix(), replay(method))(view_q, torch.arange(8))
    z, keys = normalized(method.encoder(batch.images)), method.keys(view_k)
    wanted = base.mixed_info_nce(z, keys[batch.index], batch.weights, method.queue.snapshot(), 0.2)
    loss, parts = method((view_q, view_k))
    assert loss.item() == pytest.approx(sum(wanted) / 8, abs=1e-5)
    assert set(parts) == {"mixed", "key_std"}


def test_bsim_has_no_clean_pass_and_wbsim_has():
    for clean_weight, passes in ((0.0, 1), (1.0, 2)):
        method, seen = make(BSIM, clean_weight=clean_weight), []
        method.encoder.projector.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        method(batch_of())
        assert len(seen) == passes


# DACL ----------------------------------------------------------------------------------------------------------------


def test_at_lam_1_dacl_is_nt_xent():
    for noise in ("linear", "binary"):
        batch = batch_of()
        assert torch.equal(make(DACL, least=1.0, noise=noise)(batch)[0], make(SimCLR)(batch)[0])


def test_dacl_is_the_loop():
    method, (view_1, view_2) = make(DACL), batch_of()
    g, mixes = replay(method), []
    for view in (view_1, view_2):
        lam = 0.9 + 0.1 * torch.rand(8, generator=g)
        mixes.append(oracles.noisy(view, sample_partners(8, "cycle", generator=g).tolist(), lam.tolist()))
    z1, z2 = normalized(method.encoder(torch.cat(mixes))).chunk(2)
    assert method((view_1, view_2))[0].item() == pytest.approx(oracles.dacl(z1, z2, 0.1), abs=1e-5)


@pytest.mark.parametrize("noise", ["linear", "binary"])
def test_dacl_noise_is_another_image_in_a_share_of_at_most_1_minus_a(noise):
    method, (view, _) = named(DACL, 8, noise=noise, least=0.6), named_views(8, side=64)
    both = [method.noisy(view) for _ in range(2)]
    for images in both:
        shares = images.mean((2, 3))[:, :8]
        own = shares.diagonal()
        assert ((own > 0.58) & (own < 1)).all()
        assert ((shares > 0).sum(1) == 2).all()
        assert len(set(own.tolist())) == 8
        values = images[:, :8].unique()
        assert (len(values) == 2) == (noise == "binary")
    assert not torch.equal(*both)


# SDMP ----------------------------------------------------------------------------------------------------------------


def recorded_sdmp(method, batch):
    """What the encoders saw: images by encoder, in order."""
    seen = {"encoder": [], "ema_encoder": []}
    handles = [
        getattr(method, name).register_forward_pre_hook(lambda _m, args, name=name: seen[name].append(args[0]))
        for name in seen
    ]
    result = method(batch)
    for handle in handles:
        handle.remove()
    return result, seen


@pytest.mark.parametrize("image_mix", ["mixup", "cutmix", "resizemix", "random"])
def test_sdmp_pastes_the_reversed_batch_into_both_views_in_the_same_share(image_mix):
    method, views, swapped, shares = named(SDMP, 8, image_mix=image_mix), named_views(8, side=16), [], []
    for _ in range(20):
        _, seen = recorded_sdmp(method, views)
        view_a, mixed_b = seen["encoder"]
        clean_a, clean_b, mixed_a = seen["ema_encoder"]
        swapped.append(torch.equal(view_a, views[1]))
        a, b = (views[1], views[0]) if swapped[-1] else views
        assert torch.equal(view_a, a)
        assert torch.equal(clean_a, a)
        assert torch.equal(clean_b, b)
        first, second = (8, 0) if swapped[-1] else (0, 8)  # channels that name the images of a, and of b
        in_a, in_b = mixed_a[:, first : first + 8].mean((2, 3)), mixed_b[:, second : second + 8].mean((2, 3))
        torch.testing.assert_close(in_a, in_b)
        shares.append(in_a)
        torch.testing.assert_close(in_a.diagonal() + in_a.flip(1).diagonal(), torch.ones(8))
    assert 2 <= sum(swapped) <= 18
    own = torch.stack(shares).diagonal(dim1=1, dim2=2)
    assert own.min() < 0.5 < own.max()  # really pasted
    assert (own.std(1) > 0).all()  # a lam for each image


def test_sdmp_is_the_loop(monkeypatch):
    for seed in (1, 2, 3):
        method, batch = make(SDMP, seed=seed, image_mix="mixup", temperature=0.3), batch_of()
        calls = catch(monkeypatch, sdmp, "mixture_info_nce")
        (loss, parts), seen = recorded_sdmp(method, batch)
        lam = calls[0][3][:, 0].tolist()
        (query, mixed), keys = seen["encoder"], seen["ema_encoder"]
        reverse = list(range(7, -1, -1))
        torch.testing.assert_close(keys[2], oracles.noisy(keys[0], reverse, lam))
        torch.testing.assert_close(mixed, oracles.noisy(keys[1], reverse, lam))
        predicted = [normalized(method.predictor(method.encoder(x))) for x in (query, mixed)]
        wanted = oracles.sdmp(*predicted, *[method.keys(x) for x in keys], lam, 0.3)
        found = [float(parts[name]) for name in ("nce", "mix_source", "mix_mix")]
        assert found == pytest.approx(wanted, abs=1e-5)
        assert loss.item() == pytest.approx(sum(wanted), abs=1e-5)


def test_sdmp_without_mixing_is_moco_v3s_terms():
    method, batch = make(SDMP, alpha=0.0), batch_of()
    (_, parts), seen = recorded_sdmp(method, batch)
    view_a, mixed_b = seen["encoder"]
    rows = torch.arange(8)
    torch.testing.assert_close(parts["nce"], method.contrast(method.encoder(view_a), method.keys(mixed_b), rows))
    half = method.contrast(method.encoder(mixed_b), method.keys(view_a), rows) / 2
    torch.testing.assert_close(parts["mix_source"], half)
    torch.testing.assert_close(parts["mix_mix"], half)  # mixes that share nothing: c = 0


def test_what_two_mixes_share():
    lam, partner = torch.tensor([1.0, 0.0, 0.5, 0.3, 0.9]), torch.tensor([1.0, 1.0, 0.5, 0.7, 0.8])
    c = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.3])
    torch.testing.assert_close(sdmp.shared_weights(lam, partner)[:, 1], c / (1 + c))
    torch.testing.assert_close(sdmp.shared_weights(lam, partner).sum(1), torch.ones(5))
    torch.testing.assert_close(sdmp.shared_weights(lam, partner), sdmp.shared_weights(partner, lam))


def test_the_margin_of_sdmp_keeps_lam_from_the_ends():
    method = make(SDMP, image_mix="mixup", margin=0.4)
    lam = torch.stack([method.mix_pair(method.kinds[0], *batch_of(), torch.arange(8).flip(0))[2] for _ in range(20)])
    assert 0.4 <= lam.min() < 0.42
    assert 0.58 < lam.max() <= 0.6


# The losses ----------------------------------------------------------------------------------------------------------

D = torch.float64


def unit(*shape):
    return F.normalize(torch.randn(*shape, dtype=D), dim=-1)


def test_info_nce_with_own_negatives_is_the_loop():
    torch.manual_seed(0)
    query, key, queue, own = unit(5, 4), unit(5, 4), unit(7, 4), unit(5, 3, 4)
    found = info_nce(query, key, queue, 0.3, own)
    wanted = oracles.mochi(query, key, queue, [list(rows) for rows in own], 0.3)
    assert float(found.mean()) == pytest.approx(wanted, abs=1e-10)
    z = torch.randn(5, 4, dtype=D, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: info_nce(x, key, queue, 0.3, own), z)
    torch.testing.assert_close(
        info_nce(query, key, queue[:0], 0.3, queue.expand(5, -1, -1)), info_nce(query, key, queue, 0.3)
    )


def test_a_mixture_is_convex_in_lam_and_cross_entropy_at_its_ends():
    torch.manual_seed(0)
    query, keys, targets = unit(6, 4), unit(9, 4), torch.stack([torch.arange(6), torch.arange(3, 9)], 1)

    def at(lam):
        return mixture_info_nce(query, keys, targets, torch.tensor([[lam, 1 - lam]], dtype=D).expand(6, 2), 0.2)

    ends = [F.cross_entropy(query @ keys.T / 0.2, targets[:, s], reduction="none") for s in (0, 1)]
    torch.testing.assert_close(at(1.0), ends[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(at(0.0), ends[1], rtol=0, atol=1e-12)
    for lam in (0.1, 0.5, 0.8):
        assert (at(lam) < lam * ends[0] + (1 - lam) * ends[1]).all()
    z = torch.randn(6, 4, dtype=D, requires_grad=True)
    for lam in (0.0, 0.3):
        weights = torch.tensor([[lam, 1 - lam]], dtype=D).expand(6, 2)
        assert torch.autograd.gradcheck(lambda x, w=weights: mixture_info_nce(x, keys, targets, w, 0.2), z)


# All of them ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_gradients_reach_what_is_trained_and_nothing_else(kind):
    method = make(kind, trunk(norm=True))
    loss, parts = method(batch_of())
    loss.backward()
    assert grads(method.encoder)
    assert all(not part.requires_grad for part in parts.values())
    assert not hasattr(method, "ema_encoder") or not grads(method.ema_encoder)


@pytest.mark.parametrize("kind", QUEUED)
@pytest.mark.parametrize("symmetric", [False, True])
def test_clean_keys_of_the_other_view_are_enqueued_once_after_the_loss(kind, symmetric):
    method, batch = make(kind, symmetric=symmetric), batch_of()
    keys, before = [method.keys(view) for view in reversed(batch)], method.queue.snapshot()
    method(batch)
    after = method.queue.keys
    assert torch.equal(after[:8], keys[0])
    assert torch.equal(after[8:16], keys[1] if symmetric else before[8:16])
    method.eval()
    kept = method.queue.snapshot()
    method(batch)
    assert torch.equal(method.queue.keys, kept)


@pytest.mark.parametrize("kind", QUEUED)
def test_a_queue_that_begins_empty_will_do(kind):
    method = make(kind, random_start=False, queue=16, hardest=12) if kind is MoCHi else make(kind, random_start=False)
    for _ in range(3):
        loss, _ = method(batch_of())
        loss.backward()
        assert torch.isfinite(loss)
    assert all(torch.isfinite(grad).all() for grad in grads(method.encoder).values())
    assert grads(method.encoder)


@pytest.mark.parametrize("kind", [IMix, UnMix, MixCo, BSIM])
def test_the_symmetric_step_is_the_mean_of_both_directions(kind):
    method, (view_q, view_k) = make(kind, symmetric=True), batch_of()
    twin, queue = make(kind), method.queue.snapshot()
    there, _ = twin.terms(view_q, twin.keys(view_k), queue)
    back, _ = twin.terms(view_k, twin.keys(view_q), queue)
    torch.testing.assert_close(method((view_q, view_k))[0], (there + back) / 2)


@pytest.mark.parametrize("kind", ALL)
def test_a_step_is_a_function_of_its_generator(kind):
    batch, losses = batch_of(), []
    for seed in (3, 3, 4):
        method = make(kind)
        (generator,) = method.generators()
        generator.manual_seed(seed)
        losses.append(method(batch)[0].item())
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("kind", ALL)
def test_views_are_not_written_to(kind):
    batch = batch_of()
    before = [view.clone() for view in batch]
    make(kind)(batch)
    assert all(torch.equal(a, b) for a, b in zip(batch, before, strict=True))


@pytest.mark.parametrize("kind", ALL)
def test_losses_are_float32_under_autocast(kind):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = make(kind)(batch_of())
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


@pytest.mark.parametrize("kind", ALL)
def test_a_method_with_its_own_mixing_refuses_another(kind):
    make(kind, mixup=NoMixup())
    if kind is not MoCHi:
        with pytest.raises(ValueError, match=rf"{kind.title} takes no mixup.*got CutMix\. Leave it out"):
            make(kind, mixup=CutMix())
    with pytest.raises(ValueError, match="unknown preset 'v9'"):
        kind(trunk(), "v9")


@pytest.mark.parametrize("kind", [IMix, UnMix, MixCo, BSIM, SDMP])
def test_a_preview_shows_the_mix_and_leaves_the_generator_alone(kind):
    method, images = make(kind), batch_of()[0]
    state = method.generator.get_state()
    batch = method.preview(images, torch.arange(8), 0.5, torch.arange(8).flip(0))
    assert not torch.equal(batch.images, images)
    assert torch.equal(method.generator.get_state(), state)


def test_on_a_second_process_targets_are_rows_of_all(monkeypatch):
    """As the second of two processes, the first of which has the same images."""
    for module in (imix, sdmp):
        monkeypatch.setattr(module.distributed, "rank", lambda: 1)
        monkeypatch.setattr(module.distributed, "world_size", lambda: 2)
        monkeypatch.setattr(module.distributed, "gather", lambda rows: torch.cat([rows, rows]))
        monkeypatch.setattr(module.distributed, "from_first", lambda value: value)
    found = {
        IMix: catch(monkeypatch, imix, "in_batch_info_nce"),
        MixCo: catch(monkeypatch, mixco, "in_batch_info_nce"),
        SDMP: catch(monkeypatch, sdmp, "mixture_info_nce"),
    }
    for kind, calls in found.items():
        make(kind, **({"queue": 64} if kind in QUEUED else {}))(batch_of())
        assert len(calls[0][1]) == 16
        assert (calls[0][2][:, 0] == torch.arange(8, 8 + len(calls[0][2]))).all()
    assert (found[SDMP][0][2][:, 1] == torch.arange(7, -1, -1)).all()
    assert (found[MixCo][0][2][:, 1] == torch.arange(12, 16)).all()
    assert (found[IMix][0][2][:, 1] >= 8).all()


# Options, presets and the command ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (IMixOptions, {"image_mix": "fmix"}, "image_mix must be one of cutmix, mixup, manifoldmix"),
        (IMixOptions, {"alpha": float("nan")}, "alpha"),
        (IMixOptions, {"temperature": 0.0}, "temperature"),
        (UnMixOptions, {"global_share": 1.5}, "global_share"),
        (UnMixOptions, {"alpha": float("inf")}, "alpha"),
        (MixCoOptions, {"mixed_temperature": 0.0}, "mixed_temperature"),
        (MoCHiOptions, {"hardest": 0}, "hardest must be a whole number"),
        (MoCHiOptions, {"hardest": 64, "queue": 32}, "hardest must be at most the queue's 32 keys, got 64"),
        (MoCHiOptions, {"pairs": -1}, "must be a whole number in"),
        (MoCHiOptions, {"with_query": -1}, "must be a whole number in"),
        (MoCHiOptions, {"start": 2.0}, "start"),
        (BSIMOptions, {"alpha": float("nan")}, "alpha"),
        (DACLOptions, {"noise": "geometric"}, "noise must be one of linear, binary"),
        (DACLOptions, {"least": 1.1}, "least"),
        (SDMPOptions, {"image_mix": "fmix"}, "image_mix must be one of random, mixup, cutmix, resizemix"),
        (SDMPOptions, {"margin": 0.6}, r"margin must be in \[0, 0.5\]"),
        (SDMPOptions, {"alpha": float("nan")}, "alpha"),
    ],
)
def test_wrong_options_are_refused(kind, options, says):
    with pytest.raises(ValueError, match=says):
        kind(**options)


def test_presets_are_the_published_settings():
    assert all(preset.preset == name for presets in MIX_PRESETS.values() for name, preset in presets.items())
    one = {name: next(iter(presets.values())) for name, presets in MIX_PRESETS.items()}
    assert (one["imix"].image_mix, one["imix"].alpha, one["imix"].temperature, one["imix"].queue) == (
        "cutmix",
        1,
        0.2,
        65536,
    )
    cifar = MIX_PRESETS["imix"]["cifar"]
    assert (cifar.image_mix, cifar.queue, cifar.ema_decay) == ("mixup", 4096, 0.999)
    assert (one["unmix"].global_share, MIX_PRESETS["unmix"]["cifar"].global_share) == (0.0, 0.5)
    assert (one["mixco"].mixed_temperature, one["mixco"].mixed_weight) == (0.05, 1.0)
    triples = [(p.hardest, p.pairs, p.with_query) for p in MIX_PRESETS["mochi"].values()]
    assert triples[:3] == [(1024, 1024, 128), (512, 1024, 512), (256, 512, 0)]
    assert (MIX_PRESETS["bsim"]["bsim"].clean_weight, MIX_PRESETS["bsim"]["wbsim"].clean_weight) == (0.0, 1.0)
    assert (one["dacl"].least, one["dacl"].noise) == (0.9, "linear")
    released = MIX_PRESETS["sdmp"]["vit-released"]
    assert (released.image_mix, released.margin, released.temperature, released.layers) == ("resizemix", 0.1, 0.2, 3)
    assert isinstance(make(SDMP, image_mix="resizemix").kinds[0], ResizeMix)
    assert isinstance(make(UnMix).mixup.augmentation, RandomChoice)


def parsed(*arguments):
    return parse_pretrain(list(arguments))[0]


def test_the_command_trains_samix_beside_moco_and_mixes_nothing_beside_others(tmp_path):
    assert (parsed().method, parsed().mixup) == ("moco", "samix")
    assert parsed("--method", "moco").mixup == "samix"
    for name in SSL_METHODS:
        if name != "moco":
            assert parsed("--method", name).mixup == "vanilla"
    assert parsed("--method", "byol", "--mixup", "cutmix").mixup == "cutmix"
    file = tmp_path / "run.json"
    file.write_text('{"method": "simclr"}')
    assert (parsed("--config", str(file)).method, parsed("--config", str(file)).mixup) == ("simclr", "vanilla")
    assert parsed("--config", str(file), "--method", "moco").mixup == "samix"
    file.write_text('{"method": "simclr", "mixup": "fmix"}')
    assert parsed("--config", str(file)).mixup == "fmix"


@pytest.mark.parametrize("name", MIX_METHODS)
def test_the_command_builds_each_method(name):
    recipe = parsed("--method", name)
    method = build_pretraining(recipe, 1437)
    assert type(method) is MIX_METHODS[name]
    if isinstance(method, MoCo):
        assert (method.options.queue, method.options.dim, method.options.preset) == (640, 64, "cifar")
    loss, _ = method((torch.randn(32, 3, 16, 16), torch.randn(32, 3, 16, 16)))
    assert torch.isfinite(loss)


@pytest.mark.parametrize("recipe", PRETRAIN_RECIPES)
def test_recipes_give_their_queue_to_methods_that_have_one(recipe):
    made = {
        name: PRETRAIN_RECIPES[recipe].build({"method": name, "mixup": "vanilla"}).method_options
        for name in SSL_METHODS
    }
    queued = ("moco", "imix", "unmix", "mixco", "mochi", "bsim")
    own = {"mocov3": {"preset": "vit"}} if recipe == "in1k-mocov3-vits" else {}
    assert made == {name: made["moco"] if name in queued else own.get(name, {}) for name in made}


def test_a_misspelt_method_is_refused_with_the_name_that_was_meant():
    with pytest.raises(ValueError, match=r"unknown ssl method 'moca'.*did you mean moco"):
        parsed("--method", "moca")


def test_options_of_a_method_reach_it():
    recipe = parsed("--method", "imix", "--method.image-mix", "cutmix", "--method.clean-weight", "0.5")
    options = build_pretraining(recipe, 1437).options
    assert (options.image_mix, options.clean_weight) == ("cutmix", 0.5)
    assert "mixed_weight" not in {field.name for field in dataclasses.fields(DACLOptions)}  # there is no mixed loss
