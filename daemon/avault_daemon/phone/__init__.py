"""The operator's phone: asking it, and what pairs us with it."""
