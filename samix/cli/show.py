"""``samix show``: draws mixed pairs of images over lambda, or every mixup on a page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tyro.conf import Positional

from samix.cli.options import read
from samix.runtime.registry import allow_typed
from samix.runtime.typed_options import ImageSideOr0, Seed, Share, check_options


@dataclasses.dataclass(frozen=True)
class Show:
    """Draws pairs of images over lambda: the mixed image and, below it, the mask.

    ``samix show --html page.html a.jpg b.jpg`` writes a page instead: every mixup side by side, with a slider for
    lambda; ``samix show --html page.html --help`` lists its options.

    Args:
        source: a checkpoint of a learned mixup (``runs/NAME/best.pt``), or the name of a mixup.
        images: two or more image files, in pairs of image A and image B. Empty takes held-out images of the
            checkpoint's data, or digits.
        out: PNG file to write.
        size: side of the images in pixels; 0 takes the checkpoint's, or 224.
        lams: shares of image A.
        seed: seed of a mixup's other draws, such as the position of a box.
        data_root: folder of torchvision's data sets.
    """

    source: Positional[str]
    images: Positional[tuple[Path, ...]] = ()
    out: Path = Path("mixed.png")
    size: ImageSideOr0 = 0
    lams: tuple[Share, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    seed: Seed = 0
    data_root: str = "data"

    def __post_init__(self) -> None:
        if not self.lams:
            raise ValueError("lams must be one or more numbers")
        check_options(self)


def show(arguments: list[str]) -> int:
    """``samix show``, and with --html a page of all mixups."""
    if any(argument.partition("=")[0] == "--html" for argument in arguments):
        from samix.viz.playground import Playground

        print(read(Playground, arguments, "samix show").write())
        return 0
    asked: Show = read(Show, arguments, "samix show")
    allow_typed(asked.source)
    from samix.train.checkpoint import newest_of
    from samix.viz.show import show_mixup

    run = Path(asked.source)
    source = str(newest_of(run)) if run.is_dir() else asked.source
    print(show_mixup(source, list(asked.images), asked.out, asked.size, asked.lams, asked.seed, asked.data_root))
    return 0
