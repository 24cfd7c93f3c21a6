#!/usr/bin/env bash
# Installs the lowest versions that pyproject.toml allows of each direct dependency into a fresh environment, and runs tests there.
#
#     dev/lowest_versions.sh [FOLDER [PYTEST ARGUMENTS]]     FOLDER: of the environment, .lowest-venv if not given
#
# Needs uv (python3 -m pip install uv). PYTHON names the interpreter, python3 if not given.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=${1:-.lowest-venv}
shift || true
[ $# -gt 0 ] || set -- -m "not slow" tests/mixups tests/methods tests/mixers tests/losses tests/networks tests/hub
uv venv --clear --python "${PYTHON:-python3}" "$environment"
uv pip install --quiet --python "$environment/bin/python" --resolution lowest-direct ".[test]"
uv pip list --python "$environment/bin/python" | grep -i -E "^(torch|torchvision|timm|accelerate|tyro|safetensors|torchmetrics|scikit-learn|matplotlib|numpy|pillow|pyyaml|tqdm|jinja2) "
OMP_NUM_THREADS=1 "$environment/bin/python" -m pytest -q -p no:cacheprovider "$@"
