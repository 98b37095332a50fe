"""Source code as training text: rules, quality tiers, and a repository as one document in order of its imports."""
