"""Parts for fedfmd that an installed package brings: see ``pyproject.toml`` for their names."""
