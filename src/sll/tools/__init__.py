"""What shows, tells and draws; the engine imports none of it."""
