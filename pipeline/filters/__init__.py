"""Keep the pairs of a run that are good enough, and say why the others are not."""
