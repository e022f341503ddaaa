"""The Ray cluster that a command works on."""
