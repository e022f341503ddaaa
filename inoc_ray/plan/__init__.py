"""What a study asks to be done: trials, evaluations, judges and their ids."""
