"""What discrete results carry: a folder for each engine, and here what engines have in common."""
