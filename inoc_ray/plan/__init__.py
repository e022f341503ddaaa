"""What a study asks to be done: trials, cells, judges and their ids."""
