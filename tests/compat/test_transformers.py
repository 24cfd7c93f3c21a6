"""Hugging Face's Trainer with a mixup: its loss, every sort of output, accumulation, and exact resuming."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import samix

transformers = pytest.importorskip("transformers")
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification  # noqa: E402

from samix.compat.transformers import LogitsOf, MixupTrainer  # noqa: E402

K = 4


class Data(Dataset):
    def __init__(self, multi: bool = False) -> None:
        draw = torch.Generator().manual_seed(1)
        self.images = torch.randn(16, 3, 16, 16, generator=draw)
        self.labels = torch.randint(2, (16, K), generator=draw) if multi else torch.randint(K, (16,), generator=draw)

    def __len__(self):
        return 16

    def __getitem__(self, i):
        return {"pixel_values": self.images[i], "labels": self.labels[i]}


def network():
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=16, patch_size=4, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        num_labels=K, hidden_dropout_prob=0.0,
    )  # fmt: skip
    return ViTForImageClassification(config)


def trainer_of(folder, mixup, model=None, multi=False, targets=None, **options):
    arguments = TrainingArguments(
        str(folder),
        **{"max_steps": 4, "per_device_train_batch_size": 4, "save_strategy": "no"} | options,
        learning_rate=1e-2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
        dataloader_pin_memory=False,
    )
    return MixupTrainer(
        network() if model is None else model, arguments, train_dataset=Data(multi), mixup=mixup, targets=targets
    )


def cutmix(**options):
    return samix.CutMix(generator=torch.Generator().manual_seed(3), **options)


def test_the_loss_is_the_mixed_one_in_training_and_trainer_s_own_otherwise(tmp_path):
    trainer = trainer_of(tmp_path, cutmix())
    model, data = trainer.model, Data()
    inputs = {"pixel_values": data.images, "labels": data.labels}
    batch = cutmix()(data.images, data.labels)
    model.train()
    loss, outputs = trainer.compute_loss(model, dict(inputs), return_outputs=True)
    torch.testing.assert_close(loss, batch.loss(model(pixel_values=batch.images).logits))
    assert outputs["logits"].shape == (16, K)
    model.eval()
    plain = nn.functional.cross_entropy(model(pixel_values=data.images).logits, data.labels)
    torch.testing.assert_close(trainer.compute_loss(model, dict(inputs)), plain)
    model.train()
    with pytest.raises(ValueError, match="inputs need pixel_values and labels, got labels"):
        trainer.compute_loss(model, {"labels": data.labels})


def test_multi_hot_labels_train_by_binary_cross_entropy(tmp_path):
    trainer = trainer_of(tmp_path, cutmix(), multi=True, targets="multilabel")
    data = Data(multi=True)
    batch = cutmix(targets="multilabel")(data.images, data.labels)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, {"pixel_values": data.images, "labels": data.labels})
    logits = trainer.model(pixel_values=batch.images).logits
    torch.testing.assert_close(loss, nn.functional.binary_cross_entropy_with_logits(logits, batch.values))


def test_accumulated_batches_train_as_one_large_batch(tmp_path):
    weights = []
    for options in ({"per_device_train_batch_size": 8}, {"gradient_accumulation_steps": 2}):
        mixup = samix.MixUp(prob=0.0, generator=torch.Generator().manual_seed(3))
        trainer = trainer_of(tmp_path, mixup, max_steps=2, optim="sgd", max_grad_norm=0.0, **options)
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "make", [lambda: samix.CutMix(), lambda: samix.MixUp(per_sample=True)], ids=["cutmix", "mixup"]
)
def test_a_resumed_run_ends_as_one_that_ran_through(make, tmp_path):
    def run(folder, **options):
        mixup = make()
        mixup.generator.manual_seed(3)
        return trainer_of(folder, mixup, Dicts(), save_strategy="steps", save_steps=2, **options)

    whole = run(tmp_path / "whole")
    whole.train()
    resumed = run(tmp_path / "whole")
    resumed.mixup.generator.manual_seed(77)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


class Dicts(nn.Module):
    """A network that is not of the transformers library, whose output is a dict."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, K)
        )

    def forward(self, pixel_values, labels=None):
        return {"logits": self.body(pixel_values)}


class WithConfig(Dicts):
    config = transformers.PretrainedConfig(num_labels=K)

    def forward(self, pixel_values, labels=None):
        return self.body(pixel_values)


class Tuples(nn.Module):
    def forward(self, x, scale=1.0):
        return x.mean((2, 3)) * scale, "attention"


def test_logits_are_found_in_objects_dicts_tuples_and_tensors():
    images = torch.randn(2, 3, 16, 16)
    model = network().eval()
    torch.testing.assert_close(LogitsOf(model)(images), model(pixel_values=images).logits)
    assert torch.equal(LogitsOf(Tuples(), "")(images), images.mean((2, 3)))
    assert torch.equal(LogitsOf(Tuples(), "x", {"scale": 2.0})(images), images.mean((2, 3)) * 2.0)
    assert torch.equal(LogitsOf(nn.Flatten(), "")(images), images.flatten(1))
    method = samix.Supervised(LogitsOf(model), samix.CutMix(), num_classes=K)
    assert method(images, torch.tensor([0, 1]))[0].isfinite()


def test_a_mixup_that_remembers_batches_knows_the_classes_and_trains_no_head(tmp_path):
    trainer = trainer_of(tmp_path, samix.RecursiveMix(weight=0.0))
    trainer.train()
    assert trainer.mixup.num_classes == K
    with pytest.raises(ValueError, match=r"RecursiveMix trains a head of its own.*set its weight to 0"):
        trainer_of(tmp_path, samix.RecursiveMix(layer="body.0"), WithConfig())


def test_something_else_than_a_mixup_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"must be a samix mixup, as samix.CutMix\(\), got type"):
        trainer_of(tmp_path, samix.CutMix)
