"""What a study needs of a cluster before there is one: memory, nodes, time and money."""
