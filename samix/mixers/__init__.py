"""The networks that paint masks, and the folder in which a trained one is shared."""
