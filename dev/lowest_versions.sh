#!/usr/bin/env bash
# Installs the lowest version that pyproject.toml allows of each direct dependency into a fresh environment, and runs tests there.
#
#     dev/lowest_versions.sh [FOLDER [PYTEST ARGUMENTS]]
#
# FOLDER is the new environment: .lowest-venv if not given; it must not exist. Without PYTEST ARGUMENTS a sample of the quick
# tests runs, about five minutes on one core. PYTHON names the interpreter: python3 if not given.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=${1:-.lowest-venv}
shift || true
sample=(tests/mixups/test_handmade.py tests/methods/test_automix.py tests/mixers/test_networks.py
  tests/losses tests/hub/test_exports.py tests/train/test_trainer.py)
[ $# -gt 0 ] || set -- -m "not slow" "${sample[@]}"
[ ! -e "$environment" ] || { echo "$environment exists: delete it, or name another folder" >&2; exit 1; }
"${PYTHON:-python3}" -m venv "$environment"
python=$environment/bin/python
"$python" -m pip install --quiet uv
"$python" -m uv pip install --quiet --python "$python" --resolution lowest-direct ".[test]"
echo "Installed:"
"$python" - <<'END'
import re
from importlib.metadata import requires, version

for need in requires("samix"):
    if "extra" not in need:
        name, allowed = re.fullmatch(r"([\w-]+)(.*)", need).groups()
        print(f"  {name} {version(name)} (allowed: {allowed})")
END
# Old direct dependencies beside the newest of the others warn of what is deprecated: matplotlib 3.8 with pyparsing 3.3.
OMP_NUM_THREADS=1 "$python" -m pytest -q -p no:cacheprovider -W ignore::DeprecationWarning "$@"
