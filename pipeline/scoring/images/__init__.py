"""Images: what a store says of them, their bytes, and their pixels."""
