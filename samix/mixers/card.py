"""The card of a trained Mixer: what it is, what it was trained on, what was measured, and its licence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCardData

if TYPE_CHECKING:
    from samix.mixers.folder import MixerConfig

MEASURED = "measured"  # of a config's ``about``: a list of figures, see Figure in samix/compare/mixer_card.py
NOT_IN_TABLE = (MEASURED, "picture", "licence")
NAME = "samix-mixer"


def mixer_card(config: MixerConfig) -> str:
    """Renders the card of a Mixer, with the metadata that the hub reads.

    Args:
        config: of the Mixer; its ``about`` gives the words and the measured figures.
    """
    about = {str(k): v for k, v in config.about.items()}
    lines = [f"| {k.replace('_', ' ')} | {_cell(v)} |" for k, v in about.items() if k not in NOT_IN_TABLE]
    licence = _cell(about.get("licence", "not given"))
    picture = "\n![Masks by lambda](masks.png)\n" if about.get("picture") else ""
    figures = [figure for figure in about.get(MEASURED, []) if isinstance(figure, Mapping)]
    channels = ", ".join(f"{v:.4f}" for v in config.mean), ", ".join(f"{v:.4f}" for v in config.std)
    return f"""---
{_metadata(licence, figures)}
---

# A frozen Mixer: {config.kind}, {config.architecture}, stage {config.stage}

It looks at two images and paints the mask by which they are mixed. Use it in place of CutMix, for any network:

```python
import samix

mix = samix.Mixer.from_pretrained("PATH")  # this folder
mix.set_normalization(mean, std)  # how your images were normalised
batch = mix(images, labels)  # (B, 3, H, W) of any size, (B,)
loss = batch.loss(model(batch.images))
```

or `samix train --mixup mixer:PATH`.
{picture}
| | |
|---|---|
| kind | {config.kind}, options {dict(config.mixer)} |
| encoder | {config.architecture} {dict(config.model_args) or ""}, stem {config.stem} |
| feature map | of stage {config.stage}, {config.dim} channels |
| trained at | {config.size} px, pixels in [0, 1] normalised by mean ({channels[0]}) and std ({channels[1]}) |
{chr(10).join(lines)}
| licence | {licence} |
| format | {config.format} |
| SHA-256 of the weights | {config.sha256 or "not known"} |
{_measured(figures)}
Weights and words only: reading it executes nothing.
"""


def _metadata(licence: str, figures: list[Mapping[str, object]]) -> str:
    """The YAML at the top of a card, with the figures as a model index."""
    plain = licence.replace("-", "").replace(".", "").isalnum()
    results = [
        EvalResult(
            task_type="image-classification",
            task_name=_cell(figure.get("task", "mixup")),
            dataset_type=_cell(figure.get("dataset_id", "") or figure.get("data", "unknown")),
            dataset_name=_cell(figure.get("data", "unknown")),
            metric_type=_cell(figure.get("name", "")).lower().replace(" ", "_"),
            metric_name=f"{_cell(figure.get('name', ''))} ({_error(figure)})",
            metric_value=figure.get("value"),
        )
        for figure in figures
    ]
    data = ModelCardData(
        license=licence if plain else "other",
        library_name="samix",
        tags=["samix", "mixup", "data-augmentation"],
        model_name=NAME if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _measured(figures: list[Mapping[str, object]]) -> str:
    """The figures as a table, each with its error and the file that it was read from."""
    if not figures:
        return "\nNothing was measured of it.\n"
    head = "\n## Measured\n\n| what | value | error | others | data | file |\n|---|---|---|---|---|---|\n"
    rows = [
        [
            figure.get("name"),
            figure.get("value"),
            _error(figure),
            *(figure.get(k, "") for k in ("others", "data", "source")),
        ]
        for figure in figures
    ]
    return head + "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in rows)


def _error(figure: Mapping[str, object]) -> str:
    return _cell(figure.get("error", "")) or "no error known"


def _cell(value: object) -> str:
    """A value for a table of the card."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "/").split())[:200]
