"""Gates: fixed bounds, and bounds learned from the noise of earlier nights."""
