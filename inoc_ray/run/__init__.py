"""What a command does, one module each."""

from inoc_ray import callable_room

callable_room(__name__)
