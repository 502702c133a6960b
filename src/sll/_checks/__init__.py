"""What `sll.check` measures."""
