"""How the miniature models were made: pretraining, judge training, and what was measured of them."""
