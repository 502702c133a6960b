"""What a discrete result carries, one folder per forward mode."""
