"""Runs without labels by the command: mixups by clusters, the first clusters, pictures, and two processes."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from process_groups import work_in_two
from runs import SLIM, new_run, run_differences

import samix.viz.callbacks
from samix.cli.main import main
from samix.cli.train import parse_pretrain
from samix.data import EvalBatches, denormalize
from samix.methods.contrastive.clustering import OnlineClusters
from samix.methods.contrastive.mixup import AugmentationMixup
from samix.methods.contrastive.pseudo_labels import LENGTH, ClusterClassifier, PseudoLabelMixup
from samix.mixups.inter_intra import InterIntraMix
from samix.mixups.puzzle import PuzzleMix
from samix.recipes.build import build_augment
from samix.recipes.build_pretraining import build_pretraining
from samix.recipes.pretrain_named import PRETRAIN_RECIPES
from samix.runtime import distributed
from samix.train import Interrupted
from samix.train.pretraining import PretrainRun, numbered
from samix.viz.callbacks import draw_views

CLUSTERS = {"clusters": 4, "min_cluster": 2, "warmup_epochs": 1, "centroid_every": 2, "repair_every": 3}
AT_ONCE = {**CLUSTERS, "warmup_epochs": 0}
KINDS = {
    "interintra": ("interintra", CLUSTERS),
    "puzzlemix": ("puzzlemix", {**AT_ONCE, "blocks": 2, "iterations": 10}),
    "samix-c": ("samix-c", {**AT_ONCE, "preset": "reference"}),
}


def recipe_of(kind, **changes):
    """Two epochs of five steps on a hundred digits at 8 pixels."""
    mixup, options = KINDS[kind]
    small = {"model_args": SLIM, "limit": 100, "batch_size": 20, "size": 8, "epochs": 2}
    small["method_options"] = {"preset": "cifar", "queue": 40, "dim": 8, "groups": 2}
    named = PRETRAIN_RECIPES["digits-moco"].build({"method": "moco", "mixup": mixup})
    return dataclasses.replace(named, **{**small, "mixup_options": options, **changes})


def begin(run):
    run.folder.mkdir()
    run.start(there=False)


def by_command(*arguments):
    return parse_pretrain(list(arguments))[0]


# ---------------------------------------------------------------------------------------------------------------------
# What one of two processes does.


def work(out: Path) -> None:
    torch.set_num_threads(1)
    leave_out = distributed.leave_out_equal_buffers
    for kind in ("samix-c", "interintra"):
        for name, function in (("spared", leave_out), ("sent", lambda model: [])):
            distributed.leave_out_equal_buffers = function
            run = new_run(recipe_of(kind, epochs=2 if kind == "interintra" else 1, knn=0), out, f"{kind}-{name}")
            watch(run, out / f"{kind}-{name}-{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()


def watch(run: PretrainRun, path: Path) -> None:
    """Trains, and keeps each step's queue and bank as this process has them, and which buffers DDP sends."""
    seen, step = [], run.train_step

    def watched(batch: object) -> None:
        step(batch)
        names = distributed.leave_out_equal_buffers(run.method)
        seen.append({name: value.clone() for name, value in run.method.state_dict().items() if name in names})

    spared = set(getattr(run.method, "_ddp_params_and_buffers_to_ignore", []))
    run.train_step = watched
    run.fit()
    torch.save({"steps": seen, "spared": sorted(spared), "state": run.method.state_dict()}, path)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder in which two processes have worked."""
    return work_in_two(work, tmp_path_factory.mktemp("two"))


# Mixups by clusters ---------------------------------------------------------------------------------------------------


def test_the_options_of_mixup_and_clusters_reach_them():
    recipe = by_command("--mixup", "interintra", "--mixup.intra-alpha", "0.5", "--mixup.clusters", "7")
    assert recipe.mixup_options == {"intra_alpha": 0.5, "clusters": 7}
    mixup = build_pretraining(recipe, 1437).mixup
    assert isinstance(mixup, PseudoLabelMixup)
    assert isinstance(mixup.augmentation, InterIntraMix)
    assert (mixup.augmentation.intra_alpha, mixup.options.clusters, mixup.options.warmup_epochs) == (0.5, 7, 5)
    recipe = by_command("--mixup", "puzzlemix", "--mixup.beta", "0.8", "--mixup.layer", "layer4")
    mixup = build_pretraining(recipe, 1437, ((0.5,) * 3, (0.25,) * 3)).mixup
    assert isinstance(mixup.augmentation, PuzzleMix)
    assert (mixup.augmentation.beta, mixup.options.layer) == (0.8, "layer4")
    assert mixup.clusters.images == 1437
    assert mixup.augmentation.mean == (0.5,) * 3  # how pixels were normalised is known


def test_help_explains_the_options_of_both(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["pretrain", "--mixup", "puzzlemix", "--help-all"])
    plain = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for text in ("--mixup.blocks", "blocks along the shorter side", "--mixup.clusters", "at most half the number"):
        assert text in plain
    assert "--mixup.warmup-epochs" in plain
    assert "--mixup.layer" in plain


@pytest.mark.parametrize("mixup", ["interintra", "puzzlemix"])
@pytest.mark.parametrize("name", PRETRAIN_RECIPES)
def test_every_recipe_of_moco_takes_mixups_by_clusters(name, mixup):
    recipe = PRETRAIN_RECIPES[name].build({"method": "moco", "mixup": mixup})
    options = {**recipe.method_options, "queue": 64}
    recipe = dataclasses.replace(recipe, method_options=options, model="resnet18", model_args=SLIM)
    method = build_pretraining(recipe, 2000)
    groups = method.parameter_groups(recipe.lr, mixer_lr=recipe.mixer_lr)
    assert [group["name"] for group in groups] == ["network", *(["clusters"] if mixup == "puzzlemix" else [])]
    loss, parts = method((torch.randn(16, 3, 32, 32), torch.randn(16, 3, 32, 32), torch.arange(16)))
    loss.backward()
    assert loss.isfinite()
    assert set(parts) == {"nce", "mixed", "clusters", "changed", "key_std"}


def test_spectral_puzzlemix_has_no_clusters_and_says_so():
    spectral = ["--mixup", "puzzlemix", "--mixup.saliency", "spectral"]
    assert isinstance(build_pretraining(by_command(*spectral), 1437).mixup, AugmentationMixup)
    with pytest.raises(ValueError, match="puzzlemix with saliency spectral has no clusters, so clusters would have no"):
        build_pretraining(by_command(*spectral, "--mixup.clusters", "9"), 1437)


def test_mixups_by_clusters_need_moco():
    with pytest.raises(ValueError, match="interintra without labels needs method moco"):
        build_pretraining(by_command("--method", "byol", "--mixup", "interintra"), 1437)


@pytest.mark.parametrize("length", [1e-2, 1.0, 1e4])
def test_the_classifier_is_stable_whatever_the_length_of_the_features(length):
    """Plain logits would diverge, or not move: here the loss is the same for all lengths, and falls."""
    torch.manual_seed(0)
    centres, labels = F.normalize(torch.randn(4, 32), dim=1), torch.arange(64) % 4
    features = centres[labels] + 0.05 * torch.randn(64, 32)
    classifier = ClusterClassifier(32, 4)
    expected = LENGTH * F.normalize(features, dim=1) @ classifier.weight.T + classifier.bias
    torch.testing.assert_close(classifier(length * features), expected)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.5, momentum=0.9)
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(classifier(length * features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses) < 1.5
    assert losses[-1] < 0.1


# Runs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_stopped_and_resumed_is_the_unbroken_one(kind, tmp_path, monkeypatch):
    """Bit by bit, with queue, bank and clusters; and the resumed one makes no first clusters again."""
    recipe = recipe_of(kind)
    new_run(recipe, tmp_path, "unbroken").fit()
    run = new_run(recipe, tmp_path, "stopped")
    step = run.train_step

    def asked(batch):
        step(batch)
        run.stopping = run.step == 7

    run.train_step = asked
    with pytest.raises(Interrupted, match="stopped at step 8"):
        run.fit()

    def again(*_):
        raise AssertionError("the clusters are there")

    monkeypatch.setattr(OnlineClusters, "initialise", again)
    resumed = new_run(recipe, tmp_path, "stopped", resume=True)
    resumed.fit()
    assert bool(resumed.method.mixup.clusters.started)
    assert run_differences(tmp_path / "unbroken", tmp_path / "stopped") == []


def test_the_command_trains_with_pseudo_labels_and_leaves_pictures(tmp_path, capsys):
    arguments = ["--mixup", "interintra", "--mixup.clusters", "4", "--mixup.warmup-epochs", "0", "--epochs", "1"]
    arguments += ["--limit", "100", "--batch-size", "20", "--size", "8", "--model-args", SLIM, "--method.queue", "40"]
    status = main(["pretrain", *arguments, "--device", "cpu", "--out", str(tmp_path), "--run", "a"])
    out, error = capsys.readouterr()
    assert status == 0, error
    assert "moco + interintra on digits, without labels" in out
    assert "features for the first clusters: 100%" in error
    assert {"views.png", "mixed.png", "curves.png", "last.pt", "export"} <= {p.name for p in (tmp_path / "a").iterdir()}


# The first clusters ---------------------------------------------------------------------------------------------------


def test_the_first_clusters_are_those_of_the_momentum_encoders_features(tmp_path):
    """Each row of the bank is its own image's, however the batches fall; encoder and draws stay as they were."""
    run = new_run(recipe_of("samix-c", limit=450), tmp_path)
    before = {name: value.clone() for name, value in run.method.ema_encoder.state_dict().items()}
    draws = torch.get_rng_state(), run.method.generator.get_state()
    begin(run)
    clusters = run.method.mixup.clusters
    assert clusters.running
    assert torch.equal(torch.get_rng_state(), draws[0])
    assert torch.equal(run.method.generator.get_state(), draws[1])
    assert all(torch.equal(before[name], value) for name, value in run.method.ema_encoder.state_dict().items())
    assert len(run.data.train) > 200  # more than one batch
    run.method.ema_encoder.eval()
    for row in (0, 1, 199, 200, len(run.data.train) - 1):
        one = dataclasses.replace(run.data, val=run.data.train.subset(torch.tensor([row])))
        image, _ = next(EvalBatches(one, batch_size=1, size=8, augment=the_augment(run)).batches())
        with torch.no_grad():
            expected = F.normalize(run.method.ema_encoder(image), dim=1)[0]
        torch.testing.assert_close(clusters.bank[row], expected, rtol=1e-4, atol=1e-5)


