"""Usage that is kept: a database of what each tenant was served, and quotas that stand on it."""
