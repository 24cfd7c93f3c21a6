"""``samix mixer``: trains, distils, exports, checks, describes and shares Mixers."""

from __future__ import annotations

from pkgutil import resolve_name

from samix.cli.options import UsageError, read
from samix.runtime.checks import check_choice

MIXER = """samix mixer: train and share Mixers

  samix mixer train --data DIR ...           train one, as samix train does, with --mixup score unless you name another
  samix mixer distill PATH DIR --data DATA   train a score generator to predict the masks of a Mixer
  samix mixer export SOURCE DIR [--onnx]     write a Mixer's folder from a checkpoint, or an ONNX graph of a Mixer
  samix mixer check PATH [a.jpg b.jpg ...]   measure how its masks follow lambda, on digits or on your images
  samix mixer card DIR [--licence NAME]      write its card again, with measured figures, and print it
  samix mixer push DIR OWNER/NAME            upload it to the Hugging Face hub; --dry-run prints what would be sent

PATH is a folder, a model.safetensors, a hub id owner/name, default or slim. Use one: samix train --mixup mixer:PATH
"""


def train_mixer(arguments: list[str]) -> int:
    """Trains a learned mixup, ``score`` where none is named; returns the exit status."""
    from samix.cli.train import execute, parse_train
    from samix.recipes.build import METHODS

    named = {word.partition("=")[0] for word in arguments} & {"--mixup", "--config", "--resume"}
    recipe, options = parse_train(arguments if named else ["--mixup", "score", *arguments])
    if recipe.mixup not in METHODS.names():
        raise UsageError(f"{recipe.mixup} trains no Mixer; choose one of {', '.join(METHODS.names())}")
    return execute(recipe, options)


ACTIONS = {  # classes whose run() returns the text to print and the exit status; imported when they are called
    "distill": "samix.hub.mixer_distill:MixerDistill",
    "export": "samix.hub.mixer_export:MixerExport",
    "check": "samix.analysis.mixer_check:MixerCheck",
    "card": "samix.compare.mixer_card:MixerCard",
    "push": "samix.hub.mixer_push:MixerPush",
}


def mixer(arguments: list[str]) -> int:
    """Runs ``samix mixer train | distill | export | check | card | push``."""
    action, *rest = arguments or ["--help"]
    if action in ("-h", "--help"):
        print(MIXER)
        return 0
    if action == "train":
        return train_mixer(rest)
    check_choice("the action of samix mixer", action, ("train", *ACTIONS))
    text, status = read(resolve_name(ACTIONS[action]), rest, f"samix mixer {action}").run()
    print(text)
    return int(status)
