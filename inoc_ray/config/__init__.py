"""What every configuration is made of: immutable classes without unknown keys, and the content hash that identifies one."""
