"""What every configuration is made of: a strict immutable base class, bounded reading, and content hashes as ids."""
