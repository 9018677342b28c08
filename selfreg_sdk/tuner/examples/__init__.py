"""What a configuration is tried on: examples, prompts filled in from them, files and functions of the user's."""
