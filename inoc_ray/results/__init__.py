"""From scores to rates, effects, figures and the experiment tracker; without torch or Ray."""
