"""How models are trained and evaluated: Ray Train, data sets, tables."""
