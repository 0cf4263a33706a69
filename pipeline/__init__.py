"""How image pairs move: from a manifest, through loading and scoring, to published results."""