def the_augment(run):
    return build_augment(run.recipe, run.data)


def test_with_a_warm_up_there_is_no_first_pass(tmp_path, monkeypatch):
    run = new_run(recipe_of("interintra"), tmp_path)
    monkeypatch.setattr(OnlineClusters, "initialise_from", None)
    begin(run)
    assert not run.method.mixup.clusters.running


def test_too_few_images_for_the_clusters_are_refused_before_anything_is_trained(tmp_path, capsys):
    arguments = ["pretrain", "--mixup", "samix-c", "--mixup.preset", "reference", "--limit", "150", "--method.queue"]
    status = main([*arguments, "64", "--batch-size", "16", "--device", "cpu", "--out", str(tmp_path), "--run", "a"])
    assert status == 1
    expected = "samix: 500 clusters need at least 1000 training images, got 150; take fewer clusters\n"
    assert capsys.readouterr().err == expected
    assert list(tmp_path.iterdir()) == []


def test_rows_are_those_of_the_images_that_could_be_read():
    """Batches of 4, 4, 0 and 2 of 13 rows, of which 3 cannot be read; the rows are named as they come."""
    batches = SimpleNamespace(rows=range(10, 23), bad=set())

    def passing():
        for rows, bad in ((range(10, 14), {11}), (range(14, 18), set()), (range(18, 21), {18, 19, 20}), ((21, 22), {})):
            batches.bad |= set(bad)
            good = [row for row in rows if row not in batches.bad]
            if good:
                yield torch.tensor(good), None

    batches.batches = passing
    found = [(images.tolist(), ids.tolist()) for images, ids in numbered(batches)]
    assert len(found) == 3
    assert all(images == ids for images, ids in found)


