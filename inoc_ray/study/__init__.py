"""What a user writes: the study file, field by field."""
