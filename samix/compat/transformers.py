"""A ``Trainer`` of Hugging Face Transformers that mixes what it trains on.

    trainer = MixupTrainer(model, arguments, train_dataset=train, mixup=samix.CutMix())

Needs ``samix[transformers]``. In ``run_image_classification.py`` import it in place of ``Trainer`` and give ``mixup=``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from samix.batch import TargetKind
from samix.compat.state import load_mixup_state, mixup_state
from samix.methods.supervised import Loss
from samix.mixups.base import Augmentation
from samix.runtime.checks import Values


class MixupTrainer(Trainer):  # type: ignore[misc]  # Transformers has no types of its own here
    """A Trainer that mixes the batches it trains on; evaluation and prediction are as they were.

    It resumes exactly: the mixup's state lies in each checkpoint's folder.

    Args:
        mixup: any mixup; those that look at the network, or act inside it, too.
        mixup_loss: loss of the mixed logits, see :mod:`samix.losses.supervised`; None is ``batch.loss``.
        smoothing: label smoothing in [0, 1); ``label_smoothing_factor`` of the arguments is for unmixed batches.
        targets: kind of the labels, see :data:`samix.batch.TargetKind`; None reads it from the labels.
        args: as for Trainer.
        kwargs: as for Trainer.

    Raises:
        TypeError: mixup is not a mixup.
        ValueError: a mixup that remembers batches and trains a head of its own.
    """

    def __init__(
        self,
        *args: object,
        mixup: Augmentation,
        mixup_loss: Loss | None = None,
        smoothing: float = 0.0,
        targets: TargetKind | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(mixup, Augmentation):
            raise TypeError(f"mixup must be a samix mixup, as samix.CutMix(), got {type(mixup).__name__}")
        if targets is not None:
            mixup.set_targets(targets)
        classes = getattr(getattr(self.model, "config", None), "num_labels", None)
        if mixup.requirements.stateful and classes is not None and mixup.attach(self.model, classes) is not None:
            raise ValueError(
                f"{type(mixup).__name__} trains a head of its own, which Trainer's optimiser does not see; set its "
                "weight to 0"
            )
        self.mixup, self.mixup_loss, self.smoothing = mixup, mixup_loss, smoothing
        self.model_accepts_loss_kwargs = False  # our loss is the mean of a batch: Trainer divides it when accumulating
        self.add_callback(SaveMixup(mixup))

    def compute_loss(self, model: nn.Module, inputs: Values, return_outputs: bool = False, **kwargs: object) -> Any:
        """Computes the loss against the mixed labels in training, and Trainer's own loss otherwise.

        Raises:
            ValueError: inputs without images or labels.
        """
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        rest = dict(inputs)
        image_key = getattr(self.accelerator.unwrap_model(model), "main_input_name", "pixel_values")
        label_key = next((key for key in (self.label_names or ["labels"]) if key in rest), "labels")
        if image_key not in rest or label_key not in rest:
            raise ValueError(
                f"inputs need {image_key} and {label_key}, got {', '.join(rest)}; set remove_unused_columns=False and "
                "label_names in the arguments"
            )
        images, labels = rest.pop(image_key), rest.pop(label_key)
        logits, batch = self.mixup.forward_through(LogitsOf(model, image_key, rest), images, labels)
        loss = (
            batch.loss(logits, self.smoothing)
            if self.mixup_loss is None
            else (self.mixup_loss(logits, batch) + batch.extra_loss)
        )
        return (loss, {"loss": loss, "logits": logits}) if return_outputs else loss

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: object, **kwargs: object) -> Any:
        """Trains as Trainer does; where it resumes, the mixup's draws go on where they were."""
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)
        if folder:
            file = Path(str(folder)) / mixup_file(self.args)
            if file.exists():
                load_mixup_state(self.mixup, torch.load(file, weights_only=True))
        return super().train(resume_from_checkpoint, *args, **kwargs)


class LogitsOf(nn.Module):
    """A model whose output is an object, a dict or a tuple, called as ``model(images) -> logits``."""

    def __init__(self, model: nn.Module, image_key: str = "pixel_values", rest: Values | None = None) -> None:
        super().__init__()
        self.model, self.image_key, self.rest = model, image_key, rest or {}

    def forward(self, images: Tensor) -> Tensor:
        output = (
            self.model(**{self.image_key: images}, **self.rest) if self.image_key else self.model(images, **self.rest)
        )
        if isinstance(output, Tensor):
            return output
        logits: Tensor = output["logits"] if isinstance(output, dict) else output[0]
        return logits


class SaveMixup(TrainerCallback):  # type: ignore[misc]
    """Writes the mixup's state into each checkpoint's folder."""

    def __init__(self, mixup: Augmentation) -> None:
        self.mixup = mixup

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if folder.is_dir():
            torch.save(mixup_state(self.mixup), folder / mixup_file(args))


def mixup_file(args: TrainingArguments) -> str:
    """Returns the name of this process's file."""
    return f"samix_mixup_{args.process_index}.pt"
