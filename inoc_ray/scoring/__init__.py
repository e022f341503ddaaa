"""Numbers from texts: rules, rubrics and thresholds as pure functions, without a model, a network or a file."""
