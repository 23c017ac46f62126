"""Recipes: one TOML file per paper or use, each complete, with its source, expected result and hardware."""
