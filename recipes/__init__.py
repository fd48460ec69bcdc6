"""Built-in recipes, installed as `higfa_cli.builtin_recipes`."""
