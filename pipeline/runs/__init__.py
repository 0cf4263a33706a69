"""What a run is: its folder, its records, its columns, and where it is stored."""
