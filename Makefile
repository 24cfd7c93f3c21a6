.PHONY: format check test test-all docs docs-all demo

format:  ## lay out the code
	ruff check --fix . && ruff format .

check:  ## lint, types, and the direction of imports
	ruff check . && ruff format --check . && mypy && lint-imports

test:  ## the quick tests
	python3 -m pytest -n auto -m "not slow"

test-all:  ## all tests
	python3 -m pytest -n auto

docs:  ## the documentation site, in site/; warnings are errors
	python3 docs/make_api.py && python3 docs/make_cards.py && zensical build --clean --strict

docs-all:  ## pictures, tables and pages of docs/ that are older than what makes them
	python3 docs/make_all.py

demo:  ## the main job, on the embedded digits
	samix train
