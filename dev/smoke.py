"""Tries an installed samix: nothing is imported from the folder of the source.

    python3 -m build && python3 -m venv /tmp/empty && /tmp/empty/bin/python -m pip install dist/*.whl
    cd /tmp && /tmp/empty/bin/python .../dev/smoke.py

Checks the files of the package, `samix doctor`, an epoch of training on digits, `samix.load`, a prediction, and a mixup
with the Mixers that come with the package. Exits with 1 at the first failure.
"""

import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

SLIM = '{"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_type": "deep", "stem_width": 4}'


def check(name: str, holds: bool) -> None:
    """Prints a line, and exits where something is wrong."""
    print(f"{'ok   ' if holds else 'WRONG'} {name}", flush=True)
    if not holds:
        sys.exit(1)


def main() -> None:
    """Runs all checks."""
    import torch
    from PIL import Image

    import samix

    root = Path(str(files("samix")))
    check(f"samix {samix.__version__} is installed in {root}", root.parent.name == "site-packages")
    check("py.typed", (root / "py.typed").is_file())
    check("templates", bool(list(root.rglob("*.html*")) or list(root.rglob("*.j2"))))
    check(
        "weights of both Mixers",
        all((root / f"mixers/{name}/model.safetensors").is_file() for name in ("default", "slim")),
    )
    command = [sys.executable, "-m", "samix"]
    done = subprocess.run([*command, "doctor"], capture_output=True, text=True)
    check("samix doctor", done.returncode == 0 and samix.__version__ in done.stdout)
    with tempfile.TemporaryDirectory() as folder:
        small = ["--model-args", SLIM, "--limit", "100", "--epochs", "1", "--size", "8", "--device", "cpu", "--quiet"]
        train = [*command, "train", *small, "--out", folder, "--run", "smoke"]
        done = subprocess.run(train, capture_output=True, text=True)
        check("samix train, an epoch of SAMix on digits" + done.stderr * bool(done.returncode), done.returncode == 0)
        net = samix.load(Path(folder) / "smoke")
        picture = Path(folder) / "new.png"
        Image.new("RGB", (12, 12), (200, 120, 40)).save(picture)
        prediction = net.predict([picture])[0]
        check("samix.load and predict", prediction.name in net.class_names and 0 < prediction.probability <= 1)
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([3, 1, 4, 1])
    for mix in (samix.CutMix(), samix.Mixer.from_pretrained("default"), samix.Mixer.from_pretrained("slim")):
        batch = mix(images, labels)
        check(
            f"{type(mix).__name__} mixes",
            batch.images.shape == images.shape and bool(torch.isfinite(batch.images).all()),
        )


if __name__ == "__main__":
    main()
