"""Evaluation: sample the finished models, grade the responses, and read the scores."""
