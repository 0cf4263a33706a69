"""What training and evaluation need, and a score does not."""
