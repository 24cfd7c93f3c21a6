"""SAMix-I: two branches with a draw each, gradients where they belong, each mask on the images it was painted for."""

import copy
import dataclasses

import oracles_contrastive as oracles
import pytest
import torch
import torch.nn.functional as F
from tiny_networks import tiny_cnn
from torch import Tensor, nn
from view_networks import Colours, batch_of, grads, named_views, trunk

from samix.losses.contrastive import normalized
from samix.methods.contrastive import mixup as contrastive_mixup
from samix.methods.contrastive.moco import MoCo, MoCoOptions
from samix.methods.contrastive.samix_i import SAMIX_I_PRESETS, SAMixIMixup, SAMixIOptions
from samix.methods.learned import Draw
from samix.mixers.base import MaskGenerator, MaskGeneratorConfig
from samix.mixers.samix import SAMixer
from samix.mixups.base import as_map

PRESETS = pytest.mark.parametrize("preset", ["paper", "reference"])


def moco(mixing: SAMixIOptions | str | None = None, net: nn.Module | None = None, seed: int = 0, **options) -> MoCo:
    """A tiny MoCo with a Mixer on the second of three maps; its momentum encoder has weights of its own."""
    torch.manual_seed(seed)
    chosen = {"dim": 6, "queue": 32, "key_bn": "none", **options}
    feature, dim = ("body", 12) if net is None else (None, 32)
    method = MoCo(
        trunk() if net is None else net,
        MoCoOptions(**chosen),
        mixup=SAMixer(dim),
        feature=feature,
        mixup_options=mixing,
        generator=torch.Generator().manual_seed(seed),
    )
    with torch.no_grad():
        for parameter in (*method.ema_encoder.parameters(), *method.mixup.mixer.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def parts_of(method: MoCo, batch: tuple[Tensor, Tensor]):
    """A step and its pair sources, for the branches."""
    step = method.new_step(batch)
    return step, method.mixup.pair_sources(step)


def mixer_losses(method: MoCo, step, sources):
    """Generation loss, mask loss and report of the Mixer branch."""
    branch = method.mixup.mixer_branch(step, sources)
    return method.mixup.generation_loss(step, sources, branch), *method.mixup.mask_loss(branch)


def rewind(method: MoCo, seed: int = 7) -> None:
    method.generator.manual_seed(seed)


# Gradients -----------------------------------------------------------------------------------------------------------


@PRESETS
def test_the_encoder_branch_trains_the_query_encoder_alone(preset):
    method = moco(preset)
    step, sources = parts_of(method, batch_of())
    method.mixup.encoder_loss(step, sources).backward()
    assert grads(method.encoder)
    assert not grads(method.mixup)
    assert not grads(method.ema_encoder)


@PRESETS
def test_the_mixer_branch_trains_the_mixer_alone(preset):
    method = moco(preset)
    step, sources = parts_of(method, batch_of())
    generation, mask, _ = mixer_losses(method, step, sources)
    generation.backward(retain_graph=True)
    assert grads(method.mixup)  # through the pixels
    method.mixup.zero_grad()
    mask.backward()
    assert grads(method.mixup)
    assert not grads(method.encoder)
    assert all(p.grad is None for p in method.ema_encoder.parameters())


@PRESETS
def test_the_gradients_of_the_whole_loss_are_those_of_either_branch(preset):
    method, batch = moco(preset), batch_of()
    rewind(method)
    method.eval()(batch)[0].backward()
    whole = {n: g.clone() for n, g in grads(method).items()}
    assert any(n.startswith("encoder") for n in whole)
    assert any(n.startswith("mixup") for n in whole)
    method.zero_grad()
    rewind(method)
    step, sources = parts_of(method, batch)
    nce = method.contrast(batch[0], sources.key, step.negatives)
    (nce + method.mixup.encoder_loss(step, sources)).backward()
    generation, mask, _ = mixer_losses(method, step, sources)
    (generation + 0.1 * mask).backward()  # at the start of a run
    for name, grad in whole.items():
        torch.testing.assert_close(grads(method)[name], grad, msg=name)


def test_masks_have_a_graph_in_the_mixer_branch_only(monkeypatch):
    method, seen = moco(), []
    paint = SAMixIMixup.predict_mask

    def caught(self, sources, draw):
        mask = paint(self, sources, draw)
        seen.append((mask.requires_grad, draw))
        return mask

    monkeypatch.setattr(SAMixIMixup, "predict_mask", caught)
    method(batch_of())
    (first, encoder_draw), (second, mixer_draw) = seen
    assert not first
    assert second
    assert not torch.equal(encoder_draw.lam, mixer_draw.lam)  # a draw each
    assert encoder_draw.index is not mixer_draw.index


def test_mixed_images_reach_the_networks_with_and_without_a_graph():
    method, seen = moco(), []
    for name, encoder in (("encoder", method.encoder), ("slow", method.ema_encoder)):
        encoder.model.register_forward_pre_hook(lambda _m, args, name=name: seen.append((name, args[0].requires_grad)))
    method(batch_of())
    # the clean key view, the clean query view, the guides' map (left before its end), the mix of either branch
    assert [graph for name, graph in seen if name == "encoder"] == [False, False]
    assert [graph for name, graph in seen if name == "slow"] == [False, False, True]


# Which image, guide and key ------------------------------------------------------------------------------------------


class Plain(MaskGenerator):
    """Paints lam everywhere, and keeps what it was shown."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, MaskGeneratorConfig())
        self.weight = nn.Parameter(torch.ones(()))
        self.shown: list[tuple[Tensor, Tensor]] = []

    def project(self, z: Tensor) -> Tensor:
        return z

    def predict_mask(self, projected: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        self.shown.append((projected.mean((2, 3)).argmax(1), partner.mean((2, 3)).argmax(1)))
        return (as_map(lam, projected.new_zeros(len(lam), 1, *size)) * self.weight).float()


class DoublyShuffled(Plain):
    """The mistake that this file is to catch: the partners' guides are shuffled once more."""

    def predict_mask(self, projected: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        return super().predict_mask(projected, partner.roll(1, 0), lam, size)


def check_pairing(mixer: Plain, pair: str, monkeypatch) -> None:
    """Runs steps on images that name themselves, and asserts that guides, pixels and keys are of the same pairs."""
    size, calls = mixer.dim // 2, []
    real = contrastive_mixup.mixed_info_nce

    def caught(*args):
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(contrastive_mixup, "mixed_info_nce", caught)
    options = MoCoOptions(dim=2 * size, queue=4 * size, groups=2, projector="linear")
    mixing = SAMixIOptions(pair=pair, per_sample=True, lam_margin=-1.0)
    generator = torch.Generator().manual_seed(1)
    method = MoCo(Colours(2 * size), options, mixup=mixer, feature="same", mixup_options=mixing, generator=generator)
    method.encoder.projector = method.ema_encoder.projector = nn.Identity()
    for _ in range(3):
        method(named_views(size))
    assert len(calls) == len(mixer.shown) == 6  # two branches a step
    for (own, partner), (z, keys, weights, _, _) in zip(mixer.shown, calls, strict=True):
        colours = z.detach() / z.detach().sum(1, keepdim=True)  # what the mixed pixels are made of
        told = torch.zeros_like(colours).scatter_add(1, torch.stack([own, partner], 1), weights)
        torch.testing.assert_close(colours, told)
        assert torch.equal(own, torch.arange(size))  # the own image is a first view
        other_view = (torch.stack([own, partner], 1) + size) % (2 * size)
        assert torch.equal(keys.argmax(2), other_view)
        assert (partner % size != own).all()
        assert ((partner >= size) == (pair == "cross")).all()


@pytest.mark.parametrize("pair", ["same", "cross"])
def test_a_mask_is_put_on_the_images_it_was_painted_for_and_judged_by_their_other_views(pair, monkeypatch):
    check_pairing(Plain(16), pair, monkeypatch)


@pytest.mark.parametrize("pair", ["same", "cross"])
def test_guides_that_are_shuffled_twice_are_noticed(pair, monkeypatch):
    with pytest.raises(AssertionError):
        check_pairing(DoublyShuffled(16), pair, monkeypatch)


def test_nobody_is_paired_with_itself():
    mixing = moco().mixup
    for size in range(2, 10):
        for _ in range(120):
            index = mixing.draw(size, torch.device("cpu")).index
            assert torch.equal(index.sort().values, torch.arange(size))
            assert (index != torch.arange(size)).all()


def test_one_lam_per_batch_or_per_sample():
    cpu = torch.device("cpu")
    assert len(moco().mixup.draw(8, cpu).lam.unique()) == 1
    assert len(moco(SAMixIOptions(per_sample=True)).mixup.draw(8, cpu).lam.unique()) == 8


# Masks ---------------------------------------------------------------------------------------------------------------


def branch_with(method: MoCo, batch, lam: float, mask: float | None, monkeypatch) -> Tensor:
    """The images that the encoder branch shows the network, at this lam and with this constant mask."""
    index = torch.arange(8).roll(1)
    draw = Draw(torch.full((8,), lam), index)
    monkeypatch.setattr(SAMixIMixup, "draw", lambda *_: draw)
    if mask is not None:
        full = torch.full((8, 1, *batch[0].shape[2:]), mask)
        monkeypatch.setattr(SAMixIMixup, "predict_mask", lambda *_: full)
    seen = []
    hook = method.encoder.model.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    step, sources = parts_of(method, batch)
    method.mixup.encoder_loss(step, sources)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("mask", [0.0, 1.0])
def test_a_mask_of_1_shows_the_own_view_and_of_0_the_partner_bit_for_bit(mask, monkeypatch):
    method, batch = moco(SAMixIOptions(adjust_margin=-1.0)), batch_of()
    seen = branch_with(method, batch, 0.5, mask, monkeypatch)
    assert torch.equal(seen, batch[0] if mask else batch[0].roll(1, 0))


@pytest.mark.parametrize("lam", [0.0, 1.0, 0.05, 0.95])
def test_near_0_and_1_the_encoder_branch_is_plain_mixup(lam, monkeypatch):
    method, batch = moco(), batch_of()
    seen = branch_with(method, batch, lam, None, monkeypatch)
    torch.testing.assert_close(seen, lam * batch[0] + (1.0 - lam) * batch[0].roll(1, 0))
    assert method(batch)[0].isfinite()


def test_masks_off_by_more_than_the_margin_are_brought_to_lam():
    mixing = moco(SAMixIOptions(adjust_margin=0.1)).mixup
    mask = torch.rand(64, 1, 8, 8) ** torch.linspace(0.2, 5.0, 64).view(-1, 1, 1, 1)
    lam = torch.rand(64)
    adjusted = mixing.adjust(mask, lam)
    off = (mask.mean((1, 2, 3)) - lam).abs() > 0.1
    assert 0 < off.sum() < 64
    torch.testing.assert_close(adjusted.mean((1, 2, 3))[off], lam[off])
    assert torch.equal(adjusted[~off], mask[~off])
    assert adjusted.min() >= 0
    assert adjusted.max() <= 1
    assert torch.equal(moco(SAMixIOptions(adjust_margin=-1.0)).mixup.adjust(mask, lam), mask)


# The losses ----------------------------------------------------------------------------------------------------------


def adjusted_by_hand(mask: Tensor, lam: float, margin: float = 0.05) -> Tensor:
    mean = float(mask.mean())
    if mean > lam + margin:
        return mask * lam / mean
    if mean < lam - margin:
        return 1.0 - (1.0 - mask) * (1.0 - lam) / (1.0 - mean)
    return mask


def test_the_papers_loss_is_the_loop():
    method, (view_q, view_k) = moco(SAMixIOptions(adjust_margin=0.05)), batch_of()
    t, queue, key = 0.2, method.queue.snapshot(), method.keys(view_k)
    mixing = method.mixup
    rewind(method)
    draws = [mixing.draw(8, torch.device("cpu")) for _ in range(2)]
    z = mixing.mixer.project(method.ema_encoder.feature_map(view_q))
    wanted = {"nce": sum(oracles.info_nce(normalized(method.encoder(view_q)).detach(), key, queue, t)) / 8}
    masks = []
    for name, draw, encoder in zip(("mixed", "global"), draws, (method.encoder, method.ema_encoder), strict=True):
        mask = mixing.mixer.predict_mask(z, z[draw.index], draw.lam, (16, 16)).detach()
        masks.append(mask)
        if name == "mixed":
            adjusted = torch.stack([adjusted_by_hand(m, float(share)) for m, share in zip(mask, draw.lam, strict=True)])
            assert 0 < sum(torch.equal(a, m) for a, m in zip(adjusted, mask, strict=True)) < 8
            mask = adjusted
        mixed = mask * view_q + (1.0 - mask) * view_q[draw.index]
        embedding = normalized(encoder(mixed)).detach()
        keys = torch.stack([key, key[draw.index]], 1)
        weights = torch.stack([draw.lam, 1.0 - draw.lam], 1)
        wanted[name] = sum(oracles.mixed_info_nce(embedding, keys, weights, queue, t)) / 8
        if name == "global":
            wanted["local"] = sum(oracles.local_bce(embedding, keys[:, 0], keys[:, 1], draw.lam, t)) / 8
    wanted["generation"] = wanted["local"] + 0.5 * wanted["global"]
    error = (masks[1].mean((1, 2, 3)) - draws[1].lam).abs()
    variance = ((masks[1] - masks[1].mean((1, 2, 3), keepdim=True)) ** 2).mean()
    wanted["mask"] = float((error - 0.1).clamp(min=0).mean() - 2.0 * variance)
    rewind(method)
    loss, parts = method((view_q, view_k))
    for name in ("nce", "mixed", "generation", "mask"):
        assert float(parts[name]) == pytest.approx(wanted[name], abs=2e-5), name
    assert float(parts["mask_error"]) == pytest.approx(float(error.mean()), abs=1e-6)
    total = wanted["nce"] + wanted["mixed"] + wanted["generation"] + 0.1 * wanted["mask"]
    assert loss.item() == pytest.approx(total, abs=1e-4)


def test_weights_follow_the_progress():
    method, batch = moco(), batch_of()
    totals = []
    for progress in (0.0, 0.5, 1.0):
        rewind(method)
        method.progress = progress
        loss, parts = method.eval()(batch)
        totals.append(loss.item() - float(parts["nce"] + parts["mixed"] + parts["generation"]))
    assert totals == pytest.approx([0.1 * float(parts["mask"]), 0.05 * float(parts["mask"]), 0.0], abs=1e-5)


def test_the_references_positives_lie_on_the_line_of_an_images_two_keys():
    method = moco("reference")
    _, sources = parts_of(method, batch_of())
    draw = method.mixup.draw(8, torch.device("cpu"))
    forms = set()
    for seed in range(12):
        rewind(method, seed)
        own, other = method.mixup.extend(sources, draw)
        torch.testing.assert_close(own.norm(dim=1), torch.ones(8))
        torch.testing.assert_close(other.norm(dim=1), torch.ones(8))
        assert not own.requires_grad
        same = copy.copy(sources)._replace(partner_key=sources.key)
        rewind(method, seed)
        alike, _ = method.mixup.extend(same, draw)  # between equal keys there is no line
        torch.testing.assert_close(alike, sources.key)
        low, high = torch.minimum(sources.key, sources.partner_key), torch.maximum(sources.key, sources.partner_key)
        raw = own * ((low + high) / 2).norm(dim=1, keepdim=True)
        forms.add(bool((raw > high + 0.05).any() or (raw < low - 0.05).any()))
    assert forms == {False, True}  # between the keys, or beyond them


def test_the_papers_positives_are_the_own_key_and_the_other_views_of_the_partner():
    method = moco(SAMixIOptions(pair="cross", extended=False))
    step, sources = parts_of(method, batch_of())
    assert not torch.equal(sources.key, sources.partner_key)  # of two views
    draw = Draw(torch.linspace(0.1, 0.9, 8), torch.arange(8).roll(1))
    z = F.normalize(torch.randn(8, 6), dim=1)
    near = torch.stack([(z * sources.key).sum(1), (z * sources.partner_key.roll(1, 0)).sum(1)], dim=1)
    own = (near / step.temperature).softmax(1)[:, 0]
    expected = F.binary_cross_entropy(own, draw.lam)
    torch.testing.assert_close(method.mixup.local_loss(step, z, sources, draw), expected)


def test_partners_positives_are_those_of_the_partners():
    method = moco("reference")
    _, sources = parts_of(method, batch_of())
    identity = Draw(torch.full((8,), 0.5), torch.arange(8))
    turned = Draw(torch.full((8,), 0.5), torch.arange(8).roll(1))
    rewind(method)
    own, other = method.mixup.extend(sources, identity)
    rewind(method)
    same, moved = method.mixup.extend(sources, turned)
    assert torch.equal(own, same)
    assert torch.equal(moved, other.roll(1, 0))


def test_the_mixer_alone_lowers_its_loss_and_its_masks_take_form():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    options = MoCoOptions(dim=16, queue=32, key_bn="none")
    method = MoCo(trunk(), options, mixup=SAMixer(12), feature="body", generator=generator)
    with torch.no_grad():
        for p in method.ema_encoder.parameters():
            p.mul_(2.0 if p.dim() > 1 else 1.0)  # an untrained network's embeddings nearly coincide
    view = torch.randn(8, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    frozen = copy.deepcopy(method.ema_encoder.state_dict())
    optimizer = torch.optim.Adam(method.mixup.parameters(), 0.03)

    def generation(seed: int) -> tuple[Tensor, Tensor]:
        rewind(method, seed)
        step, sources = parts_of(method, (view, view))
        loss, _, report = mixer_losses(method, step, sources)
        return loss, report["mask_std"]

    def measured() -> float:
        return sum(generation(seed)[0].item() for seed in range(6)) / 6

    before = measured()
    for step in range(50):
        loss, mask_std = generation(100 + step)
        if step == 0:
            assert mask_std < 1e-4  # a new Mixer's masks are constant
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.mixup.after_step(step / 50)
    assert measured() < before - 0.01
    assert generation(0)[1] > 0.05
    assert all(torch.equal(frozen[k], v) for k, v in method.ema_encoder.state_dict().items())


# State ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["none", "split", "eman"])
def test_mixed_images_leave_the_momentum_encoders_statistics_alone(policy):
    method = moco(net=tiny_cnn(0), key_bn=policy, groups=2)
    step, sources = parts_of(method, batch_of(8, 32))
    before = {n: b.clone() for n, b in method.ema_encoder.named_buffers()}
    mixer_losses(method, step, sources)
    assert all(torch.equal(before[n], b) for n, b in method.ema_encoder.named_buffers())


@PRESETS
@pytest.mark.parametrize("per_sample", [False, True])
def test_some_steps_train_both_networks(preset, per_sample):
    method = moco(dataclasses.replace(SAMIX_I_PRESETS[preset], per_sample=per_sample), tiny_cnn(0), groups=2)
    groups = method.parameter_groups(0.1, mixer_lr=0.02)
    assert [(g["name"], g["lr"]) for g in groups] == [("network", 0.1), ("mixer", 0.02)]
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in method.mixup.parameters()}
    optimizer, before = torch.optim.SGD(groups), copy.deepcopy(method.state_dict())
    for step in range(3):
        optimizer.zero_grad()
        loss, parts = method(batch_of(8, 32))
        loss.backward()
        optimizer.step()
        method.after_step(step / 3)
        assert loss.isfinite()
        assert not any(part.requires_grad for part in parts.values())
    after = method.state_dict()
    moved = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert moved == {"encoder", "ema_encoder", "queue", "mixup", "_extra_state"}
    assert torch.equal(method.queue.keys[:24].norm(dim=1).round(decimals=5), torch.ones(24))


def test_only_clean_keys_are_enqueued():
    method, (view_q, view_k) = moco("reference"), batch_of()
    key = method.keys(view_k)
    method((view_q, view_k))
    assert torch.equal(method.queue.keys[:8], key)


def test_a_preview_is_the_mixers_mask_and_leaves_no_trace():
    method, images = moco(), batch_of()[0]
    state, modes = method.generator.get_state(), [m.training for m in method.modules()]
    index = torch.arange(8).roll(1)
    batch = method.preview(images, torch.arange(8), 0.3, index)
    assert torch.equal(method.generator.get_state(), state)
    assert [m.training for m in method.modules()] == modes
    method.eval()
    z = method.mixup.mixer.project(method.ema_encoder.feature_map(images))
    wanted = method.mixup.mixer.predict_mask(z, z[index], torch.full((8,), 0.3), (16, 16))
    torch.testing.assert_close(batch.mask, wanted)


# Wrong input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"alpha": 0.0}, r"alpha must be in \(0, inf\)"),
        ({"pair": "intra"}, "pair"),
        ({"extended": True}, 'pair="cross"'),
        ({"mask_schedule": "step"}, "mask_schedule"),
    ],
)
def test_wrong_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        SAMixIOptions(**options)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="unknown preset 'ours'"):
        moco("ours")
    with pytest.raises(ValueError, match="reads maps of 7 channels, the encoder's stage gives 32"):
        MoCo(tiny_cnn(0), MoCoOptions(queue=32), mixup=SAMixer(7))
    with pytest.raises(ValueError, match=r'give feature="layer\.name"'):
        MoCo(trunk(), MoCoOptions(queue=32), mixup=SAMixer(12))
    with pytest.raises(ValueError, match="at least two images"):
        moco()(batch_of(1))


def test_presets_are_named_and_the_papers_is_the_default():
    assert moco().mixup.options == SAMIX_I_PRESETS["paper"]
    assert all(preset.preset == name for name, preset in SAMIX_I_PRESETS.items())
    paper = SAMIX_I_PRESETS["paper"]
    assert (paper.alpha, paper.pair, paper.local_weight, paper.global_weight) == (2.0, "same", 1.0, 0.5)
    assert (paper.mask_weight, paper.mask_schedule, paper.mask_margin) == (0.1, "linear", 0.1)


def test_unit_keys():
    method = moco()
    key = method.keys(batch_of()[0])
    torch.testing.assert_close(key, F.normalize(key, dim=1))
