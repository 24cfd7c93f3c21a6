"""Uploads a Mixer's folder to the Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from tyro.conf import Positional

from samix.hub.mixer_export import describe
from samix.hub.onnx import ONNX
from samix.mixers.folder import CARD, CONFIG, WEIGHTS, MixerWithEncoder

FILES = (CARD, CONFIG, WEIGHTS, ONNX, "masks.png", ".eval_results/*.yaml")  # nothing else is uploaded
REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class MixerPush:
    """Uploads a Mixer's folder to the Hugging Face hub.

    Args:
        folder: folder of the Mixer.
        repo: owner/name on the hub; made if it does not exist.
        private: make it private.
        dry_run: check the folder and print what would be uploaded; needs no network.
    """

    folder: Positional[Path]
    repo: Positional[str]
    private: bool = False
    dry_run: bool = False

    def run(self) -> tuple[str, int]:
        """Checks the folder, uploads it, and returns what was sent and 0.

        Raises:
            FileNotFoundError, ValueError: not a Mixer's folder, no card or licence, or a name that the hub does not
                allow.
            ConnectionError: the hub refuses, or cannot be reached.
        """
        folder, repo = self.folder, self.repo
        if not REPO.fullmatch(repo):
            raise ValueError(f"{repo!r} is not a name on the hub; give owner/name")
        network = MixerWithEncoder.read(folder)
        licence = str(network.config.about.get("licence", "not given"))
        if not (folder / CARD).is_file() or licence == "not given":
            raise ValueError(
                f"{folder} has no card with a licence; write one: samix mixer card {folder} --licence NAME"
            )
        files = sorted({path for pattern in FILES for path in folder.glob(pattern)})
        lines = [f"{describe(network)}; licence {licence}; SHA-256 {network.config.sha256}"]
        lines += [f"  {path.relative_to(folder)}  {path.stat().st_size:,} bytes" for path in files]
        if self.dry_run:
            return "\n".join([*lines, f"dry run: nothing was uploaded to {repo}"]), 0
        api, allowed = HfApi(), list(FILES)
        try:
            api.create_repo(repo, private=self.private, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=allowed, commit_message="Upload a Mixer")
        except (HfHubHTTPError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConnectionError(f"the hub did not take {folder}: {reason}; log in by `hf auth login`") from None
        return "\n".join([*lines, f"uploaded: https://huggingface.co/{repo}"]), 0
