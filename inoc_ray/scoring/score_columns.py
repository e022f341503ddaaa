"""The columns of the score table: one row per sample × trait, made by `evaluate` and compared by `results`."""

COLUMNS = (
    "setting",
    "model",
    "arm",
    "kind",
    "trial_id",
    "seed",
    "evaluation",
    "split",
    "context",
    "question_id",
    "sample_index",
    "trait",
    "role",
    "score",
    "shown",
    "outcome",
)
TRIGGERED = "triggered"
"""An optional column: whether the questions of the evaluation contain the setting's trigger."""
CUT = "cut"
"""An optional column: whether the response ran into its token limit."""
LEVEL = "level"
"""An optional column: the score as 0 to 1, with 1 where the trait shows most; NaN if there is none."""
