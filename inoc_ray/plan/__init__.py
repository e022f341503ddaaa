"""What a study asks for: trials, cells, judges and their ids."""

from inoc_ray import callable_room

callable_room(__name__)
