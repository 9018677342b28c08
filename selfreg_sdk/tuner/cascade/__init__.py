"""Two configurations and a filter between them, as one configuration."""
