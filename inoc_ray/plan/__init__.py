"""What a study asks to be done: trials, cells, judges and their ids."""

from inoc_ray import callable_room

callable_room(__name__)