# Pictures -------------------------------------------------------------------------------------------------------------


def test_views_are_painted_once_from_images_all_over_the_data(tmp_path, monkeypatch):
    painted = []
    monkeypatch.setattr(
        samix.viz.callbacks, "view_grid", lambda path, *parts: painted.append(parts) or path.write_bytes(b"-")
    )
    run = new_run(recipe_of("interintra"), tmp_path, pictures=True)
    begin(run)
    run.start(there=False)
    assert len(painted) == 1
    view_q, view_k, pixels, originals = painted[0]
    assert view_q.shape == view_k.shape == originals.shape == (8, 3, 8, 8)
    assert not torch.equal(view_q, view_k)
    shown = pixels(view_q)
    assert 0.0 <= float(shown.min()) < float(shown.max()) <= 1.0
    rows = {round(i * 99 / 7) for i in range(8)}
    all_images = torch.stack([image for image in images_of(run)])
    nearest = [int((all_images - one).abs().flatten(1).sum(1).argmin()) for one in originals]
    assert {abs(row - min(rows, key=lambda r: abs(r - row))) for row in nearest} <= {0, 1}


def images_of(run):
    batches = EvalBatches(run.data, split="train", batch_size=200, size=8, augment=the_augment(run))
    return denormalize(torch.cat([images for images, _ in batches.batches()]), run.data.mean, run.data.std)


