"""A Mixer out of a run: the same masks as in training, for any images, from files that are data."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_networks import PlainNet, randomised, tiny_cnn

import samix
from samix.analysis.mixer_check import check_mixer
from samix.hub.mixer_export import mixer_network, write_mixer
from samix.methods.supervised import Supervised
from samix.mixers.base import adjust_mask
from samix.mixers.folder import MixerConfig, MixerWithEncoder, read_config
from samix.mixers.pretrained import SHIPPED, Mixer
from samix.recipes import Recipe
from samix.recipes.build import build_method, build_mixup

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
SLIM = '{"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64], "stem_type": "deep", "stem_width": 4}'


def small_recipe(kind: str = "samix", **changes: object) -> Recipe:
    values = {"model": "resnet18", "model_args": SLIM, "stem": "half", "feature": 2, "size": 32}
    return Recipe(mixup=kind, **{**values, **changes})


def trained(kind: str = "samix", **changes: object):
    """A method whose every weight and statistic is random, so that nothing is at a special value."""
    torch.manual_seed(3)
    recipe = small_recipe(kind, **changes)
    method = randomised(build_method(recipe, 5), 0.4).eval()
    randomised(method.mixer, 1.0)
    return method, recipe


def frozen(kind: str = "samix", **options: object) -> tuple[Mixer, object]:
    method, recipe = trained(kind)
    network = mixer_network(method, recipe, MEAN, STD, {"trained_on": "noise"})
    return Mixer(network=network, generator=torch.Generator().manual_seed(0), **options), method


@pytest.fixture
def folder(tmp_path):
    method, recipe = trained()
    write_mixer(
        tmp_path / "m", method, recipe, {"name": "noise", "mean": MEAN, "std": STD}, {"top1": 12.5}, licence="mit"
    )
    return tmp_path / "m"


def batch(size: int = 4, side: tuple[int, int] = (32, 32)):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(size, 3, *side, generator=generator), torch.arange(size) % 5


@pytest.mark.parametrize("kind", ["samix", "automix"])
def test_frozen_masks_equal_those_that_the_method_paints(kind):
    mix, method = frozen(kind, adjust=False, lam_margin=-1.0)
    images, labels = batch()
    index = torch.tensor([1, 2, 3, 0])
    for lam in (0.2, 0.5, 0.9):
        online = method.preview(images, labels, lam, index)
        ours = mix(images, labels, lam=lam, index=index)
        assert online.mask.std() > 1e-3
        torch.testing.assert_close(ours.mask, online.mask, atol=1e-6, rtol=0)
        torch.testing.assert_close(ours.images, online.images, atol=1e-5, rtol=0)
        assert torch.equal(ours.labels, online.labels)
        assert torch.equal(ours.weights, online.weights)


def test_masks_have_mean_lam_when_adjusted_and_the_label_is_lam():
    mix, _ = frozen(lam_margin=-1.0)
    images, labels = batch()
    lam = torch.tensor([0.1, 0.35, 0.6, 0.97])
    mixed = mix(images, labels, lam=lam, index=torch.tensor([1, 2, 3, 0]))
    torch.testing.assert_close(mixed.mask.mean((1, 2, 3)), lam, atol=1e-5, rtol=0)
    assert torch.equal(mixed.lam, lam)
    assert mixed.mask.std(dim=(1, 2, 3)).max() > 1e-2


def test_soft_masks_lie_between_the_painted_ones_and_mixup():
    (images, labels), index = batch(), torch.tensor([1, 2, 3, 0])
    painted, soft, flat = (
        frozen(lam_margin=-1.0, softness=softness)[0](images, labels, lam=0.35, index=index)
        for softness in (0.0, 0.75, 1.0)
    )
    torch.testing.assert_close(soft.mask - 0.35, 0.25 * (painted.mask - 0.35))
    assert torch.equal(flat.mask, torch.full_like(flat.mask, 0.35))
    torch.testing.assert_close(flat.images, 0.35 * images + 0.65 * images[index])
    with pytest.raises(ValueError, match=r"softness must be in \[0, 1\], got 1.5"):
        frozen(softness=1.5)


def test_the_margin_gives_plain_mixup_and_lam_one_and_zero_are_exact():
    mix, _ = frozen(adjust=False, lam_margin=0.08)
    images, labels = batch()
    index = torch.tensor([1, 2, 3, 0])
    mixed = mix(images, labels, lam=torch.tensor([1.0, 0.0, 0.05, 0.5]), index=index)
    assert torch.equal(mixed.images[0], images[0])
    assert torch.equal(mixed.images[1], images[2])
    torch.testing.assert_close(mixed.images[2], 0.05 * images[2] + 0.95 * images[3])
    assert mixed.mask[3].std() > 1e-4


def test_a_mask_depends_on_its_pair_alone_and_calling_changes_nothing():
    mix, _ = frozen()
    images, labels = batch(6)
    before = {k: v.clone() for k, v in mix.network.state_dict().items()}
    index = torch.tensor([1, 0, 3, 2, 5, 4])
    whole = mix(images, labels, lam=0.4, index=index)
    pair = mix(images[2:4], labels[2:4], lam=0.4, index=torch.tensor([1, 0]))
    torch.testing.assert_close(whole.mask[2:4], pair.mask, atol=1e-5, rtol=0)
    again = mix(images, labels, lam=0.4, index=index)
    assert torch.equal(whole.mask, again.mask)
    mix.network.train()
    assert not any(m.training for m in mix.network.modules())
    assert all(torch.equal(v, before[k]) for k, v in mix.network.state_dict().items())
    assert not whole.images.requires_grad
    assert mix.state_dict() == {}


def test_the_learner_s_normalisation_is_taken_back():
    plain, _ = frozen()
    other, _ = frozen()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    other.set_normalization(mean, std)
    pixels = torch.rand(4, 3, 32, 32)
    scale = lambda m, s: (pixels - torch.tensor(m).view(1, 3, 1, 1)) / torch.tensor(s).view(1, 3, 1, 1)  # noqa: E731
    index = torch.tensor([1, 2, 3, 0])
    ours = plain(scale(MEAN, STD), torch.arange(4), lam=0.5, index=index)
    theirs = other(scale(mean, std), torch.arange(4), lam=0.5, index=index)
    torch.testing.assert_close(ours.mask, theirs.mask, atol=1e-5, rtol=0)
    wrong, _ = frozen()
    wrong.set_normalization((0.1,), (0.5,))
    with pytest.raises(ValueError, match="one value for each of 3 channels"):
        wrong(pixels, torch.arange(4), lam=0.5)


@pytest.mark.parametrize("side", [(32, 32), (64, 48), (33, 57), (16, 16), (224, 224)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_any_size_and_type(side, dtype):
    mix, _ = frozen()
    images, labels = batch(3, side)
    images = images.to(dtype).contiguous(memory_format=torch.channels_last)
    kept = images.clone()
    mixed = mix(images, labels, lam=0.3, index=torch.tensor([1, 2, 0]))
    assert mixed.images.shape == images.shape
    assert mixed.images.dtype == dtype
    assert mixed.mask.shape == (3, 1, *side)
    assert mixed.mask.dtype == torch.float32
    assert mixed.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, kept)


def test_the_encoder_sees_the_size_it_was_trained_at_and_less_when_asked():
    mix, _ = frozen()
    images, _ = batch(2, (64, 128))
    assert mix.encode(images).shape[-2:] == mix.encode(images[..., ::2, ::2]).shape[-2:]
    h, w = mix.encode(images).shape[-2:]
    mix.encode_size = 16
    assert mix.encode(images).shape[-2:] == (h // 2, w // 2)


def test_features_that_the_caller_has_are_used():
    mix, _ = frozen()
    images, labels = batch()
    z = mix.encode(images)
    index = torch.tensor([1, 2, 3, 0])
    ours = mix(images, labels, lam=0.5, index=index, features=z)
    assert torch.equal(ours.mask, mix(images, labels, lam=0.5, index=index).mask)
    with pytest.raises(ValueError, match=r"guides must have shape \(4, 16"):
        mix(images, labels, lam=0.5, index=index, features=z[:, :3])


def test_batches_come_with_the_features_of_their_own_images():
    mix, _ = frozen()
    batches = [(torch.randn(n, 3, 32, 32), torch.arange(n)) for n in (4, 4, 3, 1)]
    for taken in (0, 1, 4):
        found = list(mix.ahead(batches[:taken]))
        assert len(found) == taken
        for (images, labels, z), (own, own_labels) in zip(found, batches, strict=False):
            assert images is own
            assert labels is own_labels
            assert torch.equal(z, mix.encode(own))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_features_of_the_next_batch_are_whole_on_a_stream_of_their_own():
    mix, _ = frozen()
    batches = [(torch.randn(64, 3, 96, 96, device="cuda"), torch.arange(64, device="cuda")) for _ in range(6)]
    expected = [mix.encode(images).clone() for images, _ in batches]
    weight = torch.randn(2048, 2048, device="cuda")
    for number, (_, _, z) in enumerate(mix.ahead(iter(batches))):
        for _ in range(20):
            weight = (weight @ weight).tanh()  # keeps the device busy
        assert torch.allclose(z, expected[number], atol=1e-5)


@pytest.mark.parametrize("kind", ["samix", "automix"])
def test_compiled_networks_paint_the_same_masks_without_a_graph_break(kind):
    mix, _ = frozen(kind)
    images, labels = batch()
    lam, index = torch.tensor([0.2, 0.4, 0.6, 0.8]), torch.tensor([1, 2, 3, 0])
    plain = mix(images, labels, lam=lam, index=index)
    names = list(mix.network.state_dict())
    torch._dynamo.reset()
    mix.network.compile(backend="aot_eager", fullgraph=True)
    compiled = mix(images, labels, lam=lam, index=index)
    assert torch.allclose(compiled.mask, plain.mask, atol=1e-5)
    assert list(mix.network.state_dict()) == names


def test_training_with_a_frozen_mixer_compiles_all_passes():
    images, labels = batch()
    losses, networks = [], []
    for compiled in (False, True):
        torch._dynamo.reset()
        mix, _ = frozen(clean_weight=1.0)
        torch.manual_seed(0)
        method = Supervised(tiny_cnn(), mix, num_classes=5)
        if compiled:
            paint = mix.network.mixer.predict_mask
            method.compile_parts(backend="aot_eager", fullgraph=True)
            assert mix.network.mixer.predict_mask != paint
        losses.append(method((images, labels))[0].item())
        networks.append(set(method.state_dict()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert networks[0] == networks[1]


def test_a_mixer_is_pushed_with_its_config_and_card(monkeypatch, folder):
    import huggingface_hub.hub_mixin as hub

    pushed = {}

    class Api:
        def __init__(self, **_options):
            pass

        def create_repo(self, repo_id, **_options):
            return type("Url", (), {"repo_id": repo_id})()

        def upload_folder(self, *, repo_id, folder_path, **_options):
            pushed[repo_id] = sorted(path.name for path in Path(folder_path).iterdir())
            pushed["same"] = load_file(Path(folder_path) / "model.safetensors").keys()

    monkeypatch.setattr(hub, "HfApi", Api)
    mix = Mixer.from_pretrained(folder)
    mix.push_to_hub("someone/mixer")
    assert pushed["someone/mixer"] == ["README.md", "config.json", "model.safetensors"]
    assert pushed["same"] == mix.network.state_dict().keys()


def test_the_policy_takes_pairs_from_anywhere():
    mix, _ = frozen(adjust=False, lam_margin=-1.0)
    x, partner = torch.randn(3, 3, 32, 32), torch.randn(3, 3, 32, 32)
    lam = torch.tensor([0.3, 0.5, 0.7])
    mixed = mix.apply(x, partner, lam)
    expected = mix.network(mix.encode(x), mix.encode(partner), lam, (32, 32))
    torch.testing.assert_close(mixed.mask, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed.images, expected * x + (1 - expected) * partner, atol=1e-5, rtol=0)


def test_only_a_share_of_the_batch_is_painted_for():
    mix, _ = frozen(share=0.5, adjust=False)
    images, labels = batch()
    mixed = mix(images, labels, lam=0.5, index=torch.tensor([1, 2, 3, 0]))
    assert (mixed.mask.std(dim=(1, 2, 3)) > 1e-4).tolist() == [True, True, False, False]
    assert mixed.mask[2:].unique().tolist() == [0.5]


def test_a_batch_of_one_or_without_mixing_is_not_looked_at(monkeypatch):
    mix, _ = frozen(prob=0.0)
    monkeypatch.setattr(mix.network, "encode", lambda *_: pytest.fail("looked"))
    images, labels = batch()
    mixed = mix(images, labels)
    assert torch.equal(mixed.images, images)
    assert mixed.images.data_ptr() != images.data_ptr()
    assert torch.equal(mixed.lam, torch.ones(4))
    one = Mixer(network=mix.network)(images[:1], labels[:1])
    assert torch.equal(one.images, images[:1])


def test_it_trains_any_network_with_and_without_the_clean_term():
    images, labels = batch(6)
    for weight in (0.0, 1.0):
        mix, _ = frozen(clean_weight=weight)
        torch.manual_seed(0)
        learner = PlainNet(norm=False)
        method = Supervised(learner, mix, num_classes=5)
        names = {name.removeprefix("model.") for name in method.state_dict()} - {"_extra_state"}
        assert names == set(learner.state_dict())  # the Mixer is not part of it
        loss, parts = method((images, labels))
        assert set(parts) == ({"mixed", "clean"} if weight else {"mixed"})
        loss.backward()
        assert all(p.grad is not None for p in learner.late.parameters())
        assert all(p.grad is None for p in mix.network.parameters())
        if weight:
            clean = torch.nn.functional.cross_entropy(learner(images), labels)
            torch.testing.assert_close(parts["clean"], clean.detach())
            torch.testing.assert_close(loss.detach(), parts["mixed"] + clean.detach())


def test_bf16_encoding_changes_masks_little():
    mix, _ = frozen(adjust=False)
    images, labels = batch()
    index = torch.tensor([1, 2, 3, 0])
    exact = mix(images, labels, lam=0.5, index=index).mask
    mix.encode_precision = "bf16"
    rounded = mix(images, labels, lam=0.5, index=index).mask
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05


# Files ---------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(folder):
    mix = samix.Mixer.from_pretrained(folder, alpha=1.0)
    assert mix.alpha == 1.0
    direct, _ = frozen()
    images, labels = batch()
    index = torch.tensor([1, 2, 3, 0])
    expected = direct(images, labels, lam=0.4, index=index)
    for source in (folder, str(folder / "model.safetensors")):
        ours = samix.Mixer.from_pretrained(source)(images, labels, lam=0.4, index=index)
        assert torch.equal(ours.mask, expected.mask)
    mix.save_pretrained(folder.parent / "again")
    files = {p.name for p in (folder.parent / "again").iterdir()}
    assert files == {"config.json", "model.safetensors", "README.md"}
    ours = build_mixup(f"mixer:{folder.parent / 'again'}")(images, labels, lam=0.4, index=index)
    assert torch.equal(ours.mask, expected.mask)


def test_only_what_is_needed_is_written(folder):
    weights = load_file(folder / "model.safetensors")
    assert not any("layer3" in k or "layer4" in k or "fc" in k for k in weights)
    assert any("layer2" in k for k in weights)
    assert any(k.startswith("mixer.") for k in weights)


def test_the_card_says_what_it_is(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    for words in (
        "license: mit",
        "resnet18",
        "trained at | 32 px",
        "0.5000, 0.4000, 0.3000",
        "12.5",
        "noise",
        "from_pretrained",
    ):
        assert words in card


def test_half_precision_files_are_read(folder):
    weights = {k: v.half() if v.is_floating_point() else v for k, v in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    edit(folder, sha256="")  # another tool wrote the weights
    network = MixerWithEncoder.read(folder)
    assert all(p.dtype == torch.float32 for p in network.parameters())


def test_the_statistics_of_masks(tmp_path):
    method, recipe = trained()
    network = mixer_network(method, recipe, MEAN, STD, {})
    images, _ = batch(6)
    index = torch.arange(6).roll(-3)
    z = network.encode(images)
    lams = (0.1, 0.3, 0.5, 0.7, 0.9)
    masks = [network(z, z[index], torch.full((6,), lam), (32, 32)) for lam in lams]
    error = torch.stack([(m.mean((1, 2, 3)) - lam).abs().mean() for m, lam in zip(masks, lams, strict=True)]).mean()
    adjusted = adjust_mask(masks[1], torch.full((6,), 0.3))
    torch.testing.assert_close(adjusted.mean((1, 2, 3)), torch.full((6,), 0.3), atol=1e-5, rtol=0)
    network.save_pretrained(tmp_path)
    told = check_mixer(str(tmp_path), images, MEAN, STD)
    assert told["error"] == pytest.approx(float(error), abs=1e-5)
    assert told["adjusted_error"] < 1e-5
    assert told["std"] > 0


def test_a_mixer_of_a_network_that_timm_does_not_know_is_refused():
    method = samix.SAMix(PlainNet(), 5, feature="body")
    with pytest.raises(ValueError, match="timm network"):
        mixer_network(method, small_recipe(), MEAN, STD, {})


def test_a_learned_mixup_starts_from_a_trained_mixer(folder):
    recipe = small_recipe(mixup_options={"init": str(folder)})
    method = build_method(recipe, 7)
    trained_state = MixerWithEncoder.read(folder).mixer.state_dict()
    assert all(torch.equal(v, trained_state[k]) for k, v in method.mixer.state_dict().items())
    assert all(p.requires_grad for p in method.mixer.parameters())
    with pytest.raises(ValueError, match="holds a SAMixer for maps of 16 channels, this run has a SAMixer for 32"):
        build_method(small_recipe(mixup_options={"init": str(folder)}, feature=3), 7)
    with pytest.raises(ValueError, match="AutoMixer"):
        build_method(small_recipe("automix", mixup_options={"init": str(folder)}), 7)


def test_the_default_mixer_is_a_score_generator_of_less_than_three_megabytes_with_a_hash():
    network = samix.Mixer.from_pretrained("default").loaded
    assert (network.config.kind, network.config.architecture) == ("score", "tf_efficientnet_lite0")
    assert len(network.config.sha256) == 64
    assert sum(path.stat().st_size for path in SHIPPED["default"].iterdir()) < 3_000_000


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_masks_of_the_mixers_that_come_along_follow_lambda(name):
    mix = samix.Mixer.from_pretrained(name)
    columns = torch.linspace(0, 6.3, 48)
    waves = torch.stack([torch.sin(columns * k)[:, None] * torch.cos(columns * (k + 1))[None] for k in range(1, 7)])
    images = torch.stack([waves, waves.transpose(1, 2), -waves], dim=1)  # (6, 3, 48, 48)
    index = torch.arange(6).roll(2)
    mix.adjust = False
    found = [mix(images, torch.arange(6), lam=lam, index=index).mask.mean((1, 2, 3)) for lam in (0.2, 0.5, 0.8)]
    assert (found[0] < found[1]).all()
    assert (found[1] < found[2]).all()


# Files from strangers ---


def edit(folder, **changes):
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["samix_mixer"].update(changes)
    path.write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 99}, "format 99, this samix reads up to 1; update samix"),
        ({"format": "1"}, "no format number"),
        ({"kind": "os.system"}, "unknown mask generator .os.system.; choose one of automix, samix"),
        ({"architecture": "hf-hub:someone/evil"}, "architecture must be the name of a timm network"),
        ({"architecture": "../../etc"}, "architecture must be"),
        ({"architecture": "resnet_of_mine"}, "timm has no network"),
        ({"model_args": {"checkpoint_path": "/tmp/evil.pt"}}, "read from another place"),
        ({"model_args": {"pretrained": True}}, "read from another place"),
        ({"model_args": {"pretrained_cfg": {"url": "x"}}}, "read from another place"),
        ({"model_args": {"channels": [10**9] * 4}}, "must be a plain value"),
        ({"model_args": {"layers": {"a": 1}}}, "must be a plain value"),
        ({"model_args": {"unknown_thing": 1}}, "does not take model_args"),
        ({"dim": 10**12}, "dim must be a whole number"),
        ({"dim": 17}, "does not fit config.json"),
        ({"size": -1}, "size must be a whole number"),
        ({"stage": 40}, "feature index 40 is out of range"),
        ({"mean": [0.5, None, 0.5]}, "mean must be a number for each channel"),
        ({"std": [0.2, 0.0, 0.2]}, "std must be a number for each channel"),
        ({"std": [0.2]}, "std must be as long as mean"),
        ({"mixer": {"gamma": "1; import os"}}, r"gamma must be in \[0, inf\)"),
        ({"mixer": {"hook": 1}}, "options among"),
        ({"mixer": [1]}, "mixer must be options"),
        ({"surprise": 1}, "unknown \\['surprise'\\]"),
        ({"about": "text"}, "about must be a table"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_is_refused_with_words(folder, changes, words):
    edit(folder, **changes)
    with pytest.raises(ValueError, match=words):
        MixerWithEncoder.read(folder)


def test_files_of_another_kind_are_refused_with_words(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no Mixer"):
        MixerWithEncoder.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="give a folder"):
        MixerWithEncoder.read(tmp_path / "nowhere" / "else")
    checkpoint = tmp_path / "last.pt"
    checkpoint.write_bytes(b"x")
    with pytest.raises(ValueError, match="samix mixer export"):
        MixerWithEncoder.read(checkpoint)
    alone = tmp_path / "alone" / "model.safetensors"
    alone.parent.mkdir()
    shutil.copy(folder / "model.safetensors", alone)
    with pytest.raises(FileNotFoundError, match=r"no config.json beside it"):
        MixerWithEncoder.read(alone)
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="damaged"):
        MixerWithEncoder.read(folder)
    (folder / "config.json").write_text('{"architecture": "resnet18"}', encoding="utf-8")
    with pytest.raises(ValueError, match="not a Mixer's config"):
        MixerWithEncoder.read(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, 4000, -1])
def test_a_cut_weights_file_is_refused(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="damaged or not a safetensors file"):
        MixerWithEncoder.read(folder)


def test_missing_extra_and_misshapen_weights_are_named(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({k: v for k, v in weights.items() if k != "mixer.query.weight"}, path)
    with pytest.raises(ValueError, match=r"mixer.query.weight, missing where \(8, 32, 1, 1\) is expected"):
        MixerWithEncoder.read(folder)
    save_file({**weights, "mixer.zzz": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r"mixer.zzz, \(3,\) where nothing is expected"):
        MixerWithEncoder.read(folder)
    save_file({**weights, "mixer.query.bias": torch.full((8,), torch.nan)}, path)
    with pytest.raises(ValueError, match="not finite"):
        MixerWithEncoder.read(folder)


def test_config_values_are_taken_as_they_are(folder):
    config = read_config(folder / "config.json")
    assert isinstance(config, MixerConfig)
    assert (config.kind, config.size, config.stage, config.dim) == ("samix", 32, 2, 16)
    assert config.mean == MEAN


def test_options_out_of_range_and_a_mixer_without_network():
    for options in ({"share": 0.0}, {"encode_size": -1}, {"clean_weight": -1.0}, {"encode_precision": "fp8"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Mixer(**options)
    with pytest.raises(ValueError, match="from_pretrained"):
        Mixer()(*batch())


def test_a_row_paired_with_itself_is_unmixed():
    mix, _ = frozen()
    images, labels = batch()
    mixed = mix(images, labels, lam=0.5, index=torch.tensor([0, 2, 1, 3]))
    for row in (0, 3):
        assert torch.equal(mixed.images[row], images[row])
        assert mixed.lam[row] == 1


def test_changed_weights_are_refused_by_their_hash(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="its SHA-256 differs; copy both again"):
        MixerWithEncoder.read(folder)


def test_weights_written_in_half_precision_are_half_the_size_and_nearly_equal(folder, tmp_path):
    network = MixerWithEncoder.read(folder)
    network.half_precision = True
    network.save_pretrained(tmp_path / "half")
    again = MixerWithEncoder.read(tmp_path / "half")
    sizes = [(f / "model.safetensors").stat().st_size for f in (folder, tmp_path / "half")]
    assert sizes[1] < 0.7 * sizes[0]
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)


def test_the_encoder_sees_twice_the_side_of_the_images_within_bounds(folder, monkeypatch):
    network = MixerWithEncoder.read(folder)
    seen = []
    monkeypatch.setattr(network.backbone, "feature_map", lambda x: seen.append(x.shape[-2:]) or x)
    for size in (256, 32):
        network.config = dataclasses.replace(network.config, size=size)
        for height, width in ((16, 16), (64, 64), (512, 1024)):
            network.encode(torch.randn(1, 3, height, width))
    assert seen == [(64, 64), (128, 128), (256, 512), (32, 32), (32, 32), (32, 64)]
