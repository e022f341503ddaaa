"""What each command does."""

from inoc_ray import callable_room

callable_room(__name__)
