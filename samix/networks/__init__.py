"""Networks as the methods see them: trunk and heads, feature maps, momentum copies."""