def test_views_of_data_with_damaged_images_are_painted_too(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "train").mkdir()
    for number in range(12):
        pixels = (torch.rand(10, 10, 3) * 255).to(torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / "train" / f"{number:02}.png")
    (tmp_path / "train" / "00.png").write_bytes(b"no image")  # the first is always among those painted
    recipe = recipe_of("interintra", mixup="cutmix", mixup_options={}, data=f"folder:{tmp_path}", limit=0, knn=0)
    options = {**recipe.method_options, "queue": 8}
    recipe = dataclasses.replace(recipe, batch_size=4, augment="none", method_options=options)
    run = new_run(recipe, tmp_path / "out", on_bad_image="skip")
    run.folder.mkdir(parents=True)
    draw_views(run.folder / "views.png", run.data, run.recipe, run.device)
    with Image.open(run.folder / "views.png") as picture:
        assert picture.width > 3 * picture.height  # two rows of eight: no originals above stand-ins


# Two processes --------------------------------------------------------------------------------------------------------


def saved(two, kind, name):
    return [torch.load(two / f"{kind}-{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("kind", ["samix-c", "interintra"])
def test_queue_and_bank_stay_equal_on_two_processes_without_being_sent(kind, two):
    first, second = saved(two, kind, "spared")
    assert len(first["steps"]) == (10 if kind == "interintra" else 5)
    assert {name.rpartition(".")[2] for name in first["steps"][0]} >= {"keys", "pointer", "bank", "labels", "centroids"}
    assert set(first["spared"]) == set(first["steps"][0])
    for one, other in zip(first["steps"], second["steps"], strict=True):
        for name in one:
            assert torch.equal(one[name], other[name]), name
    moved = [
        not torch.equal(a["queue.keys"], b["queue.keys"])
        for a, b in zip(first["steps"][:-1], first["steps"][1:], strict=True)
    ]
    assert all(moved)


@pytest.mark.parametrize("kind", ["samix-c", "interintra"])
def test_sparing_them_changes_no_bit_of_the_run(kind, two):
    """BatchNorm's statistics among it, which are still the first process's at each step."""
    spared, sent = saved(two, kind, "spared"), saved(two, kind, "sent")
    assert sent[0]["spared"] == []
    for one, other in zip(spared, sent, strict=True):
        assert set(one["state"]) == set(other["state"])
        for name, value in one["state"].items():
            assert torch.equal(value, other["state"][name]), name


def test_two_processes_make_the_same_first_clusters(two):
    """Each has looked at half the images; after the first step both banks are whole."""
    first, second = saved(two, "samix-c", "spared")
    bank = first["steps"][0]["mixup.clusters.bank"]
    assert bool((bank.norm(dim=1) > 0.99).all())
    assert len(bank.unique(dim=0)) == 100  # each image's own, no donor's
    assert torch.equal(bank, second["steps"][0]["mixup.clusters.bank"])
    assert torch.equal(first["steps"][0]["mixup.clusters.labels"], second["steps"][0]["mixup.clusters.labels"])
