"""``samix compare``: mixups under one recipe over several seeds, as tables, a JSON file and a page."""
