"""The miniature language: its words, its rows and its prompts."""
