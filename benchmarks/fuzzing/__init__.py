"""The calls that ``benchmarks/fuzz.py`` makes, what they are made from, and who judges them."""
