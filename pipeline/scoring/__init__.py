"""How pairs become scores: read, load, score, write, publish."""
