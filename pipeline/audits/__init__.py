"""What scores are for: reports, gates and filters."""
