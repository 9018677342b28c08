"""What heads, rules and fixed settings are worth on prompts nobody trained on."""
