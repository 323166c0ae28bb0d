"""Learning rates by layer, and mixed precision."""
