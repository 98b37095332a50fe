"""Source code as training text: rules, licences, quality tiers, and a repository as one document in order of its imports."""
