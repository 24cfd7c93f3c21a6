"""SAMix-C and mixups by pseudo labels: who is trained by what, losses by loops, warm-up, runs that are resumed."""

from dataclasses import replace

import oracles_clustering as oracle
import pytest
import torch
import torch.nn.functional as F
from sampling import sampled
from tiny_networks import PlainNet, tiny_cnn, tiny_vit
from torch import nn

from samix.batch import MixedBatch
from samix.losses.contrastive import info_nce, local_bce, normalized
from samix.methods.contrastive.moco import MoCo, MoCoOptions
from samix.methods.contrastive.pseudo_labels import PseudoLabelMixup, PseudoLabelOptions
from samix.methods.contrastive.samix_c import SAMIX_C_PRESETS, SAMixCMixup, SAMixCOptions
from samix.methods.contrastive.samix_i import SAMixIOptions
from samix.methods.learned import Draw
from samix.mixers.samix import SAMixer
from samix.mixups.boxes import cutmix
from samix.mixups.handmade import CutMix, mixup
from samix.mixups.inter_intra import InterIntraMix, inter_intra_mix
from samix.mixups.puzzle import PuzzleMix
from samix.networks.last_map import grad_cam

IMAGES, BATCH = 40, 8
SMALL = {"clusters": 4, "min_cluster": 2, "warmup_epochs": 1, "centroid_every": 2, "repair_every": 3}
MOCO = MoCoOptions(queue=32, dim=16, groups=2, ema_decay=0.9)
PAPER = SAMixCOptions(**SMALL)
REFERENCE = replace(SAMIX_C_PRESETS["reference"], **{**SMALL, "warmup_epochs": 0})
PSEUDO = PseudoLabelOptions(**SMALL)
KINDS = {
    "paper": (lambda: SAMixer(32), PAPER),
    "reference": (lambda: SAMixer(32, dropout=0.0), REFERENCE),
    "interintra": (InterIntraMix, PSEUDO),
    "puzzlemix": (lambda: PuzzleMix(blocks=4, iterations=10), PSEUDO),
}


def new_method(kind: str = "paper", **changes: object) -> MoCo:
    torch.manual_seed(1)
    make, options = KINDS[kind]
    mixing = replace(options, **changes)
    generator = torch.Generator().manual_seed(2)
    method = MoCo(tiny_cnn(0), MOCO, mixup=make(), mixup_options=mixing, images=IMAGES, generator=generator)
    if mixing.warmup_epochs == 0:
        method.mixup.clusters.initialise(torch.randn(IMAGES, 16, generator=generator))
    return method


