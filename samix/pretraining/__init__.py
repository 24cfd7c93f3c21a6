"""Learning without labels, end to end: its recipe, the objects that a recipe names, its run, the named recipes."""