def running(kind: str = "paper", **changes: object) -> MoCo:
    """With clusters from the first step on, shared by some rows of a batch, and heads that say something."""
    method = new_method(kind, **{**changes, "warmup_epochs": 0})
    clusters = method.mixup.clusters
    clusters.labels.copy_(torch.arange(IMAGES) // 2 % 4)
    clusters.labels[:5] = 0
    clusters.update_centroids()
    clusters.update_weights()
    for head in (getattr(method.mixup, name, None) for name in ("head", "ema_head", "classifier")):
        if head is not None:
            nn.init.normal_(head.weight)
    return method


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    images = torch.randn(IMAGES, 3, 32, 32, generator=generator)
    ids = (torch.arange(BATCH) + BATCH * step) % IMAGES
    generator.manual_seed(100 + step)
    noise = torch.randn(2, BATCH, 3, 32, 32, generator=generator) * 0.3
    return images[ids] + noise[0], images[ids] + noise[1], ids


def gradients(module: nn.Module) -> list[torch.Tensor | None]:
    return [p.grad for p in module.parameters()]


def backward(method: MoCo, step: int = 0) -> dict[str, torch.Tensor]:
    method.generator.manual_seed(5)
    method.zero_grad(set_to_none=True)
    loss, _ = method(batch(step))
    loss.backward()
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def of(grads: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name: grad for name, grad in grads.items() if name.startswith(prefix)}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def moves(grads: dict[str, torch.Tensor]) -> bool:
    return any(bool((grad != 0).any()) for grad in grads.values())


# Who is trained by what -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["paper", "reference"])
def test_clusters_train_the_head_alone_and_the_head_trains_nobody(kind, monkeypatch):
    whole = backward(running(kind))
    assert moves(of(whole, "encoder"))
    assert moves(of(whole, "mixup.mixer"))
    assert moves(of(whole, "mixup.head"))
    assert not of(whole, "ema_encoder")
    assert not of(whole, "mixup.ema_head")
    monkeypatch.setattr(SAMixCMixup, "head_loss", lambda *args: torch.zeros(()))
    without = backward(running(kind))
    assert not of(without, "mixup.head")
    assert equal(of(whole, "encoder"), of(without, "encoder"))
    assert equal(of(whole, "mixup.mixer"), of(without, "mixup.mixer"))


@pytest.mark.parametrize("kind", ["paper", "reference"])
def test_the_mixer_is_trained_by_the_ema_head_and_the_masks_loss_alone(kind, monkeypatch):
    whole = backward(running(kind))
    monkeypatch.setattr(SAMixCMixup, "generation_loss", lambda *args: torch.zeros(()))
    masks = backward(running(kind))
    assert equal(of(whole, "encoder"), of(masks, "encoder"))
    assert equal(of(whole, "mixup.head"), of(masks, "mixup.head"))
    assert not equal(of(whole, "mixup.mixer"), of(masks, "mixup.mixer"))
    nothing = backward(running(kind, mask_weight=0.0))
    assert not moves(of(nothing, "mixup.mixer"))
    assert moves(of(nothing, "mixup.head"))


def test_the_head_itself_does_not_judge_only_its_frozen_copy_does():
    parts = []
    for change in (lambda mixing: None, lambda mixing: mixing.head.weight, lambda mixing: mixing.ema_head.weight):
        method = running()
        weight = change(method.mixup)
        if weight is not None:
            nn.init.normal_(weight, std=3.0)
        method.generator.manual_seed(5)
        parts.append(method(batch(0))[1])
    assert parts[1]["generation"] == parts[0]["generation"] != parts[2]["generation"]
    assert parts[1]["clusters"] != parts[0]["clusters"] == parts[2]["clusters"]


@pytest.mark.parametrize(("momentum", "kept"), [(0.0, 0.0), (0.75, 0.75)])
def test_after_each_step_the_ema_head_follows(momentum, kept):
    method = running(head_ema_decay=momentum)
    head, frozen = method.mixup.head, method.mixup.ema_head
    with torch.no_grad():
        head.weight += 1.0
    before = frozen.weight.clone()
    method.after_step(0.5)
    torch.testing.assert_close(frozen.weight, kept * before + (1 - kept) * head.weight.detach())
    assert not frozen.weight.requires_grad


@pytest.mark.parametrize("step", [0, 6])
@pytest.mark.parametrize("kind", ["paper", "interintra", "puzzlemix"])
def test_every_trained_parameter_has_a_gradient_in_warm_up_and_after(kind, step):
    """Else several processes would wait for each other; the groups of the optimiser hold each of them once."""
    method = new_method(kind)
    for number in range(step):
        method(batch(number))
    assert method.mixup.clusters.running == (step > 0)
    backward(method, step)
    trained = [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    groups = method.parameter_groups(0.1, weight_decay=1e-4, mixer_lr=0.02)
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(id(p) for p in trained)
    rates = {"network": 0.1, "mixer": 0.02, "clusters": 0.02}
    assert all(group["lr"] == rates[group["name"]] for group in groups)


# The losses -----------------------------------------------------------------------------------------------------------


def caught_step(method: MoCo, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the losses were given in one step."""
    found: dict[str, object] = {}
    generation, head = SAMixCMixup.generation_loss, SAMixCMixup.head_loss

    def catch_generation(self, step, sources, branch):
        value = generation(self, step, sources, branch)
        found.update(step=step, branch=branch, z=branch.embedding, sources=sources, draw=branch.draw, generation=value)
        return value

    def catch_head(self, embedding, sources, branch):
        found.update(clean=embedding, head=head(self, embedding, sources, branch))
        return found["head"]

    monkeypatch.setattr(SAMixCMixup, "generation_loss", catch_generation)
    monkeypatch.setattr(SAMixCMixup, "head_loss", catch_head)
    found["before"] = method.mixup.clusters.labels.clone()
    found["weights"] = method.mixup.clusters.weights.tolist()
    found["key"] = method.keys(batch(0)[1])
    found["loss"], found["parts"] = method(batch(0))
    return found


def test_the_losses_equal_loops_over_pairs(monkeypatch):
    method = running(per_sample=True)
    found = caught_step(method, monkeypatch)
    draw, z, labels = found["draw"], found["z"].detach(), found["before"][batch(0)[2]]
    lam, partners = draw.lam.tolist(), labels[draw.index]
    assert 0 < int((labels == partners).sum()) < BATCH  # pairs of both kinds
    pairs, shares = torch.stack([labels, partners], 1).tolist(), [[value, 1 - value] for value in lam]
    judged = method.mixup.ema_head(z).tolist()
    local = oracle.pair_bce(judged, labels.tolist(), partners.tolist(), lam)
    mixed = oracle.weighted_mixed_ce(judged, pairs, shares, found["weights"])
    assert float(found["generation"].detach()) == pytest.approx(local + 0.5 * mixed, rel=1e-5)
    clean = oracle.weighted_mixed_ce(
        method.mixup.head(found["clean"]).tolist(), labels[:, None].tolist(), [[1.0]] * BATCH, found["weights"]
    )
    head_mixed = oracle.weighted_mixed_ce(method.mixup.head(z).tolist(), pairs, shares, found["weights"])
    assert float(found["head"].detach()) == pytest.approx(clean + head_mixed, rel=1e-5)
    parts = found["parts"]
    weight = 0.1  # of the masks' loss, at the start
    wanted = parts["nce"] + parts["mixed"] + parts["generation"] + weight * parts["mask"] + parts["clusters"]
    torch.testing.assert_close(found["loss"].detach(), wanted)


def test_the_clean_embeddings_of_the_head_are_those_of_the_keys_before_unit_length(monkeypatch):
    found = caught_step(running().eval(), monkeypatch)
    assert float((found["clean"].norm(dim=1) - 1.0).abs().min()) > 1e-3
    assert not found["clean"].requires_grad
    torch.testing.assert_close(normalized(found["clean"]), found["key"])


def test_labels_are_read_before_the_bank_takes_in_the_step(monkeypatch):
    method = running()
    method.mixup.clusters.labels[:BATCH] = torch.tensor([3, 1, 0, 2, 2, 0, 1, 3])
    found = caught_step(method, monkeypatch)
    assert found["sources"].label.tolist() == [3, 1, 0, 2, 2, 0, 1, 3]
    assert float(found["parts"]["changed"]) > 0
    assert method.mixup.clusters.labels[:BATCH].tolist() != found["before"][:BATCH].tolist()


def test_rows_of_the_bank_are_the_keys_of_this_step():
    method = running()
    method.options = replace(MOCO, key_bn="none")
    with torch.no_grad():
        key = method.keys(batch(1)[1])
    others = method.mixup.clusters.bank[16:].clone()
    method(batch(1))
    torch.testing.assert_close(method.mixup.clusters.bank[8:16], key)
    assert torch.equal(method.mixup.clusters.bank[16:], others)


def test_class_weights_count_in_both_losses():
    parts = []
    for weights in ([0.25] * 4, [0.9, 0.05, 0.03, 0.02], [90.0, 5.0, 3.0, 2.0]):
        method = running()
        method.mixup.clusters.weights.copy_(torch.tensor(weights))
        method.generator.manual_seed(5)
        parts.append(method(batch(0))[1])
    for name in ("generation", "clusters"):
        assert abs(float(parts[0][name] - parts[1][name])) > 1e-4
        torch.testing.assert_close(parts[1][name], parts[2][name])  # their scale does not
    assert parts[0]["mixed"] == parts[1]["mixed"]


def test_the_reference_takes_the_local_term_from_keys_between_an_images_two(monkeypatch):
    method = running("reference")
    key, partner = F.normalize(torch.rand(BATCH, 16), dim=1), F.normalize(torch.rand(BATCH, 16), dim=1)
    found = caught_step(method, monkeypatch)
    sources = found["sources"]._replace(key=key, partner_key=partner)
    draw = Draw(torch.full((BATCH,), 0.3), torch.arange(BATCH).roll(1))
    for _ in range(10):
        own, other = method.mixup.extend(sources, draw)
        assert float(own.min()) > 0  # an extrapolation would leave the positive part
        torch.testing.assert_close(own.norm(dim=1), torch.ones(BATCH))
        assert not torch.equal(own, other)
    monkeypatch.setattr(method.mixup, "extend", lambda sources, draw: (key, partner))
    z = found["z"].detach()
    local = local_bce(normalized(z), key, partner, draw.lam, MOCO.temperature).mean()
    mixed = method.mixup.cluster_loss(method.mixup.ema_head(z), sources.label, draw)
    branch = found["branch"]._replace(draw=draw, embedding=z)
    step = replace(found["step"], progress=0.0)
    torch.testing.assert_close(method.mixup.generation_loss(step, sources, branch), local + mixed)
    step = replace(found["step"], progress=0.5, done=1000)  # by then the local term is gone
    torch.testing.assert_close(method.mixup.generation_loss(step, sources, branch), mixed)


@pytest.mark.parametrize("auto_label", [True, False])
def test_pairs_of_one_cluster_take_a_plain_mask_and_others_samix_is(auto_label, monkeypatch):
    method = running(auto_label=auto_label)
    sources = caught_step(method, monkeypatch)["sources"]._replace(label=torch.tensor([0, 0, 1, 2, 1, 1, 3, 0]))
    draw = Draw(torch.full((BATCH,), 0.4), torch.tensor([1, 2, 3, 4, 5, 6, 7, 0]))
    same, mask = [0, 4, 7], torch.rand(BATCH, 1, 32, 32)
    finished = method.mixup.finish_mask(mask, sources, draw)
    plain = method.mixup.finish_mask(mask, sources._replace(label=None), draw)
    for row in range(BATCH):
        if auto_label and row in same:
            assert torch.equal(finished[row], torch.full((1, 32, 32), 0.4))
        else:
            assert torch.equal(finished[row], plain[row])
            assert float(finished[row].std()) > 0.1


def test_the_mixers_own_branch_keeps_its_masks_for_pairs_of_one_cluster(monkeypatch):
    method = running()
    method.mixup.clusters.labels.zero_()
    painted = []
    mixer_branch = SAMixCMixup.mixer_branch

    def catch(self, *args):
        branch = mixer_branch(self, *args)
        painted.append(branch.mask)
        return branch

    monkeypatch.setattr(SAMixCMixup, "mixer_branch", catch)
    nn.init.normal_(method.mixup.mixer.value_out.weight)
    loss, _ = method(batch(0))
    assert painted[0].requires_grad
    assert float(painted[0].detach().std()) > 0.01
    assert torch.isfinite(loss)  # though no pair is left for the local term


# Warm-up, state, modes ------------------------------------------------------------------------------------------------


def test_until_there_are_clusters_the_step_is_samix_is():
    shared = {name: getattr(PAPER, name) for name in SAMixIOptions().__dict__}
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(2)
    plain = MoCo(tiny_cnn(0), MOCO, mixup=SAMixer(32), mixup_options=SAMixIOptions(**shared), generator=generator)
    method = new_method()
    for step in range(7):
        ours, parts = method(batch(step))
        theirs, other_parts = plain(batch(step))
        assert torch.equal(ours.detach(), theirs.detach()) == (step < 5)
        assert (float(parts["clusters"]) == 0.0) == (step < 5)
        assert torch.equal(parts["nce"], other_parts["nce"])
    ours.backward()


def test_until_there_are_clusters_pseudo_labels_mix_nothing():
    for kind in ("interintra", "puzzlemix"):
        plain, method = MoCo(tiny_cnn(0), MOCO, generator=torch.Generator().manual_seed(2)), new_method(kind)
        plain.load_state_dict({k: v for k, v in method.state_dict().items() if not k.startswith("mixup")})
        for step in range(6):
            ours, parts = method(batch(step))
            if step < 5:
                assert torch.equal(ours.detach(), plain(batch(step))[0].detach())
                assert float(parts["mixed"]) == 0.0
        assert float(parts["mixed"]) > 0.0


@pytest.mark.parametrize(("kind", "stop"), sampled(KINDS, [3, 6]))
def test_a_resumed_run_is_the_unbroken_one(kind, stop):
    """Of 12 steps; the first clusters come at the fifth, but for the reference's, which are there from the start."""

    def train(method, optimizer, first, last):
        for step in range(first, last):
            loss, _ = method(batch(step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            method.after_step((step + 1) / 12)

    def new():
        method = new_method(kind)
        return method, torch.optim.SGD(method.parameter_groups(0.02, weight_decay=1e-4), lr=0.02, momentum=0.9)

    unbroken, optimizer = new()
    train(unbroken, optimizer, 0, 12)
    method, optimizer = new()
    train(method, optimizer, 0, stop)
    weights = {key: value.clone() for key, value in method.state_dict().items()}
    states = [weights, optimizer.state_dict(), method.generator.get_state()]
    resumed, optimizer = new()
    train(resumed, optimizer, 0, 1)  # has been somewhere else
    resumed.load_state_dict(states[0])
    optimizer.load_state_dict(states[1])
    resumed.generator.set_state(states[2])
    resumed.progress = stop / 12  # as the engine sets it
    train(resumed, optimizer, stop, 12)
    wanted = unbroken.state_dict()
    assert set(wanted) == set(resumed.state_dict())
    for key, value in resumed.state_dict().items():
        assert torch.equal(value, wanted[key]), key
    names = {"mixup.clusters." + name for name in ("bank", "labels", "centroids", "weights", "steps", "started")}
    assert names <= set(wanted)


@pytest.mark.parametrize("kind", list(KINDS))
def test_in_eval_mode_and_in_a_preview_nothing_is_remembered(kind):
    method = running(kind).eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method(batch(0))
    state = method.generator.get_state()
    labels = torch.tensor([4, 5, 6, 7])
    shown = method.preview(batch(0)[0][:4], labels, 0.5, torch.tensor([1, 0, 3, 2]))
    assert isinstance(shown, MixedBatch)
    assert shown.labels.tolist() == [[4, 5], [5, 4], [6, 7], [7, 6]]
    assert torch.equal(method.generator.get_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert all(grad is None for grad in gradients(method))


@pytest.mark.parametrize("kind", list(KINDS))
def test_under_autocast_losses_are_finite_and_the_bank_stays_float32(kind):
    method = running(kind)
    with torch.autocast("cpu", torch.bfloat16):
        loss, parts = method(batch(0))
    loss.backward()
    assert all(bool(torch.isfinite(part)) for part in parts.values())
    assert method.mixup.clusters.bank.dtype == torch.float32
    oracle.check(method.mixup.clusters)


# Inter-Intra ----------------------------------------------------------------------------------------------------------


def test_pairs_of_two_classes_are_cut_and_pairs_of_one_are_added():
    x, centre = torch.randn(6, 3, 9, 7), torch.rand(6, 2)
    partner, lam, intra = x.roll(1, 0), torch.rand(6), torch.rand(6)
    same = torch.tensor([True, False, False, True, True, False])
    found = inter_intra_mix(x, partner, lam, intra, same, centre)
    for row in range(6):
        one = slice(row, row + 1)
        cut, added = cutmix(x[one], partner[one], lam[one], centre[one]), mixup(x[one], partner[one], intra[one])
        for ours, theirs in zip(found, added if same[row] else cut, strict=True):
            assert torch.equal(ours[one], theirs.expand_as(ours[one]))
    compiled = torch.compile(inter_intra_mix, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, partner, lam, intra, same, centre).images, found.images)


def test_labels_decide_which_and_lam_is_each_pairs_own():
    x, labels = torch.randn(64, 3, 8, 8), torch.arange(64) % 2
    mix = InterIntraMix(generator=torch.Generator().manual_seed(0), pairing="cycle")
    found = mix(x, labels)
    same = found.labels[:, 0] == found.labels[:, 1]
    binary = ((found.mask == 0) | (found.mask == 1)).all(dim=(1, 2, 3))
    assert 5 < int(same.sum()) < 59
    assert bool(binary[~same].all())
    flat = found.mask.flatten(1)
    assert torch.equal(flat[same].amin(1), flat[same].amax(1))
    torch.testing.assert_close(found.mask.mean((1, 2, 3)), found.lam)
    assert len(set(found.lam.tolist())) > 30
    # alpha 0.2 keeps to the ends, alpha 2 to the middle
    ends = torch.minimum(found.lam, 1 - found.lam)
    assert float(ends[same].mean()) < 0.13 < 0.2 < float(ends[~same].mean())
    again = InterIntraMix(generator=torch.Generator().manual_seed(0), pairing="cycle")(x, labels)
    assert torch.equal(again.images, found.images)


def test_rows_paired_with_themselves_and_a_batch_of_one_stay_as_they_are():
    x, labels = torch.randn(3, 3, 7, 7), torch.tensor([0, 0, 1])
    found = InterIntraMix()(x, labels, index=torch.tensor([0, 2, 1]))
    assert torch.equal(found.images[0], x[0])
    assert found.weights[0].tolist() == [1.0, 0.0]
    one = InterIntraMix()(x[:1], labels[:1])
    assert torch.equal(one.images, x[:1])
    assert one.lam.tolist() == [1.0]
    assert torch.equal(InterIntraMix(prob=0.0)(x, labels).images, x)
    for lam, wanted in ((1.0, x), (0.0, x.roll(1, 0))):
        assert torch.equal(InterIntraMix()(x, labels, lam=lam, index=torch.arange(3).roll(1)).images, wanted)


@pytest.mark.parametrize("labels", [torch.rand(4, 3), torch.rand(4), torch.zeros(4, 7, 7, dtype=torch.int64)])
def test_labels_that_are_no_class_ids_are_refused(labels):
    with pytest.raises(ValueError, match="compares class ids"):
        InterIntraMix()(torch.randn(4, 3, 7, 7), labels)


# PuzzleMix by Grad-CAM ------------------------------------------------------------------------------------------------


def test_grad_cam_of_pooled_features_is_the_classifiers_weighted_map():
    model, classifier = tiny_cnn(0).train(), nn.Linear(64, 4)
    images, labels = torch.randn(5, 3, 64, 96), torch.tensor([0, 3, 1, 1, 2])
    maps, features = grad_cam(model, images, labels, classify=classifier)
    model.eval()
    with torch.no_grad():
        found = model.forward_features(images)  # (B, 64, 2, 3)
        torch.testing.assert_close(features, model(images))
    for row in range(5):
        cam = torch.zeros(2, 3)
        for channel in range(64):
            cam += classifier.weight[labels[row], channel].detach() / 6 * found[row, channel]
        torch.testing.assert_close(maps[row], cam.clamp(min=0), atol=1e-6, rtol=1e-4)
    assert float(maps.amax()) > 0
    assert not features.requires_grad


def test_grad_cam_reads_any_network_by_the_name_of_a_layer_and_vits_by_their_tokens():
    net = PlainNet()
    images, labels = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2])
    classifier = nn.Linear(5, 4)
    maps, features = grad_cam(net, images, labels, "late", classifier)
    net.eval()
    found = net.late(net.body(net.stem(images))).detach()
    rows = (classifier.weight @ net.fc.weight)[labels].detach()
    wanted = (found * rows[:, :, None, None] / 16).sum(1, keepdim=True).clamp(min=0)
    torch.testing.assert_close(maps, wanted.squeeze(1), atol=1e-6, rtol=1e-4)
    vit = tiny_vit(0, global_pool="avg")
    maps, features = grad_cam(vit, images, labels, classify=nn.Linear(48, 4))
    assert maps.shape == (3, 4, 4)
    assert features.shape == (3, 48)
    with pytest.raises(ValueError, match="was run 0 times"):
        grad_cam(net, images, labels, "aside", classifier)


def test_grad_cam_leaves_no_trace_also_when_the_network_raises():
    model, classifier, other = tiny_cnn(0, drop_rate=0.5).train(), nn.Linear(64, 4), nn.Linear(63, 4)
    model.layer1.eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes, state, image = [m.training for m in model.modules()], torch.get_rng_state(), images.clone()

    def untouched():
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert [m.training for m in model.modules()] == modes
        assert torch.equal(torch.get_rng_state(), state)
        assert all(grad is None for grad in gradients(model) + gradients(classifier))
        assert not any(m._forward_hooks for m in model.modules())

    for layer in ("", "layer3"):
        grad_cam(model, images, labels, layer, classifier)
        untouched()
        with pytest.raises(RuntimeError):
            grad_cam(model, images, labels, layer, other)
        untouched()
    assert torch.equal(images, image)


def test_the_classifiers_loss_does_not_reach_the_encoder(monkeypatch):
    whole = backward(running("puzzlemix"))
    assert moves(of(whole, "mixup.classifier"))
    assert not of(whole, "ema_encoder")
    monkeypatch.setattr(PseudoLabelMixup, "classifier_loss", lambda *args: torch.zeros(()))
    without = backward(running("puzzlemix"))
    assert not of(without, "mixup.classifier")
    assert equal(of(whole, "encoder"), of(without, "encoder"))


@pytest.mark.parametrize("kind", ["interintra", "puzzlemix"])
def test_each_source_of_a_mix_by_pseudo_labels_is_contrasted_with_its_own_key(kind, monkeypatch):
    method, found = running(kind), {}
    mix = PseudoLabelMixup.mix

    def catch(self, model, images, labels, lam=None, index=None):
        found["batch"], features = mix(self, model, images, labels, lam, index)
        found["labels"] = labels
        return found["batch"], features

    monkeypatch.setattr(PseudoLabelMixup, "mix", catch)
    method.options = replace(MOCO, key_bn="none")
    labels, negatives = method.mixup.clusters.labels[:8].clone(), method.queue.snapshot()
    key = method.keys(batch(0)[1])
    _, parts = method(batch(0))
    mixed = found["batch"]
    assert torch.equal(found["labels"], labels)
    assert bool((mixed.index[:, 0] != mixed.index[:, 1]).all())
    with torch.no_grad():
        z = normalized(method.encoder(mixed.images))
    total = 0.0
    for row in range(BATCH):
        for source in range(2):
            own = key[mixed.index[row, source]].unsqueeze(0)
            nce = info_nce(z[row : row + 1], own, negatives, MOCO.temperature)
            total += float(mixed.weights[row, source] * nce)
    assert float(parts["mixed"]) == pytest.approx(total / BATCH, rel=1e-4)


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["paper", "interintra"])
def test_batches_without_ids_or_with_ids_of_other_data_are_refused(kind):
    method = new_method(kind)
    with pytest.raises(ValueError, match="which images these are"):
        method(batch(0)[:2])
    view_q, view_k, ids = batch(0)
    with pytest.raises(ValueError, match="rows 0 to 39"):
        method((view_q, view_k, ids + 40))


def test_a_batch_of_one_has_no_partner_for_a_mixer_and_stays_unmixed_by_pseudo_labels():
    one = tuple(part[:1] for part in batch(0))
    options = replace(MOCO, key_bn="none")
    for clusters in (0, 1):
        method = MoCo(
            PlainNet(norm=False), options, mixup=SAMixer(12), feature="body", mixup_options=PAPER, images=IMAGES
        )
        if clusters:
            method.mixup.clusters.initialise(torch.randn(IMAGES, 16))
        with pytest.raises(ValueError, match="at least two images"):
            method(one)
    method = MoCo(PlainNet(norm=False), options, mixup=InterIntraMix(), mixup_options=PSEUDO, images=IMAGES)
    method.mixup.clusters.initialise(torch.randn(IMAGES, 16))
    _, parts = method(one)
    torch.testing.assert_close(parts["mixed"], parts["nce"])


@pytest.mark.parametrize(
    ("mixup", "options", "images", "words"),
    [
        (lambda: SAMixer(32), PAPER, None, r"images=len\(data\)"),
        (lambda: SAMixer(32), PSEUDO, IMAGES, "does not go with SAMixer"),
        (InterIntraMix, PAPER, IMAGES, "does not go with InterIntraMix"),
        (CutMix, PSEUDO, IMAGES, "reads neither classes nor maps"),
        (InterIntraMix, None, IMAGES, "give it clusters"),
        (PuzzleMix, None, IMAGES, "choose one guided by pixels"),
        (lambda: PuzzleMix(clean_weight=1.0), PSEUDO, IMAGES, r"losses of class labels \(clean\)"),
        (lambda: SAMixer(32), PAPER, 32, "a queue of 32 keys over 32 training images"),
        (lambda: SAMixer(32), replace(PAPER, clusters=21), IMAGES, "21 clusters need at least 42"),
        (lambda: SAMixer(32), replace(PAPER, min_cluster=6), IMAGES, "more than half"),
        (lambda: SAMixer(8), PAPER, IMAGES, "the Mixer reads maps of 8 channels"),
    ],
)
def test_what_does_not_go_together_is_refused(mixup, options, images, words):
    with pytest.raises(ValueError, match=words):
        MoCo(tiny_cnn(0), MOCO, mixup=mixup(), mixup_options=options, images=images)


def test_a_network_whose_last_map_is_not_known_is_refused_at_once():
    with pytest.raises(ValueError, match="is not a timm network"):
        MoCo(PlainNet(), MOCO, mixup=PuzzleMix(), mixup_options=PSEUDO, images=IMAGES)
    MoCo(PlainNet(), MOCO, mixup=PuzzleMix(), mixup_options=replace(PSEUDO, layer="late"), images=IMAGES)


def test_without_a_warm_up_the_first_step_asks_for_clusters():
    method = MoCo(tiny_cnn(0), MOCO, mixup=SAMixer(32), mixup_options=REFERENCE, images=IMAGES)
    with pytest.raises(ValueError, match="initialise_from"):
        method(batch(0))
    images, _, _ = zip(*(batch(step) for step in range(5)), strict=True)
    method.mixup.clusters.initialise_from(
        method.ema_encoder, zip(images, torch.arange(IMAGES).split(BATCH), strict=True)
    )
    method(batch(0))
    oracle.check(method.mixup.clusters)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"local": "both"}, "local"),
        ({"extended": True, "pair": "cross"}, "extended positives are keys"),
        ({"head_ema_decay": 1.5}, "head_ema_decay"),
        ({"alpha": 0.0}, "alpha"),
        ({"clusters": 0}, "clusters"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        SAMixCOptions(**options)
